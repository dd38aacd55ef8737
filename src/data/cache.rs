//! Tokens kept between runs: one folder a fingerprint, published by rename, never rewritten, checked when opened.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    error::DataError,
    files::{self, InputFile},
    index::SETTLED_AFTER,
    token_file::{Keeper, TokenFile, TokenWidth},
    tokenizer::Tokenizer,
};
use crate::base::fs::sync_folder;

const META: &str = "meta.json";
const TOKENIZER: &str = "tokenizer.json";
const TRAIN: &str = "train.bin";
const VAL: &str = "val.bin";
/// Bytes that one thread sums up.
const SUM_CHUNK_BYTES: usize = 4 << 20;
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

/// What the folder's `meta.json` seals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub vocab_size: usize,
    pub width: TokenWidth,
    pub train_tokens: u64,
    pub val_tokens: u64,
    pub source: SourceStats,
    /// CRC-32C of training tokens, held-out tokens and tokenizer; absent in folders of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<[u32; 3]>,
}

/// The form of `meta.json`: its content with a checksum of its text.
#[derive(Serialize, Deserialize)]
struct Sealed {
    crc32c: u32,
    meta: Box<RawValue>,
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

/// Opens what a [`Draft`] left for `fingerprint`; `None` where there is nothing usable.
///
/// Every byte is compared with its checksum, once for each process.
pub(super) fn open(root: &Path, fingerprint: &str) -> Option<Cached> {
    open_folder(&root.join(fingerprint))
}

/// The folder of `fingerprint`, where there is one, sound or not.
pub(super) fn folder(root: &Path, fingerprint: &str) -> Option<PathBuf> {
    let folder = root.join(fingerprint);
    folder.is_dir().then_some(folder)
}

/// Tokens that are being made, in a temporary folder that vanishes unless it is published.
pub(super) struct Draft {
    root: PathBuf,
    folder: PathBuf,
}

/// The two parts of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Train,
    Val,
}

/// A token file that is being written.
pub(super) struct TokenWriter {
    file: BufWriter<File>,
    path: PathBuf,
    width: TokenWidth,
    written: Written,
}

/// What a finished token file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub n_tokens: u64,
    pub crc32c: u32,
}

impl Draft {
    /// Makes a temporary folder.
    ///
    /// # Errors
    /// The cache can't be written.
    pub fn begin(root: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::write(root, source);
        fs::create_dir_all(root).map_err(failed)?;
        remove_stale(root);
        let folder = temporary_folder(root);
        fs::create_dir(&folder).map_err(failed)?;
        let root = root.to_owned();
        Ok(Self { root, folder })
    }

    /// Starts one of the two token files.
    ///
    /// # Errors
    /// It can't be made.
    pub fn tokens(&self, part: Part, width: TokenWidth) -> Result<TokenWriter, DataError> {
        let path = self.folder.join(part.file());
        let file = File::create(&path).map_err(|source| DataError::write(&path, source))?;
        Ok(TokenWriter {
            file: BufWriter::new(file),
            path,
            width,
            written: Written::default(),
        })
    }

    /// Seals the folder and renames it to `fingerprint`.
    ///
    /// Where another process was faster, its folder is used: both hold the same tokens. A folder there
    /// that can't be opened is replaced.
    ///
    /// # Errors
    /// The cache can't be written.
    pub fn publish(
        self,
        fingerprint: &str,
        mut meta: Meta,
        sums: [u32; 2],
        tokenizer: &Tokenizer,
    ) -> Result<Cached, DataError> {
        let target = self.root.join(fingerprint);
        let mut publish = || -> io::Result<Cached> {
            let json = serde_json::to_vec(tokenizer)?;
            write_file(&self.folder.join(TOKENIZER), &json)?;
            let [train, val] = sums;
            meta.sums = Some([train, val, crc32c::crc32c(&json)]);
            write_file(&self.folder.join(META), &sealed(&meta)?)?;
            sync_folder(&self.folder)?;
            // Opened before it is renamed: the maps stay valid whatever other processes do to the name.
            let own =
                open_folder(&self.folder).ok_or_else(|| io::Error::other("it changed at once"))?;
            rename_or_use(&self.folder, &target)?;
            Ok(own)
        };
        let own = publish().map_err(|source| DataError::write(&self.root, source))?;
        Ok(open_folder(&target).unwrap_or(Cached {
            folder: target,
            ..own
        }))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Part {
    const fn file(self) -> &'static str {
        match self {
            Self::Train => TRAIN,
            Self::Val => VAL,
        }
    }
}

impl TokenWriter {
    /// Appends ids.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        let bytes: Vec<u8> = match self.width {
            TokenWidth::U16 => ids
                .iter()
                .flat_map(|&id| (id as u16).to_le_bytes())
                .collect(),
            TokenWidth::U32 => ids.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        self.written.n_tokens += ids.len() as u64;
        self.written.crc32c = crc32c::crc32c_append(self.written.crc32c, &bytes);
        let written = self.file.write_all(&bytes);
        written.map_err(|source| DataError::write(&self.path, source))
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn finish(self) -> Result<Written, DataError> {
        let flushed = self.file.into_inner().map_err(io::Error::from);
        let synced = flushed.and_then(|file| file.sync_all());
        synced.map_err(|source| DataError::write(&self.path, source))?;
        Ok(self.written)
    }
}

fn sealed(meta: &Meta) -> io::Result<Vec<u8>> {
    let text = serde_json::to_string(meta)?;
    let crc32c = crc32c::crc32c(text.as_bytes());
    let meta = RawValue::from_string(text)?;
    Ok(serde_json::to_vec(&Sealed { crc32c, meta })?)
}

/// Reads `meta.json`; one of an earlier version has no seal.
fn read_meta(folder: &Path) -> Option<Meta> {
    let bytes = files::read(&folder.join(META)).ok()?;
    match serde_json::from_slice::<Sealed>(&bytes) {
        Ok(Sealed { crc32c, meta }) => {
            let is_whole = crc32c::crc32c(meta.get().as_bytes()) == crc32c;
            let meta: Meta = serde_json::from_str(meta.get()).ok()?;
            (is_whole && meta.sums.is_some()).then_some(meta)
        }
        Err(_) => serde_json::from_slice(&bytes).ok(),
    }
}

fn open_folder(folder: &Path) -> Option<Cached> {
    let meta = read_meta(folder)?;
    let open = |name, n_tokens| {
        let path = folder.join(name);
        let tokens = TokenFile::open(&path, meta.width, n_tokens).ok()?;
        Some(tokens.bounded(&path, meta.vocab_size, Keeper::Cache))
    };
    let cached = Cached {
        train: open(TRAIN, meta.train_tokens)?,
        val: open(VAL, meta.val_tokens)?,
        tokenizer: Tokenizer::load(&folder.join(TOKENIZER)).ok()?,
        folder: folder.to_owned(),
        meta,
    };
    is_sound(&cached).then_some(cached)
}

/// Compares every byte with its checksum, unless this process has done so and the files are as they were.
fn is_sound(cached: &Cached) -> bool {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let paths = [TRAIN, VAL, TOKENIZER].map(|name| cached.folder.join(name));
    let states = paths.iter().map(|path| files::one(path));
    let Ok(states) = states.collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    // Not the paths: a folder keeps its inodes when it is renamed.
    let state = states
        .iter()
        .map(|file| (file.identity, file.bytes, file.modified));
    let key = format!("{:?} {:?}", state.collect::<Vec<_>>(), cached.meta.sums);
    if SEEN.lock().is_ok_and(|seen| seen.contains(&key)) {
        return true;
    }
    let is_sound = match cached.meta.sums {
        Some([train, val, tokenizer]) => {
            crc32c_of(cached.train.bytes()) == train
                && crc32c_of(cached.val.bytes()) == val
                && files::read(&paths[2]).is_ok_and(|bytes| crc32c::crc32c(&bytes) == tokenizer)
        }
        None => [&cached.train, &cached.val]
            .iter()
            .all(|tokens| tokens.check_ids(&|_| ()).is_ok()),
    };
    // A file that changed a moment ago may change again within its clock's resolution, unseen.
    let now = SystemTime::now();
    let is_settled = |file: &InputFile| {
        now.duration_since(file.modified)
            .is_ok_and(|age| age > SETTLED_AFTER)
    };
    if is_sound
        && states.iter().all(is_settled)
        && let Ok(mut seen) = SEEN.lock()
    {
        seen.insert(key);
    }
    is_sound
}

/// The CRC-32C of a large content, which all cores make together.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let chunks = bytes.par_chunks(SUM_CHUNK_BYTES);
    let sums: Vec<(u32, usize)> = chunks
        .map(|chunk| (crc32c::crc32c(chunk), chunk.len()))
        .collect();
    let combined = sums.into_iter();
    combined.fold(0, |sum, (next, length)| {
        crc32c::crc32c_combine(sum, next, length)
    })
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
            sums: None,
        }
    }

    fn publish_small(root: &Path, vocab_size: usize) -> Result<Cached, DataError> {
        let draft = Draft::begin(root)?;
        let mut sums = [0; 2];
        let ids = [vec![1, 2, vocab_size as u32 - 1], vec![0]];
        for (at, part) in [Part::Train, Part::Val].into_iter().enumerate() {
            let mut tokens = draft.tokens(part, TokenWidth::for_vocab(vocab_size))?;
            let (first, rest) = ids[at].split_at(1);
            tokens.push(first)?;
            tokens.push(rest)?;
            sums[at] = tokens.finish()?.crc32c;
        }
        draft.publish("f", meta(vocab_size), sums, &Tokenizer::Bytes)
    }

    #[test]
    fn both_widths_come_back() {
        for vocab_size in [65_536, 65_537, 200_000] {
            let root = tempfile::tempdir().expect("folder");
            publish_small(root.path(), vocab_size).expect("published");
            let cached = open(root.path(), "f").expect("there");
            assert_eq!(cached.meta.source, meta(vocab_size).source);
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
    fn a_flipped_bit_anywhere_is_seen() {
        let root = tempfile::tempdir().expect("folder");
        let folder = publish_small(root.path(), 256).expect("published").folder;
        for name in [META, TOKENIZER, TRAIN, VAL] {
            let path = folder.join(name);
            let sound = fs::read(&path).expect("read");
            for at in 0..sound.len() {
                let mut damaged = sound.clone();
                damaged[at] ^= 1;
                fs::write(&path, damaged).expect("damaged");
                assert!(open(root.path(), "f").is_none(), "{name}, byte {at}");
            }
            fs::write(&path, sound).expect("mended");
            assert!(open(root.path(), "f").is_some(), "{name}");
        }
    }

    #[test]
    fn a_folder_of_an_earlier_version_is_taken_where_its_ids_are_right() {
        let root = tempfile::tempdir().expect("folder");
        let folder = publish_small(root.path(), 10).expect("published").folder;
        let plain = serde_json::to_vec(&meta(10)).expect("json");
        fs::write(folder.join(META), plain).expect("written");
        assert!(open(root.path(), "f").is_some());
        fs::write(folder.join(VAL), [10, 0]).expect("written");
        assert!(open(root.path(), "f").is_none());
    }

    #[test]
    fn sums_of_chunks_are_the_sum_of_all() {
        let bytes: Vec<u8> = (0..SUM_CHUNK_BYTES * 2 + 77)
            .map(|i| (i * 7) as u8)
            .collect();
        assert_eq!(crc32c_of(&bytes), crc32c::crc32c(&bytes));
        assert_eq!(crc32c_of(&[]), crc32c::crc32c(&[]));
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
