//! Bytes of a rank, by what they hold.

use serde::{Deserialize, Serialize};

use crate::{
    arch::{ModelShape, ParamSpec},
    config::{OptimizerConfig, Precision},
};

/// Persistent bytes of one rank; activations and workspaces come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Master weights, and the compute copy where there is one.
    pub params_bytes: u64,
    pub grads_bytes: u64,
    pub optim_state_bytes: u64,
}

impl MemoryPlan {
    /// Computes the bytes of a rank that holds the whole model.
    pub fn of(model: &ModelShape, precision: Precision, optimizer: &OptimizerConfig) -> Self {
        let n: u64 = model
            .segments()
            .iter()
            .flat_map(|segment| &segment.params)
            .map(ParamSpec::numel)
            .sum();
        let (master, copy) = match precision {
            Precision::Fp32 | Precision::Tf32 => (4, 0),
            Precision::Bf16 => (4, 2),
            Precision::Fp64 => (8, 0),
        };
        let moments = match optimizer {
            OptimizerConfig::Adamw(_) => 2,
            OptimizerConfig::Sgd(sgd) if sgd.momentum != 0.0 => 1,
            OptimizerConfig::Sgd(_) => 0,
        };
        Self {
            params_bytes: n * (master + copy),
            grads_bytes: n * master,
            optim_state_bytes: n * master * moments,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.params_bytes + self.grads_bytes + self.optim_state_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::gpt::GptShape;

    #[test]
    fn mixed_precision_with_fp32_gradients_takes_18_bytes_a_parameter() {
        let shape = ModelShape::Gpt(GptShape {
            n_layer: 2,
            n_head: 2,
            d_model: 16,
            seq_len: 8,
            vocab_size: 32,
            bias: true,
            dropout: 0.0,
        });
        let plan = MemoryPlan::of(&shape, Precision::Bf16, &OptimizerConfig::default());
        assert_eq!(plan.total(), 18 * shape.n_params());
    }
}
