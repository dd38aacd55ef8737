//! Files that are either the old or the new version, never half of one.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::own::{self, Flush};

/// Replaces `path` by `bytes`: temporary file beside it, fsync, rename, fsync of the folder.
///
/// # Errors
/// Any failing system call; the old file is untouched then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    own::replace(path, bytes, Flush::ToDisk)
}

/// Flushes a folder's entries to disk, so that a rename in it survives a power cut.
///
/// # Errors
/// The folder can't be opened or flushed.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    open_folder(folder)?.sync_all()
}

/// Opens a folder, to flush it or to name what lies in it.
///
/// # Errors
/// It is missing, or no folder.
pub fn open_folder(folder: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(folder)
}

/// Bytes that an unprivileged user may still write on the file system of `path`.
///
/// # Errors
/// `path` does not exist or the file system doesn't answer.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes `path` absolute against `base` and removes `.` parts; the file need not exist.
pub fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path)
        .components()
        .filter(|part| !matches!(part, std::path::Component::CurDir))
        .collect()
}
