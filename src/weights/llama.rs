//! Llama as `transformers` has it: `LlamaForCausalLM`.

use serde_json::{Map, Value, json};

use super::family::{Family, Sizes, misfit};
use crate::{
    arch::{ModelShape, ParamSpec, llama::LlamaShape},
    config::Llama3Scaling,
    plan::Refusal,
};

/// What `transformers` puts before the names of all but the head.
const PREFIX: &str = "model.";
const ROPE_SCALING: &str = "model.llama.rope_scaling";

/// A Llama in the words of `transformers`.
pub(super) struct Llama<'a>(pub &'a LlamaShape);

impl Family for Llama<'_> {
    fn key(&self) -> &'static str {
        "model.llama"
    }

    fn model_type(&self) -> &'static str {
        "llama"
    }

    fn n_layer(&self) -> usize {
        self.0.n_layer
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        vec![name.to_owned(), format!("{PREFIX}{name}")]
    }

    fn untied(&self) -> String {
        "set model.llama.tie_embeddings to false".to_owned()
    }

    fn biased(&self) -> String {
        "give weights without them".to_owned()
    }

    fn absent(&self, name: &str) -> String {
        if name == "lm_head.weight" {
            "set model.llama.tie_embeddings to true".to_owned()
        } else {
            "give weights of the model that is trained".to_owned()
        }
    }

    fn differences(&self, sizes: &Sizes<'_>) -> Vec<Refusal> {
        let shape = self.0;
        let heads = sizes.get("num_attention_heads", 32);
        let kv_heads = sizes.get("num_key_value_heads", heads.clone());
        let eps = sizes.get("rms_norm_eps", 1e-6);
        let head_dim = shape.head_dim();
        let mut found: Vec<Refusal> = [
            sizes.settable("model.llama.n_head", &heads, shape.n_head.into()),
            sizes.settable("model.llama.n_kv_head", &kv_heads, shape.n_kv_head.into()),
            sizes.settable("model.llama.norm_eps", &eps, shape.norm_eps.into()),
            sizes.fixed("head_dim", head_dim, &[head_dim.into()]),
            sizes.fixed("hidden_act", "silu", &["silu".into()]),
        ]
        .into_iter()
        .flatten()
        .collect();
        found.extend(self.rope_differences(sizes));
        found
    }

    fn sizes(&self) -> Map<String, Value> {
        let shape = self.0;
        let sizes = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": shape.vocab_size,
            "max_position_embeddings": shape.seq_len,
            "hidden_size": shape.d_model,
            "intermediate_size": shape.d_ff,
            "num_hidden_layers": shape.n_layer,
            "num_attention_heads": shape.n_head,
            "num_key_value_heads": shape.n_kv_head,
            "head_dim": shape.head_dim(),
            "hidden_act": "silu",
            "rms_norm_eps": shape.norm_eps,
            "rope_theta": shape.rope_theta,
            "rope_scaling": shape.rope_scaling.as_ref().map(as_theirs),
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": shape.tie_embeddings,
        });
        match sizes {
            Value::Object(sizes) => sizes,
            _ => Map::new(),
        }
    }

    fn exported(&self) -> Vec<ParamSpec> {
        let segments = ModelShape::Llama(*self.0).segments();
        segments
            .into_iter()
            .flat_map(|segment| segment.params)
            .collect()
    }

    fn may_be_zero(&self, _: &str) -> bool {
        false
    }

    fn exported_name(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl Llama<'_> {
    /// Version 5 of `transformers` writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
    fn rope_differences(&self, sizes: &Sizes<'_>) -> Vec<Refusal> {
        let old = sizes.get("rope_scaling", Value::Null);
        let rope = Sizes(sizes.0.get("rope_parameters").unwrap_or(&old));
        let theta = rope.get("rope_theta", sizes.get("rope_theta", 10_000.0));
        let theta = sizes.settable("model.llama.rope_theta", &theta, self.0.rope_theta.into());
        let kind = rope.get("rope_type", rope.get("type", "default"));
        let theirs = match kind.as_str() {
            Some("default") => Ok(None),
            Some("llama3") => match as_ours(&rope) {
                Some(theirs) => Ok(Some(theirs)),
                None => Err("lacks one of its numbers"),
            },
            _ => Err("is none that capstan computes (\"default\" and \"llama3\")"),
        };
        let scaling = match theirs {
            Ok(theirs) if theirs == self.0.rope_scaling => None,
            Ok(theirs) => {
                let words = |scaling: Option<&Llama3Scaling>| {
                    scaling.map_or_else(|| json!("none"), |scaling| json!({ "llama3": scaling }))
                };
                let ours = words(self.0.rope_scaling.as_ref());
                sizes.settable(ROPE_SCALING, &words(theirs.as_ref()), ours)
            }
            Err(problem) => {
                let problem = format!(
                    "the weights' config.json has a rotary embedding of type {kind}, which {problem}"
                );
                Some(misfit(problem, "these weights can't be used"))
            }
        };
        theta.into_iter().chain(scaling).collect()
    }
}

fn as_theirs(scaling: &Llama3Scaling) -> Value {
    json!({
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position,
    })
}

fn as_ours(rope: &Sizes<'_>) -> Option<Llama3Scaling> {
    let number = |key: &str| rope.get(key, Value::Null).as_f64();
    Some(Llama3Scaling {
        factor: number("factor")?,
        low_freq_factor: number("low_freq_factor")?,
        high_freq_factor: number("high_freq_factor")?,
        original_max_position: number("original_max_position_embeddings")? as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALING: Llama3Scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };

    fn shape(rope_scaling: Option<Llama3Scaling>) -> LlamaShape {
        LlamaShape {
            n_layer: 2,
            n_head: 4,
            n_kv_head: 2,
            d_model: 32,
            d_ff: 48,
            seq_len: 16,
            vocab_size: 37,
            rope_theta: 5e5,
            rope_scaling,
            tie_embeddings: false,
            norm_eps: 1e-5,
        }
    }

    fn found(shape: &LlamaShape, sizes: &Value) -> Vec<String> {
        let found = Llama(shape).differences(&Sizes(sizes));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_exported_fits() {
        for scaling in [None, Some(SCALING)] {
            let shape = shape(scaling);
            let sizes = Value::Object(Llama(&shape).sizes());
            assert_eq!(found(&shape, &sizes), [""; 0]);
        }
    }

    #[test]
    fn the_newer_form_means_the_same() {
        let shape = shape(Some(SCALING));
        let mut sizes = Llama(&shape).sizes();
        let mut rope = as_theirs(&SCALING);
        rope["rope_theta"] = 5e5.into();
        sizes.remove("rope_theta");
        sizes.remove("rope_scaling");
        sizes.insert("rope_parameters".to_owned(), rope);
        assert_eq!(found(&shape, &Value::Object(sizes)), [""; 0]);
    }

    #[test]
    fn each_setting_counts() {
        let shape = shape(Some(SCALING));
        for (key, value, words) in [
            (
                "num_attention_heads",
                json!(8),
                "model.llama.n_head: is 4, the weights' config.json has 8; set it to 8",
            ),
            (
                "num_key_value_heads",
                Value::Null,
                "model.llama.n_kv_head: is 2, the weights' config.json has 4; set it to 4",
            ),
            (
                "rms_norm_eps",
                Value::Null,
                "model.llama.norm_eps: is 0.00001, the weights' config.json has 1e-6; set it to 1e-6",
            ),
            (
                "rope_theta",
                json!(1e4),
                "model.llama.rope_theta: is 500000.0, the weights' config.json has 10000.0; set it to 10000.0",
            ),
            (
                "rope_scaling",
                Value::Null,
                "the weights' config.json has \"none\"; set it to \"none\"",
            ),
            (
                "rope_scaling",
                json!({ "type": "linear", "factor": 2.0 }),
                "a rotary embedding of type \"linear\"",
            ),
            (
                "rope_scaling",
                json!({ "rope_type": "llama3" }),
                "a rotary embedding of type \"llama3\", which lacks one of its numbers",
            ),
            (
                "hidden_act",
                json!("gelu"),
                "config.json has hidden_act \"gelu\", capstan computes \"silu\"",
            ),
            (
                "head_dim",
                json!(16),
                "config.json has head_dim 16, capstan computes 8",
            ),
        ] {
            let mut sizes = Value::Object(Llama(&shape).sizes());
            sizes[key] = value;
            let found = found(&shape, &sizes);
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{key}: {found:?}"
            );
        }
    }
}
