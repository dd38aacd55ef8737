//! The special tokens of a tokenizer: what begins a text, ends one, and fills a batch up.

use serde_json::{Map, Value, json};

use crate::data::TokenizerJson;

/// Names that mean nothing but a filler.
const PADS: [&str; 4] = ["<pad>", "[PAD]", "<|pad|>", "<|padding|>"];

/// Special tokens with their ids, where the tokenizer has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Specials {
    bos: Option<(String, u64)>,
    eos: Option<(String, u64)>,
    pad: Option<(String, u64)>,
}

impl Specials {
    /// Those that `beside` (a `tokenizer_config.json`) names; else what the tokenizer itself puts before a text, the token
    /// between two documents, and a token that is named a filler.
    pub fn of(tokenizer: &TokenizerJson, beside: Option<&Value>) -> Self {
        let json: Value = serde_json::from_str(&tokenizer.json).unwrap_or_default();
        let with_id = |name: &str| Some((name.to_owned(), id(&json, name)?));
        let named = |key: &str| {
            let token = &beside?[key];
            with_id(token.as_str().or_else(|| token["content"].as_str())?)
        };
        let end = tokenizer.end_of_document.as_ref();
        Self {
            bos: named("bos_token")
                .or_else(|| with_id(first_of_template(&json["post_processor"])?)),
            eos: named("eos_token")
                .or_else(|| end.map(|(name, id)| (name.clone(), u64::from(*id)))),
            pad: named("pad_token").or_else(|| PADS.into_iter().find_map(with_id)),
        }
    }

    fn all(&self) -> [(&'static str, Option<&(String, u64)>); 3] {
        [
            ("bos_token", self.bos.as_ref()),
            ("eos_token", self.eos.as_ref()),
            ("pad_token", self.pad.as_ref()),
        ]
    }

    /// The ids for `config.json`; null for what is not there, since `transformers` has defaults of its own.
    pub fn ids(&self) -> Map<String, Value> {
        let ids = self.all().into_iter();
        ids.map(|(key, token)| (format!("{key}_id"), token.map(|(_, id)| *id).into()))
            .collect()
    }

    /// A `tokenizer_config.json` for a tokenizer that has none.
    pub fn tokenizer_config(&self, seq_len: usize) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "model_max_length": seq_len,
        });
        for (key, token) in self.all() {
            if let Some((name, _)) = token {
                config[key] = name.as_str().into();
            }
        }
        config
    }
}

/// The id of an added token, or of one of the vocabulary.
fn id(json: &Value, name: &str) -> Option<u64> {
    let mut added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.find(|token| token["content"] == name);
    added.map_or_else(
        || json["model"]["vocab"][name].as_u64(),
        |token| token["id"].as_u64(),
    )
}

/// The special token that a template puts before a single text.
fn first_of_template(processor: &Value) -> Option<&str> {
    if let Some(all) = processor["processors"].as_array() {
        return all.iter().find_map(first_of_template);
    }
    processor["single"][0]["SpecialToken"]["id"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(json: &Value, end: Option<(&str, u32)>) -> TokenizerJson {
        TokenizerJson {
            json: json.to_string(),
            n_tokens: 8,
            end_of_document: end.map(|(name, id)| (name.to_owned(), id)),
        }
    }

    #[test]
    fn a_beginning_is_no_end() {
        let json = json!({
            "added_tokens": [{ "content": "<s>", "id": 1 }, { "content": "</s>", "id": 2 }, { "content": "<pad>", "id": 3 }],
            "model": { "vocab": { "a": 0, "[X]": 4 } },
            "post_processor": { "type": "Sequence", "processors": [{ "type": "ByteLevel" },
                { "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": {} }] }] },
        });
        let own = tokenizer(&json, Some(("</s>", 2)));
        let ids = |beside: Option<&Value>| Value::Object(Specials::of(&own, beside).ids());
        assert_eq!(
            ids(None),
            json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3 })
        );
        let beside =
            json!({ "bos_token": null, "eos_token": { "content": "[X]" }, "pad_token": "</s>" });
        assert_eq!(
            ids(Some(&beside)),
            json!({ "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2 })
        );
        let bare = tokenizer(
            &json!({ "model": { "vocab": {} } }),
            Some(("<|endoftext|>", 5)),
        );
        assert_eq!(
            Value::Object(Specials::of(&bare, None).ids()),
            json!({ "bos_token_id": null, "eos_token_id": 5, "pad_token_id": null })
        );
    }
}
