//! Remembers the fingerprint of unchanged files, so that gigabytes are not read at every start.
//!
//! An entry's name is made of everything that tells a file's state without reading it. Nothing here is
//! needed: where an entry is missing or damaged, the files are read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{files::InputFile, fingerprint};
use crate::base;

/// A file changed this recently may change again within its clock's resolution, unseen.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
const FINGERPRINT_LENGTH: usize = 64;

/// The entry's name for files in this state, treated as `recipe` says.
pub(super) fn key(recipe: &str, files: &[InputFile]) -> String {
    let mut parts = vec![
        fingerprint::FORMAT_VERSION.to_le_bytes().to_vec(),
        recipe.as_bytes().to_vec(),
    ];
    for file in files {
        parts.push(file.path.as_os_str().as_encoded_bytes().to_vec());
        let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let [inode, changed] = file.identity;
        parts.push(format!("{} {} {inode} {changed}", file.bytes, modified.as_nanos()).into());
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    fingerprint::of_parts(&parts)
}

/// The fingerprint that [`record`] left under `key`.
pub(super) fn lookup(root: &Path, key: &str) -> Option<String> {
    let entry = base::read::text(&entry(root, key), base::read::Bound::TOLD).ok()?;
    let is_whole =
        entry.len() == FINGERPRINT_LENGTH && entry.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then_some(entry)
}

/// Remembers the fingerprint of `files`, unless one of them changed a moment ago.
///
/// A failure to write is no error: the next start reads the files again.
pub(super) fn record(root: &Path, key: &str, fingerprint: &str, files: &[InputFile]) {
    let now = SystemTime::now();
    let is_settled = |file: &InputFile| {
        now.duration_since(file.modified)
            .is_ok_and(|age| age > SETTLED_AFTER)
    };
    let path = entry(root, key);
    if files.iter().all(is_settled) && fs::create_dir_all(root.join(FOLDER)).is_ok() {
        let _ = base::fs::replace(&path, fingerprint.as_bytes());
    }
}

const FOLDER: &str = "index";

fn entry(root: &Path, key: &str) -> PathBuf {
    root.join(FOLDER).join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(modified: SystemTime) -> InputFile {
        InputFile {
            path: "/data/input.txt".into(),
            bytes: 10,
            modified,
            identity: [3, 4],
        }
    }

    #[test]
    fn every_sign_of_a_change_counts() {
        let old = UNIX_EPOCH + Duration::from_secs(1_000);
        let base = file(old);
        let key_of = |file: &InputFile| key("recipe", std::slice::from_ref(file));
        for other in [
            file(old + Duration::from_nanos(1)),
            InputFile {
                bytes: 11,
                ..base.clone()
            },
            InputFile {
                path: "/data/b.txt".into(),
                ..base.clone()
            },
            InputFile {
                identity: [3, 5],
                ..base.clone()
            },
            InputFile {
                identity: [2, 4],
                ..base.clone()
            },
        ] {
            assert_ne!(key_of(&base), key_of(&other));
        }
        assert_ne!(key_of(&base), key("other", &[base]));
    }

    #[test]
    fn only_settled_files_and_whole_entries_count() {
        let root = tempfile::tempdir().expect("folder");
        let fingerprint = "0123456789abcdef".repeat(4);
        let old = file(UNIX_EPOCH);
        record(
            root.path(),
            "fresh",
            &fingerprint,
            &[old.clone(), file(SystemTime::now())],
        );
        assert_eq!(lookup(root.path(), "fresh"), None);
        record(root.path(), "old", &fingerprint, &[old]);
        assert_eq!(lookup(root.path(), "old"), Some(fingerprint.clone()));
        fs::write(entry(root.path(), "old"), &fingerprint[..63]).expect("cut short");
        assert_eq!(lookup(root.path(), "old"), None);
    }
}
