//! What a segment is made of.

use serde::{Deserialize, Serialize};

use super::Sharding;

/// A piece of a model that runs on one device with no communication inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentSpec {
    pub name: String,
    pub role: Role,
    /// Parameters that belong to the segment; one that it borrows (a tied head) stands with its owner.
    pub params: Vec<ParamSpec>,
    /// Names of parameters of other segments that it uses.
    pub borrows: Vec<String>,
    /// FLOPs of the forward pass a token, matrix products only; what stages are balanced by.
    pub forward_flops: f64,
}

/// What a segment is to those who cut a model: where it may be recomputed, where tokens enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes token ids.
    Embedding,
    /// Takes and gives the residual stream; its core attends.
    Attention,
    /// Takes and gives the residual stream.
    Mlp,
    /// Gives logits over the vocabulary.
    Head,
}

/// A parameter tensor under its name in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamSpec {
    pub name: String,
    /// Of the whole parameter, however it is sharded.
    pub shape: Vec<i64>,
    pub init: Init,
    pub sharding: Sharding,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with mean 0.
    Normal {
        std: f64,
    },
}

impl ParamSpec {
    /// A parameter that every tensor-parallel rank holds whole.
    pub fn new(name: &str, shape: &[usize], init: Init) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.iter().map(|&size| size as i64).collect(),
            init,
            sharding: Sharding::Replicated,
        }
    }

    /// The same, cut as `sharding` says.
    #[must_use]
    pub fn sharded(self, sharding: Sharding) -> Self {
        Self { sharding, ..self }
    }

    /// Number of elements of the whole parameter.
    pub fn numel(&self) -> u64 {
        self.shape.iter().map(|&size| size.unsigned_abs()).product()
    }

    /// Whether weight decay applies: to matrices, not to vectors.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}
