//! Documents: what the files of a text or JSON Lines dataset say.

use std::path::Path;

use include_dir::{Dir, DirEntry, include_dir};

use super::{encoding, error::DataError};

static SOURCE: Dir = include_dir!("$CARGO_MANIFEST_DIR/src");

/// capstan's own source text: every file under a line that names it, sorted by path.
pub(super) fn hello() -> String {
    let mut files = Vec::new();
    collect(&SOURCE, &mut files);
    files.sort_unstable();
    let mut text = String::new();
    for (path, content) in files {
        text.push_str("// ---- src/");
        text.push_str(&path.to_string_lossy());
        text.push_str(" ----\n\n");
        text.push_str(content);
        text.push('\n');
    }
    text
}

/// The text of a file.
///
/// # Errors
/// The bytes are no valid UTF-8.
pub(super) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    String::from_utf8(bytes).map_err(|error| DataError::InvalidUtf8 {
        path: path.to_owned(),
        byte: error.utf8_error().valid_up_to() as u64,
        guess: encoding::guess(error.as_bytes()),
    })
}

/// Joins documents, with `separator` between two of them; one document stays as it is.
pub(super) fn join(mut documents: Vec<String>, separator: &str) -> String {
    if documents.len() == 1 {
        return documents.pop().unwrap_or_default();
    }
    documents.join(separator)
}

/// How many of `n` characters or tokens are for training: Python's `int(n * (1 - val_fraction))`.
pub(super) fn n_train(n: u64, val_fraction: f64) -> u64 {
    (n as f64 * (1.0 - val_fraction)) as u64
}

/// The part of `text` for training and the held-out rest; `n_characters` is the length of both.
///
/// A separator between documents is never cut in two: it goes to the second part.
pub(super) fn split<'a>(
    text: &'a str,
    n_characters: u64,
    val_fraction: f64,
    separator: &str,
) -> (&'a str, &'a str) {
    let n_train = n_train(n_characters, val_fraction) as usize;
    let is_ascii = n_characters == text.len() as u64;
    let at = if is_ascii {
        n_train
    } else {
        let place = text.char_indices().nth(n_train);
        place.map_or(text.len(), |(byte, _)| byte)
    };
    text.split_at(start_of_separator(text, at, separator).unwrap_or(at))
}

/// Where the occurrence of `separator` starts that the place `at` lies within.
fn start_of_separator(text: &str, at: usize, separator: &str) -> Option<usize> {
    let first = (at + 1).saturating_sub(separator.len());
    (first..at).find(|&start| text.as_bytes()[start..].starts_with(separator.as_bytes()))
}

fn collect(dir: &'static Dir, files: &mut Vec<(&'static Path, &'static str)>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(inner) => collect(inner, files),
            DirEntry::File(file) => {
                files.extend(file.contents_utf8().map(|content| (file.path(), content)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_text_names_its_files_in_order() {
        let text = hello();
        let place = |name: &str| text.find(&format!("// ---- src/{name} ----\n"));
        let [random, this, main] = ["base/random.rs", "data/corpus.rs", "main.rs"].map(place);
        assert!(random.is_some() && random < this && this < main);
        assert!(text.contains("the_builtin_text_names_its_files_in_order"));
    }

    #[test]
    fn one_document_stays_as_it_is() {
        assert_eq!(join(vec!["a".to_owned()], "|"), "a");
        assert_eq!(join(vec!["a".to_owned(), "b".to_owned()], "|"), "a|b");
    }

    #[test]
    fn the_split_counts_characters_as_nanogpt_does() {
        assert_eq!(n_train(1_115_394, 0.1), 1_003_854);
        assert_eq!(n_train(10, 0.2), 8);
        assert_eq!(split("aébc\u{1F600}", 5, 0.4, "\n"), ("aéb", "c\u{1F600}"));
        assert_eq!(split("abcde", 5, 0.4, "\n"), ("abc", "de"));
        assert_eq!(split("é", 1, 1e-20, "\n"), ("é", ""));
    }

    #[test]
    fn the_split_keeps_separators_whole() {
        let split_at = |n_train: u64| {
            let (train, _) = split("ab<|>cd", 7, 1.0 - n_train as f64 / 7.0 - 1e-9, "<|>");
            train.len()
        };
        assert_eq!([1, 2, 3, 4, 5, 6].map(split_at), [1, 2, 2, 2, 5, 6]);
    }

    #[test]
    fn the_first_invalid_byte_is_named() {
        let refused = text(Path::new("x.txt"), b"abc\xFFdef".to_vec()).expect_err("invalid");
        assert!(
            refused
                .to_string()
                .starts_with("x.txt: invalid UTF-8 at byte 3"),
            "{refused}"
        );
    }
}
