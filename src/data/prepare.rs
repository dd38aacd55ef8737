//! From a configuration to token files: read, split, tokenize, keep.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{
    cache::{self, Cached, Draft, Meta, Part, SourceKind, SourceStats, Written},
    corpus,
    encode::{Meter, encode},
    error::DataError,
    files::{self, InputFile, Wanted},
    fingerprint,
    index::{self, Known},
    jsonl,
    progress::{Progress, Report},
    recipe::{Recipe, TokenizerSource, check_val_fraction},
    seen::{self, MOST_SEEN, SeenFile},
    token_file::{TokenFile, TokenWidth},
    tokenizer::{LINE_BREAK, Tokenizer},
    tokens,
};
use crate::config::{Builtin, DataConfig, TokenizerConfig};

/// Folder of the cache that holds tokens.
pub(super) const TOKENS_FOLDER: &str = "tokens";
/// Characters shown of a text.
const HEAD_CHARACTERS: usize = 200;

/// Data that is ready to train on.
#[derive(Debug)]
pub struct Prepared {
    pub train: TokenFile,
    /// May be empty, where the text is very short.
    pub val: TokenFile,
    /// `None` only for token files whose configuration names none.
    pub tokenizer: Option<Tokenizer>,
    /// Every id lies below this.
    pub vocab_size: usize,
    /// Changes whenever the token streams change; 64 hexadecimal digits.
    pub fingerprint: String,
    /// The first of the files that the tokens were made of, and the tokenizer's.
    pub files: Vec<SeenFile>,
    pub source: SourceStats,
    /// The folder of the cache that holds the tokens; `None` for token files, used in place.
    pub cache: Option<PathBuf>,
    /// Whether the work had been done by an earlier call.
    pub reused: bool,
}

/// Makes the token ids of what `config` names, or finds them in `cache_dir`.
///
/// Blocks, uses all cores, and reports to `progress` from several threads. Two processes may
/// prepare the same data at once. Text is held in memory while it is tokenized: about twice its size,
/// and four bytes a token. The fingerprint doesn't depend on where the files lie.
///
/// # Errors
/// Files are missing, unreadable, empty or malformed, the tokenizer is unusable, or the cache can't be
/// written.
pub fn prepare(
    config: &DataConfig,
    cache_dir: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Prepared, DataError> {
    let work = Work {
        root: cache_dir.join(TOKENS_FOLDER),
        report: progress,
    };
    match config {
        DataConfig::Builtin(Builtin::Hello) => {
            let recipe = recipe(&TokenizerConfig::Bytes, config.val_fraction(), None)?;
            let text = corpus::hello();
            let path = Path::new("builtin:hello").to_owned();
            let contents = vec![(path, text.into_bytes())];
            let (prepared, _) = work.tokenized(SourceKind::Builtin, &recipe, contents)?;
            Ok(prepared)
        }
        DataConfig::Text(text) => {
            let recipe = recipe(&text.tokenizer, text.val_fraction, None)?;
            let inputs = files::find(&text.path, Wanted::Any)?;
            work.indexed(SourceKind::Text, &recipe, &inputs, &text.path)
        }
        DataConfig::Jsonl(jsonl) => {
            let recipe = recipe(&jsonl.tokenizer, jsonl.val_fraction, Some(&jsonl.field))?;
            let inputs = files::find(&jsonl.path, Wanted::Jsonl)?;
            work.indexed(SourceKind::Jsonl, &recipe, &inputs, &jsonl.path)
        }
        DataConfig::Tokens(tokens) => tokens::prepare(tokens, &work.root, progress),
    }
}

/// The data of a run that has begun: the tokens of its own `fingerprint`, or none.
///
/// They are in the cache, whatever became of the files since. Where they are not, or are damaged, they are made again
/// from the files that the run began with, `seen`; token files, which are used in place, must be those.
///
/// # Errors
/// As [`prepare`], or the data are others than the run began with: the file that changed is named.
pub fn reopen(
    config: &DataConfig,
    fingerprint: &str,
    seen: &[SeenFile],
    cache_dir: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Prepared, DataError> {
    let root = cache_dir.join(TOKENS_FOLDER);
    let is_cached = !matches!(config, DataConfig::Tokens(_));
    if is_cached && let Some(cached) = cache::open(&root, fingerprint) {
        return Ok(Prepared::of_cached(cached, fingerprint.to_owned(), true));
    }
    let damaged = cache::folder(&root, fingerprint).filter(|_| is_cached);
    let made = prepare(config, cache_dir, progress).and_then(|prepared| {
        // A tokenizer beside token files has no part in their fingerprint.
        let is_same = |file: &SeenFile| {
            let there = prepared.files.iter().find(|now| now.path == file.path);
            there.is_none_or(|now| now.hash == file.hash)
        };
        let is_own = prepared.fingerprint == fingerprint && (is_cached || seen.iter().all(is_same));
        match is_own {
            true => Ok(prepared),
            false => Err(seen::refusal(seen, &prepared.files)),
        }
    });
    match damaged {
        Some(folder) => made.map_err(|error| DataError::CacheDamaged {
            folder,
            source: Box::new(error),
        }),
        None => made,
    }
}

fn recipe(
    tokenizer: &TokenizerConfig,
    val_fraction: f64,
    field: Option<&str>,
) -> Result<Recipe, DataError> {
    check_val_fraction(val_fraction)?;
    Ok(Recipe {
        tokenizer: TokenizerSource::read(tokenizer)?,
        val_fraction,
        field: field.map(str::to_owned),
    })
}

/// One preparation of text.
struct Work<'a> {
    root: PathBuf,
    report: Report<'a>,
}

impl Work<'_> {
    /// The tokens of files; unchanged files are not read again.
    fn indexed(
        &self,
        kind: SourceKind,
        recipe: &Recipe,
        inputs: &[InputFile],
        path: &Path,
    ) -> Result<Prepared, DataError> {
        if inputs.iter().all(|file| file.bytes == 0) {
            return Err(DataError::Empty {
                path: path.to_owned(),
            });
        }
        let key = index::key(fingerprint::TEXT_VERSION, &recipe.key(), inputs);
        if let Some(known) = index::lookup(&self.root, &key)
            && let Some(cached) = cache::open(&self.root, &known.fingerprint)
        {
            let mut prepared = Prepared::of_cached(cached, known.fingerprint, true);
            prepared.files = self.seen(recipe, inputs, &known.hashes);
            return Ok(prepared);
        }
        let contents = files::read_all(inputs, self.report)?;
        for input in inputs {
            input.check_unchanged()?;
        }
        let paths = inputs.iter().map(|file| file.path.clone());
        let (prepared, hashes) = self.tokenized(kind, recipe, paths.zip(contents).collect())?;
        let known = Known {
            fingerprint: prepared.fingerprint.clone(),
            hashes: hashes.into_iter().take(MOST_SEEN).collect(),
        };
        index::record(&self.root, &key, &known, inputs);
        Ok(prepared)
    }

    /// The tokens of contents that are in memory, each with its name, and the contents' hashes.
    fn tokenized(
        &self,
        kind: SourceKind,
        recipe: &Recipe,
        contents: Vec<(PathBuf, Vec<u8>)>,
    ) -> Result<(Prepared, Vec<String>), DataError> {
        let hash = |(_, bytes): &(PathBuf, Vec<u8>)| fingerprint::of_content(bytes, &|_| {});
        let hashes: Vec<String> = contents.par_iter().map(hash).collect();
        let lengths = contents.iter().map(|(_, bytes)| bytes.len() as u64);
        let sums = lengths.zip(hashes.iter().map(String::as_str));
        let fingerprint = fingerprint::of_contents(fingerprint::TEXT_VERSION, &recipe.key(), sums);
        let mut files: Vec<SeenFile> = contents
            .iter()
            .zip(&hashes)
            .take(MOST_SEEN)
            .map(|((path, bytes), hash)| SeenFile {
                path: path.clone(),
                bytes: bytes.len() as u64,
                hash: hash.clone(),
            })
            .collect();
        files.extend(recipe.tokenizer.files());
        let mut prepared = match cache::open(&self.root, &fingerprint) {
            Some(cached) => Prepared::of_cached(cached, fingerprint, true),
            None => {
                let cached = self.make(kind, recipe, contents, &fingerprint)?;
                Prepared::of_cached(cached, fingerprint, false)
            }
        };
        prepared.files = files;
        Ok((prepared, hashes))
    }

    fn seen(&self, recipe: &Recipe, inputs: &[InputFile], hashes: &[String]) -> Vec<SeenFile> {
        let mut files = SeenFile::of_inputs(inputs, hashes);
        files.extend(recipe.tokenizer.files());
        files
    }

    fn make(
        &self,
        kind: SourceKind,
        recipe: &Recipe,
        contents: Vec<(PathBuf, Vec<u8>)>,
        fingerprint: &str,
    ) -> Result<Cached, DataError> {
        let n_files = contents.len();
        let bytes = contents.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let first_path = contents.first().map(|(path, _)| path.clone());
        let documents = documents(recipe, contents)?;
        if documents.iter().all(String::is_empty) {
            let path = first_path.unwrap_or_default();
            return Err(DataError::Empty { path });
        }
        let n_documents = documents.len() as u64;
        let known = recipe.tokenizer.without_text()?;
        let separator = known.as_ref().map_or(LINE_BREAK, Tokenizer::separator);
        let text = corpus::join(documents, separator);
        let characters = text.chars().count() as u64;
        let (train, val) = corpus::split(&text, characters, recipe.val_fraction, separator);
        let tokenizer = match known {
            Some(tokenizer) => tokenizer,
            None => recipe.tokenizer.with_text(&text, train, self.report)?,
        };
        let source = SourceStats {
            kind,
            n_files,
            n_documents: Some(n_documents),
            bytes,
            characters: Some(characters),
            head: head(&text),
        };
        self.encode_and_keep(&tokenizer, [train, val], source, fingerprint)
    }

    fn encode_and_keep(
        &self,
        tokenizer: &Tokenizer,
        [train, val]: [&str; 2],
        source: SourceStats,
        fingerprint: &str,
    ) -> Result<Cached, DataError> {
        let total = (train.len() + val.len()) as u64;
        let meter = Meter::new("tokenizing", total, self.report);
        let draft = Draft::begin(&self.root)?;
        let width = TokenWidth::for_vocab(tokenizer.vocab_size());
        let mut written = [Written::default(); 2];
        for (at, (part, text)) in [(Part::Train, train), (Part::Val, val)]
            .into_iter()
            .enumerate()
        {
            let mut file = draft.tokens(part, width)?;
            for piece in encode(tokenizer, text, &meter)?.0 {
                file.push(&piece)?;
            }
            written[at] = file.finish()?;
        }
        let [train, val] = written;
        let meta = Meta {
            vocab_size: tokenizer.vocab_size(),
            width,
            train_tokens: train.n_tokens,
            val_tokens: val.n_tokens,
            source,
            sums: None,
        };
        draft.publish(fingerprint, meta, [train.crc32c, val.crc32c], tokenizer)
    }
}

impl Prepared {
    fn of_cached(cached: Cached, fingerprint: String, reused: bool) -> Self {
        Self {
            train: cached.train,
            val: cached.val,
            tokenizer: Some(cached.tokenizer),
            vocab_size: cached.meta.vocab_size,
            fingerprint,
            files: Vec::new(),
            source: cached.meta.source,
            cache: Some(cached.folder),
            reused,
        }
    }
}

/// The first characters of a text.
pub(super) fn head(text: &str) -> String {
    text.chars().take(HEAD_CHARACTERS).collect()
}

fn documents(recipe: &Recipe, contents: Vec<(PathBuf, Vec<u8>)>) -> Result<Vec<String>, DataError> {
    let mut documents = Vec::with_capacity(contents.len());
    for (path, bytes) in contents {
        let text = corpus::text(&path, bytes)?;
        match &recipe.field {
            Some(field) => documents.extend(jsonl::documents(&path, &text, field)?),
            None => documents.push(text),
        }
    }
    Ok(documents)
}
