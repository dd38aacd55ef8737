//! Between two steps: the finished step's numbers, and what has been ordered.

use std::sync::mpsc::Receiver;

use super::{Launched, Rank};
use crate::{
    base::rendezvous::Poisoned,
    data::StepBatch,
    engine::{
        EngineError, guard,
        seat::{Note, Orders},
    },
    event::{Control, Event, Phases, RankStep},
};

/// A step whose work is done.
struct Finished {
    step: u64,
    global_valid: u64,
    lr: f64,
    /// Where its time went; together they are its time.
    phases: Phases,
}

impl Rank {
    /// Meets the other ranks between two steps: the finished step's numbers, and what has been ordered.
    pub(super) fn boundary(&mut self, launched: Option<Launched>) -> Result<Orders, EngineError> {
        self.seat.progress.enter("reading the step's numbers");
        let mut note = Note {
            orders: self.take_orders(),
            trained_s: self.trained_s,
            ..Note::default()
        };
        let finished = launched
            .map(|launched| self.finish(launched, &mut note))
            .transpose()?;
        let notes = self.seat.notes.exchange(note)?;
        self.trained_s = notes[0].trained_s;
        if let Some(finished) = finished {
            self.report_step(finished, &notes)?;
        }
        Ok(notes[0].orders)
    }

    /// Waits for a launched step, and notes what it was; its time is what the device says, whenever the host looks.
    fn finish(&mut self, launched: Launched, note: &mut Note) -> Result<Finished, EngineError> {
        let Launched {
            step,
            numbers,
            global_valid,
            lr,
            timing,
            traffic,
        } = launched;
        if self.device.runs_ahead() {
            self.seat.progress.waiting_for_device(|| timing.wait())?;
        }
        let (loss_sum, grad_norm) = numbers.read()?;
        // Tensor-parallel ranks all know the same loss.
        if self.seat.at(&self.job.plan).shard == 0 {
            note.loss_sum = loss_sum;
        }
        note.grad_norm = grad_norm;
        self.tokens += global_valid;
        let phases = timing.phases()?;
        self.clock.reuse(timing);
        note.part = RankStep {
            rank: self.seat.rank,
            phases,
            bytes: traffic,
            ..RankStep::default()
        };
        if self.job.plan.has_own_device(self.seat.rank) {
            let memory = self.device.memory()?;
            note.part.memory_bytes = Some(memory.live_bytes);
            note.part.memory_peak_bytes = Some(memory.peak_bytes);
        }
        note.trained_s += phases.total();
        Ok(Finished {
            step,
            global_valid,
            lr,
            phases,
        })
    }

    fn report_step(&mut self, finished: Finished, notes: &[Note]) -> Result<(), EngineError> {
        let loss_sum: f64 = notes.iter().map(|note| note.loss_sum).sum();
        let loss = loss_sum / finished.global_valid.max(1) as f64;
        // All that update know the same norm, unless one rank's memory is broken.
        let mut norms = notes.iter().map(|note| note.grad_norm);
        let bad_norm = norms.find(|norm| !norm.is_finite());
        let grad_norm = bad_norm.unwrap_or(notes[0].grad_norm);
        if self.is_first() {
            let step_time_s = finished.phases.total();
            let tokens_per_sec = finished.global_valid as f64 / step_time_s;
            let plan = &self.job.plan;
            let lanes = self.seat.n_lanes;
            self.emit(Event::Step {
                step: finished.step,
                loss,
                lr: finished.lr,
                grad_norm,
                tokens: self.tokens,
                step_time_s,
                tokens_per_sec,
                mfu: plan
                    .peak_flops
                    .map(|peak| tokens_per_sec * plan.flops_per_token / peak),
                phases: finished.phases,
                ranks: notes.chunks(lanes).map(Note::of_lanes).collect(),
            });
        }
        if loss.is_finite() && grad_norm.is_finite() {
            return Ok(());
        }
        Err(self.not_finite(finished.step, loss)?)
    }

    /// All ranks look for where a value that is no number came from; the one nearest to its origin says so.
    ///
    /// The weights are those before the step where its norm was not finite, also where the host had launched the next
    /// one by then: no update is made after one that was given up.
    fn not_finite(&mut self, step: u64, loss: f64) -> Result<EngineError, EngineError> {
        self.seat.progress.enter_step(step);
        let train = &self.job.data.train;
        let batch = StepBatch::read(train, &self.order, &self.batches, step - 1)?;
        if self.device.runs_ahead() {
            // The buffers hold the next step's gradients by now.
            self.passes.train(&batch, step, &mut self.clock)?;
            self.strike_grads(step)?;
        }
        let stage = self.seat.at(&self.job.plan).stage;
        let own = guard::look(&self.passes.stepper, stage, batch, step)?;
        let origins = self.seat.origins.exchange(own)?;
        let found = origins.iter().enumerate();
        let found = found.filter_map(|(seat, origin)| Some((origin.as_ref()?, seat)));
        let (place, speaker) = match found.min() {
            Some((origin, seat)) => (origin.to_string(), seat),
            None if self.device.runs_ahead() => (
                "it was there for a moment only: computed again, the step is finite".to_owned(),
                0,
            ),
            None => ("all weights and gradients are finite".to_owned(), 0),
        };
        let what = match loss.is_finite() {
            true => "gradient norm",
            false => "loss",
        };
        Ok(match speaker == self.seat.number() {
            true => EngineError::NotFinite { what, place },
            false => Poisoned.into(),
        })
    }

    fn take_orders(&self) -> Orders {
        let mut orders = Orders::default();
        let controls = self.seat.controls.iter().flat_map(Receiver::try_iter);
        for control in controls {
            match control {
                Control::Checkpoint => orders.checkpoint = true,
                Control::Sample => orders.sample = true,
                Control::Stop | Control::Kill => orders.stop = true,
                Control::Pause => orders.pause = true,
                Control::Continue => orders.pause = false,
            }
        }
        orders
    }
}
