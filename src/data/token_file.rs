//! Token ids in a mapped file.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::error::DataError;
use crate::base::mmap::ReadOnlyMap;

/// How many bytes an id takes in a file; ids are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenWidth {
    U16,
    U32,
}

impl TokenWidth {
    /// The smallest width that holds every id of a vocabulary.
    pub const fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 {
            Self::U16
        } else {
            Self::U32
        }
    }

    /// Bytes of one id.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

/// A range of the token ids in a file, mapped read-only and shared by every clone, on any thread.
///
/// The length is checked when the file is opened. A file that another program truncates later makes
/// the next read beyond its end raise SIGBUS, which ends the process. Files in the cache are never
/// rewritten, so this concerns `.bin` files of the user alone, which are used in place.
#[derive(Clone)]
pub struct TokenFile {
    /// `None` where there are no tokens: an empty file can't be mapped.
    map: Option<Arc<ReadOnlyMap>>,
    width: TokenWidth,
    /// First byte of the range.
    offset: usize,
    n_tokens: u64,
}

impl TokenFile {
    /// Maps the file at `path`, which must hold exactly `n_tokens` ids.
    ///
    /// # Errors
    /// The file can't be mapped, or has another length.
    pub fn open(path: &Path, width: TokenWidth, n_tokens: u64) -> Result<Self, DataError> {
        let expected = n_tokens * width.bytes() as u64;
        let length = std::fs::metadata(path)
            .map_err(|source| DataError::read(path, source))?
            .len();
        let wrong_length = |found| DataError::TokenFileLength {
            path: path.to_owned(),
            found,
            expected,
        };
        if length != expected {
            return Err(wrong_length(length));
        }
        let map = if n_tokens == 0 {
            None
        } else {
            let map = ReadOnlyMap::open(path).map_err(|source| DataError::read(path, source))?;
            if map.len() as u64 != expected {
                return Err(wrong_length(map.len() as u64));
            }
            Some(Arc::new(map))
        };
        Ok(Self {
            map,
            width,
            offset: 0,
            n_tokens,
        })
    }

    /// The ids before position `at` and those from it on; `at` beyond the end leaves none for the
    /// second.
    pub fn split_at(&self, at: u64) -> (Self, Self) {
        let at = at.min(self.n_tokens);
        let before = Self {
            n_tokens: at,
            ..self.clone()
        };
        let after = Self {
            offset: self.offset + at as usize * self.width.bytes(),
            n_tokens: self.n_tokens - at,
            ..self.clone()
        };
        (before, after)
    }

    /// Number of ids.
    pub fn len(&self) -> u64 {
        self.n_tokens
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n_tokens == 0
    }

    /// The id at position `i`, which must lie below [`len`](Self::len).
    pub fn token(&self, i: u64) -> u32 {
        let bytes = &self.bytes()[i as usize * self.width.bytes()..];
        match self.width {
            TokenWidth::U16 => u32::from(u16::from_le_bytes([bytes[0], bytes[1]])),
            TokenWidth::U32 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }

    /// Appends the `n` ids from `start` on to `ids`; the range must lie within the file.
    pub fn append_to(&self, ids: &mut Vec<i64>, start: u64, n: usize) {
        let width = self.width.bytes();
        let first = start as usize * width;
        let bytes = &self.bytes()[first..first + n * width];
        match self.width {
            TokenWidth::U16 => ids.extend(u16s(bytes).map(i64::from)),
            TokenWidth::U32 => ids.extend(u32s(bytes).map(i64::from)),
        }
    }

    /// The range as it lies in the file.
    pub(super) fn bytes(&self) -> &[u8] {
        let length = self.n_tokens as usize * self.width.bytes();
        match &self.map {
            Some(map) => &map[self.offset..self.offset + length],
            None => &[],
        }
    }

    pub(super) fn width(&self) -> TokenWidth {
        self.width
    }
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "TokenFile({} tokens, {:?})", self.n_tokens, self.width)
    }
}

/// The ids in bytes of width [`TokenWidth::U16`].
pub(super) fn u16s(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks().0.iter().copied().map(u16::from_le_bytes)
}

/// The ids in bytes of width [`TokenWidth::U32`].
pub(super) fn u32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), bytes).expect("written");
        file
    }

    #[test]
    fn both_widths_read_little_endian() {
        let narrow = file(&[1, 2, 3, 0]);
        let tokens = TokenFile::open(narrow.path(), TokenWidth::U16, 2).expect("opened");
        assert_eq!([tokens.token(0), tokens.token(1)], [0x201, 3]);
        let wide = file(&[1, 2, 3, 4, 5, 0, 0, 0]);
        let tokens = TokenFile::open(wide.path(), TokenWidth::U32, 2).expect("opened");
        assert_eq!([tokens.token(0), tokens.token(1)], [0x0403_0201, 5]);
        let mut ids = vec![-7];
        tokens.append_to(&mut ids, 1, 1);
        assert_eq!(ids, [-7, 5]);
    }

    #[test]
    fn a_split_shares_the_file() {
        let file = file(&[1, 0, 2, 0, 3, 0]);
        let whole = TokenFile::open(file.path(), TokenWidth::U16, 3).expect("opened");
        let (before, after) = whole.split_at(2);
        assert_eq!([before.len(), after.len()], [2, 1]);
        assert_eq!([before.token(1), after.token(0)], [2, 3]);
        let (_, last) = after.split_at(9);
        assert!(last.is_empty());
    }

    #[test]
    fn another_length_is_refused_and_an_empty_file_is_not() {
        let three = file(&[1, 0, 2]);
        let refused = TokenFile::open(three.path(), TokenWidth::U16, 2).expect_err("short");
        assert!(matches!(
            refused,
            DataError::TokenFileLength {
                found: 3,
                expected: 4,
                ..
            }
        ));
        let longer = file(&[1, 0, 2, 0, 3, 0]);
        let refused = TokenFile::open(longer.path(), TokenWidth::U16, 2).expect_err("long");
        assert!(matches!(
            refused,
            DataError::TokenFileLength { found: 6, .. }
        ));
        let none = file(&[]);
        assert!(
            TokenFile::open(none.path(), TokenWidth::U16, 0)
                .expect("opened")
                .is_empty()
        );
    }

    #[test]
    #[should_panic = "out of bounds"]
    fn a_part_does_not_read_beyond_its_range() {
        let file = file(&[1, 0, 2, 0, 3, 0]);
        let whole = TokenFile::open(file.path(), TokenWidth::U16, 3).expect("opened");
        let _ = whole.split_at(2).0.token(2);
    }

    #[test]
    fn the_width_follows_the_largest_id() {
        assert_eq!(TokenWidth::for_vocab(65_536), TokenWidth::U16);
        assert_eq!(TokenWidth::for_vocab(65_537), TokenWidth::U32);
    }
}
