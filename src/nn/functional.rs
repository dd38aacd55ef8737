//! Layers as functions. Letters in names: b batch, t time, d model width, v vocabulary.

use tch::{Device, Kind, Tensor};

use super::Weights;
use crate::{
    arch::gpt::LAYER_NORM_EPS,
    torch::{NumberOps, TorchError},
};

/// Rows of the table `name.weight` for token ids `[b, t]`: `[b, t, d]`.
///
/// A rank with a part of the vocabulary gives zeros for tokens of other parts: partial sums.
///
/// # Errors
/// A token outside the vocabulary.
pub fn embedding(weights: Weights<'_>, name: &str, tokens: &Tensor) -> Result<Tensor, TorchError> {
    let table = weights.get(&format!("{name}.weight"))?;
    let shard = weights.shard();
    if shard.of == 1 {
        return Ok(Tensor::f_embedding(table, tokens, -1, false, false)?);
    }
    let rows = table.size()[0];
    let own = tokens.try_sub(shard.index as i64 * rows)?;
    let elsewhere = own.try_lt(0)?.f_logical_or(&own.try_ge(rows)?)?;
    let own = own.try_masked_fill(&elsewhere, 0)?;
    let y = Tensor::f_embedding(table, &own, -1, false, false)?;
    y.try_masked_fill(&elsewhere.f_unsqueeze(-1)?, 0.0)
}

/// `x @ weight + bias` over the last dimension; weight `[in, out]`, bias optional.
///
/// # Errors
/// Shapes that don't fit.
pub fn linear(weights: Weights<'_>, name: &str, x: &Tensor) -> Result<Tensor, TorchError> {
    let weight = weights.get(&format!("{name}.weight"))?;
    let mut shape = x.size();
    let rows = x.f_reshape([-1, weight.size()[0]])?;
    let y = match weights.find(&format!("{name}.bias")) {
        Some(bias) => bias.f_addmm(&rows, weight)?,
        None => rows.f_mm(weight)?,
    };
    if let Some(last) = shape.last_mut() {
        *last = weight.size()[1];
    }
    Ok(y.f_view(shape.as_slice())?)
}

/// `x @ weight^T` over the last dimension; weight `[out, in]`, as PyTorch's `Linear` keeps it.
///
/// # Errors
/// Shapes that don't fit.
pub fn project(weights: Weights<'_>, name: &str, x: &Tensor) -> Result<Tensor, TorchError> {
    let weight = weights.get(&format!("{name}.weight"))?;
    Ok(x.f_linear(weight, None::<&Tensor>)?)
}

/// Layer normalisation over the last dimension; bias optional.
///
/// # Errors
/// Shapes that don't fit.
pub fn layer_norm(weights: Weights<'_>, name: &str, x: &Tensor) -> Result<Tensor, TorchError> {
    let weight = weights.get(&format!("{name}.weight"))?;
    let bias = weights.find(&format!("{name}.bias"));
    Ok(x.f_layer_norm(
        weight.size().as_slice(),
        Some(weight),
        bias,
        LAYER_NORM_EPS,
        false,
    )?)
}

/// Division by the root of the mean square over the last dimension, in at least fp32.
///
/// # Errors
/// Shapes that don't fit.
pub fn rms_norm(
    weights: Weights<'_>,
    name: &str,
    x: &Tensor,
    eps: f64,
) -> Result<Tensor, TorchError> {
    let weight = weights.get(&format!("{name}.weight"))?;
    Ok(x.f_rms_norm(weight.size().as_slice(), Some(weight), eps)?)
}

/// Causal attention; q, k, v and the result are `[batch, heads, time, head_dim]`.
///
/// k and v may have fewer heads than q, each for several neighbouring ones of q's (Ainslie et al., 2023).
/// On a CPU bf16 is computed in fp32: libtorch's bf16 backward is five times slower there.
///
/// # Errors
/// Shapes that don't fit.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TorchError> {
    let kind = q.kind();
    if q.device() == Device::Cpu && kind == Kind::BFloat16 {
        let wide = |x: &Tensor| x.f_to_kind(Kind::Float);
        return Ok(attention(&wide(q)?, &wide(k)?, &wide(v)?)?.f_to_kind(kind)?);
    }
    attention(q, k, v)
}

fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TorchError> {
    let is_grouped = q.size()[1] != k.size()[1];
    // The kernel that CUDA has for wider types than bf16 takes no groups; without it all scores would be kept.
    if is_grouped && q.device() != Device::Cpu && q.kind() != Kind::BFloat16 {
        let n_head = q.size()[1];
        return fused_attention(q, &repeated(k, n_head)?, &repeated(v, n_head)?, false);
    }
    fused_attention(q, k, v, is_grouped)
}

fn fused_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    is_grouped: bool,
) -> Result<Tensor, TorchError> {
    Ok(Tensor::f_scaled_dot_product_attention(
        q,
        k,
        v,
        None::<&Tensor>,
        0.0,
        true,
        None,
        is_grouped,
    )?)
}

/// `[b, h, t, e]` with each head repeated, until there are `n_head`.
fn repeated(x: &Tensor, n_head: i64) -> Result<Tensor, TorchError> {
    let size = x.size();
    let [batch, heads, time, width] = [size[0], size[1], size[2], size[3]];
    let groups = [batch, heads, n_head / heads, time, width];
    Ok(x.f_unsqueeze(2)?
        .f_expand(groups, false)?
        .f_reshape([batch, n_head, time, width])?)
}

/// Causal attention written out, with `mask` (0 or 1 / keep probability) on its weights.
///
/// # Errors
/// Shapes that don't fit.
pub fn masked_causal_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
) -> Result<Tensor, TorchError> {
    let size = q.size();
    let (time, head_dim) = (size[2], size[3]);
    let scores = q
        .f_matmul(&k.f_transpose(-2, -1)?)?
        .try_div((head_dim as f64).sqrt())?;
    let future = Tensor::f_ones([time, time], (Kind::Bool, q.device()))?.f_triu(1)?;
    let weights = scores
        .try_masked_fill(&future, f64::NEG_INFINITY)?
        .f_softmax(-1, Kind::Float)?;
    let weights = weights
        .f_to_kind(q.kind())?
        .f_mul(&mask.f_to_kind(q.kind())?)?;
    Ok(weights.f_matmul(v)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouped_heads_attend_as_repeated_ones_do() {
        let values = |heads: i64, by: f64| {
            let numel = 2 * heads * 5 * 4;
            let ramp = Tensor::arange(numel, (Kind::Double, Device::Cpu));
            (ramp * by).sin().view([2, heads, 5, 4])
        };
        let (q, k, v) = (values(6, 0.7), values(2, 1.3), values(2, 0.4));
        let grouped = causal_attention(&q, &k, &v).expect("attended");
        let [k, v] = [k, v].map(|x| repeated(&x, 6).expect("repeated"));
        let whole = causal_attention(&q, &k, &v).expect("attended");
        assert!(grouped.allclose(&whole, 0.0, 1e-12, false));
        let turned_around = causal_attention(&q, &k.flip([1]), &v).expect("attended");
        assert!(!turned_around.allclose(&whole, 0.0, 1e-3, false));
    }
}
