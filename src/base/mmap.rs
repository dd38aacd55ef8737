//! The one read-only memory map of the project.

use std::{io, ops::Deref, path::Path};

use super::read;

/// A file's bytes, mapped read-only and shared between all threads.
///
/// The file must not be truncated while it is mapped: a later read would raise SIGBUS. capstan's own
/// files are published by rename and never rewritten; a user's token files are trusted to stay.
pub struct ReadOnlyMap(memmap2::Mmap);

impl ReadOnlyMap {
    /// Maps the whole file.
    ///
    /// # Errors
    /// The file can't be opened or mapped; an empty file can't be mapped on some kernels.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = read::open(path)?;
        // SAFETY: the map is private to this type and read-only; see the type's contract on truncation.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }
}

impl Deref for ReadOnlyMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
