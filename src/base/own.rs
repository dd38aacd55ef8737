//! The one way to open and replace the files of a run folder: in the folder itself, never through a link.
//!
//! A run folder may lie where others write. A name in it that was made a link would lead a write elsewhere, so each file
//! is opened in its folder without following links, must be a regular file, and is private whatever the umask says.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, fstat, openat, renameat, unlinkat},
    io::Errno,
};

/// Read and written by its owner alone.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A name of a run folder that is a link or no regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Planted {
    #[error("it is a link, which is not followed; remove it")]
    Link,
    #[error("it is no regular file; remove it")]
    NotRegular,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading and writing anywhere; what is there stays.
    Update,
    /// Writing at the end.
    Append,
}

/// Whether a replaced file must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// File and folder are flushed.
    ToDisk,
    /// What can be made again is not.
    Never,
}

/// Opens a file of a run folder, which is made where it is missing.
///
/// # Errors
/// A failing system call; a [`Planted`] inside the error.
pub fn open(path: &Path, purpose: Purpose) -> io::Result<File> {
    let (folder, name) = place(path)?;
    let flags = match purpose {
        Purpose::Update => OFlags::RDWR,
        Purpose::Append => OFlags::WRONLY | OFlags::APPEND,
    };
    open_in(&folder, name, flags | OFlags::CREATE)
}

/// Replaces a file by `bytes` at once or not at all: a temporary file beside it, and a rename.
///
/// # Errors
/// Any failing system call; the old file is untouched then.
pub fn replace(path: &Path, bytes: &[u8], flush: Flush) -> io::Result<()> {
    let (folder, name) = place(path)?;
    let temporary = temporary(name, flush);
    // Left by a process that was killed, or planted: the name alone goes.
    match unlinkat(&folder, &*temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let written = open_in(
        &folder,
        OsStr::new(&temporary),
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
    )
    .and_then(|mut file| {
        file.write_all(bytes)?;
        match flush {
            Flush::ToDisk => file.sync_all(),
            Flush::Never => Ok(()),
        }
    })
    .and_then(|()| Ok(renameat(&folder, &*temporary, &folder, name)?));
    if written.is_err() {
        let _ = unlinkat(&folder, &*temporary, AtFlags::empty());
        return written;
    }
    match flush {
        Flush::ToDisk => Ok(rustix::fs::fsync(&folder)?),
        Flush::Never => Ok(()),
    }
}

/// What is written often has one writer, and one name for what a kill leaves of it.
fn temporary(name: &OsStr, flush: Flush) -> String {
    let name = name.to_string_lossy();
    match flush {
        Flush::ToDisk => format!(".{name}.{}.tmp", std::process::id()),
        Flush::Never => format!(".{name}.tmp"),
    }
}

/// The open folder of a file, and the file's name.
fn place(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name();
    let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((openat(CWD, folder, flags, Mode::empty())?, name))
}

fn open_in(folder: &OwnedFd, name: &OsStr, flags: OFlags) -> io::Result<File> {
    // A FIFO in the file's place must not hold this process up.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match openat(folder, name, flags, PRIVATE) {
        Ok(opened) => opened,
        Err(Errno::LOOP) => return Err(planted(Planted::Link)),
        Err(Errno::NXIO | Errno::ISDIR) => return Err(planted(Planted::NotRegular)),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(planted(Planted::NotRegular));
    }
    make_private(opened.as_fd(), stat.st_mode)?;
    Ok(opened.into())
}

/// Takes away what a loose umask gave others. A file of another owner, or a file system without modes, stays as it is.
fn make_private(file: impl AsFd, mode: u32) -> io::Result<()> {
    let is_loose = !(Mode::from_raw_mode(mode) & !PRIVATE & (Mode::RWXG | Mode::RWXO)).is_empty();
    match is_loose.then(|| fchmod(file, PRIVATE)) {
        None | Some(Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

fn planted(what: Planted) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn no_link_is_written_through() {
        let root = tempfile::tempdir().expect("a folder");
        let victim = root.path().join("victim");
        fs::write(&victim, "mine").expect("written");
        let run = root.path().join("run");
        fs::create_dir(&run).expect("made");
        let name = run.join("state.json");
        let temporary = run.join(".state.json.tmp");
        for planted in [&name, &temporary] {
            symlink(&victim, planted).expect("linked");
        }
        for purpose in [Purpose::Update, Purpose::Append] {
            let refused = open(&name, purpose).expect_err("a link").to_string();
            assert_eq!(refused, "it is a link, which is not followed; remove it");
        }
        replace(&name, b"new", Flush::Never).expect("the link makes way");
        assert!(!fs::symlink_metadata(&name).expect("there").is_symlink());
        assert_eq!(fs::read(&name).expect("read"), b"new");
        assert_eq!(fs::read(&victim).expect("read"), b"mine");
        assert_eq!(fs::read_dir(&run).expect("read").count(), 1);
    }

    #[test]
    fn files_are_private_whatever_they_were() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("log");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("set");
        open(&path, Purpose::Append).expect("opened");
        assert_eq!(mode(&path), 0o600);
        replace(&path, b"new", Flush::ToDisk).expect("replaced");
        assert_eq!(
            (mode(&path), fs::read(&path).expect("read")),
            (0o600, b"new".to_vec())
        );
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let root = tempfile::tempdir().expect("a folder");
        let fifo = root.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &fifo, PRIVATE).expect("made");
        for path in [fifo.as_path(), root.path()] {
            for purpose in [Purpose::Update, Purpose::Append] {
                let refused = open(path, purpose).expect_err("no file").to_string();
                assert_eq!(refused, "it is no regular file; remove it");
            }
        }
    }
}
