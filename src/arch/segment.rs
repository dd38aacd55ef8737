//! What a segment is made of.

use serde::{Deserialize, Serialize};

/// A piece of a model that runs on one device with no communication inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentSpec {
    pub name: String,
    /// Parameters that belong to the segment; one that it borrows (a tied head) stands with its owner.
    pub params: Vec<ParamSpec>,
    /// Names of parameters of other segments that it uses.
    pub borrows: Vec<String>,
}

/// A parameter tensor under its name in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Vec<i64>,
    pub init: Init,
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
    /// Number of elements.
    pub fn numel(&self) -> u64 {
        self.shape.iter().map(|&size| size.unsigned_abs()).product()
    }

    /// Whether weight decay applies: to matrices, not to vectors.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}
