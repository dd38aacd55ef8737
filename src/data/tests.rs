//! From configurations to tokens, through all of this folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::*;
use crate::config::{
    Builtin, DataConfig, IdWidth, JsonlConfig, TextConfig, TokenizerConfig, TokensConfig,
    WindowsConfig,
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
        width: None,
        header_bytes: None,
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
    assert!(
        refused("odd.bin", vec![1, 0, 2], 9).contains("3 bytes of ids is no whole number of u16")
    );
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

/// The data of a run that began with `own`.
fn reopened(place: &Place, config: &DataConfig, own: &Prepared) -> Result<Prepared, DataError> {
    reopen(
        config,
        &own.fingerprint,
        &own.files,
        &place.cache(),
        &|_| {},
    )
}

#[test]
fn a_run_keeps_the_tokens_it_began_with_or_is_refused() {
    let place = Place::new();
    let path = place.file("a.txt", "some text");
    for config in [
        text(&path, TokenizerConfig::Char),
        jsonl(
            &place.file("d.jsonl", "{\"text\": \"some text\"}\n"),
            "text",
        ),
    ] {
        let own = place.prepared(&config);
        place.file("a.txt", "other text, longer");
        place.file("d.jsonl", "{\"text\": \"some texz\"}\n");
        let again = reopened(&place, &config, &own).expect("cached");
        assert_eq!(whole_text(&again), "some text");
        assert_eq!(again.fingerprint, own.fingerprint);
        fs::remove_dir_all(place.cache()).expect("emptied");
        let refused = reopened(&place, &config, &own)
            .expect_err("gone")
            .to_string();
        let changed = own.files[0].path.display();
        assert!(refused.starts_with(&format!("{changed}: it")), "{refused}");
        assert!(refused.contains("--set data."), "{refused}");
        place.file("a.txt", "some text");
        place.file("d.jsonl", "{\"text\": \"some text\"}\n");
        let again = reopened(&place, &config, &own).expect("made again");
        assert_eq!(whole_text(&again), "some text");
    }
}

#[test]
fn token_files_that_changed_under_a_run_are_named() {
    let place = Place::new();
    let train = place.file("train.bin", bin(0..100));
    let tokenizer = place.file("t.json", serde_json::to_vec(&words("a")).expect("json"));
    let config = DataConfig::Tokens(TokensConfig {
        tokenizer: Some(TokenizerConfig::File(tokenizer)),
        ..tokens(&train, 100)
    });
    let own = place.prepared(&config);
    assert!(reopened(&place, &config, &own).expect("as it was").reused);
    for (content, expected) in [
        (bin(0..90), "it holds 180 bytes, not 200"),
        (bin((0..100).rev()), "its content is another"),
    ] {
        place.file("train.bin", content);
        let refused = reopened(&place, &config, &own)
            .expect_err("other")
            .to_string();
        assert!(
            refused.contains("train.bin: ") && refused.contains(expected),
            "{refused}"
        );
    }
    place.file("train.bin", bin(0..100));
    place.file("t.json", serde_json::to_vec(&words("b")).expect("json"));
    let refused = reopened(&place, &config, &own)
        .expect_err("other")
        .to_string();
    assert!(
        refused.contains("t.json: its content is another"),
        "{refused}"
    );
}

#[test]
fn a_damaged_cache_is_made_again_or_named() {
    let place = Place::new();
    let path = place.file("a.txt", "some text ".repeat(50));
    let config = text(&path, TokenizerConfig::Bytes);
    let own = place.prepared(&config);
    let train = own.cache.clone().expect("cached").join("train.bin");
    let flip = || {
        let mut bytes = fs::read(&train).expect("read");
        bytes[40] ^= 4;
        fs::write(&train, bytes).expect("written");
    };
    flip();
    let again = reopened(&place, &config, &own).expect("made again");
    assert_eq!(whole_text(&again), "some text ".repeat(50));
    flip();
    place.file("a.txt", "other text");
    let refused = reopened(&place, &config, &own).expect_err("not to be had");
    assert!(refused.to_string().contains(&own.fingerprint), "{refused}");
    let source = std::error::Error::source(&refused).expect("a cause");
    assert!(
        source
            .to_string()
            .contains("a.txt: it holds 10 bytes, not 500"),
        "{source}"
    );
}

#[test]
fn wider_ids_and_headers_are_read_or_refused() {
    let place = Place::new();
    let wide = |ids: &[u32]| -> Vec<u8> { ids.iter().flat_map(|id| id.to_le_bytes()).collect() };
    let many: Vec<u32> = (0..500).map(|i| i * 7 % 4_001).collect();
    let large: Vec<u32> = many.iter().map(|id| id * 30).collect();
    let header = |magic: u32, n: u32| {
        let mut words = vec![0; 256];
        words[..3].copy_from_slice(&[magic, 1, n]);
        wide(&words)
    };
    let narrow = bin(many.iter().map(|&id| id as u16));
    let with = |name: &str, content: Vec<u8>, vocab_size, width| {
        let path = place.file(name, content);
        DataConfig::Tokens(TokensConfig {
            width,
            ..tokens(&path, vocab_size)
        })
    };
    for (config, expected) in [
        (with("a.bin", wide(&large), 128_256, None), &large),
        (
            with(
                "b.bin",
                [header(20_240_520, 500), narrow.clone()].concat(),
                50_257,
                None,
            ),
            &many,
        ),
        (
            with(
                "c.bin",
                [header(20_240_801, 500), wide(&large)].concat(),
                128_256,
                None,
            ),
            &large,
        ),
        (with("d.bin", wide(&many), 5_000, Some(IdWidth::U32)), &many),
    ] {
        let prepared = place.prepared(&config);
        let read = [ids(&prepared.train), ids(&prepared.val)].concat();
        assert_eq!(&read, expected);
        assert!(place.prepared(&config).reused);
    }
    for (config, expected) in [
        (with("e.bin", wide(&many), 5_000, None), "\"u32\""),
        (
            with(
                "f.bin",
                [header(20_240_520, 501), narrow.clone()].concat(),
                5_000,
                None,
            ),
            "promises 501 ids",
        ),
        (
            with(
                "g.bin",
                [header(20_240_520, 500), narrow].concat(),
                5_000,
                Some(IdWidth::U32),
            ),
            "that of u16",
        ),
        (
            with(
                "h.bin",
                b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u2'}".to_vec(),
                9,
                None,
            ),
            "128 bytes",
        ),
    ] {
        let refused = place.refused(&config);
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.contains("`data.tokens.width`"), "{refused}");
    }
}

/// A tokenizer of one word.
fn words(word: &str) -> tokenizers::Tokenizer {
    let vocab = [(word.to_owned(), 0)].into_iter().collect();
    let model = tokenizers::models::wordlevel::WordLevel::builder().vocab(vocab);
    tokenizers::Tokenizer::new(model.build().expect("model"))
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

#[test]
fn ranks_may_share_tokens_and_tokenizers() {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<TokenFile>();
    is_shared::<Tokenizer>();
    is_shared::<Prepared>();
}
