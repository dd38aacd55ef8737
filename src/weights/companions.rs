//! What lay beside the weights that a run started from, and goes with those that it made.
//!
//! A folder of Hugging Face holds more than weights: ids of special tokens, a chat template, how text is generated, the
//! context that the model was made for. Training changes none of it, so an export keeps it as it stands, and names
//! what it changes or leaves out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    family::{Family, Sizes, is_same},
    source::{SIZES, WHOLE},
};
use crate::{
    base::read::{self, Bound},
    data::TokenizerJson,
};

/// The text of a tokenizer in Hugging Face's form.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// Names of special tokens, and how a tokenizer is used.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const VOCAB: &str = "vocab.json";
/// Files that speak of tokens, so that they are kept where the run has the same tokenizer.
const OF_TOKENS: [&str; 13] = [
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    VOCAB,
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];
/// Settings that mean the same as the model's, whatever their form: weights of another function are refused.
const AS_THEY_STAND: [&str; 9] = [
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "rope_theta",
    "rope_scaling",
    "activation_function",
    "hidden_act",
    "head_dim",
    "n_inner",
];
/// Settings that would be wrong of exported weights: these are whole numbers' no more, and no code lies beside them.
const UNTRUE: [&str; 2] = ["quantization_config", "auto_map"];
const CONTEXTS: [&str; 2] = ["max_position_embeddings", "n_positions"];
/// Names that are listed; a folder may hold any number.
const MOST_NAMED: usize = 8;

/// The small files of a folder of pretrained weights.
pub struct Companions {
    folder: PathBuf,
    config: Map<String, Value>,
    files: Vec<(&'static str, Vec<u8>)>,
    /// Names of what no export keeps.
    others: BTreeSet<String>,
}

/// What an export takes from [`Companions`], and what it says of that.
#[derive(Default)]
pub(super) struct Kept {
    pub config: Map<String, Value>,
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Whether ids of special tokens are those that came with the weights.
    pub has_tokens: bool,
    pub notes: Vec<String>,
}

impl Companions {
    /// Reads what lies beside weights; `None` where these are a file alone.
    ///
    /// # Errors
    /// What can't be read any more, as a sentence.
    pub fn of(pretrained: &Path) -> Result<Option<Self>, String> {
        if pretrained.is_file() {
            return Ok(None);
        }
        let shown = |name: &str| pretrained.join(name).display().to_string();
        let unreadable =
            |name: &str, error: &dyn std::fmt::Display| format!("{}: {error}", shown(name));
        let config = read::bytes(&pretrained.join(SIZES), Bound::TOLD)
            .map_err(|error| unreadable(SIZES, &error))?;
        let config = serde_json::from_slice(&config).map_err(|error| unreadable(SIZES, &error))?;
        let mut found = Self {
            folder: pretrained.to_owned(),
            config,
            files: Vec::new(),
            others: BTreeSet::new(),
        };
        let entries = fs::read_dir(pretrained).map_err(|error| unreadable("", &error))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match OF_TOKENS.iter().find(|known| **known == name) {
                Some(known) => {
                    let bytes = read::bytes(&entry.path(), Bound::TOKENIZER);
                    found
                        .files
                        .push((known, bytes.map_err(|error| unreadable(known, &error))?));
                }
                None if is_weights(&name) || name == SIZES || name.starts_with('.') => {}
                None => drop(found.others.insert(name)),
            }
        }
        found
            .files
            .sort_by_key(|(name, _)| OF_TOKENS.iter().position(|known| known == name));
        Ok(Some(found))
    }

    /// What of it is true of the weights of `family` with the run's tokenizer.
    pub(super) fn keep(&self, family: &dyn Family, own: Option<&TokenizerJson>) -> Kept {
        let theirs = Value::Object(self.config.clone());
        let is_changed = self
            .config
            .get("model_type")
            .is_none_or(|kind| kind != family.model_type())
            || !family.differences(&Sizes(&theirs)).is_empty();
        if is_changed {
            let note = format!(
                "{} is no more the folder that the run started from (its config.json is of another model): nothing of it is kept",
                self.folder.display()
            );
            return Kept {
                notes: vec![note],
                ..Kept::default()
            };
        }
        let mut kept = Kept {
            config: self.config.clone(),
            ..Kept::default()
        };
        kept.settle(family.sizes());
        if own.is_none_or(|own| self.has_tokenizer(own)) {
            kept.files.clone_from(&self.files);
            kept.has_tokens = true;
        } else {
            let names: Vec<&str> = self.files.iter().map(|(name, _)| *name).collect();
            kept.notes.push(format!(
                "the run's tokenizer is another than that of {}: ids of special tokens are the run's, and left out is {}",
                self.folder.display(),
                named(&names)
            ));
        }
        if !self.others.is_empty() {
            let names: Vec<&str> = self.others.iter().map(String::as_str).collect();
            kept.notes.push(format!(
                "left out of {}: {}",
                self.folder.display(),
                named(&names)
            ));
        }
        kept
    }

    /// Whether the folder's tokenizer has the run's tokens under the run's ids.
    fn has_tokenizer(&self, own: &TokenizerJson) -> bool {
        let file = |wanted| self.files.iter().find(|(name, _)| *name == wanted);
        let theirs = match (file(TOKENIZER), file(VOCAB)) {
            (Some((_, json)), _) => tokens(json),
            (None, Some((_, json))) => serde_json::from_slice(json).ok(),
            (None, None) => None,
        };
        theirs.is_some() && theirs == tokens(own.json.as_bytes())
    }
}

impl Kept {
    /// The config as it came, but for what is not true of the exported weights.
    fn settle(&mut self, ours: Map<String, Value>) {
        let is_newer_rope = self.config.contains_key("rope_parameters");
        for (key, value) in ours {
            if is_newer_rope && key.starts_with("rope_") {
                continue;
            }
            let theirs = self.config.get(&key);
            let stays = theirs.is_some_and(|theirs| {
                AS_THEY_STAND.contains(&key.as_str())
                    || is_same(theirs, &value)
                    || (CONTEXTS.contains(&key.as_str()) && theirs.as_f64() > value.as_f64())
            });
            if stays {
                continue;
            }
            if let Some(theirs) = theirs {
                self.notes
                    .push(format!("config.json: {key} is {value}, it was {theirs}"));
            }
            self.config.insert(key, value);
        }
        for key in UNTRUE {
            if self.config.shift_remove(key).is_some() {
                self.notes.push(format!("config.json: {key} is left out"));
            }
        }
    }
}

/// Tokens and ids of a `tokenizer.json`, those of its vocabulary and the added ones.
fn tokens(json: &[u8]) -> Option<BTreeMap<String, u64>> {
    let json: Value = serde_json::from_slice(json).ok()?;
    let mut tokens = BTreeMap::new();
    match &json["model"]["vocab"] {
        Value::Object(vocab) => {
            let ids = vocab
                .iter()
                .filter_map(|(token, id)| Some((token.clone(), id.as_u64()?)));
            tokens.extend(ids);
        }
        // Unigram: a list of tokens and scores.
        Value::Array(vocab) => {
            let names = vocab
                .iter()
                .filter_map(|entry| Some(entry[0].as_str()?.to_owned()));
            tokens.extend(names.zip(0..));
        }
        _ => return None,
    }
    let added = json["added_tokens"].as_array().into_iter().flatten();
    tokens.extend(
        added.filter_map(|token| {
            Some((token["content"].as_str()?.to_owned(), token["id"].as_u64()?))
        }),
    );
    Some(tokens)
}

fn is_weights(name: &str) -> bool {
    const ENDS: [&str; 9] = [
        ".safetensors",
        ".index.json",
        ".bin",
        ".pt",
        ".pth",
        ".h5",
        ".msgpack",
        ".onnx",
        ".gguf",
    ];
    name == WHOLE || ENDS.iter().any(|end| name.ends_with(end))
}

fn named(names: &[&str]) -> String {
    let more = names.len().saturating_sub(MOST_NAMED);
    let first = names[..names.len() - more].join(", ");
    match (more, names.is_empty()) {
        (_, true) => "nothing".to_owned(),
        (0, _) => first,
        _ => format!("{first} and {more} more"),
    }
}
