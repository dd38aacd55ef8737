//! Where passes end in the loss, which is taken of the head's input: the head's logits never exist all at once.

use tch::Tensor;

use super::{
    EngineError, Stepper,
    clock::{Phase, StepClock},
    step::Crew,
    tape::{Pass, Tape},
};
use crate::{
    dist::{CommError, Communicator, Groups, Reduction},
    models::Context,
    nn,
    parallel::loss::{self, Chunks, Head, cross_entropy},
    torch::TorchError,
};

/// A head that is a piece of its own, since tensor-parallel ranks meet before it.
pub(super) struct HeadPass {
    pub segment: usize,
    x: Tensor,
    before: Tensor,
    /// Of what went into the core.
    grad: Tensor,
}

/// What a loss tells the rank that takes it.
struct LossHooks<'a> {
    tp: &'a mut dyn Communicator,
    /// Absent where nobody asks what the time went to.
    clock: Option<&'a mut StepClock>,
}

impl loss::Hooks for LossHooks<'_> {
    fn share(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError> {
        self.mark(Phase::Forward)?;
        self.tp.all_reduce(buffer, reduction)?;
        self.mark(Phase::Comm)
    }

    fn passed(&mut self, pass: loss::Pass) -> Result<(), CommError> {
        self.mark(match pass {
            loss::Pass::Forward => Phase::Forward,
            loss::Pass::Backward => Phase::Backward,
        })
    }
}

impl LossHooks<'_> {
    fn mark(&mut self, phase: Phase) -> Result<(), CommError> {
        match &mut self.clock {
            Some(clock) => Ok(clock.mark(phase)?),
            None => Ok(()),
        }
    }
}

impl Stepper {
    /// The loss of a micro-batch, summed over valid targets, and the gradient of what goes into the head's core; the
    /// matrix's goes to the store.
    pub(super) fn loss_and_grad(
        &mut self,
        segment: usize,
        input: &Tensor,
        tape: &Tape,
        crew: &mut Crew<'_>,
    ) -> Result<(Tensor, Tensor), EngineError> {
        crew.clock.mark(Phase::Forward)?;
        let name = self.output_embedding(segment)?;
        let entry = self.store.weights(segment).entry(name);
        let entry = entry.ok_or_else(|| no_matrix(name))?;
        let mut of_weight = self.store.sum_grad(entry)?;
        let mut hooks = LossHooks {
            tp: &mut *crew.groups.tp,
            clock: Some(&mut *crew.clock),
        };
        let (loss, grad) = cross_entropy::sum_and_grads(
            self.head(segment, input)?,
            &tape.batch.targets,
            tape.step.divisor,
            &mut of_weight,
            &mut hooks,
        )?;
        of_weight.finish()?;
        crew.clock.mark(Phase::Backward)?;
        Ok((loss, grad))
    }

    /// The loss of a head's segment, whose input is `x`, summed over valid targets.
    pub(super) fn infer_loss(
        &self,
        segment: usize,
        x: &Tensor,
        targets: &Tensor,
        groups: &mut Groups,
    ) -> Result<Tensor, EngineError> {
        let before = self.segments[segment].pre(self.store.weights(segment), x)?;
        let (tensor, role) = (self.tensor, self.roles[segment]);
        let input = tensor.into_core(role, &before, &mut *groups.tp)?;
        let mut hooks = LossHooks {
            tp: &mut *groups.tp,
            clock: None,
        };
        let head = self.head(segment, &input)?;
        Ok(cross_entropy::sum(head, targets, &mut hooks)?)
    }

    pub(super) fn forward_head(
        &mut self,
        segment: usize,
        x: Tensor,
        tape: &Tape,
        crew: &mut Crew<'_>,
    ) -> Result<(Tensor, Pass), EngineError> {
        let before = self.segments[segment].pre(self.store.weights(segment), &x)?;
        crew.clock.mark(Phase::Forward)?;
        let core_input = self.meet_into_core(self.roles[segment], &before, crew)?;
        let (loss, grad) = self.loss_and_grad(segment, &core_input, tape, crew)?;
        let pass = HeadPass {
            segment,
            x,
            before,
            grad,
        };
        Ok((loss, Pass::Head(pass)))
    }

    pub(super) fn backward_head(
        &mut self,
        pass: HeadPass,
        crew: &mut Crew<'_>,
    ) -> Result<Option<Tensor>, EngineError> {
        let grad_before = self.grad_before_core(pass.grad, crew)?;
        let run = pass.segment..pass.segment + 1;
        let grad_x = self.pull(run, &pass.before, &grad_before, &[&pass.x])?;
        Ok(grad_x.into_iter().next().flatten())
    }

    /// Whether all logits of a head's segment, whose input is `x`, are finite numbers.
    pub(super) fn has_finite_logits(
        &self,
        segment: usize,
        x: &Tensor,
        context: &Context<'_>,
    ) -> Result<bool, TorchError> {
        let (this, weights) = (&self.segments[segment], self.store.weights(segment));
        let input = this.pre(weights, x)?;
        let rows = input.f_reshape([1, -1, input.size()[2]])?;
        let width = weights.get(self.output_embedding(segment)?)?.size()[0];
        let element = rows.kind().elt_size_in_bytes() as i64;
        for (first, n) in Chunks::fitting(rows.size()[1], width, element, rows.device()) {
            let logits = this.core(weights, &rows.f_narrow(1, first, n)?, context)?;
            if !nn::is_finite(&logits)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn head<'a>(&'a self, segment: usize, input: &'a Tensor) -> Result<Head<'a>, TorchError> {
        let name = self.output_embedding(segment)?;
        Ok(Head {
            input,
            weight: self.store.weights(segment).get(name)?,
            n_classes: self.model.vocab_size() as i64,
            shard: self.store.layout().shard(),
        })
    }

    fn output_embedding(&self, segment: usize) -> Result<&'static str, TorchError> {
        let this = &self.segments[segment];
        this.output_embedding()
            .ok_or_else(|| TorchError::new(&format!("{} multiplies with no matrix", this.name())))
    }
}

fn no_matrix(name: &str) -> TorchError {
    TorchError::new(&format!("the head has no parameter {name}"))
}
