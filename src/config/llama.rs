//! Llama's sizes and presets, as a user names them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounded;

/// Sizes of a Llama; a preset gives all of them, single fields override it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LlamaConfig {
    /// Published sizes, or small ones; single fields override it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<LlamaPreset>,
    /// Layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::LAYERS }>")]
    pub n_layer: Option<usize>,
    /// Attention heads of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::LAYERS }>")]
    pub n_head: Option<usize>,
    /// Heads of keys and values, each shared by several of the queries'; absent: as the preset, else `n_head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::LAYERS }>")]
    pub n_kv_head: Option<usize>,
    /// Width of the residual stream, a multiple of `n_head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::WIDTH }>")]
    pub d_model: Option<usize>,
    /// Width of the MLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::WIDTH }>")]
    pub d_ff: Option<usize>,
    /// Tokens of context.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::CONTEXT }>")]
    pub seq_len: Option<usize>,
    /// Rows of the embedding; absent: the tokenizer's vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::TOKENS }>")]
    pub vocab_size: Option<usize>,
    /// Base of the rotary embedding's wavelengths; absent: as the preset, else 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// How the rotary embedding's frequencies are changed for long contexts; absent: as the preset, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// The head multiplies with the embedding's table; absent: as the preset, else false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_embeddings: Option<bool>,
    /// Added to the mean square in norms; absent: 1e-5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
}

/// How the rotary embedding's frequencies are changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// As Llama 3.1: long wavelengths are stretched, short ones stay.
    Llama3(Llama3Scaling),
}

/// Llama 3.1's stretching of long wavelengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Llama3Scaling {
    /// What long wavelengths are stretched by, at least 1.
    pub factor: f64,
    /// Wavelengths that fit fewer times than this into the original context are stretched.
    pub low_freq_factor: f64,
    /// Wavelengths that fit more often than this stay; those between are stretched in part.
    pub high_freq_factor: f64,
    /// Tokens of context before the change.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub original_max_position: usize,
}

/// Published sizes, and small ones for trying things out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LlamaPreset {
    /// 8.03 B parameters with its vocabulary of 128256.
    #[serde(rename = "llama-3.1-8b")]
    Llama31B8,
    /// 3.21 B parameters with its vocabulary of 128256; tied head.
    #[serde(rename = "llama-3.2-3b")]
    Llama32B3,
    /// 1.24 B parameters with its vocabulary of 128256; tied head.
    #[serde(rename = "llama-3.2-1b")]
    Llama32B1,
    /// 3 layers of 48, 64 tokens of context, tied head: seconds on a CPU.
    #[serde(rename = "llama-nano")]
    Nano,
    /// 4 layers of 128, 64 tokens of context: minutes on a CPU.
    #[serde(rename = "llama-micro")]
    Micro,
}

impl LlamaPreset {
    /// Everything that the preset states.
    ///
    /// The published models take 131072 tokens of context; 8192 is what they were trained on for most of the time.
    pub const fn sizes(self) -> LlamaSizes {
        let (n_layer, n_head, n_kv_head, d_model, d_ff) = match self {
            Self::Llama31B8 => (32, 32, 8, 4096, 14_336),
            Self::Llama32B3 => (28, 24, 8, 3072, 8192),
            Self::Llama32B1 => (16, 32, 8, 2048, 8192),
            Self::Nano => (3, 4, 2, 48, 128),
            Self::Micro => (4, 4, 2, 128, 344),
        };
        let (seq_len, rope_theta, rope_scaling) = match self {
            Self::Llama31B8 => (8192, 5e5, Some(stretched(8.0))),
            Self::Llama32B3 | Self::Llama32B1 => (8192, 5e5, Some(stretched(32.0))),
            Self::Nano | Self::Micro => (64, 1e4, None),
        };
        LlamaSizes {
            n_layer,
            n_head,
            n_kv_head,
            d_model,
            d_ff,
            seq_len,
            rope_theta,
            rope_scaling,
            tie_embeddings: !matches!(self, Self::Llama31B8 | Self::Micro),
        }
    }
}

/// As in the `config.json` of Llama 3.1 and 3.2, which differ in the factor.
const fn stretched(factor: f64) -> Llama3Scaling {
    Llama3Scaling {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    }
}

/// What a [`LlamaPreset`] states, by the names of the fields that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LlamaSizes {
    pub n_layer: usize,
    pub n_head: usize,
    pub n_kv_head: usize,
    pub d_model: usize,
    pub d_ff: usize,
    pub seq_len: usize,
    pub rope_theta: f64,
    pub rope_scaling: Option<Llama3Scaling>,
    pub tie_embeddings: bool,
}
