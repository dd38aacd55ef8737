//! What can be wrong with data, and what to try.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::base::units;

/// A reason why data can't be read, tokenized, cached or cut into batches.
#[derive(Debug, Error)]
pub enum DataError {
    #[error("{}: no such file or folder; check the path in `data`", path.display())]
    Missing { path: PathBuf },

    #[error("{}: can't be read; check its permissions and that it is a file or a folder", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("{}: a config can't hold this path, which is not UTF-8; link to it under another name", path.display())]
    PathNotUtf8 { path: PathBuf },

    #[error("the prompt has no token; give at least a character that the tokenizer keeps")]
    EmptyPrompt,

    #[error("{}: empty; give a file or folder with text or tokens", path.display())]
    Empty { path: PathBuf },

    #[error("{}: the folder holds no {wanted} (hidden ones are skipped)", path.display())]
    NoFiles { path: PathBuf, wanted: &'static str },

    #[error(
        "{}: invalid UTF-8 at byte {byte} (counted from 0); it may be {guess}: convert it by `iconv -f {guess} -t UTF-8 {} > {}`, or move it away",
        path.display(),
        quoted(path),
        quoted(&converted(path))
    )]
    InvalidUtf8 {
        path: PathBuf,
        byte: u64,
        /// The likely encoding, as `iconv` calls it.
        guess: &'static str,
    },

    #[error("{}: broken UTF-16 at byte {byte} (counted from 0); its mark says UTF-16: convert the original to UTF-8, or move the file away", path.display())]
    InvalidUtf16 { path: PathBuf, byte: u64 },

    #[error(
        "{}: {bytes} bytes without a place where the tokenizer's tokens are sure to end; set line breaks or spaces, or take a tokenizer that splits words",
        path.display()
    )]
    NoBoundary { path: PathBuf, bytes: usize },

    #[error("{}:{line}: longer than {}; split the document", path.display(), units::bytes(*most))]
    LineTooLong {
        path: PathBuf,
        line: usize,
        most: u64,
    },

    #[error(
        "the tokenizer made other tokens of a part of the text than of the whole, near {near:?}; please report this with the tokenizer"
    )]
    UnsoundCut { near: String },

    #[error("{}:{line}:{column}: not a JSON object: {reason}; each line holds one object", path.display())]
    BadLine {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        reason: String,
    },

    #[error("{}:{line}: no field \"{field}\"; the line has {}; set `data.jsonl.field`", path.display(), listed(found))]
    MissingField {
        path: PathBuf,
        line: usize,
        field: String,
        found: Vec<String>,
    },

    #[error("{}:{line}: field \"{field}\" is {found}, not a string; name another with `data.jsonl.field`", path.display())]
    FieldType {
        path: PathBuf,
        line: usize,
        field: String,
        found: &'static str,
    },

    #[error("{}: {bytes} bytes of ids is no whole number of {width} tokens; the file is cut short, or set `data.tokens.width` and `data.tokens.header_bytes`", path.display())]
    OddLength {
        path: PathBuf,
        bytes: u64,
        width: &'static str,
    },

    #[error(
        "{}: token {position} (counted from 0) has id {id}, outside a vocabulary of {vocab_size}; raise `data.tokens.vocab_size`, set `data.tokens.width` or check the file",
        path.display()
    )]
    IdOutsideVocab {
        path: PathBuf,
        position: u64,
        id: u32,
        vocab_size: usize,
    },

    #[error(
        "{}: token {position} (counted from 0) of the cache has id {id}, outside a vocabulary of {vocab_size}; remove the folder that it lies in, the tokens are made again",
        path.display()
    )]
    CachedIdOutsideVocab {
        path: PathBuf,
        position: u64,
        id: u32,
        vocab_size: usize,
    },

    #[error(
        "{}: {change}, since the run began, and the tokens it began with are not in the cache; put the file back, or go on with the data as they are by `capstan resume RUN --set data.…`",
        path.display()
    )]
    Changed { path: PathBuf, change: String },

    #[error(
        "the cached tokens of the run are damaged ({}), and can't be made again",
        folder.display()
    )]
    CacheDamaged {
        folder: PathBuf,
        source: Box<DataError>,
    },

    #[error("{}: changed while it was read; try again when no program writes to it", path.display())]
    ChangedWhileRead { path: PathBuf },

    #[error(
        "{}: {what}; say so with `data.tokens.width` (\"u16\" or \"u32\") and `data.tokens.header_bytes`, or convert the file to plain little-endian ids",
        path.display()
    )]
    TokenFormat { path: PathBuf, what: String },

    #[error("{}: not a usable tokenizer: {reason}", path.display())]
    TokenizerFile { path: PathBuf, reason: String },

    #[error(
        "`data.tokens.tokenizer`: \"{tokenizer}\" is made from a text, and there is none here; give \"bytes\", a tokenizer file, or leave it out"
    )]
    TokenizerNeedsText { tokenizer: &'static str },

    #[error(
        "the tokenizer has {tokenizer_size} tokens, `data.tokens.vocab_size` is {vocab_size}; give the tokenizer that made the ids"
    )]
    TokenizerTooLarge {
        tokenizer_size: usize,
        vocab_size: usize,
    },

    #[error(
        "the data has changed since, and the tokenizer that was made of it is no longer in the cache"
    )]
    TokenizerLost,

    #[error(
        "a byte-level BPE of {vocab_size} tokens can't be trained; give at least 257 (256 bytes and one merge)"
    )]
    BpeSize { vocab_size: usize },

    #[error("the BPE could not be trained: {reason}")]
    BpeTraining { reason: String },

    #[error(
        "character {character:?} does not occur in the text that the model was trained on; leave it out"
    )]
    UnknownChar { character: char },

    #[error("the tokenizer can't encode the text: {reason}")]
    Encode { reason: String },

    #[error("`val_fraction` is {value}; give a number between 0 and 1, such as 0.1")]
    ValFraction { value: f64 },

    #[error(
        "{n_tokens} tokens are too few for windows of {seq_len}: at least {needed} are needed; take more text or a smaller `seq_len`"
    )]
    TooShort {
        n_tokens: u64,
        seq_len: usize,
        needed: u64,
    },

    #[error(
        "the batch of {global} over rank {dp_rank} with {local} a rank and {micro} a pass does not divide evenly"
    )]
    Batch {
        global: usize,
        local: usize,
        micro: usize,
        dp_rank: usize,
    },

    #[error("{}: can't be written; check permissions and free space", path.display())]
    Write { path: PathBuf, source: io::Error },

    #[error("{}: holds {found} bytes where {expected} are due; the file changed or is cut short", path.display())]
    TokenFileLength {
        path: PathBuf,
        found: u64,
        expected: u64,
    },

    #[error("the order is over {order} tokens, the file holds {file}")]
    OrderMismatch { order: u64, file: u64 },

    #[error("the thread that reads batches could not be started")]
    LoaderStart { source: io::Error },

    #[error("the thread that reads batches has ended early; its panic is in the log")]
    LoaderEnded,
}

impl DataError {
    /// Says which file a failed read concerns; a missing file has its own variant.
    pub(super) fn read(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if source.kind() == io::ErrorKind::NotFound {
            Self::Missing { path }
        } else {
            Self::Read { path, source }
        }
    }

    /// Says which file or folder a failed write concerns.
    pub(super) fn write(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Write {
            path: path.into(),
            source,
        }
    }
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Where the converted file goes: `a.txt` to `a.utf8.txt`.
fn converted(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) => {
            let end = format!("utf8.{}", extension.to_string_lossy());
            path.with_extension(end)
        }
        None => path.with_extension("utf8"),
    }
}

fn listed(names: &[String]) -> String {
    const MOST: usize = 8;
    if names.is_empty() {
        return "no fields".to_owned();
    }
    let shown: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| format!("\"{name}\""))
        .collect();
    let rest = if names.len() > MOST { ", ..." } else { "" };
    format!("{}{rest}", shown.join(", "))
}
