//! Token files of the user (nanoGPT's and llm.c's `.bin`): checked once, used in place.

use std::path::Path;

use serde_json::json;

use super::{
    cache::{SourceKind, SourceStats},
    corpus,
    encode::Meter,
    error::DataError,
    files::{self, InputFile},
    fingerprint,
    index::{self, Known},
    prepare::Prepared,
    progress::Report,
    recipe::{TokenizerSource, check_val_fraction},
    seen::SeenFile,
    token_file::{Keeper, TokenFile},
    token_format::TokenFormat,
    tokenizer::Tokenizer,
};
use crate::config::TokensConfig;

/// Tokens decoded to show what the file holds.
const HEAD_TOKENS: u64 = 200;

/// Opens the files that `config` names.
///
/// # Errors
/// A file is missing, of odd length, of another format or empty, an id lies outside the vocabulary, or the tokenizer
/// doesn't fit.
pub(super) fn prepare(
    config: &TokensConfig,
    root: &Path,
    report: Report,
) -> Result<Prepared, DataError> {
    if config.val.is_none() {
        check_val_fraction(config.val_fraction)?;
    }
    let source = config.tokenizer.as_ref().map(TokenizerSource::read);
    let source = source.transpose()?;
    let tokenizer = fitting(config, source.as_ref())?;
    let paths = [Some(&config.train), config.val.as_ref()];
    let inputs = paths.into_iter().flatten().map(|path| files::one(path));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let formats = inputs.iter().map(|input| TokenFormat::of(config, input));
    let formats = formats.collect::<Result<Vec<_>, _>>()?;
    let opened = inputs.iter().zip(&formats);
    let opened = opened.map(|(input, format)| open(config, input, *format));
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let (known, reused) = checked(config, root, &inputs, &formats, &opened, report)?;
    let mut files = SeenFile::of_inputs(&inputs, &known.hashes);
    files.extend(source.map_or_else(Vec::new, |source| source.files()));
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
        fingerprint: known.fingerprint,
        files,
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

/// What is known of the files, and whether it was known before; where it was not, every id is checked.
fn checked(
    config: &TokensConfig,
    root: &Path,
    inputs: &[InputFile],
    formats: &[TokenFormat],
    opened: &[TokenFile],
    report: Report,
) -> Result<(Known, bool), DataError> {
    let held_out = config.val.is_none().then_some(config.val_fraction);
    let mut recipe = json!(["tokens", config.vocab_size, held_out]);
    let is_plain = |format: &TokenFormat| *format == TokenFormat::NANOGPT;
    if !formats.iter().all(is_plain) {
        let formats = formats.iter();
        let formats = formats.map(|format| json!([format.width.name(), format.header_bytes]));
        recipe = json!([recipe, formats.collect::<Vec<_>>()]);
    }
    let recipe = recipe.to_string();
    let key = index::key(fingerprint::TOKENS_VERSION, &recipe, inputs);
    if let Some(known) = index::lookup(root, &key) {
        return Ok((known, true));
    }
    let total = 2 * inputs.iter().map(|file| file.bytes).sum::<u64>();
    let meter = Meter::new("checking token ids", total, report);
    let mut hashes = Vec::new();
    for (input, tokens) in inputs.iter().zip(opened) {
        tokens.check_ids(&|bytes| meter.add(bytes))?;
        hashes.push(files::hash(input, &|bytes| meter.add(bytes))?);
        input.check_unchanged()?;
    }
    let lengths = inputs.iter().map(|file| file.bytes);
    let contents = lengths.zip(hashes.iter().map(String::as_str));
    let known = Known {
        fingerprint: fingerprint::of_contents(fingerprint::TOKENS_VERSION, &recipe, contents),
        hashes,
    };
    index::record(root, &key, &known, inputs);
    Ok((known, false))
}

fn open(
    config: &TokensConfig,
    input: &InputFile,
    format: TokenFormat,
) -> Result<TokenFile, DataError> {
    let path = &input.path;
    if input.bytes <= format.header_bytes {
        return Err(DataError::Empty { path: path.clone() });
    }
    let n_tokens = format.n_tokens(input.bytes);
    let n_tokens = n_tokens.ok_or_else(|| DataError::OddLength {
        path: path.clone(),
        bytes: input.bytes - format.header_bytes,
        width: format.width.name(),
    })?;
    let header_bytes = format.header_bytes as usize;
    let opened = TokenFile::open_after(path, header_bytes, format.width, n_tokens)?;
    Ok(opened.bounded(path, config.vocab_size, Keeper::User))
}

/// The tokenizer that the configuration names.
///
/// # Errors
/// It is unusable, or made for more ids than there are.
pub(super) fn tokenizer(config: &TokensConfig) -> Result<Option<Tokenizer>, DataError> {
    let source = config.tokenizer.as_ref().map(TokenizerSource::read);
    fitting(config, source.transpose()?.as_ref())
}

fn fitting(
    config: &TokensConfig,
    source: Option<&TokenizerSource>,
) -> Result<Option<Tokenizer>, DataError> {
    let Some(source) = source else {
        return Ok(None);
    };
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
