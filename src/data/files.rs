//! Finds and reads the files that a path names.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rayon::prelude::*;

use super::{
    error::DataError,
    fingerprint::{self, ContentHash},
    progress::{Progress, Report},
};
use crate::base::{self, units};

/// Chunks that are hashed at once.
const HASHED_CHUNKS: usize = 4;
/// More than any tokenizer's file holds.
const SMALL_FILE_BYTES: u64 = 256 << 20;

/// A file to read, with what tells whether it changed.
#[derive(Clone, Debug)]
pub(super) struct InputFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: SystemTime,
    /// Device, inode, change time: differ when a file is replaced under an old modification time.
    pub identity: [i128; 3],
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
            let bytes = read_input(file)?;
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

fn read_input(input: &InputFile) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    open(&input.path)?
        .read_to_end(&mut bytes)
        .map_err(|source| DataError::read(&input.path, source))?;
    Ok(bytes)
}

impl InputFile {
    /// Checks that the file is as it was when it was found, which is to be called when it has been read.
    ///
    /// # Errors
    /// Another program has written to it, or it is gone.
    pub fn check_unchanged(&self) -> Result<(), DataError> {
        let now = one(&self.path)?;
        let is_same =
            (now.bytes, now.modified, now.identity) == (self.bytes, self.modified, self.identity);
        match is_same {
            true => Ok(()),
            false => Err(DataError::ChangedWhileRead {
                path: self.path.clone(),
            }),
        }
    }
}

/// The hash of a file's content; a part of it is held in memory at a time.
///
/// # Errors
/// It is missing, unreadable or no regular file.
pub(super) fn hash(input: &InputFile, done: &(dyn Fn(usize) + Sync)) -> Result<String, DataError> {
    let mut file = open(&input.path)?;
    let mut part = vec![0; HASHED_CHUNKS * fingerprint::CHUNK_BYTES];
    let mut hash = ContentHash::default();
    loop {
        let n =
            fill(&mut file, &mut part).map_err(|source| DataError::read(&input.path, source))?;
        hash.add(&part[..n], done);
        if n < part.len() {
            return Ok(hash.finish());
        }
    }
}

/// Reads until `part` is full or the file ends.
fn fill(file: &mut File, part: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < part.len() {
        match file.read(&mut part[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Opens a regular file for reading; a pipe or device is refused, and never waited for.
///
/// # Errors
/// It is missing, unreadable or no regular file.
pub(super) fn open(path: &Path) -> Result<File, DataError> {
    base::read::open(path).map_err(|source| DataError::read(path, source))
}

/// Reads a small file whole, such as a tokenizer's.
///
/// # Errors
/// It is missing, unreadable, no regular file or larger than any tokenizer.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    open(path)?
        .take(SMALL_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| DataError::read(path, source))?;
    match bytes.len() as u64 > SMALL_FILE_BYTES {
        true => Err(DataError::TokenizerFile {
            path: path.to_owned(),
            reason: format!("it is larger than {}", units::bytes(SMALL_FILE_BYTES)),
        }),
        false => Ok(bytes),
    }
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
            i128::from(metadata.dev()),
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
