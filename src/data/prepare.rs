//! From a configuration to token files: read, split, tokenize, keep.

use std::path::{Path, PathBuf};

use super::{
    cache::{self, Cached, Meta, SourceKind, SourceStats},
    corpus,
    encode::{Meter, encode},
    error::DataError,
    files::{self, InputFile, Wanted},
    fingerprint, index, jsonl,
    progress::{Progress, Report},
    recipe::{Recipe, TokenizerSource, check_val_fraction},
    token_file::{TokenFile, TokenWidth},
    tokenizer::{LINE_BREAK, Tokenizer},
    tokens,
};
use crate::config::{Builtin, DataConfig, TokenizerConfig};

/// Folder of the cache that holds tokens.
const TOKENS_FOLDER: &str = "tokens";
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
            work.tokenized(
                SourceKind::Builtin,
                &recipe,
                vec![(path, text.into_bytes())],
            )
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
        let key = index::key(&recipe.key(), inputs);
        if let Some(fingerprint) = index::lookup(&self.root, &key)
            && let Some(cached) = cache::open(&self.root, &fingerprint)
        {
            return Ok(Prepared::of_cached(cached, fingerprint, true));
        }
        let contents = files::read_all(inputs, self.report)?;
        let paths = inputs.iter().map(|file| file.path.clone());
        let prepared = self.tokenized(kind, recipe, paths.zip(contents).collect())?;
        index::record(&self.root, &key, &prepared.fingerprint, inputs);
        Ok(prepared)
    }

    /// The tokens of contents that are in memory, each with its name.
    fn tokenized(
        &self,
        kind: SourceKind,
        recipe: &Recipe,
        contents: Vec<(PathBuf, Vec<u8>)>,
    ) -> Result<Prepared, DataError> {
        let bytes = contents.iter().map(|(_, bytes)| bytes.as_slice());
        let fingerprint = fingerprint::of_contents(&recipe.key(), bytes, &|_| {});
        if let Some(cached) = cache::open(&self.root, &fingerprint) {
            return Ok(Prepared::of_cached(cached, fingerprint, true));
        }
        let cached = self.make(kind, recipe, contents, &fingerprint)?;
        Ok(Prepared::of_cached(cached, fingerprint, false))
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
        let train = encode(tokenizer, train, &meter)?;
        let val = encode(tokenizer, val, &meter)?;
        let meta = Meta {
            vocab_size: tokenizer.vocab_size(),
            width: TokenWidth::for_vocab(tokenizer.vocab_size()),
            train_tokens: train.n_tokens(),
            val_tokens: val.n_tokens(),
            source,
        };
        cache::publish(&self.root, fingerprint, &meta, [&train, &val], tokenizer)
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

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        sync::Mutex,
        time::{Duration, SystemTime},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::{JsonlConfig, TextConfig, TokensConfig, WindowsConfig},
        data::Inspection,
    };

    /// A folder with input files and a cache.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("folder"))
        }

        /// Writes an input file that looks old enough to be trusted unread.
        fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join("input").join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(&path, content).expect("written");
            let long_ago = SystemTime::now() - Duration::from_secs(3_600);
            let file = File::options().append(true).open(&path).expect("open");
            file.set_modified(long_ago).expect("set");
            path
        }

        fn input(&self) -> PathBuf {
            self.0.path().join("input")
        }

        fn cache(&self) -> PathBuf {
            self.0.path().join("cache")
        }

        fn prepare(&self, config: &DataConfig) -> Result<Prepared, DataError> {
            prepare(config, &self.cache(), &|_| {})
        }

        fn prepared(&self, config: &DataConfig) -> Prepared {
            self.prepare(config).expect("prepared")
        }

        fn refused(&self, config: &DataConfig) -> String {
            self.prepare(config).expect_err("refused").to_string()
        }
    }

    fn text(path: &Path, tokenizer: TokenizerConfig) -> DataConfig {
        DataConfig::Text(TextConfig {
            path: path.to_owned(),
            tokenizer,
            val_fraction: 0.1,
            windows: WindowsConfig::Disjoint,
        })
    }

    fn jsonl(path: &Path, field: &str) -> DataConfig {
        DataConfig::Jsonl(JsonlConfig {
            path: path.to_owned(),
            field: field.to_owned(),
            tokenizer: TokenizerConfig::Bytes,
            val_fraction: 0.1,
            windows: WindowsConfig::Disjoint,
        })
    }

    fn tokens(train: &Path, vocab_size: usize) -> TokensConfig {
        TokensConfig {
            train: train.to_owned(),
            val: None,
            vocab_size,
            tokenizer: None,
            val_fraction: 0.1,
            windows: WindowsConfig::Disjoint,
        }
    }

    fn bin(ids: impl IntoIterator<Item = u16>) -> Vec<u8> {
        ids.into_iter().flat_map(u16::to_le_bytes).collect()
    }

    fn ids(tokens: &TokenFile) -> Vec<u32> {
        (0..tokens.len()).map(|i| tokens.token(i)).collect()
    }

    /// The text of both parts together.
    fn whole_text(prepared: &Prepared) -> String {
        let all = [ids(&prepared.train), ids(&prepared.val)].concat();
        prepared.tokenizer.as_ref().expect("tokenizer").decode(&all)
    }

    #[test]
    fn characters_are_split_and_numbered_as_nanogpt_does() {
        let place = Place::new();
        let path = place.file("a.txt", "hello wörld, hello wörld!");
        let prepared = place.prepared(&text(&path, TokenizerConfig::Char));
        assert_eq!([prepared.train.len(), prepared.val.len()], [22, 3]);
        assert_eq!(prepared.vocab_size, 11);
        // " !,dehlorwö": the exclamation mark is held out, and has its id all the same.
        assert_eq!(ids(&prepared.val), [6, 3, 1]);
        assert_eq!(whole_text(&prepared), "hello wörld, hello wörld!");
    }

    #[test]
    fn the_second_preparation_finds_the_first_ones_tokens() {
        let place = Place::new();
        let path = place.file("a.txt", "some text ".repeat(30));
        let config = text(&path, TokenizerConfig::Bpe { vocab_size: 260 });
        let first = place.prepared(&config);
        let second = place.prepared(&config);
        assert!(!first.reused && second.reused);
        assert_eq!(first.fingerprint, second.fingerprint);
        assert_eq!(ids(&first.train), ids(&second.train));
        assert_eq!(whole_text(&second), "some text ".repeat(30));
        let moved = place.file("elsewhere/b.txt", "some text ".repeat(30));
        let third = place.prepared(&text(&moved, TokenizerConfig::Bpe { vocab_size: 260 }));
        assert!(third.reused, "the content counts, not the path");
    }

    #[test]
    fn unchanged_files_are_not_read_again() {
        let place = Place::new();
        let path = place.file("a.txt", "some text");
        let config = text(&path, TokenizerConfig::Bytes);
        let phases = || {
            let seen = Mutex::new(Vec::new());
            prepare(&config, &place.cache(), &|progress| {
                seen.lock().expect("no panic").push(progress.what);
            })
            .expect("prepared");
            seen.into_inner().expect("no panic")
        };
        assert_eq!(phases(), ["reading", "tokenizing", "tokenizing"]);
        assert!(phases().is_empty());
        place.file("a.txt", "same size");
        assert!(
            phases().contains(&"tokenizing"),
            "other content of the same size"
        );
    }

    #[test]
    fn a_change_of_any_setting_gives_other_tokens() {
        let place = Place::new();
        let path = place.file("a.txt", "some text ".repeat(30));
        let with_val = |val_fraction| {
            DataConfig::Text(TextConfig {
                path: path.clone(),
                tokenizer: TokenizerConfig::Bytes,
                val_fraction,
                windows: WindowsConfig::Disjoint,
            })
        };
        let mut fingerprints = [
            text(&path, TokenizerConfig::Char),
            text(&path, TokenizerConfig::Bpe { vocab_size: 258 }),
            with_val(0.1),
            with_val(0.2),
        ]
        .map(|config| place.prepared(&config).fingerprint);
        fingerprints.sort();
        assert!(fingerprints.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_half_written_cache_is_made_anew() {
        let place = Place::new();
        let path = place.file("a.txt", "some text");
        let config = text(&path, TokenizerConfig::Bytes);
        let folder = place.prepared(&config).cache.expect("cached");
        File::options()
            .write(true)
            .open(folder.join("train.bin"))
            .and_then(|file| file.set_len(3))
            .expect("cut short");
        let again = place.prepared(&config);
        assert!(!again.reused);
        assert_eq!(whole_text(&again), "some text");
        assert!(place.prepared(&config).reused);
    }

    #[test]
    fn preparing_at_the_same_time_succeeds_for_all() {
        let place = Place::new();
        let path = place.file("a.txt", "some text ".repeat(3_000));
        let config = text(&path, TokenizerConfig::Char);
        std::thread::scope(|scope| {
            let at_once: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| place.prepared(&config)))
                .collect();
            for one in at_once {
                assert_eq!(
                    whole_text(&one.join().expect("no panic")),
                    "some text ".repeat(3_000)
                );
            }
        });
    }

    #[test]
    fn a_folder_is_its_files_in_order() {
        let place = Place::new();
        place.file("b.txt", "second");
        place.file("a/z.txt", "first");
        place.file(".hidden", [0xFF]);
        let prepared = place.prepared(&text(&place.input(), TokenizerConfig::Bytes));
        assert_eq!(whole_text(&prepared), "first\nsecond");
        assert_eq!(prepared.source.n_files, 2);
    }

    #[test]
    fn json_lines_are_documents() {
        let place = Place::new();
        place.file("b.jsonl", "{\"body\": \"three\"}\n");
        place.file("a.jsonl", "{\"body\": \"one\"}\n{\"body\": \"two\"}");
        let prepared = place.prepared(&jsonl(&place.input(), "body"));
        assert_eq!(whole_text(&prepared), "one\ntwo\nthree");
        assert_eq!(prepared.source.n_documents, Some(3));
        let refused = place.refused(&jsonl(&place.input(), "text"));
        assert!(
            refused.contains("a.jsonl:1: no field \"text\""),
            "{refused}"
        );
    }

    #[test]
    fn the_end_of_text_token_stands_between_documents_where_there_is_one() {
        let place = Place::new();
        let mut tokenizer = tokenizers::Tokenizer::new(
            tokenizers::models::wordlevel::WordLevel::builder()
                .vocab(
                    [("a".to_owned(), 0), ("b".to_owned(), 1)]
                        .into_iter()
                        .collect(),
                )
                .build()
                .expect("model"),
        );
        let end = tokenizers::AddedToken::from("<|endoftext|>", true);
        tokenizer.add_special_tokens([end]).expect("added");
        let json = tokenizer.to_string(false).expect("json");
        let path = place.file("t/tokenizer.json", json);
        place.file("d/1.txt", "a");
        place.file("d/2.txt", "b");
        let config = text(
            &place.input().join("d"),
            TokenizerConfig::File(path.clone()),
        );
        let prepared = place.prepared(&config);
        // 90 % of the characters end within the separator, which stays whole.
        assert_eq!(
            [ids(&prepared.train), ids(&prepared.val)],
            [vec![0], vec![2, 1]]
        );
        fs::remove_file(path).expect("removed");
        let loaded = Tokenizer::load(&prepared.cache.expect("cached").join("tokenizer.json"));
        assert_eq!(loaded.expect("loaded").decode(&[1]), "b");
    }

    #[test]
    fn the_builtin_text_is_bytes_and_cached() {
        let place = Place::new();
        let config = DataConfig::Builtin(Builtin::Hello);
        let prepared = place.prepared(&config);
        assert_eq!(prepared.vocab_size, 256);
        assert_eq!(whole_text(&prepared), corpus::hello());
        assert!(place.prepared(&config).reused);
    }

    #[test]
    fn token_files_are_used_in_place() {
        let place = Place::new();
        let train = place.file("train.bin", bin(0..100));
        let config = DataConfig::Tokens(tokens(&train, 100));
        let prepared = place.prepared(&config);
        assert_eq!([prepared.train.len(), prepared.val.len()], [90, 10]);
        assert_eq!(prepared.val.token(0), 90);
        assert!(!prepared.reused && place.prepared(&config).reused);
        let val = place.file("val.bin", bin([7, 8]));
        let with_val = TokensConfig {
            val: Some(val),
            ..tokens(&train, 100)
        };
        let separate = place.prepared(&DataConfig::Tokens(with_val));
        assert_eq!([separate.train.len(), separate.val.len()], [100, 2]);
        assert_ne!(separate.fingerprint, prepared.fingerprint);
    }

    #[test]
    fn bad_token_files_are_refused() {
        let place = Place::new();
        let refused = |name: &str, content: Vec<u8>, vocab_size| {
            let path = place.file(name, content);
            place.refused(&DataConfig::Tokens(tokens(&path, vocab_size)))
        };
        assert!(refused("odd.bin", vec![1, 0, 2], 9).contains("3 bytes is no whole number"));
        assert!(refused("empty.bin", vec![], 9).contains("empty"));
        let outside = refused("ids.bin", bin([1, 8, 9, 3, 99]), 9);
        assert!(
            outside.contains("token 2 (counted from 0) has id 9"),
            "{outside}"
        );
        // Beyond the first chunk that a thread checks.
        let far = (1usize << 21) + 3;
        let mut many = vec![0; far + 10];
        many[far] = 300;
        let outside = refused("many.bin", bin(many), 300);
        assert!(outside.contains(&format!("token {far} ")), "{outside}");
        let folder = place.refused(&DataConfig::Tokens(tokens(&place.input(), 9)));
        assert!(folder.contains("can't be read"), "{folder}");
    }

    #[test]
    fn a_tokenizer_for_token_files_must_fit() {
        let place = Place::new();
        let train = place.file("train.bin", bin([104, 105]));
        let with = |tokenizer, vocab_size| {
            DataConfig::Tokens(TokensConfig {
                tokenizer: Some(tokenizer),
                ..tokens(&train, vocab_size)
            })
        };
        let prepared = place.prepared(&with(TokenizerConfig::Bytes, 300));
        assert_eq!(whole_text(&prepared), "hi");
        assert_eq!(prepared.source.head, "h");
        let char = place.refused(&with(TokenizerConfig::Char, 300));
        assert!(char.contains("\"char\" is made from a text"), "{char}");
        let small = place.refused(&with(TokenizerConfig::Bytes, 255));
        assert!(small.contains("256 tokens"), "{small}");
    }

    #[test]
    fn bad_texts_are_refused() {
        let place = Place::new();
        let refused = |name: &str, content: &[u8]| {
            place.refused(&text(&place.file(name, content), TokenizerConfig::Bytes))
        };
        assert!(refused("empty.txt", b"").contains("empty.txt: empty;"));
        assert!(refused("bad.txt", b"ok\xC3(").contains("bad.txt: invalid UTF-8 at byte 2"));
        let blank = place.file("blank.jsonl", "{\"text\": \"\"}\n");
        assert!(place.refused(&jsonl(&blank, "text")).contains("empty"));
        let path = place.file("a.txt", "text");
        let missing = place.input().join("missing.json");
        let refused = place.refused(&text(&path, TokenizerConfig::File(missing)));
        assert!(refused.contains("missing.json: no such file"), "{refused}");
        let refused = place.refused(&text(&path, TokenizerConfig::Bpe { vocab_size: 256 }));
        assert!(refused.contains("at least 257"), "{refused}");
        let missing = place.refused(&text(&place.input().join("none"), TokenizerConfig::Bytes));
        assert!(
            missing.contains("none: no such file or folder"),
            "{missing}"
        );
    }

    #[test]
    fn an_inspection_counts_what_occurs() {
        let place = Place::new();
        let path = place.file("a.txt", "aabé".repeat(10));
        let prepared = place.prepared(&text(&path, TokenizerConfig::Bytes));
        let inspection = Inspection::of(&prepared, 0.5);
        assert_eq!(inspection.distinct_ids, 4);
        assert_eq!(inspection.characters, Some(40));
        assert_eq!(inspection.tokens_per_character, Some(1.25));
        assert_eq!(inspection.bytes, 50);
        let json = serde_json::to_value(&inspection).expect("json");
        assert_eq!(json["kind"], "text");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn both_parts_together_are_the_text(content in "[a-eé\u{1F600}\n ]{1,300}") {
            let place = Place::new();
            let path = place.file("a.txt", &content);
            for tokenizer in [TokenizerConfig::Bytes, TokenizerConfig::Char] {
                let prepared = place.prepared(&text(&path, tokenizer));
                prop_assert_eq!(whole_text(&prepared), content.clone());
            }
        }
    }
}
