//! The tokenizer of a run that is over, and any tokenizer as the `tokenizer.json` of Hugging Face.

use std::path::Path;

use tokenizers::{
    SplitDelimiterBehavior, Tokenizer as HfTokenizer,
    decoders::fuse::Fuse,
    models::{
        bpe::{BPE, Vocab},
        wordlevel::WordLevel,
    },
    pre_tokenizers::{
        byte_level::ByteLevel,
        split::{Split, SplitPattern},
    },
};

use super::{
    cache, chars::CharTokenizer, error::DataError, prepare, prepare::TOKENS_FOLDER,
    recipe::TokenizerSource, tokenizer::Tokenizer, tokens,
};
use crate::config::{DataConfig, TokenizerConfig};

/// A tokenizer as other programs read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerJson {
    /// The text of `tokenizer.json`.
    pub json: String,
    pub n_tokens: usize,
    /// The token that ends a document, and its id, where there is one.
    pub end_of_document: Option<(String, u32)>,
}

/// The tokenizer that made the tokens of `fingerprint`; `None` for token files whose configuration names none.
///
/// It is in the cache with the tokens; where that was emptied, it is made again.
///
/// # Errors
/// The data that it would be made of is gone or has changed, or a file is no usable tokenizer.
pub fn tokenizer_of(
    config: &DataConfig,
    fingerprint: &str,
    cache_dir: &Path,
) -> Result<Option<Tokenizer>, DataError> {
    let of_text: &TokenizerConfig = match config {
        DataConfig::Builtin(_) => return Ok(Some(Tokenizer::Bytes)),
        DataConfig::Text(text) => &text.tokenizer,
        DataConfig::Jsonl(jsonl) => &jsonl.tokenizer,
        DataConfig::Tokens(tokens) => return tokens::tokenizer(tokens),
    };
    if let Some(cached) = cache::open(&cache_dir.join(TOKENS_FOLDER), fingerprint) {
        return Ok(Some(cached.tokenizer));
    }
    if let Some(tokenizer) = TokenizerSource::read(of_text)?.without_text()? {
        return Ok(Some(tokenizer));
    }
    let prepared = prepare::prepare(config, cache_dir, &|_| {})?;
    if prepared.fingerprint == fingerprint {
        Ok(prepared.tokenizer)
    } else {
        Err(DataError::TokenizerLost)
    }
}

impl Tokenizer {
    /// The same tokenizer for other programs: the same ids for the same text, and back.
    ///
    /// # Errors
    /// The library refuses.
    pub fn to_json(&self) -> Result<TokenizerJson, DataError> {
        let refused = |error: &dyn std::fmt::Display| DataError::Encode {
            reason: error.to_string(),
        };
        let (json, end_of_document) = match self {
            Self::Bytes => (bytes().and_then(|made| made.to_string(true)), None),
            Self::Char(chars) => (of_chars(chars).and_then(|made| made.to_string(true)), None),
            Self::Subword(subword) => (
                serde_json::to_string_pretty(subword).map_err(Into::into),
                subword.end_of_document_id(),
            ),
        };
        Ok(TokenizerJson {
            json: json.map_err(|error| refused(&error))?,
            n_tokens: self.vocab_size(),
            end_of_document,
        })
    }
}

/// A byte-level BPE that merges nothing.
fn bytes() -> tokenizers::Result<HfTokenizer> {
    let vocab = (0..=u8::MAX).map(|byte| (symbol(byte).to_string(), u32::from(byte)));
    let bpe = BPE::builder().vocab_and_merges(vocab.collect::<Vocab>(), Vec::new());
    let mut made = HfTokenizer::new(bpe.build()?);
    made.with_pre_tokenizer(Some(ByteLevel::new(false, true, false)));
    made.with_decoder(Some(ByteLevel::default()));
    Ok(made)
}

/// Each character a word; one that the vocabulary lacks is refused, since there is no unknown token.
fn of_chars(chars: &CharTokenizer) -> tokenizers::Result<HfTokenizer> {
    let vocab = chars.chars().iter().map(char::to_string).zip(0..);
    let words = WordLevel::builder().vocab(vocab.collect());
    let mut made = HfTokenizer::new(words.build()?);
    let each = SplitPattern::Regex(r"[\s\S]".to_owned());
    made.with_pre_tokenizer(Some(Split::new(
        each,
        SplitDelimiterBehavior::Isolated,
        false,
    )?));
    made.with_decoder(Some(Fuse::new()));
    Ok(made)
}

/// The character that stands for a byte in byte-level vocabularies: itself where it can be seen in Latin-1, else
/// the next from U+0100 on.
fn symbol(byte: u8) -> char {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_visible(byte) {
        return char::from(byte);
    }
    let n_before = (0..byte).filter(|&other| !is_visible(other)).count() as u32;
    char::from_u32(0x100 + n_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{CharTokenizer, SubwordTokenizer},
        *,
    };

    fn reread(tokenizer: &Tokenizer) -> HfTokenizer {
        let json = tokenizer.to_json().expect("made").json;
        HfTokenizer::from_bytes(json).expect("the library's own form")
    }

    fn ids(made: &HfTokenizer, text: &str) -> Vec<u32> {
        made.encode(text, true).expect("encoded").get_ids().to_vec()
    }

    #[test]
    fn every_kind_makes_the_same_ids() {
        let text = super::super::corpus::hello();
        let trained = SubwordTokenizer::train(&text, 300, &|_| {}).expect("trained");
        for tokenizer in [
            Tokenizer::Bytes,
            Tokenizer::Char(CharTokenizer::of_text(&text)),
            Tokenizer::Subword(trained),
        ] {
            let made = reread(&tokenizer);
            let expected = tokenizer.encode(&text[..5_000]).expect("encoded");
            assert_eq!(ids(&made, &text[..5_000]), expected);
            assert_eq!(
                made.decode(&expected, false).expect("decoded"),
                &text[..5_000]
            );
        }
    }

    #[test]
    fn the_symbols_are_those_of_the_library() {
        let symbols: std::collections::HashSet<char> = (0..=u8::MAX).map(symbol).collect();
        assert_eq!(symbols.len(), 256);
        assert!(ByteLevel::alphabet().iter().all(|c| symbols.contains(c)));
        assert_eq!((symbol(b' '), symbol(b'\n'), symbol(b'a')), ('Ġ', 'Ċ', 'a'));
    }

    #[test]
    fn an_unknown_character_is_refused_there_too() {
        let made = reread(&Tokenizer::Char(CharTokenizer::of_text("ab")));
        assert!(made.encode("abc", false).is_err());
    }

    proptest! {
        #[test]
        fn any_text_makes_the_same_ids(text in "(?s).{0,60}") {
            for tokenizer in [Tokenizer::Bytes, Tokenizer::Char(CharTokenizer::of_text(&text))] {
                let made = reread(&tokenizer);
                let expected = tokenizer.encode(&text).expect("encoded");
                prop_assert_eq!(&ids(&made, &text), &expected);
                prop_assert_eq!(made.decode(&expected, false).expect("decoded"), text.clone());
            }
        }
    }
}
