//! The one way to open a file for reading: regular files only, never a wait, and never more bytes than are allowed.
//!
//! Whatever has a name may be a FIFO that nobody writes to, a device without an end, or a terabyte. [`open`] takes
//! regular files alone, and everything that reads a file whole states the largest it may be.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use super::units;

/// How long a pipe may be silent before a reader gives up.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a pipe may take altogether.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest size that a file may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(pub u64);

impl Bound {
    /// What a person writes: configs, key maps.
    pub const WRITTEN: Self = Self(4 << 20);
    /// What programs write about runs, weights and machines: plans, states, manifests, indices.
    pub const TOLD: Self = Self(64 << 20);
    /// Tokenizers, whose vocabularies are their text.
    pub const TOKENIZER: Self = Self(512 << 20);
    /// A user's text, which memory bounds.
    pub const TEXT: Self = Self(1 << 40);
}

/// Why a name can't be read, though the system would open it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it is {0}, not a regular file")]
    Kind(Kind),
    #[error("it has more than the {} that are read of such a file", units::bytes(*.0))]
    TooLarge(u64),
    #[error("it is a pipe, and nothing came through it for {} s", .0.as_secs())]
    Silent(Duration),
}

/// What has a name and is no regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Folder,
    Fifo,
    Socket,
    Device,
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "a folder",
            Self::Fifo => "a pipe (FIFO)",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "of an unknown kind",
        })
    }
}

/// Opens a regular file; returns at once whatever the name stands for.
///
/// # Errors
/// A failing system call, or an [`Unfit`] inside the error.
pub fn open(path: &Path) -> io::Result<File> {
    let file = open_any(path)?;
    match kind(&file)? {
        None => Ok(file),
        Some(kind) => Err(unfit(Unfit::Kind(kind))),
    }
}

/// A regular file's bytes.
///
/// # Errors
/// As [`open`], and a file that is larger than `bound`.
pub fn bytes(path: &Path, bound: Bound) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    // Files of the kernel state no size, and any file may grow: the size only saves reading what is too much anyway.
    if file.metadata()?.len() > bound.0 {
        return Err(unfit(Unfit::TooLarge(bound.0)));
    }
    let mut bytes = Vec::new();
    file.take(bound.0.saturating_add(1))
        .read_to_end(&mut bytes)?;
    within(bytes, bound)
}

/// A regular file's text.
///
/// # Errors
/// As [`bytes`], and a text that is no UTF-8.
pub fn text(path: &Path, bound: Bound) -> io::Result<String> {
    as_text(bytes(path, bound)?)
}

/// What a person hands over: a regular file, or a pipe such as the standard input or a shell's `<(…)`, which must not be
/// silent for more than 10 s, nor take more than a minute.
///
/// # Errors
/// As [`text`], and a pipe that takes too long.
pub fn input(path: &Path, bound: Bound) -> io::Result<String> {
    let file = open_any(path)?;
    match kind(&file)? {
        None => text(path, bound),
        Some(Kind::Fifo) => as_text(drain(file, bound, SILENCE)?),
        Some(kind) => Err(unfit(Unfit::Kind(kind))),
    }
}

/// Whether an error says that a name stands for something else than a regular file.
pub fn is_unfit(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.downcast_ref::<Unfit>().is_some())
}

/// Without waiting for whoever may be at a pipe's other end, and without a terminal that takes this process over.
fn open_any(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// What an open file is; `None` for a regular one.
fn kind(file: &File) -> io::Result<Option<Kind>> {
    let found = file.metadata()?.file_type();
    Ok(match found {
        _ if found.is_file() => None,
        _ if found.is_dir() => Some(Kind::Folder),
        _ if found.is_fifo() => Some(Kind::Fifo),
        _ if found.is_socket() => Some(Kind::Socket),
        _ if found.is_char_device() || found.is_block_device() => Some(Kind::Device),
        _ => Some(Kind::Other),
    })
}

/// Reads a pipe to its end. One that has no writer yet looks like one that is over, so the first byte is waited for.
fn drain(mut pipe: File, bound: Bound, silence: Duration) -> io::Result<Vec<u8>> {
    let began = Instant::now();
    let mut heard = began;
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        if heard.elapsed() > silence || began.elapsed() > PATIENCE {
            return Err(unfit(Unfit::Silent(silence)));
        }
        match pipe.read(&mut piece) {
            Ok(0) if !bytes.is_empty() => return Ok(bytes),
            Ok(0) => std::thread::sleep(Duration::from_millis(20)),
            Ok(n) => {
                bytes.extend_from_slice(&piece[..n]);
                bytes = within(bytes, bound)?;
                heard = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&pipe)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Until there is something to read, a tenth of a second at most.
fn wait(pipe: &File) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn within(bytes: Vec<u8>, bound: Bound) -> io::Result<Vec<u8>> {
    if bytes.len() as u64 > bound.0 {
        return Err(unfit(Unfit::TooLarge(bound.0)));
    }
    Ok(bytes)
}

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text");
    String::from_utf8(bytes).map_err(malformed)
}

fn unfit(why: Unfit) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::net::UnixListener, thread};

    use super::*;

    fn why<T>(read: io::Result<T>) -> String {
        read.err().expect("refused").to_string()
    }

    fn fifo(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("fifo");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .expect("made");
        path
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).expect("bound");
        let began = Instant::now();
        for (path, words) in [
            (folder.path(), "it is a folder"),
            (&fifo(folder.path()), "it is a pipe (FIFO)"),
            (Path::new("/dev/zero"), "it is a device"),
            (Path::new("/dev/null"), "it is a device"),
        ] {
            let said = why(bytes(path, Bound::TOLD));
            assert!(said.starts_with(words), "{}: {said}", path.display());
        }
        assert!(bytes(&socket, Bound::TOLD).is_err());
        assert!(began.elapsed() < Duration::from_secs(1));
        assert!(
            bytes(Path::new("/proc/self/stat"), Bound::TOLD).is_ok_and(|text| !text.is_empty())
        );
    }

    #[test]
    fn a_bound_holds_to_the_byte() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, [b'x'; 100]).expect("written");
        assert_eq!(text(&path, Bound(100)).expect("read").len(), 100);
        assert!(why(text(&path, Bound(99))).starts_with("it has more than the 99 B"));
        // A file that states no size.
        assert!(why(bytes(Path::new("/proc/self/stat"), Bound(3))).starts_with("it has more"));
        fs::write(&path, [0xFF]).expect("written");
        assert_eq!(why(text(&path, Bound(99))), "it is no UTF-8 text");
    }

    #[test]
    fn a_pipe_is_read_as_input_and_no_longer_than_it_speaks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = fifo(folder.path());
        let writer = thread::spawn({
            let path = path.clone();
            move || {
                let mut pipe = OpenOptions::new().write(true).open(path).expect("opened");
                pipe.write_all(&[b'x'; 100_000]).expect("written");
            }
        });
        assert_eq!(input(&path, Bound::WRITTEN).expect("read").len(), 100_000);
        writer.join().expect("over");
        let nobody = open_any(&path).expect("opened");
        let said = why(drain(nobody, Bound::WRITTEN, Duration::from_millis(50)));
        assert!(said.starts_with("it is a pipe, and nothing came"), "{said}");
        assert!(why(input(Path::new("/dev/zero"), Bound::WRITTEN)).starts_with("it is a device"));
    }
}
