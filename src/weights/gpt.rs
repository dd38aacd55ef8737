//! GPT-2 as `transformers` has it: `GPT2LMHeadModel`.

use serde_json::{Map, Value, json};

use super::family::{Family, Sizes};
use crate::{
    arch::{
        ModelShape, ParamSpec,
        gpt::{GptShape, LAYER_NORM_EPS},
    },
    plan::Refusal,
};

/// What `transformers` puts before the names of a model with a head.
const PREFIX: &str = "transformer.";

/// A GPT in the words of `transformers`.
pub(super) struct Gpt<'a>(pub &'a GptShape);

impl Family for Gpt<'_> {
    fn key(&self) -> &'static str {
        "model.gpt"
    }

    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn n_layer(&self) -> usize {
        self.0.n_layer
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        vec![name.strip_prefix(PREFIX).unwrap_or(name).to_owned()]
    }

    fn untied(&self) -> String {
        "give weights with a tied head".to_owned()
    }

    fn biased(&self) -> String {
        "set model.gpt.bias to true".to_owned()
    }

    fn absent(&self, name: &str) -> String {
        if name.ends_with(".bias") {
            "set model.gpt.bias to false, or give weights with biases".to_owned()
        } else {
            "give weights of the model that is trained".to_owned()
        }
    }

    fn differences(&self, sizes: &Sizes<'_>) -> Vec<Refusal> {
        let n_head = sizes.get("n_head", 12);
        let tanh = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"].map(Value::from);
        [
            sizes.settable("model.gpt.n_head", &n_head, self.0.n_head.into()),
            sizes.fixed("activation_function", "gelu_new", &tanh),
            sizes.fixed(
                "layer_norm_epsilon",
                LAYER_NORM_EPS,
                &[LAYER_NORM_EPS.into()],
            ),
            sizes.fixed("scale_attn_weights", true, &[true.into()]),
            sizes.fixed("scale_attn_by_inverse_layer_idx", false, &[false.into()]),
            sizes.fixed("add_cross_attention", false, &[false.into()]),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn sizes(&self) -> Map<String, Value> {
        let shape = self.0;
        let sizes = json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": shape.vocab_size,
            "n_positions": shape.seq_len,
            "n_embd": shape.d_model,
            "n_layer": shape.n_layer,
            "n_head": shape.n_head,
            "n_inner": null,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": LAYER_NORM_EPS,
            "embd_pdrop": shape.dropout,
            "attn_pdrop": shape.dropout,
            "resid_pdrop": shape.dropout,
            "scale_attn_weights": true,
            "tie_word_embeddings": true,
        });
        match sizes {
            Value::Object(sizes) => sizes,
            _ => Map::new(),
        }
    }

    /// `GPT2LMHeadModel` has all biases, whatever its config says.
    fn exported(&self) -> Vec<ParamSpec> {
        let with_biases = GptShape {
            bias: true,
            ..*self.0
        };
        let segments = ModelShape::Gpt(with_biases).segments();
        segments
            .into_iter()
            .flat_map(|segment| segment.params)
            .collect()
    }

    fn may_be_zero(&self, name: &str) -> bool {
        !self.0.bias && name.ends_with(".bias")
    }

    fn exported_name(&self, name: &str) -> String {
        format!("{PREFIX}{name}")
    }
}
