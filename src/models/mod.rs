//! Models as lists of segments: single-device code that knows its own shard's shapes.
//!
//! A segment is `join(x, core(pre(x)))`. The engine, not the model, decides where graphs are cut.

mod gpt;
mod llama;

use tch::Tensor;

use crate::{
    arch::ModelShape,
    nn::{MaskKeys, Weights},
    torch::TorchError,
};

/// What a forward pass needs besides weights and input.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What masks are drawn from; absent where nothing is dropped.
    pub dropout: Option<&'a MaskKeys>,
    pub positions: Positions,
}

/// Which positions of its windows a rank holds outside of cores: all, unless sequence parallelism cuts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    pub first: i64,
    pub len: i64,
    /// Positions of a whole window.
    pub of: i64,
}

impl Positions {
    /// All of a window of `of` positions.
    pub const fn all(of: i64) -> Self {
        Self {
            first: 0,
            len: of,
            of,
        }
    }
}

/// One piece of a model.
///
/// `pre` and `join` work on each token alone and have replicated parameters; `core` has those that
/// tensor parallelism shards, and then its output is a partial sum (a head's: logits of a part of the
/// vocabulary). No method communicates. The loss is not a segment's business; a head says with which matrix it
/// multiplies, so that a loss can be taken of what it multiplies.
pub trait Segment: Send {
    /// The name in reports.
    fn name(&self) -> &str;

    /// The names under which the segment asks for dropout masks.
    fn mask_places(&self) -> Vec<String> {
        Vec::new()
    }

    /// What comes before the core: a norm, or nothing.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn pre(&self, _: Weights<'_>, x: &Tensor) -> Result<Tensor, TorchError> {
        Ok(x.shallow_clone())
    }

    /// The matrix products.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn core(
        &self,
        weights: Weights<'_>,
        h: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError>;

    /// What comes after the core: bias, dropout, and the residual addition of the segment's input; or nothing.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn join(
        &self,
        _: Weights<'_>,
        _: &Tensor,
        y: Tensor,
        _: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        Ok(y)
    }

    /// Of a head: the parameter `[v, d]` that its core multiplies each row of its input by, and does no more. Whatever
    /// else a head computes is its `pre`'s.
    fn output_embedding(&self) -> Option<&'static str> {
        None
    }

    /// The three in a row.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn forward(
        &self,
        weights: Weights<'_>,
        x: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let y = self.core(weights, &self.pre(weights, x)?, context)?;
        self.join(weights, x, y, context)
    }
}

/// The segments of a model, in forward order; as many, and as named, as [`ModelShape::segments`].
pub fn build(shape: &ModelShape) -> Vec<Box<dyn Segment>> {
    match shape {
        ModelShape::Gpt(shape) => gpt::segments(shape),
        ModelShape::Llama(shape) => llama::segments(shape),
    }
}
