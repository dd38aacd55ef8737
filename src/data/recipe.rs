//! How text is to be treated, with the bytes of tokenizer files: half of the fingerprint.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    chars::CharTokenizer, error::DataError, files, progress::Report, seen::SeenFile,
    subword::SubwordTokenizer, tokenizer::Tokenizer,
};
use crate::config::TokenizerConfig;

/// A tokenizer as configured, its files read.
#[derive(Clone, Debug)]
pub(super) enum TokenizerSource {
    Bytes,
    Char,
    File {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    VocabMerges {
        vocab: NamedBytes,
        merges: NamedBytes,
    },
    Bpe {
        vocab_size: usize,
    },
}

/// A file that was read.
#[derive(Clone, Debug)]
pub(super) struct NamedBytes {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TokenizerSource {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn read(config: &TokenizerConfig) -> Result<Self, DataError> {
        Ok(match config {
            TokenizerConfig::Bytes => Self::Bytes,
            TokenizerConfig::Char => Self::Char,
            TokenizerConfig::File(path) => Self::File {
                path: path.clone(),
                bytes: files::read(path)?,
            },
            TokenizerConfig::VocabMerges { vocab, merges } => Self::VocabMerges {
                vocab: NamedBytes::read(vocab)?,
                merges: NamedBytes::read(merges)?,
            },
            &TokenizerConfig::Bpe { vocab_size } => Self::Bpe { vocab_size },
        })
    }

    /// The tokenizer, where it needs no text to be made of.
    ///
    /// # Errors
    /// A file is no usable tokenizer.
    pub fn without_text(&self) -> Result<Option<Tokenizer>, DataError> {
        Ok(match self {
            Self::Bytes => Some(Tokenizer::Bytes),
            Self::File { path, bytes } => Some(Tokenizer::Subword(SubwordTokenizer::from_json(
                path, bytes,
            )?)),
            Self::VocabMerges { vocab, merges } => {
                let made = SubwordTokenizer::from_vocab_merges(
                    &vocab.path,
                    &vocab.bytes,
                    &merges.path,
                    &merges.bytes,
                )?;
                Some(Tokenizer::Subword(made))
            }
            Self::Char | Self::Bpe { .. } => None,
        })
    }

    /// The tokenizer; `char` takes the characters of the whole text, as nanoGPT does, `bpe` is trained
    /// on the training part alone.
    ///
    /// # Errors
    /// A file is no usable tokenizer, or the training fails.
    pub fn with_text(
        &self,
        text: &str,
        train: &str,
        report: Report,
    ) -> Result<Tokenizer, DataError> {
        if let Some(tokenizer) = self.without_text()? {
            return Ok(tokenizer);
        }
        match self {
            Self::Bpe { vocab_size } => {
                SubwordTokenizer::train(train, *vocab_size, report).map(Tokenizer::Subword)
            }
            _ => Ok(Tokenizer::Char(CharTokenizer::of_text(text))),
        }
    }

    /// The files that were read.
    pub fn files(&self) -> Vec<SeenFile> {
        match self {
            Self::Bytes | Self::Char | Self::Bpe { .. } => Vec::new(),
            Self::File { path, bytes } => vec![SeenFile::of_bytes(path, bytes)],
            Self::VocabMerges { vocab, merges } => [vocab, merges]
                .map(|file| SeenFile::of_bytes(&file.path, &file.bytes))
                .into(),
        }
    }

    /// The configuration's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Char => "char",
            Self::File { .. } => "file",
            Self::VocabMerges { .. } => "vocab_merges",
            Self::Bpe { .. } => "bpe",
        }
    }

    fn key(&self) -> Value {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_string();
        let detail = match self {
            Self::Bytes | Self::Char => Value::Null,
            Self::File { bytes, .. } => hash(bytes).into(),
            Self::VocabMerges { vocab, merges } => {
                json!([hash(&vocab.bytes), hash(&merges.bytes)])
            }
            Self::Bpe { vocab_size } => (*vocab_size).into(),
        };
        json!([self.name(), detail])
    }
}

impl NamedBytes {
    fn read(path: &Path) -> Result<Self, DataError> {
        Ok(Self {
            path: path.to_owned(),
            bytes: files::read(path)?,
        })
    }
}

/// What is to be done with the contents of text files.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub tokenizer: TokenizerSource,
    pub val_fraction: f64,
    /// The field of JSON Lines; `None` for plain text.
    pub field: Option<String>,
}

impl Recipe {
    /// The recipe as text: equal where the same contents give the same tokens.
    pub fn key(&self) -> String {
        json!([self.tokenizer.key(), self.val_fraction, self.field]).to_string()
    }
}

/// Checks a held-out share.
///
/// # Errors
/// It lies outside (0, 1).
pub(super) fn check_val_fraction(value: f64) -> Result<(), DataError> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        Err(DataError::ValFraction { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_recipe_counts() {
        let base = Recipe {
            tokenizer: TokenizerSource::Bpe { vocab_size: 300 },
            val_fraction: 0.1,
            field: None,
        };
        let file = |bytes: &[u8]| TokenizerSource::File {
            path: "tokenizer.json".into(),
            bytes: bytes.to_vec(),
        };
        let with = |tokenizer| Recipe {
            tokenizer,
            ..base.clone()
        };
        let recipes = [
            base.clone(),
            with(TokenizerSource::Bpe { vocab_size: 301 }),
            with(TokenizerSource::Bytes),
            with(TokenizerSource::Char),
            with(file(b"a")),
            with(file(b"b")),
            Recipe {
                val_fraction: 0.2,
                ..base.clone()
            },
            Recipe {
                field: Some("text".to_owned()),
                ..base.clone()
            },
            Recipe {
                field: Some("body".to_owned()),
                ..base
            },
        ];
        let mut keys: Vec<String> = recipes.iter().map(Recipe::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), recipes.len());
    }

    #[test]
    fn the_held_out_share_lies_between_0_and_1() {
        check_val_fraction(0.1).expect("good");
        for value in [0.0, 1.0, -0.1, f64::NAN] {
            let refused = check_val_fraction(value).expect_err("refused");
            assert!(matches!(refused, DataError::ValFraction { .. }));
        }
    }
}
