//! The files that tokens were made of, as a run's plan remembers them: to name the one that changed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{error::DataError, files::InputFile, fingerprint};

/// Files that are remembered one by one; of a larger folder the rest counts in the fingerprint alone.
pub(super) const MOST_SEEN: usize = 32;

/// A file that data was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenFile {
    pub path: PathBuf,
    pub bytes: u64,
    /// The hash of its content, 64 hexadecimal digits.
    pub hash: String,
}

impl SeenFile {
    /// A small file whose bytes were read.
    pub(super) fn of_bytes(path: &Path, bytes: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            hash: fingerprint::of_content(bytes, &|_| ()),
        }
    }

    /// The first of `inputs`, whose contents have these hashes.
    pub(super) fn of_inputs(inputs: &[InputFile], hashes: &[String]) -> Vec<Self> {
        let pairs = inputs.iter().zip(hashes).take(MOST_SEEN);
        let seen = pairs.map(|(input, hash)| Self {
            path: input.path.clone(),
            bytes: input.bytes,
            hash: hash.clone(),
        });
        seen.collect()
    }
}

/// Says which of the files that were seen `before` is another `now`.
pub(super) fn refusal(before: &[SeenFile], now: &[SeenFile]) -> DataError {
    let there = |path: &Path| now.iter().find(|file| file.path == path);
    for old in before {
        let change = match there(&old.path) {
            None => "it is no longer among the data".to_owned(),
            Some(new) if new.bytes != old.bytes => {
                format!("it holds {} bytes, not {}", new.bytes, old.bytes)
            }
            Some(new) if new.hash != old.hash => {
                "its content is another (of the same length)".to_owned()
            }
            Some(_) => continue,
        };
        let path = old.path.clone();
        return DataError::Changed { path, change };
    }
    let is_new = |file: &&SeenFile| before.iter().all(|old| old.path != file.path);
    let is_full = before.len() >= MOST_SEEN || before.is_empty();
    let (file, change) = match now.iter().find(is_new).filter(|_| !is_full) {
        Some(added) => (Some(added), "it was not among the data"),
        None => (
            now.first(),
            "its tokens are others, or a file beside it changed",
        ),
    };
    DataError::Changed {
        path: file.map_or_else(PathBuf::new, |file| file.path.clone()),
        change: change.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(contents: &[(&str, &str)]) -> Vec<SeenFile> {
        let seen = contents.iter();
        seen.map(|(path, text)| SeenFile::of_bytes(Path::new(path), text.as_bytes()))
            .collect()
    }

    #[test]
    fn the_file_and_its_change_are_named() {
        let before = files(&[("a.txt", "one"), ("b.txt", "two")]);
        for (now, expected) in [
            (
                files(&[("a.txt", "one"), ("b.txt", "twenty")]),
                "b.txt: it holds 6 bytes, not 3",
            ),
            (
                files(&[("a.txt", "eno"), ("b.txt", "two")]),
                "a.txt: its content is another",
            ),
            (
                files(&[("a.txt", "one")]),
                "b.txt: it is no longer among the data",
            ),
            (
                files(&[("a.txt", "one"), ("b.txt", "two"), ("c.txt", "")]),
                "c.txt: it was not among the data",
            ),
        ] {
            let text = refusal(&before, &now).to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
