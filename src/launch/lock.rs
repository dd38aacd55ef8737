//! One supervisor a run folder.

use std::{
    fs::File,
    io::{Seek, Write},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{LaunchError, RunFolder};
use crate::base::{
    own,
    read::{self, Bound},
};

/// A probe holds the lock for an instant: another attempt tells it from a supervisor.
const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// The exclusive hold on a run folder; given back when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock and writes this process's id into it.
    ///
    /// # Errors
    /// Another process holds it, or the file can't be used.
    pub fn acquire(folder: &RunFolder) -> Result<Self, LaunchError> {
        let failed = LaunchError::io("the lock", folder.lock());
        let mut file = match open(folder) {
            Ok(file) => file,
            Err(source) => return Err(failed(source)),
        };
        for attempt in 1..=ATTEMPTS {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < ATTEMPTS => thread::sleep(BETWEEN_ATTEMPTS),
                Err(Errno::WOULDBLOCK) => return Err(locked(folder)),
                Err(error) => return Err(failed(error.into())),
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Whether a supervisor holds the folder.
pub fn is_held(folder: &RunFolder) -> bool {
    let Ok(file) = read::open(&folder.lock()) else {
        return false;
    };
    matches!(
        flock(&file, FlockOperation::NonBlockingLockShared),
        Err(Errno::WOULDBLOCK)
    )
}

fn open(folder: &RunFolder) -> std::io::Result<File> {
    own::open(&folder.lock(), own::Purpose::Update)
}

fn locked(folder: &RunFolder) -> LaunchError {
    let pid = read::text(&folder.lock(), Bound(64))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    LaunchError::Locked {
        folder: folder.root().to_owned(),
        pid,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_second_hold_is_refused_and_names_the_first() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::new(root.path());
        assert!(!is_held(&folder));
        let first = RunLock::acquire(&folder).expect("free");
        assert!(is_held(&folder));
        let refusal = RunLock::acquire(&folder).expect_err("held").to_string();
        assert!(
            refusal.contains(&std::process::id().to_string()),
            "{refusal}"
        );
        drop(first);
        assert!(!is_held(&folder));
        RunLock::acquire(&folder).expect("free again");
    }

    #[test]
    fn a_stale_lock_file_is_no_lock() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::new(root.path());
        fs::write(folder.lock(), "1\n").expect("writable");
        assert!(!is_held(&folder));
        RunLock::acquire(&folder).expect("free");
    }
}
