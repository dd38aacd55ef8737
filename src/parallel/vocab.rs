//! Cross-entropy over a vocabulary of which each tensor-parallel rank has a part (Shoeybi et al., 2019).
//!
//! No rank ever holds whole logits: maximum, sum of exponentials and the target's logit are shared, and
//! the gradient of each part follows from them.

use tch::{Kind, Tensor};

use crate::{
    arch::Shard,
    data::IGNORED_TARGET,
    dist::{CommError, Communicator, Reduction},
    torch::{NumberOps, TorchError},
};

/// The loss summed over valid targets, and its gradient with respect to this rank's logits.
///
/// `logits` are `[b, t, rows]` with padding behind the vocabulary's end, which never counts; `targets`
/// `[b, t]` are of the whole vocabulary.
///
/// # Errors
/// A failed collective.
pub fn cross_entropy_sum(
    logits: &Tensor,
    targets: &Tensor,
    vocab_size: i64,
    shard: Shard,
    tp: &mut dyn Communicator,
) -> Result<(Tensor, Tensor), CommError> {
    let _guard = tch::no_grad_guard();
    let local = Local::new(logits, targets, vocab_size, shard)?;
    let highest = local.highest()?;
    tp.all_reduce(&highest, Reduction::Max)?;
    let (exponentials, sums) = local.sums(&highest)?;
    tp.all_reduce(&sums, Reduction::Sum)?;
    Ok(local.finish(&highest, &exponentials, &sums, logits)?)
}

/// This rank's part, one row a target.
struct Local {
    /// `[n, own]` without padding, in at least fp32.
    logits: Tensor,
    is_valid: Tensor,
    /// Whether the target lies in this part, and where (0 elsewhere).
    is_own: Tensor,
    own_target: Tensor,
}

impl Local {
    fn new(
        logits: &Tensor,
        targets: &Tensor,
        vocab_size: i64,
        shard: Shard,
    ) -> Result<Self, TorchError> {
        let rows = logits.size()[2];
        let first = (shard.index as i64 * rows).min(vocab_size);
        let n_own = rows.min(vocab_size - first);
        let kind = match logits.kind() {
            Kind::Double => Kind::Double,
            _ => Kind::Float,
        };
        let own = logits
            .f_view([-1, rows])?
            .f_narrow(1, 0, n_own)?
            .f_to_kind(kind)?;
        let targets = targets.f_view([-1])?;
        let shifted = targets.try_sub(first)?;
        let is_own = shifted.try_ge(0)?.f_logical_and(&shifted.try_lt(n_own)?)?;
        Ok(Self {
            logits: own,
            is_valid: targets.try_ne(IGNORED_TARGET)?,
            own_target: shifted
                .try_masked_fill(&is_own.f_logical_not()?, 0)?
                .f_unsqueeze(1)?,
            is_own,
        })
    }

    fn is_empty(&self) -> bool {
        self.logits.size()[1] == 0
    }

    /// `[n]`; minus infinity where this part is all padding.
    fn highest(&self) -> Result<Tensor, TorchError> {
        if self.is_empty() {
            let options = (self.logits.kind(), self.logits.device());
            let shape = &self.logits.size()[..1];
            return Tensor::try_full(shape, f64::NEG_INFINITY, options);
        }
        Ok(self.logits.f_amax([1i64].as_slice(), false)?)
    }

    /// exp(logit - highest), and `[2, n]`: their sum, and the target's logit where it is here.
    fn sums(&self, highest: &Tensor) -> Result<(Tensor, Tensor), TorchError> {
        let exponentials = self.logits.f_sub(&highest.f_unsqueeze(1)?)?.f_exp_()?;
        let sum = exponentials.f_sum_dim_intlist([1i64].as_slice(), false, self.logits.kind())?;
        let target = match self.is_empty() {
            true => sum.f_zeros_like()?,
            false => self
                .logits
                .f_gather(1, &self.own_target, false)?
                .f_squeeze_dim(1)?
                .try_masked_fill(&self.is_own.f_logical_not()?, 0.0)?,
        };
        Ok((exponentials, Tensor::f_stack(&[sum, target], 0)?))
    }

    fn finish(
        &self,
        highest: &Tensor,
        exponentials: &Tensor,
        sums: &Tensor,
        logits: &Tensor,
    ) -> Result<(Tensor, Tensor), TorchError> {
        let (sum, target) = (sums.f_select(0, 0)?, sums.f_select(0, 1)?);
        let is_ignored = self.is_valid.f_logical_not()?;
        let losses = sum.f_log()?.f_add(highest)?.f_sub(&target)?;
        let loss = losses
            .try_masked_fill(&is_ignored, 0.0)?
            .f_sum(losses.kind())?;
        let mut own = exponentials.f_div(&sum.f_unsqueeze(1)?)?;
        if !self.is_empty() {
            let minus_one = self.is_own.f_to_kind(own.kind())?.f_neg()?.f_unsqueeze(1)?;
            own = own.f_scatter_add(1, &self.own_target, &minus_one)?;
        }
        let own = own.try_masked_fill(&is_ignored.f_unsqueeze(1)?, 0.0)?;
        let grad = Tensor::f_zeros(
            [own.size()[0], logits.size()[2]],
            (logits.kind(), logits.device()),
        )?;
        grad.f_narrow(1, 0, own.size()[1])?.f_copy_(&own)?;
        Ok((loss, grad.f_view_as(logits)?))
    }
}
