//! The split between data and model parallelism, as a user names it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounded;

/// Degrees of the split between data and model parallelism; an unnamed axis is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelConfig {
    /// Data-parallel ranks: each trains on its share of the batch.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::RANKS }>")]
    pub dp: usize,
    /// Tensor-parallel ranks: each computes its share of every layer.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::RANKS }>")]
    pub tp: usize,
    /// Pipeline stages: each computes its share of the layers.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::RANKS }>")]
    pub pp: usize,
    /// What data-parallel ranks shard (ZeRO): 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters.
    pub zero: u8,
    /// The order of a pipeline's forward and backward passes.
    pub schedule: PipelineSchedule,
    /// Chunks of layers that a pipeline stage holds; above 1 for the interleaved schedule.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::RANKS }>")]
    pub virtual_stages: usize,
    /// Tensor-parallel ranks also share what lies between the matrix products, along the sequence.
    pub sequence_parallel: bool,
    /// What is computed again in the backward pass rather than kept.
    pub recompute: Recompute,
    /// Gather gradients to rank 0, update there, broadcast (the textbook parameter server).
    pub primary: bool,
}

/// The order of a pipeline's forward and backward passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PipelineSchedule {
    /// All forward passes, then all backward passes (Huang et al., 2019).
    #[serde(rename = "gpipe")]
    Gpipe,
    /// One forward, one backward: as many micro-batches are kept as there are stages (Narayanan et al., 2019).
    #[default]
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// 1f1b over several chunks of layers a stage: a smaller bubble, more hand-offs (Narayanan et al., 2021).
    #[serde(rename = "interleaved")]
    Interleaved,
}

/// What is computed again in the backward pass rather than kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    #[default]
    None,
    /// The cores of attention segments.
    Selective,
    /// Every layer; its input is kept.
    Full,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self {
            dp: 1,
            tp: 1,
            pp: 1,
            zero: 0,
            schedule: PipelineSchedule::default(),
            virtual_stages: 1,
            sequence_parallel: false,
            recompute: Recompute::None,
            primary: false,
        }
    }
}
