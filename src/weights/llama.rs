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
        let tied = sizes.get("tie_word_embeddings", false) == true && !shape.tie_embeddings;
        let head_dim = shape.head_dim();
        let mut found: Vec<Refusal> = [
            sizes.settable("model.llama.n_head", &heads, shape.n_head.into()),
            sizes.settable("model.llama.n_kv_head", &kv_heads, shape.n_kv_head.into()),
            sizes.settable("model.llama.norm_eps", &eps, shape.norm_eps.into()),
            tied.then(|| sizes.settable("model.llama.tie_embeddings", &true.into(), false.into()))
                .flatten(),
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
            Some("llama3") => as_ours(&rope).map(Some),
            _ => Err(()),
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
            Err(()) => {
                let problem = format!(
                    "the weights' config.json has a rotary embedding of type {kind}, capstan computes \"default\" and \"llama3\""
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

fn as_ours(rope: &Sizes<'_>) -> Result<Llama3Scaling, ()> {
    let number = |key: &str| rope.get(key, Value::Null).as_f64().ok_or(());
    Ok(Llama3Scaling {
        factor: number("factor")?,
        low_freq_factor: number("low_freq_factor")?,
        high_freq_factor: number("high_freq_factor")?,
        original_max_position: number("original_max_position_embeddings")? as usize,
    })
}
