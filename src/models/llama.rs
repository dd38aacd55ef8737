//! Llama (Touvron et al., 2023; Grattafiori et al., 2024): pre-norm blocks with RMSNorm, rotary positions,
//! grouped-query attention, SwiGLU, no biases, tied or untied head.
//!
//! Shapes: b batch, t time, d width, v vocabulary, h heads, e width of a head.

use std::sync::Arc;

use tch::Tensor;

use super::{Context, Segment};
use crate::{
    arch::llama::LlamaShape,
    nn::{Rotary, Weights, functional},
    torch::TorchError,
};

/// Embedding, attention and MLP of each layer, head.
pub fn segments(shape: &LlamaShape) -> Vec<Box<dyn Segment>> {
    let rotary = Arc::new(Rotary::new(
        shape.head_dim(),
        shape.seq_len,
        shape.rope_theta,
        shape.rope_scaling,
    ));
    let norm_eps = shape.norm_eps;
    let mut segments: Vec<Box<dyn Segment>> = vec![Box::new(Embedding)];
    for layer in 0..shape.n_layer {
        segments.push(Box::new(Attention {
            name: format!("model.layers.{layer}.self_attn"),
            n_head: shape.n_head as i64,
            n_kv_head: shape.n_kv_head as i64,
            rotary: Arc::clone(&rotary),
            norm_eps,
        }));
        segments.push(Box::new(Mlp {
            name: format!("model.layers.{layer}.mlp"),
            norm_eps,
        }));
    }
    let table = match shape.tie_embeddings {
        true => "embed_tokens.weight",
        false => "lm_head.weight",
    };
    segments.push(Box::new(Head { table, norm_eps }));
    segments
}

/// Token ids `[b, t]` to `[b, t, d]`.
struct Embedding;

impl Segment for Embedding {
    fn name(&self) -> &str {
        "embedding"
    }

    fn core(
        &self,
        weights: Weights<'_>,
        tokens_bt: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        functional::embedding(weights, "embed_tokens", tokens_bt)
    }
}

struct Attention {
    name: String,
    /// Of the whole model, as `n_kv_head`.
    n_head: i64,
    n_kv_head: i64,
    /// One for all layers.
    rotary: Arc<Rotary>,
    norm_eps: f64,
}

impl Segment for Attention {
    fn name(&self) -> &str {
        &self.name
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::rms_norm(weights, "input_layernorm", x, self.norm_eps)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let size = h_btd.size();
        let (batch, time) = (size[0], size[1]);
        let heads = |name: &str, n_head: i64| -> Result<Tensor, TorchError> {
            let own = n_head / weights.shard().of as i64;
            let x_btd = functional::project(weights, name, h_btd)?;
            Ok(x_btd.f_view([batch, time, own, -1])?)
        };
        let q_bthe = self.rotary.turn(&heads("q_proj", self.n_head)?)?;
        let k_bthe = self.rotary.turn(&heads("k_proj", self.n_kv_head)?)?;
        let v_bthe = heads("v_proj", self.n_kv_head)?;
        let y_bhte = functional::causal_attention(
            &q_bthe.f_transpose(1, 2)?,
            &k_bthe.f_transpose(1, 2)?,
            &v_bthe.f_transpose(1, 2)?,
        )?;
        let y_btd = y_bhte.f_transpose(1, 2)?.f_reshape([batch, time, -1])?;
        functional::project(weights, "o_proj", &y_btd)
    }

    fn join(
        &self,
        _: Weights<'_>,
        x: &Tensor,
        y: Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(x.f_add(&y)?)
    }
}

struct Mlp {
    name: String,
    norm_eps: f64,
}

impl Segment for Mlp {
    fn name(&self) -> &str {
        &self.name
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::rms_norm(weights, "post_attention_layernorm", x, self.norm_eps)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let gate = functional::project(weights, "gate_proj", h_btd)?.f_silu()?;
        let wide = gate.f_mul(&functional::project(weights, "up_proj", h_btd)?)?;
        functional::project(weights, "down_proj", &wide)
    }

    fn join(
        &self,
        _: Weights<'_>,
        x: &Tensor,
        y: Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(x.f_add(&y)?)
    }
}

/// `[b, t, d]` to logits `[b, t, v]`.
struct Head {
    /// The embedding's table, or one of its own.
    table: &'static str,
    norm_eps: f64,
}

impl Segment for Head {
    fn name(&self) -> &str {
        "head"
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::rms_norm(weights, "norm", x, self.norm_eps)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(h_btd.f_linear(weights.get(self.table)?, None::<&Tensor>)?)
    }

    fn output_embedding(&self) -> Option<&'static str> {
        Some(self.table)
    }
}
