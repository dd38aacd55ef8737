//! What data is like, for `data inspect` and `data tokenize`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    cache::SourceKind,
    error::DataError,
    prepare::{Prepared, prepare},
    progress::Progress,
    token_file::{TokenFile, TokenWidth, u16s, u32s},
};
use crate::config::DataConfig;

/// Bytes of tokens that one thread looks at.
const CHUNK_BYTES: usize = 1 << 20;

/// Prepared data in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    pub kind: SourceKind,
    pub n_files: usize,
    /// Files, or lines of JSON Lines; unknown for token files.
    pub n_documents: Option<u64>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Unknown for token files.
    pub characters: Option<u64>,
    pub train_tokens: u64,
    pub val_tokens: u64,
    pub vocab_size: usize,
    /// Ids that occur, of the vocabulary's.
    pub distinct_ids: usize,
    pub tokens_per_character: Option<f64>,
    /// The first characters of the text; empty for token files without a tokenizer.
    pub head: String,
    pub fingerprint: String,
    /// Where the tokens are kept; `None` for token files, used in place.
    pub cache: Option<PathBuf>,
    /// Whether an earlier call had done the work.
    pub reused: bool,
    /// Time that the preparation took.
    pub seconds: f64,
}

/// Prepares data as training would, and says what it is like.
///
/// # Errors
/// As [`prepare`].
pub fn inspect(
    config: &DataConfig,
    cache_dir: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Inspection, DataError> {
    let start = Instant::now();
    let prepared = prepare(config, cache_dir, progress)?;
    Ok(Inspection::of(&prepared, start.elapsed().as_secs_f64()))
}

impl Inspection {
    /// The numbers of data that took `seconds` to prepare; looks at every token.
    pub fn of(prepared: &Prepared, seconds: f64) -> Self {
        let Prepared {
            train, val, source, ..
        } = prepared;
        let n_tokens = train.len() + val.len();
        Self {
            kind: source.kind,
            n_files: source.n_files,
            n_documents: source.n_documents,
            bytes: source.bytes,
            characters: source.characters,
            train_tokens: train.len(),
            val_tokens: val.len(),
            vocab_size: prepared.vocab_size,
            distinct_ids: n_distinct([train, val], prepared.vocab_size),
            tokens_per_character: source.characters.map(|n| n_tokens as f64 / n as f64),
            head: source.head.clone(),
            fingerprint: prepared.fingerprint.clone(),
            cache: prepared.cache.clone(),
            reused: prepared.reused,
            seconds,
        }
    }
}

fn n_distinct(files: [&TokenFile; 2], vocab_size: usize) -> usize {
    let nothing = || vec![false; vocab_size];
    let seen = files
        .into_iter()
        .map(|tokens| {
            tokens
                .bytes()
                .par_chunks(CHUNK_BYTES)
                .fold(nothing, |seen, bytes| with_ids(seen, bytes, tokens.width()))
                .reduce(nothing, either)
        })
        .fold(nothing(), either);
    seen.into_iter().filter(|is_seen| *is_seen).count()
}

fn with_ids(mut seen: Vec<bool>, bytes: &[u8], width: TokenWidth) -> Vec<bool> {
    let mut mark = |id: usize| {
        if let Some(place) = seen.get_mut(id) {
            *place = true;
        }
    };
    match width {
        TokenWidth::U16 => u16s(bytes).for_each(|id| mark(usize::from(id))),
        TokenWidth::U32 => u32s(bytes).for_each(|id| mark(id as usize)),
    }
    seen
}

fn either(mut a: Vec<bool>, b: Vec<bool>) -> Vec<bool> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
    a
}
