//! GPT-2 as arithmetic. Names and layouts are those of Hugging Face's GPT-2: linear weights are `[in, out]`.

use serde::{Deserialize, Serialize};

use super::{Init, ParamSpec, Role, SegmentSpec, Sharding};

/// Standard deviation of the initial weights (Radford et al., 2019).
const INIT_STD: f64 = 0.02;
/// Added to the variance in layer norms, as GPT-2 has it.
pub const LAYER_NORM_EPS: f64 = 1e-5;

/// A GPT with every size filled in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GptShape {
    pub n_layer: usize,
    pub n_head: usize,
    pub d_model: usize,
    pub seq_len: usize,
    pub vocab_size: usize,
    pub bias: bool,
    pub dropout: f64,
}

impl GptShape {
    /// Embedding, two segments a layer (attention, MLP), head.
    pub fn segments(&self) -> Vec<SegmentSpec> {
        let mut segments = vec![self.embedding()];
        for layer in 0..self.n_layer {
            segments.extend([self.attention(layer), self.mlp(layer)]);
        }
        segments.push(self.head());
        segments
    }

    /// See [`ModelShape::flops_per_token`](super::ModelShape::flops_per_token).
    pub fn flops_per_token(&self) -> f64 {
        let n_params: u64 = self
            .segments()
            .iter()
            .flat_map(|segment| &segment.params)
            .map(ParamSpec::numel)
            .sum();
        let n_positions = self.seq_len * self.d_model;
        6.0 * (n_params as f64 - n_positions as f64)
            + 12.0 * (self.n_layer * self.d_model * self.seq_len) as f64
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_head
    }

    fn embedding(&self) -> SegmentSpec {
        let tokens = normal("wte.weight", &[self.vocab_size, self.d_model], INIT_STD);
        SegmentSpec {
            name: "embedding".to_owned(),
            role: Role::Embedding,
            params: vec![
                tokens.sharded(Sharding::Vocab),
                normal("wpe.weight", &[self.seq_len, self.d_model], INIT_STD),
            ],
            borrows: Vec::new(),
            forward_flops: 0.0,
        }
    }

    fn attention(&self, layer: usize) -> SegmentSpec {
        let prefix = format!("h.{layer}.attn");
        let width = self.d_model;
        let mut params = self.column_parallel(&format!("{prefix}.c_attn"), 3 * width, 3);
        params.extend(self.row_parallel(&format!("{prefix}.c_proj"), width));
        params.extend(self.norm(&format!("h.{layer}.ln_1")));
        let matmuls = 8 * width * width + 4 * self.seq_len * width;
        SegmentSpec {
            name: prefix,
            role: Role::Attention,
            params,
            borrows: Vec::new(),
            forward_flops: matmuls as f64,
        }
    }

    fn mlp(&self, layer: usize) -> SegmentSpec {
        let prefix = format!("h.{layer}.mlp");
        let width = self.d_model;
        let mut params = self.column_parallel(&format!("{prefix}.c_fc"), 4 * width, 1);
        params.extend(self.row_parallel(&format!("{prefix}.c_proj"), 4 * width));
        params.extend(self.norm(&format!("h.{layer}.ln_2")));
        SegmentSpec {
            name: prefix,
            role: Role::Mlp,
            params,
            borrows: Vec::new(),
            forward_flops: (16 * width * width) as f64,
        }
    }

    fn head(&self) -> SegmentSpec {
        SegmentSpec {
            name: "head".to_owned(),
            role: Role::Head,
            params: self.norm("ln_f"),
            borrows: vec!["wte.weight".to_owned()],
            forward_flops: (2 * self.vocab_size * self.d_model) as f64,
        }
    }

    /// Projections that end in the residual stream start smaller, by the number of additions to it.
    fn residual_std(&self) -> f64 {
        INIT_STD / ((2 * self.n_layer) as f64).sqrt()
    }

    /// From the width to `n_out`, of which each tensor-parallel rank computes a part.
    fn column_parallel(&self, name: &str, n_out: usize, blocks: i64) -> Vec<ParamSpec> {
        let split = |dim| Sharding::Split { dim, blocks };
        let weight = normal(&format!("{name}.weight"), &[self.d_model, n_out], INIT_STD);
        let bias = ParamSpec::new(&format!("{name}.bias"), &[n_out], Init::Zeros);
        self.with_bias(weight.sharded(split(1)), bias.sharded(split(0)))
    }

    /// From `n_in`, of which each rank has a part, to the width; the bias is added to the sum.
    fn row_parallel(&self, name: &str, n_in: usize) -> Vec<ParamSpec> {
        let split = Sharding::Split { dim: 0, blocks: 1 };
        let shape = [n_in, self.d_model];
        let weight = normal(&format!("{name}.weight"), &shape, self.residual_std());
        let bias = ParamSpec::new(&format!("{name}.bias"), &[self.d_model], Init::Zeros);
        self.with_bias(weight.sharded(split), bias)
    }

    fn norm(&self, name: &str) -> Vec<ParamSpec> {
        let vector = |part, init| ParamSpec::new(&format!("{name}.{part}"), &[self.d_model], init);
        self.with_bias(vector("weight", Init::Ones), vector("bias", Init::Zeros))
    }

    fn with_bias(&self, weight: ParamSpec, bias: ParamSpec) -> Vec<ParamSpec> {
        let mut params = vec![weight];
        params.extend(self.bias.then_some(bias));
        params
    }
}

fn normal(name: &str, shape: &[usize], std: f64) -> ParamSpec {
    ParamSpec::new(name, shape, Init::Normal { std })
}

#[cfg(test)]
mod tests {
    use crate::arch::ModelShape;

    use super::*;

    #[test]
    fn gpt2_has_its_published_parameters() {
        let shape = GptShape {
            n_layer: 12,
            n_head: 12,
            d_model: 768,
            seq_len: 1024,
            vocab_size: 50_257,
            bias: true,
            dropout: 0.0,
        };
        assert_eq!(ModelShape::Gpt(shape).n_params(), 124_439_808);
    }
}
