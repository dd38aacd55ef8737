//! Model families and their presets, as a user names them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{bounded, llama::LlamaConfig};

/// The model family and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelConfig {
    /// GPT-2 (Radford et al., 2019).
    Gpt(GptConfig),
    /// Llama 3 (Grattafiori et al., 2024): rotary positions, grouped-query attention, SwiGLU.
    Llama(LlamaConfig),
}

impl ModelConfig {
    /// The names of the fields that the preset states; none without a preset.
    pub fn preset_fields(&self) -> Vec<String> {
        let sizes = match self {
            Self::Gpt(gpt) => gpt
                .preset
                .map(|preset| serde_json::to_value(preset.sizes())),
            Self::Llama(llama) => llama
                .preset
                .map(|preset| serde_json::to_value(preset.sizes())),
        };
        let sizes = sizes.and_then(Result::ok).unwrap_or_default();
        let names = sizes.as_object().into_iter().flat_map(|sizes| sizes.keys());
        names.cloned().collect()
    }
}

/// Sizes of a GPT; a preset gives all of them, single fields override it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GptConfig {
    /// Published sizes, or small ones; single fields override it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<GptPreset>,
    /// Layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::LAYERS }>")]
    pub n_layer: Option<usize>,
    /// Attention heads of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::LAYERS }>")]
    pub n_head: Option<usize>,
    /// Width of the residual stream, a multiple of `n_head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::WIDTH }>")]
    pub d_model: Option<usize>,
    /// Tokens of context.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::CONTEXT }>")]
    pub seq_len: Option<usize>,
    /// Rows of the embedding; absent: the tokenizer's vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::TOKENS }>")]
    pub vocab_size: Option<usize>,
    /// Biases in linear and norm layers; absent: as the preset, else true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// Dropout after embeddings, attention and MLP, and on attention weights; in [0, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
}

/// Published sizes, and small ones for trying things out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GptPreset {
    /// 124 M parameters.
    #[serde(rename = "gpt2")]
    Gpt2,
    /// 355 M parameters.
    #[serde(rename = "gpt2-medium")]
    Gpt2Medium,
    /// 774 M parameters.
    #[serde(rename = "gpt2-large")]
    Gpt2Large,
    /// 1.56 B parameters.
    #[serde(rename = "gpt2-xl")]
    Gpt2Xl,
    /// 3 layers of 48, 64 tokens of context: seconds on a CPU.
    #[serde(rename = "gpt-nano")]
    Nano,
    /// 4 layers of 128, 64 tokens of context: minutes on a CPU.
    #[serde(rename = "gpt-micro")]
    Micro,
    /// 6 layers of 384, 256 tokens of context: minutes on a GPU.
    #[serde(rename = "gpt-mini")]
    Mini,
}

impl GptPreset {
    /// Layers, heads, width and context of the preset.
    pub const fn sizes(self) -> GptSizes {
        let (n_layer, n_head, d_model, seq_len) = match self {
            Self::Gpt2 => (12, 12, 768, 1024),
            Self::Gpt2Medium => (24, 16, 1024, 1024),
            Self::Gpt2Large => (36, 20, 1280, 1024),
            Self::Gpt2Xl => (48, 25, 1600, 1024),
            Self::Nano => (3, 3, 48, 64),
            Self::Micro => (4, 4, 128, 64),
            Self::Mini => (6, 6, 384, 256),
        };
        GptSizes {
            n_layer,
            n_head,
            d_model,
            seq_len,
        }
    }
}

/// What a [`GptPreset`] states, by the names of the fields that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GptSizes {
    pub n_layer: usize,
    pub n_head: usize,
    pub d_model: usize,
    pub seq_len: usize,
}
