//! The resolved plan.

use std::{collections::BTreeSet, ops::Range, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Mesh, memory::MemoryPlan};
use crate::{
    arch::{ModelShape, Shard, StageSpec},
    config::{Attention, ParallelConfig, PipelineSchedule, Precision, Recompute},
    data::{Prepared, SeenFile},
    hw::Device,
};

/// What will happen in a run; written to `plan.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    pub model: ModelShape,
    pub n_params: u64,
    /// Forward and backward; see [`ModelShape::flops_per_token`].
    pub flops_per_token: f64,
    pub precision: Precision,
    #[serde(default)]
    pub attention: Attention,
    /// libtorch may choose cuDNN's attention on some of the ranks' GPUs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cudnn_attention: bool,
    /// Gradients are kept in the type that the model computes with, since none are accumulated.
    #[serde(default)]
    pub short_grads: bool,
    pub split: Split,
    pub communicator: Communicator,
    /// Worker processes, each with as many ranks, in order.
    #[serde(default = "one")]
    pub n_workers: usize,
    /// One entry a rank, in rank order.
    pub ranks: Vec<RankPlan>,
    /// UUIDs of the machine's GPUs in the order of their indices, where ranks have some: their worker sees these, and
    /// counts them so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_uuids: Vec<String>,
    /// Some of the ranks' GPUs can't reach each other's memory: NCCL goes through the host's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lacks_peer_access: bool,
    /// Sequences per optimizer step.
    pub global_batch: usize,
    /// Sequences per step of one data-parallel replica.
    pub local_batch: usize,
    /// Sequences per forward pass.
    pub micro_batch: usize,
    /// Forward passes per step of one replica: a pipeline's micro-batches.
    pub grad_accum_steps: usize,
    pub stop: StopPlan,
    /// Smallest size of a gradient bucket whose reduction starts during the backward pass; absent: one
    /// bucket, as on CPU ranks, where nothing runs beside the backward pass.
    pub bucket_bytes: Option<u64>,
    pub data: DataSummary,
    pub memory: MemoryPlan,
    /// Weights that the run starts from; absent: they are made from the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSummary>,
    /// Peak FLOP/s of all ranks together, only where every card's is known.
    pub peak_flops: Option<f64>,
    /// What a user should know and did not ask for.
    pub notes: Vec<String>,
}

const fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl RunPlan {
    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.ranks.len()
    }

    /// The GPUs that ranks have, each once, by CUDA's index; none of a run on CPU.
    pub fn gpus(&self) -> Vec<usize> {
        let index = |rank: &RankPlan| match rank.device {
            Device::Cuda(index) => Some(index),
            Device::Cpu => None,
        };
        let indices: BTreeSet<usize> = self.ranks.iter().filter_map(index).collect();
        indices.into_iter().collect()
    }

    /// Whether what a rank's device holds is the rank's: on a CPU, or on a GPU of its own.
    pub fn has_own_device(&self, rank: usize) -> bool {
        let device = self.ranks[rank].device;
        let n_sharing = self.ranks.iter().filter(|other| other.device == device);
        device == Device::Cpu || n_sharing.count() == 1
    }

    /// Bytes of a checkpoint's tensors, with `n_state` buffers of optimizer state.
    pub fn checkpoint_bytes(&self, n_state: usize) -> u64 {
        let element = match self.precision {
            Precision::Fp64 => 8,
            Precision::Fp32 | Precision::Tf32 | Precision::Bf16 => 4,
        };
        self.n_params * element * (1 + n_state as u64)
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub mesh: Mesh,
    /// What happens on the data-parallel axis.
    pub data: Strategy,
    pub schedule: PipelineSchedule,
    /// Segments of each stage, chunk by chunk; several chunks under the interleaved schedule.
    pub chunks: Vec<Vec<Range<usize>>>,
    pub sequence_parallel: bool,
    pub recompute: Recompute,
}

impl Split {
    /// The name in events and on screens, such as `ddp` or `pipeline + tensor + zero1`.
    pub fn name(&self) -> String {
        let mut parts = Vec::new();
        if self.mesh.pp > 1 {
            parts.push("pipeline");
        }
        if self.mesh.tp > 1 {
            parts.push("tensor");
        }
        if self.data != Strategy::Single || parts.is_empty() {
            parts.push(self.data.name());
        }
        parts.join(" + ")
    }

    /// The segments of a stage.
    pub fn stage(&self, model: &ModelShape, stage: usize) -> StageSpec {
        StageSpec::of(&model.segments(), &self.chunks, stage)
    }

    /// The part of sharded parameters that tensor-parallel rank `index` holds.
    pub fn shard(&self, index: usize) -> Shard {
        Shard {
            index,
            of: self.mesh.tp,
        }
    }

    /// Parts that data-parallel ranks cut flat buffers into.
    pub fn n_parts(&self) -> usize {
        match self.data.zero() {
            0 => 1,
            _ => self.mesh.dp,
        }
    }

    /// The same split as a user writes it, for comparison.
    pub fn as_config(&self) -> ParallelConfig {
        ParallelConfig {
            dp: self.mesh.dp,
            tp: self.mesh.tp,
            pp: self.mesh.pp,
            zero: self.data.zero(),
            schedule: self.schedule,
            virtual_stages: self.chunks.first().map_or(1, Vec::len),
            sequence_parallel: self.sequence_parallel,
            recompute: self.recompute,
            primary: self.data == Strategy::Primary,
        }
    }
}

/// How data-parallel ranks come to the same update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    Single,
    Ddp,
    Primary,
    Zero1,
    Zero2,
    Zero3,
}

impl Strategy {
    /// The name in events and on screens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Ddp => "ddp",
            Self::Primary => "primary",
            Self::Zero1 => "zero1",
            Self::Zero2 => "zero2",
            Self::Zero3 => "zero3",
        }
    }

    /// ZeRO's stage; 0 where every rank keeps everything.
    pub const fn zero(self) -> u8 {
        match self {
            Self::Single | Self::Ddp | Self::Primary => 0,
            Self::Zero1 => 1,
            Self::Zero2 => 2,
            Self::Zero3 => 3,
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
    /// CPU ranks in several processes, through the supervisor.
    Host,
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
    /// The first of the files that the tokens were made of, and the tokenizer's; absent in plans of an earlier version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SeenFile>,
}

/// Weights that were found and fit the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitSummary {
    pub path: PathBuf,
    pub n_files: usize,
    /// Tensors that the model takes.
    pub n_tensors: usize,
    /// Their number formats, such as `F16`.
    pub dtypes: Vec<String>,
}

impl From<&Prepared> for DataSummary {
    fn from(prepared: &Prepared) -> Self {
        Self {
            train_tokens: prepared.train.len(),
            val_tokens: prepared.val.len(),
            vocab_size: prepared.vocab_size,
            fingerprint: prepared.fingerprint.clone(),
            files: prepared.files.clone(),
        }
    }
}
