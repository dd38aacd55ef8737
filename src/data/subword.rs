//! Tokenizers of the Hugging Face `tokenizers` library: read, made of GPT-2's files, or trained.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde::{Deserialize, Serialize, Serializer};
use tokenizers::{
    AddedToken, Tokenizer as HfTokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer, Vocab},
    },
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{
    cut,
    error::DataError,
    progress::{Progress, Report},
};

/// Special tokens that stand between documents, in order of preference.
const END_OF_DOCUMENT: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];
/// Pairs are counted in 32 bits by the trainer, so it never sees more text than this.
const TRAINING_BYTES_MAX: usize = 1 << 30;
const BYTE_SYMBOLS: usize = 256;
/// A merge of a pair that occurs once saves nothing.
const MERGE_FREQUENCY_MIN: u64 = 2;

/// A tokenizer that splits text into words and these into pieces.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "HfTokenizer")]
pub struct SubwordTokenizer {
    inner: Box<HfTokenizer>,
    vocab_size: usize,
}

impl SubwordTokenizer {
    /// Reads a Hugging Face `tokenizer.json`; its truncation and padding are dropped.
    ///
    /// # Errors
    /// The library can't read it.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let mut inner = guarded(path, || HfTokenizer::from_bytes(bytes))?;
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        Ok(inner.into())
    }

    /// Makes GPT-2's byte-level BPE of the bytes of `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// A file is malformed, the two don't belong together, or one of the 256 byte symbols lacks
    /// (text with that byte would lose it without a word).
    pub fn from_vocab_merges(
        vocab_path: &Path,
        vocab: &[u8],
        merges_path: &Path,
        merges: &[u8],
    ) -> Result<Self, DataError> {
        let unusable = |path: &Path, reason| DataError::TokenizerFile {
            path: path.to_owned(),
            reason,
        };
        let ids: HashMap<String, u32> = serde_json::from_slice(vocab)
            .map_err(|error| unusable(vocab_path, error.to_string()))?;
        check_byte_symbols(&ids).map_err(|reason| unusable(vocab_path, reason))?;
        let merges = parse_merges(merges, &ids).map_err(|reason| unusable(merges_path, reason))?;
        let end_of_text = END_OF_DOCUMENT[0];
        let has_end = ids.contains_key(end_of_text);
        let vocab: Vocab = ids.into_iter().collect();
        let bpe = guarded(vocab_path, || {
            BPE::builder().vocab_and_merges(vocab, merges).build()
        })?;
        let mut inner = byte_level(bpe);
        if has_end {
            inner
                .add_special_tokens([AddedToken::from(end_of_text, true)])
                .map_err(|error| unusable(vocab_path, error.to_string()))?;
        }
        Ok(inner.into())
    }

    /// Trains a byte-level BPE on `text` (its first GiB, where it is longer).
    ///
    /// The result depends on the text alone. A short text yields fewer tokens than asked for:
    /// no pair that occurs only once is merged.
    ///
    /// # Errors
    /// `vocab_size` leaves no room for a merge, or the library fails.
    pub fn train(text: &str, vocab_size: usize, report: Report) -> Result<Self, DataError> {
        if vocab_size <= BYTE_SYMBOLS {
            return Err(DataError::BpeSize { vocab_size });
        }
        let text = &text[..text.floor_char_boundary(TRAINING_BYTES_MAX)];
        let total = text.len() as u64;
        let progress = |done| {
            report(Progress {
                what: "training the tokenizer",
                done,
                total,
            });
        };
        let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(MERGE_FREQUENCY_MIN)
            .initial_alphabet(alphabet)
            .show_progress(false)
            .build()
            .into();
        let mut inner = byte_level(BPE::default());
        progress(0);
        inner
            .train(&mut trainer, cut::at_lines(text).into_iter())
            .map_err(|error| DataError::BpeTraining {
                reason: error.to_string(),
            })?;
        progress(total);
        Ok(inner.into())
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The ids of `text`; no special tokens are added around it.
    ///
    /// # Errors
    /// The tokenizer has no token for a part of the text and no unknown token either.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(DataError::Encode {
                reason: error.to_string(),
            }),
        }
    }

    /// The text of `ids`, special tokens included; ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_else(|_| {
            ids.iter()
                .filter_map(|&id| self.inner.id_to_token(id))
                .collect()
        })
    }

    /// The special token that ends a document, where the vocabulary has one.
    pub fn end_of_document(&self) -> Option<&'static str> {
        let added = self.inner.get_added_tokens_decoder();
        END_OF_DOCUMENT.into_iter().find(|&name| {
            added
                .values()
                .any(|token| token.special && token.content == name)
        })
    }
}

impl SubwordTokenizer {
    /// [`end_of_document`](Self::end_of_document) with its id.
    pub fn end_of_document_id(&self) -> Option<(String, u32)> {
        let name = self.end_of_document()?;
        Some((name.to_owned(), self.inner.token_to_id(name)?))
    }
}

impl From<HfTokenizer> for SubwordTokenizer {
    fn from(inner: HfTokenizer) -> Self {
        let largest = inner.get_vocab(true).into_values().max();
        Self {
            inner: Box::new(inner),
            vocab_size: largest.map_or(0, |id| id as usize + 1),
        }
    }
}

impl Serialize for SubwordTokenizer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(serializer)
    }
}

fn byte_level(bpe: BPE) -> HfTokenizer {
    let mut inner = HfTokenizer::new(bpe);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    inner.with_decoder(Some(ByteLevel::default()));
    inner
}

/// Runs a constructor of the library, which panics on some inconsistent files.
fn guarded<T>(path: &Path, make: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, DataError> {
    let made = match catch_unwind(AssertUnwindSafe(make)) {
        Ok(made) => made.map_err(|error| error.to_string()),
        Err(_) => Err("its parts contradict each other".to_owned()),
    };
    made.map_err(|reason| DataError::TokenizerFile {
        path: path.to_owned(),
        reason,
    })
}

fn check_byte_symbols(ids: &HashMap<String, u32>) -> Result<(), String> {
    let has = |symbol: &char| ids.contains_key(symbol.encode_utf8(&mut [0; 4]) as &str);
    let n_missing = BYTE_SYMBOLS - ByteLevel::alphabet().iter().filter(|c| has(c)).count();
    if n_missing == 0 {
        return Ok(());
    }
    Err(format!(
        "{n_missing} of the 256 byte symbols of a byte-level BPE are missing"
    ))
}

/// The pairs of `merges.txt`, one a line; a first line that starts with `#version` is skipped.
fn parse_merges(bytes: &[u8], ids: &HashMap<String, u32>) -> Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut merges = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        let number = index + 1;
        let (a, b) = line
            .split_once(' ')
            .ok_or_else(|| format!("line {number} is no pair of tokens"))?;
        for token in [a, b, &format!("{a}{b}")] {
            if !ids.contains_key(token) {
                return Err(format!("line {number}: \"{token}\" is not in vocab.json"));
            }
        }
        merges.push((a.to_owned(), b.to_owned()));
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 256 byte symbols, then one token a merge, then the end of text.
    fn tiny_files(merges: &[(&str, &str)]) -> (Vec<u8>, Vec<u8>) {
        let mut symbols: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        symbols.sort_unstable();
        let tokens = symbols
            .into_iter()
            .map(String::from)
            .chain(merges.iter().map(|(a, b)| format!("{a}{b}")))
            .chain(["<|endoftext|>".to_owned()]);
        let vocab: HashMap<String, u32> = tokens.zip(0..).collect();
        let lines: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        (
            serde_json::to_vec(&vocab).expect("json"),
            format!("#version: 0.2\n{}\n", lines.join("\n")).into_bytes(),
        )
    }

    fn tiny() -> SubwordTokenizer {
        let (vocab, merges) = tiny_files(&[("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w")]);
        read(&vocab, &merges).expect("good")
    }

    fn read(vocab: &[u8], merges: &[u8]) -> Result<SubwordTokenizer, DataError> {
        SubwordTokenizer::from_vocab_merges(
            Path::new("vocab.json"),
            vocab,
            Path::new("merges.txt"),
            merges,
        )
    }

    #[test]
    fn merges_apply_in_their_order() {
        let tokenizer = tiny();
        let byte = |c: char| tokenizer.inner.token_to_id(&c.to_string()).expect("byte");
        let ids = tokenizer.encode("hello wé<|endoftext|>").expect("encoded");
        let expected = [258, byte('o'), 259, byte('Ã'), byte('©'), 260];
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&ids), "hello wé<|endoftext|>");
        assert_eq!(tokenizer.vocab_size(), 261);
        assert_eq!(tokenizer.end_of_document(), Some("<|endoftext|>"));
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let (vocab, merges) = tiny_files(&[("h", "e")]);
        let cases: [(&[u8], &[u8], &str); 5] = [
            (b"{", &merges, "vocab.json: not a usable tokenizer"),
            (b"{\"h\": 0}", &merges, "255 of the 256 byte symbols"),
            (
                &vocab,
                b"h e\nhe",
                "merges.txt: not a usable tokenizer: line 2 is no pair",
            ),
            (&vocab, b"h e\nhe l", "line 2: \"hel\" is not in vocab.json"),
            (
                &vocab,
                b"\xFF",
                "merges.txt: not a usable tokenizer: invalid utf-8",
            ),
        ];
        for (vocab, merges, expected) in cases {
            let message = read(vocab, merges).expect_err(expected).to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_broken_tokenizer_json_is_an_error_and_no_panic() {
        let path = Path::new("tokenizer.json");
        let good = serde_json::to_string(&tiny()).expect("json");
        // A merge whose result is longer than any token makes the library index out of bounds.
        let inconsistent =
            good.replacen("[\"h\",\"e\"]", "[\"<|endoftext|>\",\"<|endoftext|>\"]", 1);
        assert_ne!(good, inconsistent);
        for text in ["", "{}", "{\"model\": 3}", inconsistent.as_str()] {
            let refused = SubwordTokenizer::from_json(path, text.as_bytes()).expect_err("broken");
            assert!(
                matches!(refused, DataError::TokenizerFile { .. }),
                "{refused}"
            );
        }
        SubwordTokenizer::from_json(path, good.as_bytes()).expect("good");
    }

    #[test]
    fn training_does_not_depend_on_the_number_of_threads() {
        let text = super::super::corpus::hello();
        let train = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build();
            let trained = pool
                .expect("pool")
                .install(|| SubwordTokenizer::train(&text, 400, &|_| {}));
            serde_json::to_string(&trained.expect("trained")).expect("json")
        };
        let alone = train(1);
        assert_eq!(alone, train(4));
        assert_eq!(alone, train(4));
    }

    #[test]
    fn a_trained_tokenizer_has_the_size_asked_for_and_loses_nothing() {
        let text = super::super::corpus::hello();
        let trained = SubwordTokenizer::train(&text, 300, &|_| {}).expect("trained");
        assert_eq!(trained.vocab_size(), 300);
        let any = "naïve \u{1F600}\t\r\n  fn main";
        assert_eq!(trained.decode(&trained.encode(any).expect("encoded")), any);
        let refused = SubwordTokenizer::train(&text, 256, &|_| {}).expect_err("no merge");
        assert!(matches!(refused, DataError::BpeSize { vocab_size: 256 }));
    }
}
