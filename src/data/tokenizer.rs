//! From text to token ids and back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{chars::CharTokenizer, cut, error::DataError, subword::SubwordTokenizer};
use crate::base;

/// Turns text into token ids. Saved beside the tokens, so that sampling needs no original files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// The 256 byte values.
    Bytes,
    /// The distinct characters of a text.
    Char(CharTokenizer),
    /// A Hugging Face tokenizer, of which GPT-2's byte-level BPE is one.
    Subword(SubwordTokenizer),
}

impl Tokenizer {
    /// The ids of `text`.
    ///
    /// # Errors
    /// A character that a `char` vocabulary lacks, or a part that a subword tokenizer has no token
    /// for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::Char(chars) => chars.encode(text),
            Self::Subword(subword) => subword.encode(text),
        }
    }

    /// The text of `ids`. Bytes that are no UTF-8, and ids outside the vocabulary, become U+FFFD or
    /// are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = ids
                    .iter()
                    .map(|&id| id.try_into().unwrap_or(0xFF))
                    .collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Self::Char(chars) => chars.decode(ids),
            Self::Subword(subword) => subword.decode(ids),
        }
    }

    /// Every id lies below this.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Char(chars) => chars.vocab_size(),
            Self::Subword(subword) => subword.vocab_size(),
        }
    }

    /// Writes the tokenizer as JSON; an older file is replaced at once or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        let failed = |source| DataError::write(path, source);
        let json = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        base::fs::replace(path, &json).map_err(failed)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// The file is missing, unreadable or no saved tokenizer.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let bytes = base::read::bytes(path, base::read::Bound::TOKENIZER)
            .map_err(|source| DataError::read(path, source))?;
        serde_json::from_slice(&bytes).map_err(|error| DataError::TokenizerFile {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// What is put between two documents.
    pub(super) fn separator(&self) -> &'static str {
        match self {
            Self::Bytes | Self::Char(_) => LINE_BREAK,
            Self::Subword(subword) => subword.end_of_document().unwrap_or(LINE_BREAK),
        }
    }

    /// Cuts `text` where its parts can be encoded alone.
    pub(super) fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        match self {
            Self::Bytes | Self::Char(_) => cut::at_characters(text),
            Self::Subword(_) => cut::at_lines(text),
        }
    }
}

pub(super) const LINE_BREAK: &str = "\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::fs;

    use super::*;

    fn saved_and_loaded(tokenizer: &Tokenizer) -> Tokenizer {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tokenizer.json");
        tokenizer.save(&path).expect("saved");
        Tokenizer::load(&path).expect("loaded")
    }

    #[test]
    fn saving_keeps_every_kind() {
        let text = super::super::corpus::hello();
        let trained = SubwordTokenizer::train(&text, 280, &|_| {}).expect("trained");
        for tokenizer in [
            Tokenizer::Bytes,
            Tokenizer::Char(CharTokenizer::of_text(&text)),
            Tokenizer::Subword(trained),
        ] {
            let ids = tokenizer.encode(&text[..3_000]).expect("encoded");
            let loaded = saved_and_loaded(&tokenizer);
            assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
            assert_eq!(loaded.encode(&text[..3_000]).expect("encoded"), ids);
            assert_eq!(loaded.decode(&ids), &text[..3_000]);
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tokenizer.json");
        let missing = Tokenizer::load(&path).expect_err("missing");
        assert!(matches!(missing, DataError::Missing { .. }));
        fs::write(&path, "\"byt").expect("written");
        let damaged = Tokenizer::load(&path).expect_err("damaged");
        assert!(matches!(damaged, DataError::TokenizerFile { .. }));
    }

    #[test]
    fn halves_of_a_character_decode_to_a_replacement() {
        assert_eq!(
            Tokenizer::Bytes.decode(&[0x61, 0xC3, 999]),
            "a\u{FFFD}\u{FFFD}"
        );
    }

    proptest! {
        #[test]
        fn text_survives_a_round_trip(text in "\\PC{0,200}") {
            for tokenizer in [Tokenizer::Bytes, Tokenizer::Char(CharTokenizer::of_text(&text))] {
                let ids = tokenizer.encode(&text).expect("encoded");
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                prop_assert_eq!(tokenizer.decode(&ids), text.clone());
            }
        }
    }
}
