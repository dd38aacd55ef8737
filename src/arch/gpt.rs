//! GPT-2 as arithmetic. Names and layouts are those of Hugging Face's GPT-2: linear weights are `[in, out]`.

use serde::{Deserialize, Serialize};

use super::{Init, ParamSpec, SegmentSpec};

/// Standard deviation of the initial weights (Radford et al., 2019).
const INIT_STD: f64 = 0.02;

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
        let params = vec![
            normal("wte.weight", &[self.vocab_size, self.d_model], INIT_STD),
            normal("wpe.weight", &[self.seq_len, self.d_model], INIT_STD),
        ];
        SegmentSpec {
            name: "embedding".to_owned(),
            params,
            borrows: Vec::new(),
        }
    }

    fn attention(&self, layer: usize) -> SegmentSpec {
        let prefix = format!("h.{layer}.attn");
        let mut params = self.linear(
            &format!("{prefix}.c_attn"),
            self.d_model,
            3 * self.d_model,
            INIT_STD,
        );
        params.extend(self.linear(
            &format!("{prefix}.c_proj"),
            self.d_model,
            self.d_model,
            self.residual_std(),
        ));
        params.extend(self.norm(&format!("h.{layer}.ln_1")));
        SegmentSpec {
            name: prefix,
            params,
            borrows: Vec::new(),
        }
    }

    fn mlp(&self, layer: usize) -> SegmentSpec {
        let prefix = format!("h.{layer}.mlp");
        let mut params = self.linear(
            &format!("{prefix}.c_fc"),
            self.d_model,
            4 * self.d_model,
            INIT_STD,
        );
        params.extend(self.linear(
            &format!("{prefix}.c_proj"),
            4 * self.d_model,
            self.d_model,
            self.residual_std(),
        ));
        params.extend(self.norm(&format!("h.{layer}.ln_2")));
        SegmentSpec {
            name: prefix,
            params,
            borrows: Vec::new(),
        }
    }

    fn head(&self) -> SegmentSpec {
        SegmentSpec {
            name: "head".to_owned(),
            params: self.norm("ln_f"),
            borrows: vec!["wte.weight".to_owned()],
        }
    }

    /// Projections that end in the residual stream start smaller, by the number of additions to it.
    fn residual_std(&self) -> f64 {
        INIT_STD / ((2 * self.n_layer) as f64).sqrt()
    }

    fn linear(&self, name: &str, n_in: usize, n_out: usize, std: f64) -> Vec<ParamSpec> {
        let mut params = vec![normal(&format!("{name}.weight"), &[n_in, n_out], std)];
        if self.bias {
            params.push(constant(&format!("{name}.bias"), n_out, Init::Zeros));
        }
        params
    }

    fn norm(&self, name: &str) -> Vec<ParamSpec> {
        let mut params = vec![constant(
            &format!("{name}.weight"),
            self.d_model,
            Init::Ones,
        )];
        if self.bias {
            params.push(constant(&format!("{name}.bias"), self.d_model, Init::Zeros));
        }
        params
    }
}

fn normal(name: &str, shape: &[usize], std: f64) -> ParamSpec {
    let shape = shape.iter().map(|&size| size as i64).collect();
    ParamSpec {
        name: name.to_owned(),
        shape,
        init: Init::Normal { std },
    }
}

fn constant(name: &str, size: usize, init: Init) -> ParamSpec {
    ParamSpec {
        name: name.to_owned(),
        shape: vec![size as i64],
        init,
    }
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
