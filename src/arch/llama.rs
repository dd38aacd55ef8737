//! Llama as arithmetic. Names and layouts are those of Hugging Face's Llama: linear weights are `[out, in]`.

use serde::{Deserialize, Serialize};

use super::{Init, ParamSpec, Role, SegmentSpec, Sharding};
use crate::config::Llama3Scaling;

/// Standard deviation of the initial weights, as Hugging Face's Llama has it.
const INIT_STD: f64 = 0.02;

/// A Llama with every size filled in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaShape {
    pub n_layer: usize,
    pub n_head: usize,
    /// Heads of keys and values, each shared by `n_head / n_kv_head` of the queries'.
    pub n_kv_head: usize,
    pub d_model: usize,
    pub d_ff: usize,
    pub seq_len: usize,
    pub vocab_size: usize,
    pub rope_theta: f64,
    pub rope_scaling: Option<Llama3Scaling>,
    /// The head multiplies with the embedding's table.
    pub tie_embeddings: bool,
    pub norm_eps: f64,
}

impl LlamaShape {
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
        let width = self.d_model;
        let attention = 2 * width * width + 2 * width * self.kv_width();
        let layer = attention + 3 * width * self.d_ff;
        let multiplied = self.n_layer * layer + self.vocab_size * width;
        6.0 * multiplied as f64 + 12.0 * (self.n_layer * width * self.seq_len) as f64
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_head
    }

    /// Width of all keys, and of all values.
    fn kv_width(&self) -> usize {
        self.n_kv_head * self.head_dim()
    }

    fn embedding(&self) -> SegmentSpec {
        SegmentSpec {
            name: "embedding".to_owned(),
            role: Role::Embedding,
            params: vec![self.vocabulary("model.embed_tokens")],
            borrows: Vec::new(),
            forward_flops: 0.0,
        }
    }

    fn attention(&self, layer: usize) -> SegmentSpec {
        let prefix = format!("model.layers.{layer}");
        let name = format!("{prefix}.self_attn");
        let (width, kv_width) = (self.d_model, self.kv_width());
        let params = vec![
            self.column_parallel(&format!("{name}.q_proj"), width),
            self.column_parallel(&format!("{name}.k_proj"), kv_width),
            self.column_parallel(&format!("{name}.v_proj"), kv_width),
            self.row_parallel(&format!("{name}.o_proj"), width),
            self.norm(&format!("{prefix}.input_layernorm")),
        ];
        let matmuls = 4 * width * (width + kv_width) + 4 * self.seq_len * width;
        SegmentSpec {
            name,
            role: Role::Attention,
            params,
            borrows: Vec::new(),
            forward_flops: matmuls as f64,
        }
    }

    fn mlp(&self, layer: usize) -> SegmentSpec {
        let prefix = format!("model.layers.{layer}");
        let name = format!("{prefix}.mlp");
        let params = vec![
            self.column_parallel(&format!("{name}.gate_proj"), self.d_ff),
            self.column_parallel(&format!("{name}.up_proj"), self.d_ff),
            self.row_parallel(&format!("{name}.down_proj"), self.d_ff),
            self.norm(&format!("{prefix}.post_attention_layernorm")),
        ];
        SegmentSpec {
            name,
            role: Role::Mlp,
            params,
            borrows: Vec::new(),
            forward_flops: (6 * self.d_model * self.d_ff) as f64,
        }
    }

    fn head(&self) -> SegmentSpec {
        let mut params = vec![self.norm("model.norm")];
        let mut borrows = Vec::new();
        match self.tie_embeddings {
            true => borrows.push("model.embed_tokens.weight".to_owned()),
            false => params.push(self.vocabulary("lm_head")),
        }
        SegmentSpec {
            name: "head".to_owned(),
            role: Role::Head,
            params,
            borrows,
            forward_flops: (2 * self.vocab_size * self.d_model) as f64,
        }
    }

    /// Projections that end in the residual stream start smaller, by the number of additions to it, as GPT-2's
    /// do. Hugging Face's Llama starts them like all others.
    fn residual_std(&self) -> f64 {
        INIT_STD / ((2 * self.n_layer) as f64).sqrt()
    }

    fn vocabulary(&self, name: &str) -> ParamSpec {
        let shape = [self.vocab_size, self.d_model];
        normal(name, shape, INIT_STD).sharded(Sharding::Vocab)
    }

    /// From the width to `n_out`, of which each tensor-parallel rank computes a part.
    fn column_parallel(&self, name: &str, n_out: usize) -> ParamSpec {
        let split = Sharding::Split { dim: 0, blocks: 1 };
        normal(name, [n_out, self.d_model], INIT_STD).sharded(split)
    }

    /// From `n_in`, of which each rank has a part, to the width.
    fn row_parallel(&self, name: &str, n_in: usize) -> ParamSpec {
        let split = Sharding::Split { dim: 1, blocks: 1 };
        normal(name, [self.d_model, n_in], self.residual_std()).sharded(split)
    }

    fn norm(&self, name: &str) -> ParamSpec {
        ParamSpec::new(&format!("{name}.weight"), &[self.d_model], Init::Ones)
    }
}

fn normal(name: &str, shape: [usize; 2], std: f64) -> ParamSpec {
    ParamSpec::new(&format!("{name}.weight"), &shape, Init::Normal { std })
}

#[cfg(test)]
mod tests {
    use crate::{arch::ModelShape, config::LlamaPreset};

    use super::*;

    fn shape(preset: LlamaPreset) -> LlamaShape {
        let sizes = preset.sizes();
        LlamaShape {
            n_layer: sizes.n_layer,
            n_head: sizes.n_head,
            n_kv_head: sizes.n_kv_head,
            d_model: sizes.d_model,
            d_ff: sizes.d_ff,
            seq_len: sizes.seq_len,
            vocab_size: 128_256,
            rope_theta: sizes.rope_theta,
            rope_scaling: sizes.rope_scaling,
            tie_embeddings: sizes.tie_embeddings,
            norm_eps: 1e-5,
        }
    }

    #[test]
    fn flops_are_three_times_those_of_the_segments() {
        for preset in [LlamaPreset::Llama31B8, LlamaPreset::Llama32B1] {
            let model = ModelShape::Llama(shape(preset));
            let forward: f64 = model.segments().iter().map(|s| s.forward_flops).sum();
            let apart = (model.flops_per_token() - 3.0 * forward).abs();
            assert!(apart < 1e-9 * forward, "{preset:?}: {apart}");
        }
    }

    #[test]
    fn an_untied_table_is_not_multiplied() {
        let untied = shape(LlamaPreset::Llama31B8);
        let tied = LlamaShape {
            tie_embeddings: true,
            ..untied
        };
        assert_eq!(untied.flops_per_token(), tied.flops_per_token());
        let table = (untied.vocab_size * untied.d_model) as u64;
        let n_params = |shape| ModelShape::Llama(shape).n_params();
        assert_eq!(n_params(untied), n_params(tied) + table);
    }
}
