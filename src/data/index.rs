//! Remembers the fingerprint of unchanged files, so that gigabytes are not read at every start.
//!
//! An entry's name is made of everything that tells a file's state without reading it. Nothing here is
//! needed: where an entry is missing or damaged, the files are read.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    files::{self, InputFile},
    fingerprint,
};
use crate::base;

/// A file changed this recently may change again within its clock's resolution, unseen.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// More than any entry holds.
const ENTRY_BYTES: u64 = 1 << 20;

/// What is known of files without reading them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub fingerprint: String,
    /// The hashes of the first files' contents.
    pub hashes: Vec<String>,
}

/// The entry's name for files in this state, treated as `recipe` says.
pub(super) fn key(version: u32, recipe: &str, files: &[InputFile]) -> String {
    let mut parts = vec![version.to_le_bytes().to_vec(), recipe.as_bytes().to_vec()];
    for file in files {
        parts.push(file.path.as_os_str().as_encoded_bytes().to_vec());
        let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let [device, inode, changed] = file.identity;
        let state = format!(
            "{} {} {device} {inode} {changed}",
            file.bytes,
            modified.as_nanos()
        );
        parts.push(state.into());
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    fingerprint::of_parts(&parts)
}

/// What [`record`] left under `key`.
pub(super) fn lookup(root: &Path, key: &str) -> Option<Known> {
    let mut text = String::new();
    let file = files::open(&entry(root, key)).ok()?;
    file.take(ENTRY_BYTES).read_to_string(&mut text).ok()?;
    let (known, sum) = text.split_once('\n')?;
    let is_whole = sum == fingerprint::of_parts(&[known.as_bytes()]);
    serde_json::from_str(known).ok().filter(|_| is_whole)
}

/// Remembers what is known of `files`, unless one of them changed a moment ago.
///
/// A failure to write is no error: the next start reads the files again.
pub(super) fn record(root: &Path, key: &str, known: &Known, files: &[InputFile]) {
    let now = SystemTime::now();
    let is_settled = |file: &InputFile| {
        now.duration_since(file.modified)
            .is_ok_and(|age| age > SETTLED_AFTER)
    };
    let Ok(text) = serde_json::to_string(known) else {
        return;
    };
    if files.iter().all(is_settled) && fs::create_dir_all(root.join(FOLDER)).is_ok() {
        let entry_text = format!("{text}\n{}", fingerprint::of_parts(&[text.as_bytes()]));
        let _ = base::fs::replace(&entry(root, key), entry_text.as_bytes());
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
            identity: [2, 3, 4],
        }
    }

    #[test]
    fn every_sign_of_a_change_counts() {
        let old = UNIX_EPOCH + Duration::from_secs(1_000);
        let base = file(old);
        let key_of = |file: &InputFile| key(1, "recipe", std::slice::from_ref(file));
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
                identity: [2, 3, 5],
                ..base.clone()
            },
            InputFile {
                identity: [2, 2, 4],
                ..base.clone()
            },
            InputFile {
                identity: [1, 3, 4],
                ..base.clone()
            },
        ] {
            assert_ne!(key_of(&base), key_of(&other));
        }
        assert_ne!(key_of(&base), key(1, "other", std::slice::from_ref(&base)));
        assert_ne!(key_of(&base), key(2, "recipe", &[base]));
    }

    #[test]
    fn only_settled_files_and_whole_entries_count() {
        let root = tempfile::tempdir().expect("folder");
        let known = Known {
            fingerprint: "0123456789abcdef".repeat(4),
            hashes: vec!["f".repeat(64)],
        };
        let old = file(UNIX_EPOCH);
        let fresh = file(SystemTime::now());
        record(root.path(), "fresh", &known, &[old.clone(), fresh]);
        assert_eq!(lookup(root.path(), "fresh"), None);
        record(root.path(), "old", &known, &[old]);
        assert_eq!(lookup(root.path(), "old"), Some(known));
        let path = entry(root.path(), "old");
        let whole = fs::read_to_string(&path).expect("read");
        for damaged in [&whole[..63], &whole.replacen('a', "b", 1)] {
            fs::write(&path, damaged).expect("damaged");
            assert_eq!(lookup(root.path(), "old"), None);
        }
    }
}
