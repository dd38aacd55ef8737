//! GPT-2 (Radford et al., 2019): pre-norm blocks, learned positions, tanh GELU, tied head.
//!
//! Shapes: b batch, t time, d width, v vocabulary, h heads.

use tch::Tensor;

use super::{Context, Dropout, Segment};
use crate::{
    arch::gpt::GptShape,
    nn::{
        Weights,
        dropout::{self, MaskKey},
        functional,
    },
    torch::TorchError,
};

/// Embedding, attention and MLP of each layer, head.
pub fn segments(shape: &GptShape) -> Vec<Box<dyn Segment>> {
    let mut segments: Vec<Box<dyn Segment>> = vec![Box::new(Embedding {
        dropout: shape.dropout,
    })];
    for layer in 0..shape.n_layer {
        segments.push(Box::new(Attention {
            name: format!("h.{layer}.attn"),
            norm: "ln_1",
            n_head: shape.n_head as i64,
            dropout: shape.dropout,
        }));
        segments.push(Box::new(Mlp {
            name: format!("h.{layer}.mlp"),
            norm: "ln_2",
            dropout: shape.dropout,
        }));
    }
    segments.push(Box::new(Head));
    segments
}

/// Token ids `[b, t]` to `[b, t, d]`.
struct Embedding {
    dropout: f64,
}

impl Segment for Embedding {
    fn name(&self) -> &str {
        "embedding"
    }

    fn pre(&self, _: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        Ok(x.shallow_clone())
    }

    fn core(
        &self,
        weights: Weights<'_>,
        tokens_bt: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(Tensor::f_embedding(
            weights.get("wte.weight")?,
            tokens_bt,
            -1,
            false,
            false,
        )?)
    }

    fn join(
        &self,
        weights: Weights<'_>,
        x: &Tensor,
        y: Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let time = x.size()[1];
        let positions_td = weights.get("wpe.weight")?.f_narrow(0, 0, time)?;
        drop_out(
            self.name(),
            y.f_add(&positions_td)?,
            self.dropout,
            context.dropout,
        )
    }
}

struct Attention {
    name: String,
    norm: &'static str,
    n_head: i64,
    dropout: f64,
}

impl Attention {
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let Some(counters) = context.dropout.filter(|_| self.dropout > 0.0) else {
            return functional::causal_attention(q, k, v);
        };
        let time = q.size()[2];
        let place = format!("{}.weights", self.name);
        let key = MaskKey {
            seed: counters.seed,
            step: counters.step,
            place: &place,
        };
        let mask = dropout::mask(
            key,
            counters.samples,
            &[self.n_head, time, time],
            self.dropout,
            q.device(),
        )?;
        functional::masked_causal_attention(q, k, v, &mask)
    }
}

impl Segment for Attention {
    fn name(&self) -> &str {
        &self.name
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::layer_norm(weights, self.norm, x)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let size = h_btd.size();
        let (batch, time) = (size[0], size[1]);
        let qkv = functional::linear(weights, "attn.c_attn", h_btd)?;
        let qkv = qkv
            .f_view([batch, time, 3, self.n_head, -1])?
            .f_permute([2, 0, 3, 1, 4])?;
        let [q, k, v] = [0, 1, 2].map(|part| qkv.f_select(0, part));
        let y_bhtd = self.attend(&q?, &k?, &v?, context)?;
        let y_btd = y_bhtd.f_transpose(1, 2)?.f_reshape([batch, time, -1])?;
        Ok(y_btd.f_matmul(weights.get("attn.c_proj.weight")?)?)
    }

    fn join(
        &self,
        weights: Weights<'_>,
        x: &Tensor,
        y: Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let y = add_bias(weights.find("attn.c_proj.bias"), y)?;
        Ok(x.f_add(&drop_out(&self.name, y, self.dropout, context.dropout)?)?)
    }
}

struct Mlp {
    name: String,
    norm: &'static str,
    dropout: f64,
}

impl Segment for Mlp {
    fn name(&self) -> &str {
        &self.name
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::layer_norm(weights, self.norm, x)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let wide = functional::linear(weights, "mlp.c_fc", h_btd)?.f_gelu("tanh")?;
        Ok(wide.f_matmul(weights.get("mlp.c_proj.weight")?)?)
    }

    fn join(
        &self,
        weights: Weights<'_>,
        x: &Tensor,
        y: Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let y = add_bias(weights.find("mlp.c_proj.bias"), y)?;
        Ok(x.f_add(&drop_out(&self.name, y, self.dropout, context.dropout)?)?)
    }
}

/// `[b, t, d]` to the loss summed over targets, or to logits `[b, t, v]`.
struct Head;

impl Segment for Head {
    fn name(&self) -> &str {
        "head"
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::layer_norm(weights, "ln_f", x)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let logits_btv = h_btd.f_matmul(&weights.get("wte.weight")?.f_tr()?)?;
        match context.targets {
            Some(targets_bt) => functional::cross_entropy_sum(&logits_btv, targets_bt),
            None => Ok(logits_btv),
        }
    }

    fn join(
        &self,
        _: Weights<'_>,
        _: &Tensor,
        y: Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(y)
    }
}

fn add_bias(bias: Option<&Tensor>, y: Tensor) -> Result<Tensor, TorchError> {
    match bias {
        Some(bias) => Ok(y.f_add(bias)?),
        None => Ok(y),
    }
}

fn drop_out(
    place: &str,
    x_btd: Tensor,
    p: f64,
    counters: Option<Dropout<'_>>,
) -> Result<Tensor, TorchError> {
    let Some(counters) = counters.filter(|_| p > 0.0) else {
        return Ok(x_btd);
    };
    let key = MaskKey {
        seed: counters.seed,
        step: counters.step,
        place,
    };
    let mask = dropout::mask(key, counters.samples, &x_btd.size()[1..], p, x_btd.device())?;
    Ok(x_btd.f_mul(&mask.f_to_kind(x_btd.kind())?)?)
}
