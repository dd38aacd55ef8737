//! How data's files stand, so that a change is seen without reading them.

use std::{
    fs::{self, Metadata},
    path::Path,
    time::SystemTime,
};

use serde_json::Value;

/// Files of data that are looked at for changes, at most.
const MOST_STAMPS: usize = 10_000;

/// When each path of a config was written last, and its size; none where it is not there.
pub type Stamps = Vec<Option<(SystemTime, u64)>>;

/// How every file stands that a part of a config names.
pub fn stamps(config: &Value) -> Stamps {
    match config {
        Value::String(path) => {
            let mut stamps = Vec::new();
            stamp(Path::new(path), &mut stamps);
            stamps
        }
        Value::Object(object) => object.values().flat_map(stamps).collect(),
        _ => Vec::new(),
    }
}

/// Adds how a file stands, or everything in a folder.
fn stamp(path: &Path, stamps: &mut Stamps) {
    let meta = fs::metadata(path).ok();
    let is_folder = meta.as_ref().is_some_and(Metadata::is_dir);
    stamps.push(meta.and_then(|meta| Some((meta.modified().ok()?, meta.len()))));
    if is_folder {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries {
            if stamps.len() >= MOST_STAMPS {
                return;
            }
            stamp(&entry.path(), stamps);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_anywhere_in_a_folder_is_seen() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("texts/below");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("a.txt"), "some text").expect("written");
        let before = stamps(&json!({ "path": root.path().join("texts") }));
        fs::write(folder.join("a.txt"), "some other text").expect("written");
        assert_ne!(
            stamps(&json!({ "path": root.path().join("texts") })),
            before
        );
    }
}
