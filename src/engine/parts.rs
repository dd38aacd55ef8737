//! A segment as three graphs, with tensor-parallel ranks meeting, or recomputation cutting, between them.

use tch::Tensor;

use super::{
    EngineError, Stepper,
    clock::Phase,
    step::Crew,
    tape::{Pass, Tape},
};
use crate::{arch::Role, models::Context, parallel::Parts, torch::TorchError};

/// A segment's three graphs, with the ranks' meetings between them.
pub(super) struct PartsPass {
    pub segment: usize,
    /// Input of what comes before and after the core.
    x: Tensor,
    before: Option<Tensor>,
    core_input: Tensor,
    core: Option<Tensor>,
    /// What came out of all cores.
    sum: Tensor,
    after: Option<Tensor>,
}

impl Stepper {
    pub(super) fn forward_parts(
        &mut self,
        segment: usize,
        x: Tensor,
        recompute: Parts,
        tape: &Tape,
        context: &Context<'_>,
        crew: &mut Crew<'_>,
    ) -> Result<(Tensor, Pass), EngineError> {
        let role = self.roles[segment];
        if role == Role::Head {
            return self.forward_head(segment, x, tape, crew);
        }
        let (this, weights) = (&self.segments[segment], self.store.weights(segment));
        let keeps_ends = recompute != Parts::All;
        let before = grad_mode(keeps_ends, || this.pre(weights, &x))?;
        crew.clock.mark(Phase::Forward)?;
        let core_input = self.meet_into_core(role, &before, crew)?;
        let core = grad_mode(recompute == Parts::None, || {
            this.core(weights, &core_input, context)
        })?;
        crew.clock.mark(Phase::Forward)?;
        let sum = self.out_of_core(&core, crew)?.f_set_requires_grad(true)?;
        let after = grad_mode(keeps_ends, || {
            this.join(weights, &x, sum.shallow_clone(), context)
        })?;
        let output = after.f_detach()?;
        let pass = PartsPass {
            segment,
            x,
            before: keeps_ends.then_some(before),
            core_input,
            core: (recompute == Parts::None).then_some(core),
            sum,
            after: keeps_ends.then_some(after),
        };
        Ok((output, Pass::Parts(pass)))
    }

    pub(super) fn backward_parts(
        &mut self,
        pass: PartsPass,
        grad: Option<Tensor>,
        context: &Context<'_>,
        crew: &mut Crew<'_>,
    ) -> Result<Option<Tensor>, EngineError> {
        let PartsPass {
            segment,
            x,
            before,
            core_input,
            core,
            sum,
            after,
        } = pass;
        let role = self.roles[segment];
        let run = segment..segment + 1;
        let grad = grad.ok_or_else(|| TorchError::new("a backward pass without a gradient"))?;
        let (grad_around, grad_sum) =
            self.backward_after(segment, &x, &sum, after, &grad, context)?;
        crew.clock.mark(Phase::Backward)?;
        let grad_core = match crew.groups.tp.world() {
            1 => grad_sum,
            _ => self
                .tensor
                .out_of_core_backward(&grad_sum, &mut *crew.groups.tp)?,
        };
        crew.clock.mark(Phase::Comm)?;
        let core = match core {
            Some(core) => core,
            None => {
                let weights = self.store.weights(segment);
                self.segments[segment].core(weights, &core_input, context)?
            }
        };
        let inputs: &[&Tensor] = match role {
            Role::Embedding => &[],
            _ => &[&core_input],
        };
        let grad_input = self.pull(run.clone(), &core, &grad_core, inputs)?;
        crew.clock.mark(Phase::Backward)?;
        let Some(grad_input) = grad_input.into_iter().next().flatten() else {
            return Ok(None);
        };
        let grad_before = self.grad_before_core(grad_input, crew)?;
        let before = match before {
            Some(before) => before,
            None => self.segments[segment].pre(self.store.weights(segment), &x)?,
        };
        let grad_x = self.pull(run, &before, &grad_before, &[&x])?.pop();
        Ok(match (grad_around, grad_x.flatten()) {
            (Some(a), Some(b)) => Some(a.f_add(&b)?),
            (a, b) => a.or(b),
        })
    }

    /// Through what comes after a core: the gradients of what goes around it, and of what came out of it.
    fn backward_after(
        &mut self,
        segment: usize,
        x: &Tensor,
        sum: &Tensor,
        after: Option<Tensor>,
        grad: &Tensor,
        context: &Context<'_>,
    ) -> Result<(Option<Tensor>, Tensor), EngineError> {
        let after = match after {
            Some(after) => after,
            None => {
                let weights = self.store.weights(segment);
                self.segments[segment].join(weights, x, sum.shallow_clone(), context)?
            }
        };
        let inputs: &[&Tensor] = match self.roles[segment] {
            Role::Embedding => &[sum],
            _ => &[sum, x],
        };
        let mut grads = self
            .pull(segment..segment + 1, &after, grad, inputs)?
            .into_iter();
        let of_sum = grads.next().flatten();
        let of_sum = of_sum.ok_or_else(|| TorchError::new("a segment drops its core's output"))?;
        Ok((grads.next().flatten(), of_sum))
    }

    /// The gradient of what the rank holds before a core, from that of what its core computed with.
    pub(super) fn grad_before_core(
        &self,
        grad_input: Tensor,
        crew: &mut Crew<'_>,
    ) -> Result<Tensor, EngineError> {
        let grad = match crew.groups.tp.world() {
            1 => grad_input,
            _ if self.forgets_input_grads => grad_input,
            _ => self
                .tensor
                .into_core_backward(&grad_input, &mut *crew.groups.tp)?,
        };
        crew.clock.mark(Phase::Comm)?;
        Ok(grad)
    }

    /// What a core computes with, a fresh leaf unless it is tokens.
    pub(super) fn meet_into_core(
        &self,
        role: Role,
        before: &Tensor,
        crew: &mut Crew<'_>,
    ) -> Result<Tensor, EngineError> {
        let input = match crew.groups.tp.world() {
            1 => before.f_detach()?,
            _ => self.tensor.into_core(role, before, &mut *crew.groups.tp)?,
        };
        crew.clock.mark(Phase::Comm)?;
        match role {
            Role::Embedding => Ok(input),
            _ => Ok(input.f_set_requires_grad(true)?),
        }
    }

    fn out_of_core(&self, core: &Tensor, crew: &mut Crew<'_>) -> Result<Tensor, EngineError> {
        let sum = match crew.groups.tp.world() {
            1 => core.f_detach()?,
            _ => self.tensor.out_of_core(core, &mut *crew.groups.tp)?,
        };
        crew.clock.mark(Phase::Comm)?;
        Ok(sum)
    }
}

/// Runs with or without a graph.
fn grad_mode<T>(on: bool, body: impl FnOnce() -> T) -> T {
    let _guard = (!on).then(tch::no_grad_guard);
    body()
}
