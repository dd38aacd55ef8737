//! Token ids in a mapped file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::DataError;
use crate::base::mmap::ReadOnlyMap;

/// Tokens of a chunk that one thread checks.
const CHUNK_TOKENS: usize = 1 << 20;

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

    /// The configuration's word for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::U16 => "u16",
            Self::U32 => "u32",
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
    /// Bytes before the file's first token.
    header_bytes: usize,
    /// Position in the file of the range's first token.
    first: u64,
    n_tokens: u64,
    bound: Option<Arc<Bound>>,
}

/// What every id must lie below, and whose fault it is where one does not.
struct Bound {
    path: PathBuf,
    vocab_size: usize,
    keeper: Keeper,
}

/// Who keeps a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    User,
    Cache,
}

impl TokenFile {
    /// Maps the file at `path`, which must hold exactly `n_tokens` ids.
    ///
    /// # Errors
    /// The file can't be mapped, or has another length.
    pub fn open(path: &Path, width: TokenWidth, n_tokens: u64) -> Result<Self, DataError> {
        Self::open_after(path, 0, width, n_tokens)
    }

    /// As [`open`](Self::open), for a file whose tokens follow a header.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn open_after(
        path: &Path,
        header_bytes: usize,
        width: TokenWidth,
        n_tokens: u64,
    ) -> Result<Self, DataError> {
        let expected = header_bytes as u64 + n_tokens * width.bytes() as u64;
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
            header_bytes,
            first: 0,
            n_tokens,
            bound: None,
        })
    }

    /// The same ids, of which [`append_to`](Self::append_to) refuses those outside a vocabulary.
    pub(super) fn bounded(self, path: &Path, vocab_size: usize, keeper: Keeper) -> Self {
        let bound = Bound {
            path: path.to_owned(),
            vocab_size,
            keeper,
        };
        Self {
            bound: Some(Arc::new(bound)),
            ..self
        }
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
            first: self.first + at,
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
    ///
    /// # Errors
    /// An id lies outside the vocabulary: another program has written to the file since it was checked.
    pub fn append_to(&self, ids: &mut Vec<i64>, start: u64, n: usize) -> Result<(), DataError> {
        let width = self.width.bytes();
        let first = start as usize * width;
        let bytes = &self.bytes()[first..first + n * width];
        let n_before = ids.len();
        match self.width {
            TokenWidth::U16 => ids.extend(u16s(bytes).map(i64::from)),
            TokenWidth::U32 => ids.extend(u32s(bytes).map(i64::from)),
        }
        let Some(bound) = &self.bound else {
            return Ok(());
        };
        let appended = &ids[n_before..];
        let largest = appended.iter().copied().max().unwrap_or(0);
        if largest < bound.vocab_size as i64 {
            return Ok(());
        }
        let is_outside = |&id: &i64| id >= bound.vocab_size as i64;
        let at = appended.iter().position(is_outside).unwrap_or(0);
        Err(bound.refusal(self.first + start + at as u64, appended[at] as u32))
    }

    /// Looks at every id of the range; `done` hears of the bytes of each chunk, from several threads.
    ///
    /// # Errors
    /// The first id outside the vocabulary that [`bounded`](Self::bounded) set.
    pub(super) fn check_ids(&self, done: &(dyn Fn(usize) + Sync)) -> Result<(), DataError> {
        let Some(bound) = &self.bound else {
            return Ok(());
        };
        let chunks = self.bytes().par_chunks(CHUNK_TOKENS * self.width.bytes());
        let outside = chunks.enumerate().find_map_first(|(chunk, bytes)| {
            done(bytes.len());
            let is_outside = |id: u32| id as usize >= bound.vocab_size;
            let at = match self.width {
                TokenWidth::U16 => u16s(bytes).position(|id| is_outside(u32::from(id))),
                TokenWidth::U32 => u32s(bytes).position(is_outside),
            }?;
            Some((chunk * CHUNK_TOKENS + at) as u64)
        });
        match outside {
            Some(at) => Err(bound.refusal(self.first + at, self.token(at))),
            None => Ok(()),
        }
    }

    /// The range as it lies in the file.
    pub(super) fn bytes(&self) -> &[u8] {
        let width = self.width.bytes();
        let start = self.header_bytes + self.first as usize * width;
        match &self.map {
            Some(map) => &map[start..start + self.n_tokens as usize * width],
            None => &[],
        }
    }

    pub(super) fn width(&self) -> TokenWidth {
        self.width
    }
}

impl Bound {
    fn refusal(&self, position: u64, id: u32) -> DataError {
        let (path, vocab_size) = (self.path.clone(), self.vocab_size);
        match self.keeper {
            Keeper::User => DataError::IdOutsideVocab {
                path,
                position,
                id,
                vocab_size,
            },
            Keeper::Cache => DataError::CachedIdOutsideVocab {
                path,
                position,
                id,
                vocab_size,
            },
        }
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
        tokens.append_to(&mut ids, 1, 1).expect("unbounded");
        assert_eq!(ids, [-7, 5]);
    }

    #[test]
    fn an_id_that_appears_later_is_named_with_its_place_in_the_file() {
        let file = file(&[9, 9, 9, 1, 0, 2, 0, 3, 0]);
        let opened = TokenFile::open_after(file.path(), 3, TokenWidth::U16, 3).expect("opened");
        for (keeper, word) in [
            (Keeper::User, "raise"),
            (Keeper::Cache, "remove the folder"),
        ] {
            let (_, last) = opened.clone().bounded(file.path(), 3, keeper).split_at(1);
            let mut ids = Vec::new();
            last.append_to(&mut ids, 0, 1).expect("below 3");
            let refused = last.append_to(&mut ids, 0, 2).expect_err("3 is no id");
            let text = refused.to_string();
            assert!(
                text.contains("token 2 ") && text.contains("has id 3"),
                "{text}"
            );
            assert!(text.contains(word), "{text}");
            assert_eq!(last.check_ids(&|_| ()).expect_err("3").to_string(), text);
        }
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
