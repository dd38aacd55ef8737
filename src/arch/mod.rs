//! Models as arithmetic, with no tensors: parameters, FLOPs and activation bytes of each segment.
//!
//! `arch/x.rs` states what `models/x.rs` builds.

pub mod gpt;
pub mod llama;
mod segment;
mod shard;
mod stage;

use serde::{Deserialize, Serialize};

pub use segment::{Init, ParamSpec, Role, SegmentSpec};
pub use shard::{Shard, Sharding};
pub use stage::StageSpec;

/// A model with every size filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelShape {
    Gpt(gpt::GptShape),
    Llama(llama::LlamaShape),
}

impl ModelShape {
    /// The segments in forward order.
    pub fn segments(&self) -> Vec<SegmentSpec> {
        match self {
            Self::Gpt(shape) => shape.segments(),
            Self::Llama(shape) => shape.segments(),
        }
    }

    /// Tokens of context.
    pub fn seq_len(&self) -> usize {
        match self {
            Self::Gpt(shape) => shape.seq_len,
            Self::Llama(shape) => shape.seq_len,
        }
    }

    /// Width of the residual stream.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Gpt(shape) => shape.d_model,
            Self::Llama(shape) => shape.d_model,
        }
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Gpt(shape) => shape.vocab_size,
            Self::Llama(shape) => shape.vocab_size,
        }
    }

    /// Sizes that tensor parallelism must divide, by their names in the config.
    pub fn shardable_sizes(&self) -> Vec<(&'static str, usize)> {
        match self {
            Self::Gpt(shape) => vec![("n_head", shape.n_head)],
            Self::Llama(shape) => vec![
                ("n_head", shape.n_head),
                ("n_kv_head", shape.n_kv_head),
                ("d_ff", shape.d_ff),
            ],
        }
    }

    /// Trainable parameters, a tied one counted once.
    pub fn n_params(&self) -> u64 {
        self.segments()
            .iter()
            .flat_map(|segment| &segment.params)
            .map(ParamSpec::numel)
            .sum()
    }

    /// Whether both compute the same function of the same parameters; dropout may differ.
    pub fn is_same_network(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gpt(a), Self::Gpt(b)) => {
                gpt::GptShape { dropout: 0.0, ..*a } == gpt::GptShape { dropout: 0.0, ..*b }
            }
            (Self::Llama(a), Self::Llama(b)) => a == b,
            _ => false,
        }
    }

    /// FLOPs of forward and backward a token: 6 N + 12 L d_model seq_len (PaLM, appendix B).
    ///
    /// N counts what is multiplied: tables that are only looked up (GPT's positions, an untied embedding) are
    /// left out, and of Llama the norms; the causal half of attention is not taken off.
    pub fn flops_per_token(&self) -> f64 {
        match self {
            Self::Gpt(shape) => shape.flops_per_token(),
            Self::Llama(shape) => shape.flops_per_token(),
        }
    }
}
