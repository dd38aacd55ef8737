//! Cross-entropy over a vocabulary, whole or in parts (Shoeybi et al., 2019).
//!
//! Of a chunk's logits each rank has its part. Maximum, sum of exponentials and the target's logit are shared, and the
//! gradient of each part follows from them. What is divided, or left out, is a row of the gradient: the softmax over a
//! row less one at its target, times what the row counts for.

use tch::{Kind, Tensor};

use super::{Chunks, Head, Hooks, Pass};
use crate::{
    data::IGNORED_TARGET,
    dist::{CommError, Reduction},
    nn::GradSum,
    torch::{NumberOps, TorchError},
};

/// The loss summed over valid targets, one number in at least fp32; `targets` has an entry for each row of the input.
///
/// # Errors
/// Shapes that don't fit, a target outside the vocabulary, or a failed collective.
pub fn sum(head: Head<'_>, targets: &Tensor, hooks: &mut dyn Hooks) -> Result<Tensor, CommError> {
    let _guard = tch::no_grad_guard();
    let work = Work::new(head, targets)?;
    work.run(work.chunks(), None, hooks)
}

/// The same, and the gradient of the loss divided by `divisor`: the input's is returned, the matrix's added to `of_weight`.
/// Where the vocabulary is cut the input's is this rank's part of a sum.
///
/// # Errors
/// As [`sum`].
pub fn sum_and_grads(
    head: Head<'_>,
    targets: &Tensor,
    divisor: u64,
    of_weight: &mut GradSum,
    hooks: &mut dyn Hooks,
) -> Result<(Tensor, Tensor), CommError> {
    let _guard = tch::no_grad_guard();
    let work = Work::new(head, targets)?;
    let mut grads = work.grads(divisor, of_weight)?;
    let loss = work.run(work.chunks(), Some(&mut grads), hooks)?;
    Ok((
        loss,
        grads
            .of_input
            .f_view_as(head.input)
            .map_err(TorchError::from)?,
    ))
}

/// A head's rows and targets.
pub(super) struct Work {
    /// `[n, d]`.
    input: Tensor,
    /// `[rows, d]`.
    weight: Tensor,
    /// Rows of the matrix before padding begins.
    n_own: i64,
    /// Other ranks have parts too.
    is_cut: bool,
    targets: Targets,
    /// Of sums and exponentials: at least fp32.
    kind: Kind,
}

struct Targets {
    /// `[n]`: does not count.
    is_ignored: Tensor,
    /// `[n, 1]`, in this rank's part; some row of it for others.
    own: Tensor,
    /// `[n, 1]`: not in this rank's part. Absent where there is but one.
    is_elsewhere: Option<Tensor>,
}

/// Gradients on their way.
pub(super) struct Grads<'a> {
    /// `[n, 1]`: what a row counts for.
    scale: Tensor,
    /// `[n, d]`.
    pub(super) of_input: Tensor,
    of_weight: &'a mut GradSum,
}

/// Memory that each chunk uses again.
struct Scratch {
    /// `[rows of a chunk, rows of the matrix]`, in the type that the model computes with.
    logits: Tensor,
    /// The same memory, unless the loss computes in a wider type.
    wide: Tensor,
}

/// One chunk's rows.
struct Chunk {
    logits: Tensor,
    /// Exponentials of what each logit is below its row's highest, after [`Chunk::exponentials`].
    wide: Tensor,
    own_target: Tensor,
    is_elsewhere: Option<Tensor>,
}

impl Work {
    pub(super) fn new(head: Head<'_>, targets: &Tensor) -> Result<Self, TorchError> {
        let size = head.weight.size();
        let (rows, width) = (size[0], size[1]);
        let first = head.shard.index as i64 * rows;
        let kind = match head.input.kind() {
            Kind::Double => Kind::Double,
            _ => Kind::Float,
        };
        let is_cut = head.shard.of > 1;
        Ok(Self {
            input: head.input.f_detach()?.f_reshape([-1, width])?,
            weight: head.weight.f_detach()?,
            n_own: (head.n_classes - first).clamp(0, rows),
            is_cut,
            targets: Targets::new(targets, first, rows, is_cut)?,
            kind,
        })
    }

    fn n_rows(&self) -> i64 {
        self.input.size()[0]
    }

    fn chunks(&self) -> Chunks {
        let element = self.kind.elt_size_in_bytes() as i64;
        let width = self.weight.size()[0];
        Chunks::fitting(self.n_rows(), width, element, self.input.device())
    }

    pub(super) fn grads<'a>(
        &self,
        divisor: u64,
        of_weight: &'a mut GradSum,
    ) -> Result<Grads<'a>, TorchError> {
        let counts = self.targets.is_ignored.f_logical_not()?;
        let scale = counts
            .f_to_kind(self.kind)?
            .try_div(divisor.max(1) as f64)?;
        Ok(Grads {
            scale: scale.f_unsqueeze(1)?,
            of_input: self.input.f_empty_like()?,
            of_weight,
        })
    }

    /// The summed loss; gradients where they are asked for.
    pub(super) fn run(
        &self,
        chunks: Chunks,
        mut grads: Option<&mut Grads<'_>>,
        hooks: &mut dyn Hooks,
    ) -> Result<Tensor, CommError> {
        let losses = Tensor::f_empty([self.n_rows()], (self.kind, self.input.device()));
        let losses = losses.map_err(TorchError::from)?;
        let scratch = self.scratch(chunks.rows)?;
        for (first, n) in chunks {
            let mut chunk = self.chunk(&scratch, first, n)?;
            let highest = chunk.highest(self.kind)?;
            if self.is_cut {
                hooks.share(&highest, Reduction::Max)?;
            }
            let sums = chunk.exponentials(&highest)?;
            if self.is_cut {
                hooks.share(&sums, Reduction::Sum)?;
            }
            put_losses(&losses, first, &sums)?;
            hooks.passed(Pass::Forward)?;
            if let Some(grads) = &mut grads {
                self.backward(chunk, &sums, first, grads)?;
                hooks.passed(Pass::Backward)?;
            }
        }
        let counted = losses.try_masked_fill(&self.targets.is_ignored, 0.0)?;
        Ok(counted.f_sum(self.kind).map_err(TorchError::from)?)
    }

    fn scratch(&self, rows: i64) -> Result<Scratch, TorchError> {
        let (kind, device) = (self.input.kind(), self.input.device());
        let shape = [rows, self.weight.size()[0]];
        let logits = Tensor::f_empty(shape, (kind, device))?;
        let wide = match kind == self.kind {
            true => logits.shallow_clone(),
            false => Tensor::f_empty(shape, (self.kind, device))?,
        };
        Ok(Scratch { logits, wide })
    }

    /// The logits of `n` rows; those of padding can't win and add nothing.
    fn chunk(&self, scratch: &Scratch, first: i64, n: i64) -> Result<Chunk, TorchError> {
        let logits = scratch.logits.f_narrow(0, 0, n)?;
        let rows = self.input.f_narrow(0, first, n)?;
        let _ = rows.f_mm_out(&logits, &self.weight.f_tr()?)?;
        let n_padded = self.weight.size()[0] - self.n_own;
        if n_padded > 0 {
            let mut padding = logits.f_narrow(1, self.n_own, n_padded)?;
            padding.try_fill_(f64::NEG_INFINITY)?;
        }
        let cut = |x: &Tensor| x.f_narrow(0, first, n);
        Ok(Chunk {
            logits,
            wide: scratch.wide.f_narrow(0, 0, n)?,
            own_target: cut(&self.targets.own)?,
            is_elsewhere: self.targets.is_elsewhere.as_ref().map(cut).transpose()?,
        })
    }

    fn backward(
        &self,
        chunk: Chunk,
        sums: &Tensor,
        first: i64,
        grads: &mut Grads<'_>,
    ) -> Result<(), TorchError> {
        let n = chunk.logits.size()[0];
        let scale = grads.scale.f_narrow(0, first, n)?;
        let of_logits = chunk.into_grad(sums, &scale)?;
        let of_input = grads.of_input.f_narrow(0, first, n)?;
        let _ = of_logits.f_mm_out(&of_input, &self.weight)?;
        let rows = self.input.f_narrow(0, first, n)?;
        grads.of_weight.add_product(&of_logits.f_tr()?, &rows)
    }
}

impl Targets {
    fn new(targets: &Tensor, first: i64, rows: i64, is_cut: bool) -> Result<Self, TorchError> {
        let targets = targets.f_reshape([-1])?;
        let is_ignored = targets.try_eq(IGNORED_TARGET)?;
        if !is_cut {
            let own = targets.try_masked_fill(&is_ignored, 0)?;
            return Ok(Self {
                is_ignored,
                own: own.f_unsqueeze(1)?,
                is_elsewhere: None,
            });
        }
        let shifted = targets.try_sub(first)?;
        let is_elsewhere = shifted.try_lt(0)?.f_logical_or(&shifted.try_ge(rows)?)?;
        Ok(Self {
            is_ignored,
            own: shifted.try_masked_fill(&is_elsewhere, 0)?.f_unsqueeze(1)?,
            is_elsewhere: Some(is_elsewhere.f_unsqueeze(1)?),
        })
    }
}

impl Chunk {
    /// `[n]`: each row's highest logit in this part; minus infinity where the part is all padding.
    fn highest(&self, kind: Kind) -> Result<Tensor, TorchError> {
        let highest = self.logits.f_amax([1i64].as_slice(), false)?;
        Ok(highest.f_to_kind(kind)?)
    }

    /// `[2, n]`: the sum of this part's exponentials, and the target's logit below the highest where it is here.
    fn exponentials(&mut self, highest: &Tensor) -> Result<Tensor, TorchError> {
        let column = highest.f_unsqueeze(1)?;
        let _ = self.logits.f_sub_out(&self.wide, &column)?;
        let target = self.wide.f_gather(1, &self.own_target, false)?;
        let target = match &self.is_elsewhere {
            Some(is_elsewhere) => target.try_masked_fill(is_elsewhere, 0.0)?,
            None => target,
        };
        let _ = self.wide.f_exp_()?;
        let sum = self
            .wide
            .f_sum_dim_intlist([1i64].as_slice(), false, self.wide.kind())?;
        Ok(Tensor::f_stack(&[sum, target.f_squeeze_dim(1)?], 0)?)
    }

    /// The gradient of the logits, in their type.
    fn into_grad(mut self, sums: &Tensor, scale: &Tensor) -> Result<Tensor, TorchError> {
        let sum = sums.f_select(0, 0)?.f_unsqueeze(1)?;
        let at_target = sum.f_neg()?;
        let at_target = match &self.is_elsewhere {
            Some(is_elsewhere) => at_target.try_masked_fill(is_elsewhere, 0.0)?,
            None => at_target,
        };
        let _ = self.wide.f_scatter_add_(1, &self.own_target, &at_target)?;
        let _ = self.wide.f_mul_out(&self.logits, &scale.f_div(&sum)?)?;
        Ok(self.logits)
    }
}

/// A chunk's losses: the logarithm of the sum, less the target's logit.
fn put_losses(losses: &Tensor, first: i64, sums: &Tensor) -> Result<(), TorchError> {
    let (sum, target) = (sums.f_select(0, 0)?, sums.f_select(0, 1)?);
    let of_chunk = sum.f_log()?.f_sub(&target)?;
    losses
        .f_narrow(0, first, of_chunk.size()[0])?
        .f_copy_(&of_chunk)?;
    Ok(())
}
