//! Bytes of a rank, by what they hold.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Split;
use crate::{
    arch::{ModelShape, SegmentSpec, Shard, StageSpec},
    config::{OptimizerConfig, Precision},
};

/// Persistent bytes of one rank; activations and workspaces come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Master weights, and the compute copy where there is one.
    pub params_bytes: u64,
    pub grads_bytes: u64,
    pub optim_state_bytes: u64,
    /// Weights that are whole for now, under ZeRO's third stage.
    #[serde(default)]
    pub gathered_bytes: u64,
}

/// What decides the bytes of a parameter.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub precision: Precision,
    /// Gradients in the type that the model computes with.
    pub short_grads: bool,
    pub optimizer: &'a OptimizerConfig,
}

impl Kept<'_> {
    /// Bytes of an element: of the master, of its copy that the model computes with (0: the master itself), of
    /// a gradient.
    fn element_bytes(&self) -> (u64, u64, u64) {
        match self.precision {
            Precision::Fp32 | Precision::Tf32 => (4, 0, 4),
            Precision::Bf16 if self.short_grads => (4, 2, 2),
            Precision::Bf16 => (4, 2, 4),
            Precision::Fp64 => (8, 0, 8),
        }
    }
}

impl MemoryPlan {
    /// Computes the bytes of the rank that holds most; padding of views is left out.
    pub fn of(model: &ModelShape, split: &Split, kept: Kept<'_>) -> Self {
        let segments = model.segments();
        let n_params = |stage: usize| -> u64 {
            let stage = StageSpec::of(&segments, &split.chunks, stage);
            let params = stage.segments.iter().flat_map(|segment| &segment.params);
            params.map(|param| split.shard(0).numel(param) as u64).sum()
        };
        let most = (0..split.chunks.len()).map(n_params).max().unwrap_or(0);
        let mut plan = Self::of_params(most, split, kept);
        if split.data.zero() == 3 {
            let (master, copy, _) = kept.element_bytes();
            let element = if copy > 0 { copy } else { master };
            plan.gathered_bytes = gathered_params(&segments, split.shard(0)) * element;
        }
        plan
    }

    fn of_params(n: u64, split: &Split, kept: Kept<'_>) -> Self {
        let (master, copy, grad) = kept.element_bytes();
        let moments = match kept.optimizer {
            OptimizerConfig::Adamw(_) => 2,
            OptimizerConfig::Sgd(sgd) if sgd.momentum != 0.0 => 1,
            OptimizerConfig::Sgd(_) => 0,
        };
        let zero = split.data.zero();
        let share = |from: u8| match zero >= from {
            true => n.div_ceil(split.mesh.dp as u64),
            false => n,
        };
        // Where the model computes with the master itself, it is sharded with the parameters only.
        let master_kept = if copy > 0 { share(1) } else { share(3) };
        Self {
            params_bytes: master_kept * master + share(3) * copy,
            grads_bytes: share(2) * grad,
            optim_state_bytes: share(1) * master * moments,
            gathered_bytes: 0,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.params_bytes + self.grads_bytes + self.optim_state_bytes + self.gathered_bytes
    }
}

/// Parameters of the slots that segments are gathered into: each computes while the next one arrives, with
/// what both borrow, and a slot serves segments of its size.
fn gathered_params(segments: &[SegmentSpec], shard: Shard) -> u64 {
    let size = |number: usize| -> u64 {
        let params = segments[number].params.iter();
        params.map(|param| shard.numel(param) as u64).sum()
    };
    let owner = |name: &String| {
        let owns = |segment: &SegmentSpec| segment.params.iter().any(|param| param.name == *name);
        segments.iter().position(owns)
    };
    let needs = |number: usize| -> Vec<usize> {
        let borrowed = segments[number].borrows.iter().filter_map(owner);
        borrowed.chain([number]).collect()
    };
    let mut slots: HashMap<u64, usize> = HashMap::new();
    for number in 0..segments.len() {
        let next = (number + 1).min(segments.len() - 1);
        let mut held = [needs(number), needs(next)].concat();
        held.sort_unstable();
        held.dedup();
        let mut at_once: HashMap<u64, usize> = HashMap::new();
        for number in held {
            *at_once.entry(size(number)).or_default() += 1;
        }
        for (size, n) in at_once {
            let most = slots.entry(size).or_default();
            *most = n.max(*most);
        }
    }
    slots.iter().map(|(size, n)| size * *n as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{PipelineSchedule, Recompute},
        plan::{Mesh, Strategy},
    };

    fn per_param(data: Strategy, (precision, short_grads): (Precision, bool), dp: usize) -> f64 {
        const N: u64 = 1 << 20;
        let split = Split {
            mesh: Mesh { pp: 1, dp, tp: 1 },
            data,
            schedule: PipelineSchedule::default(),
            chunks: Vec::new(),
            sequence_parallel: false,
            recompute: Recompute::None,
        };
        let kept = Kept {
            precision,
            short_grads,
            optimizer: &OptimizerConfig::default(),
        };
        MemoryPlan::of_params(N, &split, kept).total() as f64 / N as f64
    }

    /// Rajbhandari et al., 2020, table 1; fp32 gradients take two bytes more.
    #[test]
    fn zero_takes_its_published_bytes_a_parameter() {
        let (short, long, fp32) = (
            (Precision::Bf16, true),
            (Precision::Bf16, false),
            (Precision::Fp32, false),
        );
        for n in [2, 4, 8] {
            let share = n as f64;
            for (data, published, with_long) in [
                (Strategy::Ddp, 16.0, 18.0),
                (Strategy::Zero1, 4.0 + 12.0 / share, 6.0 + 12.0 / share),
                (Strategy::Zero2, 2.0 + 14.0 / share, 2.0 + 16.0 / share),
                (Strategy::Zero3, 16.0 / share, 18.0 / share),
            ] {
                assert_eq!(per_param(data, short, n), published);
                assert_eq!(per_param(data, long, n), with_long);
            }
            assert_eq!(per_param(Strategy::Zero1, fp32, n), 8.0 + 8.0 / share);
            assert_eq!(per_param(Strategy::Zero3, fp32, n), 16.0 / share);
        }
    }
}
