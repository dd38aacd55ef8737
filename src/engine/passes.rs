//! A step's passes through a rank's chunks, in the order that the pipeline's schedule gives them.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::{
    EngineError, Stepper,
    clock::{Phase, StepClock},
    inject::Kind as FaultKind,
    late::LateLoss,
    step::{Completion, Crew, Wanted},
    tape::{OfStep, Tape},
};
use crate::{
    data::{HostBatch, StepBatch},
    dist::{Communicator, Flow, Groups, Reduction},
    event::Traffic,
    nn::{FlatRange, ParamStore},
    optim,
    parallel::{self, Pipeline, Strategy, schedule::Action},
    plan,
    torch::TorchError,
};

/// A rank's part of a model, with what it does between segments and with whom.
pub struct Passes {
    pub stepper: Stepper,
    pub strategy: Box<dyn Strategy>,
    pub groups: Groups,
    pub pipeline: Pipeline,
    /// A planted mistake.
    pub mistake: Option<FaultKind>,
}

impl Passes {
    /// A whole model on one rank.
    pub fn alone(stepper: Stepper) -> Self {
        Self {
            stepper,
            strategy: parallel::build(plan::Strategy::Single),
            groups: Groups::solo(),
            pipeline: Pipeline::ALONE,
            mistake: None,
        }
    }

    /// Forward and backward over all micro-batches; afterwards the gradients that the rank keeps are those of
    /// the whole global batch. Returns the micro-batches' loss sums on ranks of the last stage.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn train(
        &mut self,
        batch: &StepBatch,
        step: u64,
        clock: &mut StepClock,
    ) -> Result<Vec<Tensor>, EngineError> {
        self.stepper.store.begin_step();
        let n_micros = batch.micros.len();
        let mut kept: HashMap<(usize, usize), Tape> = HashMap::new();
        let mut losses = Vec::new();
        for action in self.pipeline.actions(n_micros) {
            match action {
                Action::Forward { chunk, micro } => {
                    let host = &batch.micros[self.number_of(micro, n_micros)];
                    let step = OfStep {
                        number: step,
                        divisor: self.divisor(batch, micro),
                    };
                    let (output, tape) = self.forward(chunk, host, step, clock)?;
                    kept.insert((chunk, micro), tape);
                    match self.pipeline.after(chunk) {
                        Some(to) => self.hand_over(Flow::Activation, to, &output, clock)?,
                        None => losses.push(output),
                    }
                }
                Action::Backward { chunk, micro } => {
                    let tape = kept.remove(&(chunk, micro));
                    let tape = tape.ok_or_else(|| {
                        TorchError::new("a backward pass before its forward pass")
                    })?;
                    let done = Completion {
                        is_last: self.pipeline.n_stages == 1 && micro + 1 == n_micros,
                    };
                    self.backward(chunk, tape, done, clock)?;
                }
            }
        }
        self.complete_gradients(clock)?;
        Ok(losses)
    }

    /// Which micro-batch a pass reads; a planted mistake confuses a later stage.
    fn number_of(&self, micro: usize, n_micros: usize) -> usize {
        match self.mistake {
            Some(FaultKind::WrongMicroBatch) if self.pipeline.stage > 0 => (micro + 1) % n_micros,
            _ => micro,
        }
    }

    /// Valid targets of the whole global batch; a planted mistake takes each micro-batch's own.
    fn divisor(&self, batch: &StepBatch, micro: usize) -> u64 {
        match self.mistake {
            Some(FaultKind::MeanOfMeans) => {
                let n_micros = batch.micros.len() * self.groups.dp.world();
                batch.micros[micro].n_valid * n_micros as u64
            }
            _ => batch.global_valid,
        }
    }

    fn forward(
        &mut self,
        chunk: usize,
        host: &HostBatch,
        step: OfStep,
        clock: &mut StepClock,
    ) -> Result<(Tensor, Tape), EngineError> {
        let tape = Tape::new(self.stepper.load(host, Some(step.number))?, step);
        let (rows, time) = (host.rows as i64, host.seq_len as i64);
        let input = self.receive(
            Flow::Activation,
            self.pipeline.before(chunk),
            (rows, time),
            clock,
        )?;
        let mut crew = Crew {
            strategy: self.strategy.as_mut(),
            groups: &mut self.groups,
            clock,
        };
        self.stepper.forward(chunk, tape, input, &mut crew)
    }

    fn backward(
        &mut self,
        chunk: usize,
        tape: Tape,
        done: Completion,
        clock: &mut StepClock,
    ) -> Result<(), EngineError> {
        let grad = self.receive(
            Flow::Gradient,
            self.pipeline.after(chunk),
            tape.extent(),
            clock,
        )?;
        let mut crew = Crew {
            strategy: self.strategy.as_mut(),
            groups: &mut self.groups,
            clock,
        };
        let grad = self.stepper.backward(tape, grad, done, &mut crew)?;
        match (self.pipeline.before(chunk), grad) {
            (Some(to), Some(grad)) => self.hand_over(Flow::Gradient, to, &grad, clock),
            _ => Ok(()),
        }
    }

    fn hand_over(
        &mut self,
        flow: Flow,
        to: usize,
        tensor: &Tensor,
        clock: &mut StepClock,
    ) -> Result<(), EngineError> {
        self.groups.links.send(flow, to, &tensor.f_contiguous()?)?;
        Ok(clock.mark(Phase::Comm)?)
    }

    fn receive(
        &mut self,
        flow: Flow,
        from: Option<usize>,
        (rows, time): (i64, i64),
        clock: &mut StepClock,
    ) -> Result<Option<Tensor>, EngineError> {
        let Some(from) = from else { return Ok(None) };
        let expected = self.stepper.expected(rows, time, &*self.groups.tp);
        let tensor = self.groups.links.recv(flow, from, &expected)?;
        clock.mark(Phase::Bubble)?;
        Ok(Some(tensor))
    }

    /// Adds up what stages, replicas and shards each have a part of.
    fn complete_gradients(&mut self, clock: &mut StepClock) -> Result<(), EngineError> {
        let store = &mut self.stepper.store;
        let is_pipeline = self.pipeline.n_stages > 1;
        // Replicas first: a sum of two stages then has the same bits on both, whatever order NCCL adds in. Shards
        // of the two stages hold different elements, so ZeRO adds them before it cuts.
        let ties_first = is_pipeline && store.partition().shards_state();
        if is_pipeline {
            let all = store.all_segments();
            store.zero_unfilled(all.clone())?;
            if ties_first {
                add_tied(store, &mut *self.groups.tied)?;
            }
            self.strategy
                .grads_ready(store, all, true, &mut *self.groups.dp)?;
        }
        self.strategy.before_update(store, &mut *self.groups.dp)?;
        if is_pipeline && !ties_first {
            add_tied(store, &mut *self.groups.tied)?;
        }
        if self.stepper.shares_sequence() {
            for grads in self.stepper.store.replicated_grads()? {
                self.groups.tp.start_all_reduce(&grads, Reduction::Sum)?;
            }
            self.groups.tp.wait()?;
        }
        Ok(clock.mark(Phase::Comm)?)
    }

    /// A forward pass with nothing kept, through all chunks of all stages; its result on ranks of the last.
    fn infer(&mut self, host: &HostBatch, wanted: Wanted) -> Result<Option<Tensor>, EngineError> {
        let extent = (host.rows as i64, host.seq_len as i64);
        let batch = self.stepper.load(host, None)?;
        let mut result = None;
        for chunk in 0..self.pipeline.n_chunks {
            let input = match self.pipeline.before(chunk) {
                Some(from) => {
                    let expected = self.stepper.expected(extent.0, extent.1, &*self.groups.tp);
                    Some(self.groups.links.recv(Flow::Activation, from, &expected)?)
                }
                None => None,
            };
            let (strategy, groups) = (self.strategy.as_mut(), &mut self.groups);
            let output = self
                .stepper
                .infer(chunk, &batch, input, wanted, strategy, groups)?;
            match self.pipeline.after(chunk) {
                Some(to) => {
                    self.groups
                        .links
                        .send(Flow::Activation, to, &output.f_contiguous()?)?
                }
                None => result = Some(output),
            }
        }
        Ok(result)
    }

    /// Loss summed over the valid targets of a batch, in fp64, on ranks of the last stage. On a GPU it has been
    /// launched, and is read when it has arrived.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn loss_sum(&mut self, batch: HostBatch) -> Result<LateLoss, EngineError> {
        let loss = self.infer(&batch, Wanted::Loss)?;
        Ok(LateLoss::send(loss.as_ref(), &self.stepper.device)?)
    }

    /// Logits `[time, vocab]` for a window of tokens, from the `last` positions alone if so asked, on ranks of
    /// the last stage.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn logits(
        &mut self,
        tokens: &[i64],
        last: Option<i64>,
    ) -> Result<Option<Tensor>, EngineError> {
        let time = self.stepper.padded(tokens.len());
        let mut inputs = tokens.to_vec();
        inputs.resize(time, 0);
        let batch = HostBatch {
            targets: vec![crate::data::IGNORED_TARGET; time],
            inputs,
            sample_indices: vec![0],
            n_valid: 0,
            rows: 1,
            seq_len: time,
        };
        let Some(logits) = self.infer(&batch, Wanted::Logits)? else {
            return Ok(None);
        };
        let n = last.unwrap_or(tokens.len() as i64);
        let own = logits
            .f_select(0, 0)?
            .f_narrow(0, tokens.len() as i64 - n, n)?;
        Ok(Some(
            self.stepper.whole_vocabulary(&own, &mut *self.groups.tp)?,
        ))
    }

    /// The global gradient norm, before clipping; one number.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn grad_norm(&mut self) -> Result<Tensor, EngineError> {
        let store = &self.stepper.store;
        let counted = store.counted_grads()?;
        if let ([all], 1) = (&counted[..], self.groups.norm.world()) {
            return Ok(optim::norm(all)?);
        }
        let squares = optim::square_sum(&counted, store.master().device())?;
        self.groups.norm.all_reduce(&squares, Reduction::Sum)?;
        Ok(squares.f_sqrt()?.f_select(0, 0)?)
    }

    /// The ranks that update have done so, this one `part` of the flat buffers: brings the weights to all.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn publish(&mut self, part: &FlatRange) -> Result<(), EngineError> {
        let (store, groups) = (&self.stepper.store, &mut self.groups);
        self.strategy.after_update(store, part, &mut *groups.dp)?;
        if self.pipeline.n_stages > 1 && store.partition().shards_state() {
            // ZeRO's parts of a tied weight were summed apart on its two stages: the owner's count.
            for weights in store.tied_weights()? {
                groups.tied.start_broadcast(&weights, 0)?;
            }
            groups.tied.wait()?;
        }
        Ok(())
    }

    /// What the rank moved since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        self.groups.take_traffic()
    }
}

/// Adds up the gradients of parameters that the first and the last stage both hold.
fn add_tied(store: &ParamStore, tied: &mut dyn Communicator) -> Result<(), EngineError> {
    for grads in store.tied_grads()? {
        tied.all_reduce(&grads, Reduction::Sum)?;
    }
    Ok(())
}

/// A step's loss sum and gradient norm, copied to the host behind the step's work: the host need not wait
/// for the device, and must not read before the step is done.
pub struct StepNumbers(Tensor);

impl StepNumbers {
    /// Starts the copy. A rank without a loss or a norm has 0.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn send(
        losses: &[Tensor],
        norm: Option<&Tensor>,
        device: Device,
    ) -> Result<Self, TorchError> {
        let _guard = tch::no_grad_guard();
        let mut loss_sum = Tensor::f_zeros([], (Kind::Double, device))?;
        for loss in losses {
            let _ = loss_sum.f_add_(&loss.f_to_kind(Kind::Double)?)?;
        }
        let norm = match norm {
            Some(norm) => norm.f_to_kind(Kind::Double)?,
            None => Tensor::f_zeros([], (Kind::Double, device))?,
        };
        let both = Tensor::f_stack(&[loss_sum, norm], 0)?;
        Ok(Self(both.f_to_device_(
            Device::Cpu,
            Kind::Double,
            true,
            false,
        )?))
    }

    /// Loss sum and norm.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn read(&self) -> Result<(f64, f64), TorchError> {
        Ok((self.0.f_double_value(&[0])?, self.0.f_double_value(&[1])?))
    }
}
