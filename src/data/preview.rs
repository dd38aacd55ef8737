//! What data seems to be, from its beginning alone: for a choice that is still being made.

use std::{io::Read, path::Path};

use serde_json::{Value, json};

use super::{
    corpus,
    error::DataError,
    files::{self, InputFile, Wanted},
    jsonl,
    token_format::{BEGINNING_BYTES as BEGINNING, Signature, TokenFormat},
};
use crate::config::DataConfig;

/// Entries of a folder that are looked at.
const MOST_ENTRIES: usize = 2000;
const MOST_SAMPLES: usize = 12;
/// Characters of a sample.
const SAMPLE_CHARACTERS: usize = 240;
/// Ids that are shown of a token file.
const MOST_IDS: usize = 48;
/// Ids of GPT-2, which most token files hold.
const GPT2_IDS: usize = 50_257;
/// Ids of Llama 3.
const LLAMA3_IDS: usize = 128_256;

/// The beginning of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    pub n_files: usize,
    /// Of those files.
    pub bytes: u64,
    /// A large folder is not walked to its end.
    pub is_whole: bool,
    /// Lines of text, documents, or ids; each in one line.
    pub samples: Vec<String>,
}

/// The part `data` of a config for a path that somebody names. `.bin` files, or a folder with `train.bin`, are taken
/// for tokens, `.jsonl` for JSON Lines, all else for text.
///
/// Blocks while it reads a beginning.
///
/// # Errors
/// The path is missing, unreadable, or a folder without files.
pub fn recognise(path: &Path) -> Result<Value, DataError> {
    if path.to_str().is_none() {
        let path = path.to_owned();
        return Err(DataError::PathNotUtf8 { path });
    }
    let (files, _) = files::find_among(path, Wanted::Any, MOST_ENTRIES)?;
    let ends = |file: &InputFile, end: &str| file.path.extension().is_some_and(|own| own == end);
    let is_train = |file: &&InputFile| {
        let is_named = path != file.path.as_path();
        ends(file, "bin") && (!is_named || file.path == path.join("train.bin"))
    };
    if let Some(train) = files.iter().find(is_train) {
        let bytes = beginning(&train.path)?;
        let signature = Signature::of(&bytes);
        let ids = TokenFormat::suggested(&signature).ids(&bytes);
        let most = ids.into_iter().max().map_or(0, |id| id as usize + 1);
        let is_of = |least: usize, size: usize| (least < most && most <= size).then_some(size);
        let usual = is_of(usize::from(u8::MAX), GPT2_IDS).or_else(|| is_of(1 << 16, LLAMA3_IDS));
        let vocab_size = usual.unwrap_or(most);
        let mut tokens = json!({ "train": train.path, "vocab_size": vocab_size });
        if signature == Signature::LooksWide {
            tokens["width"] = json!("u32");
        }
        let val = train.path.with_file_name("val.bin");
        if val != train.path && val.is_file() {
            tokens["val"] = json!(val);
        }
        return Ok(json!({ "tokens": tokens }));
    }
    if let Some(lines) = files.iter().find(|file| ends(file, "jsonl")) {
        let field = field(&beginning(&lines.path)?);
        return Ok(json!({ "jsonl": { "path": path, "field": field } }));
    }
    Ok(json!({ "text": { "path": path } }))
}

/// The field that holds the text: `text`, else the first that holds one.
fn field(lines: &[u8]) -> String {
    let first = lines.split(|&byte| byte == b'\n').next();
    let first: Option<Value> = first.and_then(|line| serde_json::from_slice(line).ok());
    let fields = first.as_ref().and_then(Value::as_object);
    let texts = fields
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.is_string());
    let names: Vec<&String> = texts.map(|(name, _)| name).collect();
    let named = names.iter().find(|name| **name == "text");
    named
        .or(names.first())
        .map_or("text", |name| name.as_str())
        .to_owned()
}

/// Looks at the beginning of what a config names; blocks.
///
/// # Errors
/// The data is missing or unreadable, or its beginning is not what the config says.
pub fn preview(config: &DataConfig) -> Result<Preview, DataError> {
    let (path, wanted) = match config {
        DataConfig::Builtin(_) => {
            let text = corpus::hello();
            return Ok(Preview {
                n_files: 1,
                bytes: text.len() as u64,
                is_whole: true,
                samples: samples(text.lines()),
            });
        }
        DataConfig::Text(text) => (&text.path, Wanted::Any),
        DataConfig::Jsonl(jsonl) => (&jsonl.path, Wanted::Jsonl),
        DataConfig::Tokens(tokens) => (&tokens.train, Wanted::Any),
    };
    let (mut files, is_whole) = files::find_among(path, wanted, MOST_ENTRIES)?;
    if let DataConfig::Tokens(tokens) = config {
        files.truncate(1);
        files.extend(tokens.val.as_deref().map(files::one).transpose()?);
    }
    let first = files.iter().find(|file| file.bytes > 0);
    let Some(first) = first.map(|file| &file.path) else {
        return Err(DataError::Empty { path: path.clone() });
    };
    let bytes = beginning(first)?;
    let samples = match config {
        DataConfig::Tokens(tokens) => {
            let ids = TokenFormat::of(tokens, &files[0])?.ids(&bytes);
            let shown = ids.iter().take(MOST_IDS).map(u32::to_string);
            vec![shown.collect::<Vec<_>>().join(" ")]
        }
        DataConfig::Jsonl(jsonl) => {
            let is_all = (bytes.len() as u64) < BEGINNING;
            let text = text(first, bytes)?;
            // The last line may be cut off.
            let whole = match text.rfind('\n') {
                Some(end) => &text[..end],
                None if is_all => &text,
                None => "",
            };
            let documents = jsonl::documents(first, whole, &jsonl.field)?;
            samples(documents.iter().map(String::as_str))
        }
        DataConfig::Builtin(_) | DataConfig::Text(_) => samples(text(first, bytes)?.lines()),
    };
    Ok(Preview {
        n_files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        is_whole,
        samples,
    })
}

fn beginning(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let read = files::open(path)?.take(BEGINNING).read_to_end(&mut bytes);
    read.map_err(|source| DataError::read(path, source))?;
    Ok(bytes)
}

/// The text of a beginning, whose last character may be cut in two.
fn text(path: &Path, mut bytes: Vec<u8>) -> Result<String, DataError> {
    if let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
    {
        bytes.truncate(error.valid_up_to());
    }
    corpus::text(path, bytes)
}

fn samples<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    texts
        .filter(|text| !text.trim().is_empty())
        .take(MOST_SAMPLES)
        .map(|text| {
            let line = text
                .trim_end()
                .replace('\t', "    ")
                .replace(['\n', '\r'], " ");
            line.chars().take(SAMPLE_CHARACTERS).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn looked_at(path: &Path) -> (Value, Result<Preview, DataError>) {
        let data = recognise(path).expect("recognised");
        let config = serde_json::from_value(data.clone()).expect("a config's part");
        (data, preview(&config))
    }

    #[test]
    fn kinds_are_recognised_and_begin_with_their_samples() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        fs::write(at("a.txt"), "first\n\n  second line \n").expect("written");
        let (data, seen) = looked_at(&at("a.txt"));
        assert_eq!(data, json!({ "text": { "path": at("a.txt") } }));
        assert_eq!(seen.expect("text").samples, ["first", "  second line"]);
        fs::write(
            at("b.jsonl"),
            "{\"id\": 1, \"body\": \"a\\nb\"}\n{\"body\": \"c\"}\n{\"bo",
        )
        .expect("written");
        let (data, seen) = looked_at(&at("b.jsonl"));
        assert_eq!(data["jsonl"]["field"], "body");
        assert_eq!(seen.expect("documents").samples, ["a b", "c"]);
        let ids: Vec<u8> = [7u16, 50_000, 9]
            .iter()
            .flat_map(|id| id.to_le_bytes())
            .collect();
        for name in ["train.bin", "val.bin"] {
            fs::write(at(name), &ids).expect("written");
        }
        let (data, seen) = looked_at(root.path());
        let tokens =
            json!({ "train": at("train.bin"), "vocab_size": GPT2_IDS, "val": at("val.bin") });
        assert_eq!(data, json!({ "tokens": tokens }));
        let seen = seen.expect("tokens");
        assert_eq!((seen.n_files, seen.bytes), (2, 12));
        assert_eq!(seen.samples, ["7 50000 9"]);
    }

    #[test]
    fn only_a_beginning_is_read_and_a_cut_character_is_no_fault() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("long.txt");
        fs::write(&path, format!("a{}", "é".repeat(BEGINNING as usize))).expect("written");
        let (_, seen) = looked_at(&path);
        assert_eq!(seen.expect("text").bytes, 2 * BEGINNING + 1);
        fs::write(&path, b"abc\xff\xfe").expect("written");
        let refused = looked_at(&path).1.expect_err("no text");
        assert!(
            matches!(refused, DataError::InvalidUtf8 { byte: 3, .. }),
            "{refused}"
        );
    }

    #[test]
    fn a_large_folder_is_not_walked_to_its_end() {
        let root = tempfile::tempdir().expect("a folder");
        for index in 0..=MOST_ENTRIES {
            fs::write(root.path().join(format!("{index:05}.txt")), "x").expect("written");
        }
        let seen = looked_at(root.path()).1.expect("text");
        assert!(!seen.is_whole && seen.n_files == MOST_ENTRIES, "{seen:?}");
    }
}
