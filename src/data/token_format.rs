//! How the ids lie in a user's token file: their width, and a header before them.

use std::io::Read;

use super::{
    error::DataError,
    files::{self, InputFile},
    token_file::{TokenWidth, u16s, u32s},
};
use crate::config::{IdWidth, TokensConfig};

/// Bytes of a file that are looked at.
pub(super) const BEGINNING_BYTES: u64 = 64 << 10;
/// llm.c's header: 256 numbers of 32 bits; magic, version, number of tokens.
const LLMC_HEADER_BYTES: u64 = 256 * 4;
const LLMC_MAGICS: [(u32, TokenWidth); 2] =
    [(20_240_520, TokenWidth::U16), (20_240_801, TokenWidth::U32)];
const NUMPY_MAGIC: &[u8] = b"\x93NUMPY";
/// Fewer ids say nothing about their width.
const TELLING_IDS: usize = 16;

/// Where a file's ids lie, and how wide they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenFormat {
    pub width: TokenWidth,
    pub header_bytes: u64,
}

/// What a file's first bytes say about its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// Plain ids of 16 bits, or nothing that tells otherwise.
    Plain,
    /// llm.c's header, which promises a number of tokens.
    Llmc { width: TokenWidth, n_tokens: u64 },
    /// Every second half of the 32-bit words is 0.
    LooksWide,
    /// Every second 32-bit word is 0.
    LooksTooWide,
    /// A NumPy array; its header's length, and the type of its elements as NumPy writes it.
    Numpy { header_bytes: u64, dtype: String },
}

impl Signature {
    /// What `bytes`, a file's beginning, are.
    pub fn of(bytes: &[u8]) -> Self {
        if let Some(found) = llmc(bytes).or_else(|| numpy(bytes)) {
            return found;
        }
        let halves: Vec<u16> = u16s(bytes).collect();
        let is_zero_at = |period: usize, places: std::ops::Range<usize>| {
            let mut groups = halves.chunks_exact(period);
            groups.all(|group| group[places.clone()].iter().all(|&half| half == 0))
        };
        let is_blank = halves.iter().all(|&half| half == 0);
        if is_blank || halves.len() < 2 * TELLING_IDS {
            Self::Plain
        } else if is_zero_at(4, 2..4) {
            Self::LooksTooWide
        } else if is_zero_at(2, 1..2) {
            Self::LooksWide
        } else {
            Self::Plain
        }
    }
}

impl TokenFormat {
    /// nanoGPT's: ids of 16 bits and nothing else.
    pub const NANOGPT: Self = Self {
        width: TokenWidth::U16,
        header_bytes: 0,
    };

    /// The format that `config` states, or else that of the file, where its beginning leaves no doubt.
    ///
    /// # Errors
    /// The file is unreadable, or its beginning speaks of another format than `config` does.
    pub fn of(config: &TokensConfig, input: &InputFile) -> Result<Self, DataError> {
        let mut bytes = Vec::new();
        let beginning = files::open(&input.path)?;
        beginning
            .take(BEGINNING_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| DataError::read(&input.path, source))?;
        let refused = |what: String| DataError::TokenFormat {
            path: input.path.clone(),
            what,
        };
        let stated = config.width.map(TokenWidth::from);
        let plain = Self {
            width: stated.unwrap_or(TokenWidth::for_vocab(config.vocab_size)),
            header_bytes: config.header_bytes.unwrap_or(0),
        };
        let signature = Signature::of(&bytes);
        match signature {
            _ if config.header_bytes.is_some() => Ok(plain),
            Signature::Llmc { width, n_tokens } => {
                let found = Self {
                    width,
                    header_bytes: LLMC_HEADER_BYTES,
                };
                check_llmc(found, n_tokens, stated, input.bytes).map_err(refused)?;
                Ok(found)
            }
            Signature::Numpy {
                header_bytes,
                dtype,
            } => Err(refused(format!(
                "a NumPy file with a header of {header_bytes} bytes and elements of type {dtype:?}"
            ))),
            Signature::LooksWide if stated.is_none() && plain.width == TokenWidth::U16 => {
                let doubt = "every second u16 is 0, as of ids of 32 bits (\"u32\")";
                Err(refused(doubt.to_owned()))
            }
            Signature::LooksTooWide if stated.is_none() => {
                let doubt = "three of four u16 are 0, as of ids of 64 bits";
                Err(refused(doubt.to_owned()))
            }
            _ => Ok(plain),
        }
    }

    /// Number of ids in a file of `bytes`; `None` where they end within one, or within the header.
    pub fn n_tokens(self, bytes: u64) -> Option<u64> {
        let ids = bytes.checked_sub(self.header_bytes)?;
        let width = self.width.bytes() as u64;
        ids.is_multiple_of(width).then_some(ids / width)
    }

    /// The ids of a file's beginning.
    pub fn ids(self, beginning: &[u8]) -> Vec<u32> {
        let header = usize::try_from(self.header_bytes).unwrap_or(usize::MAX);
        let bytes = beginning.get(header..).unwrap_or_default();
        match self.width {
            TokenWidth::U16 => u16s(bytes).map(u32::from).collect(),
            TokenWidth::U32 => u32s(bytes).collect(),
        }
    }

    /// The format that a file's signature suggests, for a choice that is still being made.
    pub fn suggested(signature: &Signature) -> Self {
        let (width, header_bytes) = match signature {
            Signature::Llmc { width, .. } => (*width, LLMC_HEADER_BYTES),
            Signature::LooksWide => (TokenWidth::U32, 0),
            _ => (TokenWidth::U16, 0),
        };
        Self {
            width,
            header_bytes,
        }
    }
}

impl From<IdWidth> for TokenWidth {
    fn from(width: IdWidth) -> Self {
        match width {
            IdWidth::U16 => Self::U16,
            IdWidth::U32 => Self::U32,
        }
    }
}

fn check_llmc(
    found: TokenFormat,
    promised: u64,
    stated: Option<TokenWidth>,
    bytes: u64,
) -> Result<(), String> {
    let width = found.width.name();
    if stated.is_some_and(|stated| stated != found.width) {
        return Err(format!(
            "its header of {LLMC_HEADER_BYTES} bytes (llm.c) is that of {width} ids"
        ));
    }
    match found.n_tokens(bytes) {
        Some(held) if held == promised => Ok(()),
        _ => Err(format!(
            "its header of {LLMC_HEADER_BYTES} bytes (llm.c, {width}) promises {promised} ids, and {} bytes follow it",
            bytes.saturating_sub(LLMC_HEADER_BYTES)
        )),
    }
}

fn llmc(bytes: &[u8]) -> Option<Signature> {
    let mut words = u32s(bytes);
    let magic = words.next()?;
    let (_, width) = LLMC_MAGICS.into_iter().find(|(known, _)| *known == magic)?;
    let n_tokens = words.nth(1)?.into();
    Some(Signature::Llmc { width, n_tokens })
}

fn numpy(bytes: &[u8]) -> Option<Signature> {
    let rest = bytes.strip_prefix(NUMPY_MAGIC)?;
    let [major, _, a, b, c, d] = *rest.first_chunk::<6>()?;
    let (prefix, length) = match major {
        1 => (10, u64::from(u16::from_le_bytes([a, b]))),
        _ => (12, u64::from(u32::from_le_bytes([a, b, c, d]))),
    };
    let header_bytes = prefix + length;
    let end = usize::try_from(header_bytes).ok()?.min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    let after = text.split_once("'descr'").map(|(_, after)| after);
    let dtype = after
        .and_then(|after| after.split('\'').nth(1))
        .unwrap_or("?");
    Some(Signature::Numpy {
        header_bytes,
        dtype: dtype.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
        ids.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn a_beginning_tells_its_format() {
        let mut header = vec![0u32; 256];
        header[..3].copy_from_slice(&[20_240_801, 7, 5]);
        let llmc = Signature::of(&wide(header.clone()));
        let width = TokenWidth::U32;
        assert_eq!(llmc, Signature::Llmc { width, n_tokens: 5 });
        header[0] = 20_240_520;
        let width = TokenWidth::U16;
        assert_eq!(
            Signature::of(&wide(header)),
            Signature::Llmc { width, n_tokens: 5 }
        );
        assert_eq!(Signature::of(&wide(1..40)), Signature::LooksWide);
        let too_wide = wide((1..40).flat_map(|id| [id, 0]));
        assert_eq!(Signature::of(&too_wide), Signature::LooksTooWide);
        for plain in [
            wide([70_000; 40]),
            wide([0; 40]),
            wide(1..5),
            vec![1],
            vec![],
        ] {
            assert_eq!(Signature::of(&plain), Signature::Plain);
        }
        let mut array =
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u2', 'fortran_order': False".to_vec();
        array.resize(200, b' ');
        let dtype = "<u2".to_owned();
        let header_bytes = 128;
        assert_eq!(
            Signature::of(&array),
            Signature::Numpy {
                header_bytes,
                dtype
            }
        );
    }
}
