//! Token files of the user (nanoGPT's `.bin`): checked once, used in place.

use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use super::{
    cache::{SourceKind, SourceStats},
    corpus,
    encode::Meter,
    error::DataError,
    files::{self, InputFile},
    fingerprint, index,
    prepare::Prepared,
    progress::Report,
    recipe::{TokenizerSource, check_val_fraction},
    token_file::{TokenFile, TokenWidth, u16s},
    tokenizer::Tokenizer,
};
use crate::config::TokensConfig;

/// Tokens of a chunk that one thread checks.
const CHUNK_TOKENS: usize = 1 << 20;
/// Tokens decoded to show what the file holds.
const HEAD_TOKENS: u64 = 200;

/// Opens the files that `config` names.
///
/// # Errors
/// A file is missing, of odd length or empty, an id lies outside the vocabulary, or the tokenizer
/// doesn't fit.
pub(super) fn prepare(
    config: &TokensConfig,
    root: &Path,
    report: Report,
) -> Result<Prepared, DataError> {
    if config.val.is_none() {
        check_val_fraction(config.val_fraction)?;
    }
    let tokenizer = tokenizer(config)?;
    let paths = [Some(&config.train), config.val.as_ref()];
    let inputs = paths.into_iter().flatten().map(|path| files::one(path));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let opened = inputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let (fingerprint, reused) = fingerprint_checked(config, root, &inputs, &opened, report)?;
    let (train, val) = parts(config, &opened);
    Ok(Prepared {
        source: SourceStats {
            kind: SourceKind::Tokens,
            n_files: inputs.len(),
            n_documents: None,
            bytes: inputs.iter().map(|file| file.bytes).sum(),
            characters: None,
            head: tokenizer
                .as_ref()
                .map_or_else(String::new, |t| head(t, &train)),
        },
        train,
        val,
        vocab_size: config.vocab_size,
        tokenizer,
        fingerprint,
        cache: None,
        reused,
    })
}

/// The training and the held-out part of the one or two files that were opened.
fn parts(config: &TokensConfig, opened: &[TokenFile]) -> (TokenFile, TokenFile) {
    let train = &opened[0];
    match opened.get(1) {
        Some(val) => (train.clone(), val.clone()),
        None => train.split_at(corpus::n_train(train.len(), config.val_fraction)),
    }
}

/// The fingerprint, and whether it was known; where it is not, every id is checked.
fn fingerprint_checked(
    config: &TokensConfig,
    root: &Path,
    inputs: &[InputFile],
    opened: &[TokenFile],
    report: Report,
) -> Result<(String, bool), DataError> {
    let held_out = config.val.is_none().then_some(config.val_fraction);
    let recipe = json!(["tokens", config.vocab_size, held_out]).to_string();
    let key = index::key(&recipe, inputs);
    if let Some(known) = index::lookup(root, &key) {
        return Ok((known, true));
    }
    let total = 2 * inputs.iter().map(|file| file.bytes).sum::<u64>();
    let meter = Meter::new("checking token ids", total, report);
    for (input, tokens) in inputs.iter().zip(opened) {
        check_ids(&input.path, tokens, config.vocab_size, &meter)?;
    }
    let contents = opened.iter().map(TokenFile::bytes);
    let fingerprint = fingerprint::of_contents(&recipe, contents, &|bytes| meter.add(bytes));
    index::record(root, &key, &fingerprint, inputs);
    Ok((fingerprint, false))
}

fn open(input: &InputFile) -> Result<TokenFile, DataError> {
    let path = &input.path;
    if input.bytes == 0 {
        return Err(DataError::Empty { path: path.clone() });
    }
    if !input.bytes.is_multiple_of(TokenWidth::U16.bytes() as u64) {
        return Err(DataError::OddLength {
            path: path.clone(),
            bytes: input.bytes,
        });
    }
    let n_tokens = input.bytes / TokenWidth::U16.bytes() as u64;
    TokenFile::open(path, TokenWidth::U16, n_tokens)
}

/// Looks at every id; the first outside the vocabulary is the one reported.
fn check_ids(
    path: &Path,
    tokens: &TokenFile,
    vocab_size: usize,
    meter: &Meter,
) -> Result<(), DataError> {
    let outside = tokens
        .bytes()
        .par_chunks(CHUNK_TOKENS * TokenWidth::U16.bytes())
        .enumerate()
        .find_map_first(|(chunk, bytes)| {
            meter.add(bytes.len());
            let is_outside = |id: u16| usize::from(id) >= vocab_size;
            let at = u16s(bytes).position(is_outside)?;
            Some((chunk * CHUNK_TOKENS + at) as u64)
        });
    match outside {
        None => Ok(()),
        Some(position) => Err(DataError::IdOutsideVocab {
            path: path.to_owned(),
            position,
            id: tokens.token(position),
            vocab_size,
        }),
    }
}

/// The tokenizer that the configuration names.
///
/// # Errors
/// It is unusable, or made for more ids than there are.
pub(super) fn tokenizer(config: &TokensConfig) -> Result<Option<Tokenizer>, DataError> {
    let Some(tokenizer) = &config.tokenizer else {
        return Ok(None);
    };
    let source = TokenizerSource::read(tokenizer)?;
    let Some(tokenizer) = source.without_text()? else {
        return Err(DataError::TokenizerNeedsText {
            tokenizer: source.name(),
        });
    };
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(DataError::TokenizerTooLarge {
            tokenizer_size: tokenizer.vocab_size(),
            vocab_size: config.vocab_size,
        });
    }
    Ok(Some(tokenizer))
}

fn head(tokenizer: &Tokenizer, tokens: &TokenFile) -> String {
    let ids: Vec<u32> = (0..tokens.len().min(HEAD_TOKENS))
        .map(|i| tokens.token(i))
        .collect();
    super::prepare::head(&tokenizer.decode(&ids))
}
