//! Tokenizes a text with all cores.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::{
    error::DataError,
    progress::{Progress, Report},
    tokenizer::Tokenizer,
};

/// The token ids of a text, in the pieces in which they were made.
pub(super) struct Encoded(pub Vec<Vec<u32>>);

/// Tokenizes `text`; the result does not depend on the number of threads.
///
/// # Errors
/// The first piece, in order, that the tokenizer can't encode.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    meter: &Meter,
) -> Result<Encoded, DataError> {
    let encoded: Vec<Result<Vec<u32>, DataError>> = tokenizer
        .pieces(text)
        .into_par_iter()
        .map(|piece| {
            let ids = tokenizer.encode(piece);
            meter.add(piece.len());
            ids
        })
        .collect();
    encoded.into_iter().collect::<Result<_, _>>().map(Encoded)
}

/// Adds up the bytes that several threads have done.
pub(super) struct Meter<'a> {
    what: &'static str,
    done: AtomicU64,
    total: u64,
    report: Report<'a>,
}

impl<'a> Meter<'a> {
    /// Starts at none of `total` bytes.
    pub fn new(what: &'static str, total: u64, report: Report<'a>) -> Self {
        Self {
            what,
            done: AtomicU64::new(0),
            total,
            report,
        }
    }

    /// Counts bytes that are done.
    pub fn add(&self, bytes: usize) {
        let before = self.done.fetch_add(bytes as u64, Ordering::Relaxed);
        (self.report)(Progress {
            what: self.what,
            done: before + bytes as u64,
            total: self.total,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{chars::CharTokenizer, corpus, subword::SubwordTokenizer};

    #[test]
    fn pieces_together_are_the_tokens_of_the_whole() {
        let text = corpus::hello();
        assert!(text.len() > 1 << 17, "several pieces");
        let trained = SubwordTokenizer::train(&text, 500, &|_| {}).expect("trained");
        for tokenizer in [
            Tokenizer::Bytes,
            Tokenizer::Char(CharTokenizer::of_text(&text)),
            Tokenizer::Subword(trained),
        ] {
            let last = AtomicU64::new(0);
            let count = |progress: Progress| {
                last.fetch_max(progress.done, Ordering::Relaxed);
            };
            let meter = Meter::new("tokenizing", text.len() as u64, &count);
            let encoded = encode(&tokenizer, &text, &meter).expect("encoded");
            assert!(encoded.0.len() > 1);
            assert_eq!(
                encoded.0.concat(),
                tokenizer.encode(&text).expect("encoded")
            );
            assert_eq!(last.into_inner(), text.len() as u64);
        }
    }
}
