//! Tokens kept between runs: one folder a fingerprint, published by rename, never rewritten.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    encode::Encoded,
    error::DataError,
    token_file::{TokenFile, TokenWidth},
    tokenizer::Tokenizer,
};
use crate::base::fs::sync_folder;

const META: &str = "meta.json";
const TOKENIZER: &str = "tokenizer.json";
const TRAIN: &str = "train.bin";
const VAL: &str = "val.bin";
const TEMPORARY_PREFIX: &str = ".tmp-";
/// Temporary folders older than this were left by a process that ended.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Where tokens came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    Builtin,
    Text,
    Jsonl,
    Tokens,
}

/// What was read to make the tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStats {
    pub kind: SourceKind,
    pub n_files: usize,
    /// Files, or lines of JSON Lines; unknown for token files.
    pub n_documents: Option<u64>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Characters of the joined documents; unknown for token files.
    pub characters: Option<u64>,
    /// The first characters of the text.
    pub head: String,
}

/// The folder's `meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub vocab_size: usize,
    pub width: TokenWidth,
    pub train_tokens: u64,
    pub val_tokens: u64,
    pub source: SourceStats,
}

/// A folder of the cache, opened.
#[derive(Debug)]
pub(super) struct Cached {
    pub meta: Meta,
    pub train: TokenFile,
    pub val: TokenFile,
    pub tokenizer: Tokenizer,
    pub folder: PathBuf,
}

/// Opens what [`publish`] left for `fingerprint`; `None` where there is nothing usable.
pub(super) fn open(root: &Path, fingerprint: &str) -> Option<Cached> {
    open_folder(&root.join(fingerprint))
}

/// Writes tokens and tokenizer to a temporary folder and renames it to `fingerprint`.
///
/// Where another process was faster, its folder is used: both hold the same tokens. A folder there
/// that can't be opened is replaced.
///
/// # Errors
/// The cache can't be written.
pub(super) fn publish(
    root: &Path,
    fingerprint: &str,
    meta: &Meta,
    [train, val]: [&Encoded; 2],
    tokenizer: &Tokenizer,
) -> Result<Cached, DataError> {
    let failed = |source| DataError::write(root, source);
    fs::create_dir_all(root).map_err(failed)?;
    remove_stale(root);
    let temporary = temporary_folder(root);
    let target = root.join(fingerprint);
    let written = write_folder(&temporary, meta, [train, val], tokenizer).and_then(|()| {
        open_folder(&temporary).ok_or_else(|| io::Error::other("it changed at once"))
    });
    // Opened before it is renamed: the maps stay valid whatever other processes do to the name.
    let published = written.and_then(|own| {
        rename_or_use(&temporary, &target)?;
        Ok(own)
    });
    let _ = fs::remove_dir_all(&temporary);
    let own = published.map_err(failed)?;
    Ok(open_folder(&target).unwrap_or(Cached {
        folder: target,
        ..own
    }))
}

fn open_folder(folder: &Path) -> Option<Cached> {
    let meta: Meta = serde_json::from_slice(
        &crate::base::read::bytes(&folder.join(META), crate::base::read::Bound::TOLD).ok()?,
    )
    .ok()?;
    let open = |name, n_tokens| TokenFile::open(&folder.join(name), meta.width, n_tokens).ok();
    Some(Cached {
        train: open(TRAIN, meta.train_tokens)?,
        val: open(VAL, meta.val_tokens)?,
        tokenizer: Tokenizer::load(&folder.join(TOKENIZER)).ok()?,
        folder: folder.to_owned(),
        meta,
    })
}

fn write_folder(
    folder: &Path,
    meta: &Meta,
    [train, val]: [&Encoded; 2],
    tokenizer: &Tokenizer,
) -> io::Result<()> {
    fs::create_dir(folder)?;
    write_tokens(&folder.join(TRAIN), train, meta.width)?;
    write_tokens(&folder.join(VAL), val, meta.width)?;
    write_file(&folder.join(TOKENIZER), &serde_json::to_vec(tokenizer)?)?;
    write_file(&folder.join(META), &serde_json::to_vec_pretty(meta)?)?;
    sync_folder(folder)
}

/// Renames to `target`; a good folder there wins, a bad one is moved away first.
fn rename_or_use(temporary: &Path, target: &Path) -> io::Result<()> {
    let Err(error) = fs::rename(temporary, target) else {
        return sync_folder(target.parent().unwrap_or(target));
    };
    if open_folder(target).is_some() {
        return Ok(());
    }
    let aside = temporary.with_extension("bad");
    fs::rename(target, &aside).map_err(|_| error)?;
    let _ = fs::remove_dir_all(&aside);
    match fs::rename(temporary, target) {
        Err(_) if open_folder(target).is_some() => Ok(()),
        renamed => renamed,
    }
}

fn write_tokens(path: &Path, tokens: &Encoded, width: TokenWidth) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for piece in &tokens.0 {
        let bytes: Vec<u8> = match width {
            TokenWidth::U16 => piece
                .iter()
                .flat_map(|&id| (id as u16).to_le_bytes())
                .collect(),
            TokenWidth::U32 => piece.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        file.write_all(&bytes)?;
    }
    file.into_inner()?.sync_all()
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name that no other thread or process uses at the same time.
fn temporary_folder(root: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    root.join(format!("{TEMPORARY_PREFIX}{}-{count}", std::process::id()))
}

fn remove_stale(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let is_temporary = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY_PREFIX.as_bytes());
        if is_temporary && is_stale(&entry) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_stale(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| {
        SystemTime::now()
            .duration_since(modified)
            .is_ok_and(|age| age > STALE_AFTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(vocab_size: usize) -> Meta {
        Meta {
            vocab_size,
            width: TokenWidth::for_vocab(vocab_size),
            train_tokens: 3,
            val_tokens: 1,
            source: SourceStats {
                kind: SourceKind::Text,
                n_files: 1,
                n_documents: Some(1),
                bytes: 4,
                characters: Some(4),
                head: "abca".to_owned(),
            },
        }
    }

    fn publish_small(root: &Path, vocab_size: usize) -> Result<Cached, DataError> {
        let train = Encoded(vec![vec![1, 2], vec![vocab_size as u32 - 1]]);
        let val = Encoded(vec![vec![0]]);
        publish(
            root,
            "f",
            &meta(vocab_size),
            [&train, &val],
            &Tokenizer::Bytes,
        )
    }

    #[test]
    fn both_widths_come_back() {
        for vocab_size in [65_536, 65_537, 200_000] {
            let root = tempfile::tempdir().expect("folder");
            publish_small(root.path(), vocab_size).expect("published");
            let cached = open(root.path(), "f").expect("there");
            assert_eq!(cached.meta, meta(vocab_size));
            let ids: Vec<u32> = (0..3).map(|i| cached.train.token(i)).collect();
            assert_eq!(ids, [1, 2, vocab_size as u32 - 1]);
            assert_eq!(cached.val.token(0), 0);
        }
    }

    #[test]
    fn a_folder_with_a_damaged_part_is_replaced() {
        for name in [META, TOKENIZER, TRAIN, VAL] {
            let root = tempfile::tempdir().expect("folder");
            let folder = publish_small(root.path(), 256).expect("published").folder;
            let path = folder.join(name);
            let half = fs::read(&path).expect("read");
            fs::write(&path, &half[..half.len() / 2]).expect("cut short");
            assert!(open(root.path(), "f").is_none(), "{name}");
            publish_small(root.path(), 256).expect("replaced");
            assert!(open(root.path(), "f").is_some(), "{name}");
            assert_eq!(fs::read_dir(root.path()).expect("read").count(), 1);
        }
    }

    #[test]
    fn of_several_at_once_all_succeed() {
        let root = tempfile::tempdir().expect("folder");
        std::thread::scope(|scope| {
            let at_once: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| publish_small(root.path(), 256)))
                .collect();
            for one in at_once {
                one.join().expect("no panic").expect("published");
            }
        });
        assert_eq!(fs::read_dir(root.path()).expect("read").count(), 1);
    }

    #[test]
    fn old_temporary_folders_are_removed_and_fresh_ones_are_not() {
        let root = tempfile::tempdir().expect("folder");
        let [old, fresh] = [".tmp-1-0", ".tmp-2-0"].map(|name| root.path().join(name));
        for folder in [&old, &fresh] {
            fs::create_dir(folder).expect("created");
        }
        let long_ago = SystemTime::now() - 2 * STALE_AFTER;
        File::open(&old)
            .expect("open")
            .set_modified(long_ago)
            .expect("set");
        publish_small(root.path(), 256).expect("published");
        assert!(!old.exists() && fresh.exists());
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let root = tempfile::NamedTempFile::new().expect("file");
        let refused = publish_small(root.path(), 256).expect_err("a file, no folder");
        assert!(matches!(refused, DataError::Write { .. }), "{refused}");
    }
}
