//! The resolved plan.

use serde::{Deserialize, Serialize};

use super::memory::MemoryPlan;
use crate::{arch::ModelShape, config::Precision, data::Prepared, hw::Device};

/// What will happen in a run; written to `plan.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    pub model: ModelShape,
    pub n_params: u64,
    /// Forward and backward; see [`ModelShape::flops_per_token`].
    pub flops_per_token: f64,
    pub precision: Precision,
    pub strategy: Strategy,
    pub communicator: Communicator,
    /// One entry a rank, in rank order.
    pub ranks: Vec<RankPlan>,
    /// Sequences per optimizer step.
    pub global_batch: usize,
    /// Sequences per step of one data-parallel rank.
    pub local_batch: usize,
    /// Sequences per forward pass.
    pub micro_batch: usize,
    /// Forward passes per step of one rank.
    pub grad_accum_steps: usize,
    pub stop: StopPlan,
    /// Smallest size of a gradient bucket whose reduction starts during the backward pass; absent: one
    /// bucket, as on CPU ranks, where nothing runs beside the backward pass.
    pub bucket_bytes: Option<u64>,
    pub data: DataSummary,
    pub memory: MemoryPlan,
    /// Peak FLOP/s of all ranks together, only where every card's is known.
    pub peak_flops: Option<f64>,
    /// What a user should know and did not ask for.
    pub notes: Vec<String>,
}

impl RunPlan {
    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.ranks.len()
    }

    /// Optimizer steps of the run, where that is known beforehand.
    pub fn total_steps(&self) -> Option<u64> {
        match self.stop {
            StopPlan::Steps { steps } => Some(steps),
            StopPlan::Seconds { .. } => None,
        }
    }
}

/// How the ranks share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    Single,
    Ddp,
    Primary,
}

impl Strategy {
    /// The name in events and on screens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Ddp => "ddp",
            Self::Primary => "primary",
        }
    }
}

/// How the ranks talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Communicator {
    /// World of one.
    Solo,
    /// Threads of one process.
    Local,
    /// One rank a GPU.
    Nccl,
}

/// One rank's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPlan {
    pub device: Device,
    /// Threads that compute.
    pub threads: usize,
    /// Shares of a micro-batch that are computed side by side over the same weights, each by
    /// `threads / lanes` intra-op threads. Small operators gain, since nobody waits at each of them.
    pub lanes: usize,
}

/// When the run is complete.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPlan {
    Steps { steps: u64 },
    Seconds { seconds: f64 },
}

/// What the plan needs to know about prepared data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSummary {
    pub train_tokens: u64,
    pub val_tokens: u64,
    pub vocab_size: usize,
    /// Changes whenever the token streams change.
    pub fingerprint: String,
}

impl From<&Prepared> for DataSummary {
    fn from(prepared: &Prepared) -> Self {
        Self {
            train_tokens: prepared.train.len(),
            val_tokens: prepared.val.len(),
            vocab_size: prepared.vocab_size,
            fingerprint: prepared.fingerprint.clone(),
        }
    }
}
