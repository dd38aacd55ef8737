//! Finds and reads the files that a path names.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rayon::prelude::*;

use super::{
    error::DataError,
    progress::{Progress, Report},
};

/// A file to read, with what tells whether it changed.
#[derive(Clone, Debug)]
pub(super) struct InputFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: SystemTime,
    /// Inode, change time: differ when a file is replaced under an old modification time.
    pub identity: [i128; 2],
}

/// Which files of a folder count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    Jsonl,
}

impl Wanted {
    const fn words(self) -> &'static str {
        match self {
            Self::Any => "files",
            Self::Jsonl => ".jsonl files",
        }
    }

    fn takes(self, path: &Path) -> bool {
        self == Self::Any
            || path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
    }
}

/// The file at `path`, or the files below the folder there, sorted by path.
///
/// Hidden entries are skipped. Links to files are followed, links to folders below the first are
/// not, so that a loop of links ends.
///
/// # Errors
/// The path is missing or unreadable, or the folder holds none of the wanted files.
pub(super) fn find(path: &Path, wanted: Wanted) -> Result<Vec<InputFile>, DataError> {
    find_among(path, wanted, usize::MAX).map(|(files, _)| files)
}

/// As [`find`], among the first `most` entries; also whether those are all.
///
/// # Errors
/// As [`find`].
pub(super) fn find_among(
    path: &Path,
    wanted: Wanted,
    most: usize,
) -> Result<(Vec<InputFile>, bool), DataError> {
    let metadata = fs::metadata(path).map_err(|source| DataError::read(path, source))?;
    if !metadata.is_dir() {
        return Ok((vec![input_file(path.to_owned(), &metadata)?], true));
    }
    let mut files = Vec::new();
    let mut left = most;
    let is_whole = collect(path, wanted, &mut left, &mut files)?;
    if files.is_empty() {
        return Err(DataError::NoFiles {
            path: path.to_owned(),
            wanted: wanted.words(),
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((files, is_whole))
}

/// The one file at `path`.
///
/// # Errors
/// It is missing, unreadable, or a folder.
pub(super) fn one(path: &Path) -> Result<InputFile, DataError> {
    let metadata = fs::metadata(path).map_err(|source| DataError::read(path, source))?;
    input_file(path.to_owned(), &metadata)
}

/// Reads all files in parallel; the result is in the files' order.
///
/// # Errors
/// The first file, in order, that can't be read.
pub(super) fn read_all(files: &[InputFile], report: Report) -> Result<Vec<Vec<u8>>, DataError> {
    let total = files.iter().map(|file| file.bytes).sum();
    let done = std::sync::atomic::AtomicU64::new(0);
    let read: Vec<Result<Vec<u8>, DataError>> = files
        .par_iter()
        .map(|file| {
            let bytes = read(&file.path)?;
            let before = done.fetch_add(file.bytes, std::sync::atomic::Ordering::Relaxed);
            report(Progress {
                what: "reading",
                done: before + file.bytes,
                total,
            });
            Ok(bytes)
        })
        .collect();
    read.into_iter().collect()
}

/// Reads one file whole.
///
/// # Errors
/// It is missing or unreadable.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    crate::base::read::bytes(path, crate::base::read::Bound::TEXT)
        .map_err(|source| DataError::read(path, source))
}

/// Looks at no more than `left` entries; returns whether those were all.
fn collect(
    folder: &Path,
    wanted: Wanted,
    left: &mut usize,
    files: &mut Vec<InputFile>,
) -> Result<bool, DataError> {
    let unreadable = |source| DataError::read(folder, source);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry
            .file_type()
            .map_err(|source| DataError::read(&path, source))?
            .is_dir()
        {
            if !collect(&path, wanted, left, files)? {
                return Ok(false);
            }
        } else if wanted.takes(&path) {
            let metadata = fs::metadata(&path).map_err(|source| DataError::read(&path, source))?;
            if metadata.is_file() {
                files.push(input_file(path, &metadata)?);
            }
        }
    }
    Ok(true)
}

fn input_file(path: PathBuf, metadata: &fs::Metadata) -> Result<InputFile, DataError> {
    use std::os::unix::fs::MetadataExt;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(DataError::Read { path, source });
    }
    Ok(InputFile {
        bytes: metadata.len(),
        modified: metadata.modified().unwrap_or(UNIX_EPOCH),
        identity: [
            i128::from(metadata.ino()),
            i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
        ],
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[InputFile], root: &Path) -> Vec<String> {
        files
            .iter()
            .map(|file| {
                file.path
                    .strip_prefix(root)
                    .expect("below")
                    .display()
                    .to_string()
            })
            .collect()
    }

    fn folder_with(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("folder");
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, "text").expect("file");
        }
        root
    }

    #[test]
    fn a_folder_is_read_recursively_sorted_and_without_hidden_entries() {
        let root = folder_with(&["b.txt", "a/z.txt", "a/.hidden", ".git/config", "a/b/c.txt"]);
        let files = find(root.path(), Wanted::Any).expect("files");
        assert_eq!(
            names(&files, root.path()),
            ["a/b/c.txt", "a/z.txt", "b.txt"]
        );
    }

    #[test]
    fn only_jsonl_files_count_where_they_are_wanted() {
        let root = folder_with(&["a.jsonl", "b.txt"]);
        let files = find(root.path(), Wanted::Jsonl).expect("files");
        assert_eq!(names(&files, root.path()), ["a.jsonl"]);
        fs::remove_file(root.path().join("a.jsonl")).expect("removed");
        let refused = find(root.path(), Wanted::Jsonl).expect_err("none left");
        assert!(matches!(refused, DataError::NoFiles { .. }), "{refused}");
    }

    #[test]
    fn a_loop_of_links_ends() {
        let root = folder_with(&["a/x.txt"]);
        std::os::unix::fs::symlink(root.path(), root.path().join("a/again")).expect("link");
        let files = find(root.path(), Wanted::Any).expect("files");
        assert_eq!(names(&files, root.path()), ["a/x.txt"]);
    }

    #[test]
    fn missing_and_special_files_are_named() {
        let missing = find(Path::new("/nowhere/at/all"), Wanted::Any).expect_err("missing");
        assert!(missing.to_string().contains("/nowhere/at/all"), "{missing}");
        assert!(matches!(missing, DataError::Missing { .. }));
        let special = find(Path::new("/dev/null"), Wanted::Any).expect_err("a device");
        assert!(matches!(special, DataError::Read { .. }), "{special}");
    }
}
