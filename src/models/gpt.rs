//! GPT-2 (Radford et al., 2019): pre-norm blocks, learned positions, tanh GELU, tied head.
//!
//! Shapes: b batch, t time, d width, v vocabulary, h heads.

use tch::Tensor;

use super::{Context, Segment};
use crate::{
    arch::{Shard, gpt::GptShape},
    nn::{Part, Weights, functional},
    torch::TorchError,
};

/// The head multiplies with the embedding's table.
const OUTPUT_EMBEDDING: &str = "wte.weight";

/// Embedding, attention and MLP of each layer, head.
pub fn segments(shape: &GptShape) -> Vec<Box<dyn Segment>> {
    let mut segments: Vec<Box<dyn Segment>> = vec![Box::new(Embedding {
        dropout: shape.dropout,
    })];
    for layer in 0..shape.n_layer {
        segments.push(Box::new(Attention {
            name: format!("h.{layer}.attn"),
            n_head: shape.n_head as i64,
            dropout: shape.dropout,
        }));
        segments.push(Box::new(Mlp {
            name: format!("h.{layer}.mlp"),
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

    fn mask_places(&self) -> Vec<String> {
        mask_places(self.dropout, &[self.name()])
    }

    fn core(
        &self,
        weights: Weights<'_>,
        tokens_bt: &Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        functional::embedding(weights, "wte", tokens_bt)
    }

    fn join(
        &self,
        weights: Weights<'_>,
        _: &Tensor,
        y: Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let at = context.positions;
        let positions_td = weights.get("wpe.weight")?.f_narrow(0, at.first, at.len)?;
        drop_out(self.name(), y.f_add(&positions_td)?, self.dropout, context)
    }
}

struct Attention {
    name: String,
    /// Of the whole model.
    n_head: i64,
    dropout: f64,
}

impl Attention {
    fn attend(
        &self,
        [q, k, v]: [&Tensor; 3],
        shard: Shard,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let Some(keys) = context.dropout.filter(|_| self.dropout > 0.0) else {
            return functional::causal_attention(q, k, v);
        };
        let (heads, time) = (q.size()[1], q.size()[2]);
        let own = Part {
            first: shard.index as i64 * heads * time * time,
            shape: &[heads, time, time],
        };
        let mask = keys.draw(&self.weights_place(), own, self.dropout, q.kind())?;
        functional::masked_causal_attention(q, k, v, &mask)
    }

    /// Where attention weights are dropped.
    fn weights_place(&self) -> String {
        format!("{}.weights", self.name)
    }
}

impl Segment for Attention {
    fn name(&self) -> &str {
        &self.name
    }

    fn mask_places(&self) -> Vec<String> {
        mask_places(self.dropout, &[&self.name, &self.weights_place()])
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::layer_norm(weights, "ln_1", x)
    }

    fn core(
        &self,
        weights: Weights<'_>,
        h_btd: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let size = h_btd.size();
        let (batch, time) = (size[0], size[1]);
        let shard = weights.shard();
        let heads = self.n_head / shard.of as i64;
        let qkv = functional::linear(weights, "attn.c_attn", h_btd)?;
        let [q, k, v] = apart(&qkv, heads)?;
        let y_bhtd = self.attend([&q, &k, &v], shard, context)?;
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
        let bias = weights.find("attn.c_proj.bias");
        add_to_stream(&self.name, x, y, bias, self.dropout, context)
    }
}

/// q, k and v `[b, h, t, e]` of `[b, t, 3 h e]`.
///
/// One operator gives all three, so that one operator takes their gradients and puts them side by side; selected one
/// by one, each would have a gradient of zeros around its own part, and the three would be added.
fn apart(qkv: &Tensor, heads: i64) -> Result<[Tensor; 3], TorchError> {
    let size = qkv.size();
    let parts_bthe = qkv.f_view([size[0], size[1], 3, heads, -1])?.f_unbind(2)?;
    let [q, k, v] = [0, 1, 2].map(|part| parts_bthe[part].f_transpose(1, 2));
    Ok([q?, k?, v?])
}

struct Mlp {
    name: String,
    dropout: f64,
}

impl Segment for Mlp {
    fn name(&self) -> &str {
        &self.name
    }

    fn mask_places(&self) -> Vec<String> {
        mask_places(self.dropout, &[&self.name])
    }

    fn pre(&self, weights: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        functional::layer_norm(weights, "ln_2", x)
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
        let bias = weights.find("mlp.c_proj.bias");
        add_to_stream(&self.name, x, y, bias, self.dropout, context)
    }
}

/// `[b, t, d]` to logits `[b, t, v]`.
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
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(h_btd.f_matmul(&weights.get(OUTPUT_EMBEDDING)?.f_tr()?)?)
    }

    fn output_embedding(&self) -> Option<&'static str> {
        Some(OUTPUT_EMBEDDING)
    }
}

/// The residual stream with a layer's output, after its bias and dropout.
fn add_to_stream(
    place: &str,
    x: &Tensor,
    y: Tensor,
    bias: Option<&Tensor>,
    p: f64,
    context: &Context<'_>,
) -> Result<Tensor, TorchError> {
    let y = match bias {
        Some(bias) => y.f_add(bias)?,
        None => y,
    };
    Ok(x.f_add(&drop_out(place, y, p, context)?)?)
}

/// The places where masks are drawn, if anything is dropped at all.
fn mask_places(p: f64, names: &[&str]) -> Vec<String> {
    let drawn = names.iter().filter(|_| p > 0.0);
    drawn.map(|&name| name.to_owned()).collect()
}

fn drop_out(
    place: &str,
    x_btd: Tensor,
    p: f64,
    context: &Context<'_>,
) -> Result<Tensor, TorchError> {
    let Some(keys) = context.dropout.filter(|_| p > 0.0) else {
        return Ok(x_btd);
    };
    let (at, width) = (context.positions, x_btd.size()[2]);
    let own = Part {
        first: at.first * width,
        shape: &[at.len, width],
    };
    Ok(x_btd.f_mul(&keys.draw(place, own, p, x_btd.kind())?)?)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::torch::vjp;

    fn values(shape: &[i64], by: f64) -> Tensor {
        let ramp = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu));
        (ramp * by).sin().view(shape)
    }

    #[test]
    fn q_k_and_v_and_their_gradients_are_those_of_three_selections() {
        let qkv = values(&[2, 5, 3 * 4 * 6], 0.3).set_requires_grad(true);
        let selected = qkv.view([2, 5, 3, 4, 6]).permute([2, 0, 3, 1, 4]);
        let selected = [0, 1, 2].map(|part| selected.select(0, part));
        let parts = apart(&qkv, 4).expect("fits");
        let grads = [0.7, 1.1, 1.3].map(|by| values(&[2, 4, 5, 6], by));
        let pull = |parts: &[Tensor; 3], grads: [&Tensor; 3]| {
            let pulled = vjp(&parts.each_ref(), &grads, &[&qkv]).expect("a graph");
            pulled.into_iter().next().flatten().expect("a path")
        };
        let [a, b, c] = &grads;
        assert!(parts.iter().zip(&selected).all(|(x, y)| x == y));
        let expected = pull(&selected, [a, b, c]);
        assert!(pull(&parts, [a, b, c]) == expected);
        let parts = apart(&qkv, 4).expect("fits");
        assert!(pull(&parts, [a, c, b]) != expected);
    }
}
