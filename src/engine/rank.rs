//! One rank's life: set up, step after step, evaluations and saves between them.

mod sample;

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::Instant,
};

use tch::Tensor;

use super::{
    EngineError, Job, Passes, RankDevice,
    clock::{Phase, StepClock, StepTiming},
    evaluate, guard,
    inject::Kind as FaultKind,
    passes::StepNumbers,
    save::Saver,
    seat::{self, Equipment, Finish, Message, Note, Orders, Seat},
};
use crate::{
    arch::Sharding,
    base::rendezvous::Poisoned,
    checkpoint::{self, BestEval, Contribution, Manifest, RunFacts},
    data::{BatchPlan, EvalWindows, Loader, StepBatch, WindowOrder},
    event::{Control, Event, Phases, RankStep, Traffic},
    nn::FlatRange,
    optim::{self, Optimizer},
    plan::StopPlan,
};

/// A step whose work has been launched, and on a GPU may not be done.
struct Launched {
    step: u64,
    /// On their way to the host.
    numbers: StepNumbers,
    global_valid: u64,
    lr: f64,
    timing: StepTiming,
    traffic: Traffic,
}

/// One rank.
pub struct Rank {
    job: Arc<Job>,
    seat: Seat,
    device: RankDevice,
    passes: Passes,
    optimizer: Box<dyn Optimizer>,
    order: WindowOrder,
    batches: BatchPlan,
    loader: Loader,
    clock: StepClock,
    saver: Option<Saver>,
    /// The step of the last save that began.
    last_save: Option<u64>,
    pending: Option<Launched>,
    /// What this lane updates of the flat buffers.
    part: FlatRange,
    /// Optimizer steps launched.
    step: u64,
    /// Targets of finished steps.
    tokens: u64,
    /// Seconds of finished steps, over all sessions.
    trained_s: f64,
    best: Option<BestEval>,
}

impl Rank {
    /// Sets up the rank on the calling thread.
    ///
    /// # Errors
    /// No room, no device, a checkpoint that does not fit, a failed rank.
    pub fn new(job: Arc<Job>, mut seat: Seat) -> Result<Self, EngineError> {
        seat.progress.enter("setting up");
        let plan = &job.plan;
        let place = plan.ranks[seat.rank];
        let device = RankDevice::enter(place.device, place.threads / seat.n_lanes)?;
        let Equipment { passes, state } = seat.equip(&job, &device)?;
        let plan = &job.plan;
        let store = &passes.stepper.store;
        let part = store.lane_part(seat.lane, seat.n_lanes);
        let optimizer = optim::build(&job.config.optimizer, store, state, &part)?;
        let manifest = job.resume.as_ref().map(|loaded| &loaded.manifest);
        let (step, tokens, trained_s, best) = manifest.map_or((0, 0, 0.0, None), |saved| {
            (saved.step, saved.tokens, saved.trained_s, saved.best)
        });
        let note = Note {
            from_step: step,
            ..Note::default()
        };
        let notes = seat.notes.exchange(note)?;
        if notes.iter().any(|note| note.from_step != step) {
            let steps = notes.iter().map(|note| note.from_step).collect();
            return Err(EngineError::Apart { steps });
        }
        let order = WindowOrder::new(
            job.config.data.windows(),
            job.config.seed,
            job.data.train.len(),
            plan.model.seq_len(),
        )?;
        let batches = BatchPlan {
            global_batch: plan.global_batch,
            local_batch: plan.local_batch / seat.n_lanes,
            micro_batch: plan.micro_batch / seat.n_lanes,
            dp_rank: seat.at(plan).replica * seat.n_lanes + seat.lane,
        };
        let loader = Loader::spawn(job.data.train.clone(), order, batches, step)?;
        let saver = (seat.number() == 0)
            .then(|| {
                job.checkpoints
                    .as_deref()
                    .map(|folder| Saver::new(folder, job.config.checkpoint.keep))
            })
            .flatten();
        let clock = StepClock::new(&device);
        let pending = None;
        Ok(Self {
            job,
            seat,
            device,
            passes,
            optimizer,
            order,
            batches,
            loader,
            clock,
            saver,
            last_save: None,
            pending,
            part,
            step,
            tokens,
            trained_s,
            best,
        })
    }

    /// Trains until the plan is done or a stop is ordered.
    ///
    /// # Errors
    /// Anything that this rank, or another, can't get over.
    pub fn run(&mut self) -> Result<Finish, EngineError> {
        if self.step == 0 && self.job.config.eval.at_start {
            self.evaluate(false)?;
        }
        self.clock.restart();
        while !self.is_complete() {
            let launched = self.launch()?;
            let finished = if self.device.runs_ahead() {
                self.pending.replace(launched)
            } else {
                Some(launched)
            };
            let orders = self.boundary(finished)?;
            if let Some(finish) = self.interlude(orders)? {
                return Ok(finish);
            }
        }
        self.complete()
    }

    fn is_complete(&self) -> bool {
        match self.job.plan.stop {
            StopPlan::Steps { steps } => self.step >= steps,
            StopPlan::Seconds { seconds } => self.trained_s >= seconds,
        }
    }

    /// Launches one optimizer step.
    fn launch(&mut self) -> Result<Launched, EngineError> {
        let step = self.step + 1;
        self.seat.progress.enter_step(step);
        self.strike(step)?;
        self.seat.progress.enter("waiting for data");
        let batch = self.loader.next_batch()?;
        self.clock.mark(Phase::Data)?;
        let global_valid = batch.global_valid;
        self.seat.progress.enter("forward and backward");
        let losses = self.passes.train(&batch, step, &mut self.clock)?;
        let lr = optim::lr_at(
            &self.job.config.schedule,
            self.job.config.optimizer.lr(),
            step,
            self.expected_steps(),
        );
        let norm = self.update(step, lr)?;
        let numbers = StepNumbers::send(&losses, norm.as_ref(), self.device.device)?;
        self.clock.mark(Phase::Other)?;
        self.step = step;
        Ok(Launched {
            step,
            numbers,
            global_valid,
            lr,
            timing: self.clock.take(),
            traffic: self.passes.take_traffic(),
        })
    }

    /// The optimizer's step where this rank takes it; returns the global gradient norm then.
    fn update(&mut self, step: u64, lr: f64) -> Result<Option<Tensor>, EngineError> {
        self.seat.progress.enter("optimizer");
        let norm = if self
            .passes
            .strategy
            .updates(self.seat.at(&self.job.plan).replica)
        {
            let norm = self.passes.grad_norm()?;
            let stats = optim::grad_stats(norm, self.job.config.optimizer.clip())?;
            self.optimizer.update(step, lr, &stats)?;
            Some(stats.norm)
        } else {
            None
        };
        self.clock.mark(Phase::Optimizer)?;
        self.passes.publish(&self.part)?;
        self.clock.mark(Phase::Comm)?;
        Ok(norm)
    }

    /// Meets the other ranks between two steps: the finished step's numbers, and what has been ordered.
    fn boundary(&mut self, mut finished: Option<Launched>) -> Result<Orders, EngineError> {
        let mut note = Note {
            orders: self.take_orders(),
            ..Note::default()
        };
        let step_time_s = self.clock.lap();
        let mut phases = Phases::default();
        if let Some(finished) = &mut finished {
            let timing = std::mem::take(&mut finished.timing);
            timing.wait()?;
            let (loss_sum, grad_norm) = finished.numbers.read()?;
            // Tensor-parallel ranks all know the same loss.
            if self.seat.at(&self.job.plan).shard == 0 {
                note.loss_sum = loss_sum;
            }
            note.grad_norm = grad_norm;
            self.tokens += finished.global_valid;
            phases = timing.phases(step_time_s)?;
            self.clock.reuse(timing);
            note.part = RankStep {
                rank: self.seat.rank,
                phases,
                bytes: finished.traffic,
                ..RankStep::default()
            };
            if self.job.plan.has_own_device(self.seat.rank) {
                let memory = self.device.memory()?;
                note.part.memory_bytes = Some(memory.live_bytes);
                note.part.memory_peak_bytes = Some(memory.peak_bytes);
            }
        }
        note.trained_s = self.trained_s + if finished.is_some() { step_time_s } else { 0.0 };
        let notes = self.seat.notes.exchange(note)?;
        self.trained_s = notes[0].trained_s;
        if let Some(finished) = finished {
            self.report_step(finished, &notes, phases, step_time_s)?;
        }
        Ok(notes[0].orders)
    }

    fn report_step(
        &mut self,
        finished: Launched,
        notes: &[Note],
        phases: Phases,
        step_time_s: f64,
    ) -> Result<(), EngineError> {
        let loss_sum: f64 = notes.iter().map(|note| note.loss_sum).sum();
        let loss = loss_sum / finished.global_valid.max(1) as f64;
        let grad_norm = notes[0].grad_norm;
        if self.is_first() {
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
                phases,
                ranks: notes.chunks(lanes).map(Note::of_lanes).collect(),
            });
        }
        if loss.is_finite() && grad_norm.is_finite() {
            return Ok(());
        }
        Err(self.not_finite(finished.step, loss)?)
    }

    /// All ranks look for where a value that is no number came from; the one nearest to its origin says so.
    fn not_finite(&mut self, step: u64, loss: f64) -> Result<EngineError, EngineError> {
        let train = &self.job.data.train;
        let batch = StepBatch::read(train, &self.order, &self.batches, step - 1)?;
        if self.device.runs_ahead() {
            // The buffers hold the next step's gradients by now.
            self.passes.train(&batch, step, &mut self.clock)?;
        }
        let stage = self.seat.at(&self.job.plan).stage;
        let own = guard::look(&self.passes.stepper, stage, batch, step)?;
        let origins = self.seat.origins.exchange(own)?;
        let found = origins.iter().enumerate();
        let found = found.filter_map(|(seat, origin)| Some((origin.as_ref()?, seat)));
        let (place, speaker) = match found.min() {
            Some((origin, seat)) => (origin.to_string(), seat),
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

    /// What lies between two steps: evaluation, checkpoint, pause, stop.
    fn interlude(&mut self, mut orders: Orders) -> Result<Option<Finish>, EngineError> {
        let evaluates = self.step.is_multiple_of(self.job.config.eval.every) && !self.is_complete();
        let saves = self.step.is_multiple_of(self.job.config.checkpoint.every);
        if let Some(saver) = &mut self.saver {
            saver.report(&emitter(&self.seat.events));
        }
        let Orders {
            checkpoint,
            stop,
            pause,
            sample,
        } = orders;
        if !(evaluates || saves || checkpoint || stop || pause || sample) {
            return Ok(None);
        }
        if let Some(pending) = self.pending.take() {
            orders = orders.and(self.boundary(Some(pending))?);
        }
        let improved = evaluates && self.evaluate(false)?;
        if orders.sample {
            self.sample_or_say_why(&self.sample_settings())?;
        }
        if (saves || improved || orders.checkpoint || orders.stop) && !self.save()? {
            orders.stop = true;
        }
        // Whether there was space is known to rank 0 alone.
        let note = Note {
            orders,
            trained_s: self.trained_s,
            ..Note::default()
        };
        orders = self.seat.notes.exchange(note)?[0].orders;
        if orders.stop {
            return self.stopped().map(Some);
        }
        if orders.pause && self.pause()?.stop {
            self.save()?;
            return self.stopped().map(Some);
        }
        // What was moved meanwhile is no step's.
        let _ = self.passes.take_traffic();
        self.clock.restart();
        Ok(None)
    }

    /// Holds all ranks until they are told to go on or to stop.
    fn pause(&mut self) -> Result<Orders, EngineError> {
        let step = self.step;
        self.emit_from_first(Event::Paused { step });
        // A stop that was heard while a checkpoint waited for space.
        let mut was_stopped = false;
        loop {
            self.seat.progress.set_idle(true);
            let mut note = Note {
                trained_s: self.trained_s,
                ..Note::default()
            };
            note.orders.pause = true;
            note.orders.stop = was_stopped;
            if let Some(controls) = self.seat.controls.as_ref().filter(|_| !was_stopped) {
                match controls.recv() {
                    Ok(Control::Continue) => note.orders.pause = false,
                    Ok(Control::Checkpoint) => note.orders.checkpoint = true,
                    Ok(Control::Sample) => note.orders.sample = true,
                    Ok(Control::Stop | Control::Kill) | Err(_) => note.orders.stop = true,
                    Ok(Control::Pause) => {}
                }
            }
            let orders = self.seat.notes.exchange(note)?[0].orders;
            if orders.sample {
                self.seat.progress.set_idle(false);
                self.sample_or_say_why(&self.sample_settings())?;
            }
            if orders.checkpoint {
                was_stopped = !self.save()?;
            }
            if !orders.pause || orders.stop {
                self.seat.progress.set_idle(false);
                if !orders.stop {
                    self.emit_from_first(Event::Continued { step });
                }
                return Ok(orders);
            }
        }
    }

    fn complete(&mut self) -> Result<Finish, EngineError> {
        if let Some(pending) = self.pending.take() {
            self.boundary(Some(pending))?;
        }
        let mut note = Note {
            trained_s: self.trained_s,
            ..Note::default()
        };
        note.orders.stop = !self.save()?;
        // Whether there was space is known to rank 0 alone.
        if self.seat.notes.exchange(note)?[0].orders.stop {
            return self.stopped();
        }
        self.evaluate(true)?;
        if let Some(sample) = self.job.config.sample.clone() {
            self.sample_or_say_why(&sample)?;
        }
        self.finish_saves();
        Ok(Finish::Completed { step: self.step })
    }

    fn stopped(&mut self) -> Result<Finish, EngineError> {
        self.finish_saves();
        let unsaved = match &self.saver {
            Some(saver) if !saver.has_saved(self.step) => {
                Some("there was no space for a checkpoint".to_owned())
            }
            Some(saver) => saver.failure().map(str::to_owned),
            None => None,
        };
        Ok(Finish::Stopped {
            step: self.step,
            unsaved,
        })
    }

    /// Evaluates on fixed windows, or at the end on all of them; returns whether the loss is the lowest so far.
    fn evaluate(&mut self, is_final: bool) -> Result<bool, EngineError> {
        self.seat.progress.enter("evaluating");
        let began = Instant::now();
        let tokens = &self.job.data.val;
        let (plan, eval) = (&self.job.plan, &self.job.config.eval);
        let windows = if is_final {
            EvalWindows::all(tokens.len(), plan.model.seq_len())?
        } else {
            EvalWindows::spaced(
                tokens.len(),
                plan.model.seq_len(),
                eval.batches * plan.global_batch as u64,
            )?
        };
        let on_batch = self.seat.teller("evaluating");
        let (at, lane) = (self.seat.at(plan), self.seat.lane);
        let n_lanes = self.seat.n_lanes;
        let turn = evaluate::Turn {
            replica: at.replica * n_lanes + lane,
            n_replicas: plan.split.mesh.dp * n_lanes,
            in_step: self.passes.strategy.gathers_weights(),
        };
        let passes = &mut self.passes;
        let evaluated = evaluate::evaluate(
            tokens,
            &windows,
            plan.micro_batch,
            turn,
            &self.seat.losses,
            |batch| Ok(passes.loss_sum(batch)?.filter(|_| at.shard == 0)),
            on_batch,
        )?;
        self.emit_from_first(Event::Eval {
            step: self.step,
            loss: evaluated.loss,
            targets: evaluated.targets,
            seconds: began.elapsed().as_secs_f64(),
            is_final,
        });
        let improved =
            !is_final && self.step > 0 && self.best.is_none_or(|best| evaluated.loss < best.loss);
        if improved {
            self.best = Some(BestEval {
                step: self.step,
                loss: evaluated.loss,
            });
        }
        Ok(improved)
    }

    /// All ranks save this step together, unless one has begun; false on rank 0 where there is no space and
    /// the run is to stop.
    fn save(&mut self) -> Result<bool, EngineError> {
        if self.job.checkpoints.is_none() || self.last_save == Some(self.step) {
            return Ok(true);
        }
        self.last_save = Some(self.step);
        self.seat.progress.enter("saving");
        let has_space = self.wait_for_space()?;
        let store = &self.passes.stepper.store;
        let own = match self.seat.lane {
            0 => {
                let place = self.seat.place(&self.job.plan);
                let is_shared = self.job.plan.n_workers > 1;
                let own = checkpoint::contribute(store, self.optimizer.as_ref(), place, is_shared)?;
                Some(own)
            }
            // The first lane's buffers are this one's too.
            _ => None,
        };
        let all = self.seat.saves.exchange(own)?;
        if has_space {
            let all: Vec<&Contribution> = all.iter().filter_map(Option::as_ref).collect();
            self.start_save(&all)?;
        }
        // Until all have mapped what the others gave, nobody's may go.
        self.seat.saves.exchange(None)?;
        Ok(has_space)
    }

    fn wait_for_space(&mut self) -> Result<bool, EngineError> {
        let (Some(saver), Some(controls)) = (&mut self.saver, &self.seat.controls) else {
            return Ok(true);
        };
        let n_bytes = self.job.plan.checkpoint_bytes(self.optimizer.state().len());
        let emit = emitter(&self.seat.events);
        saver.wait_for_space(n_bytes, self.step, &self.seat.progress, controls, &emit)
    }

    /// Rank 0 starts to write what all ranks contributed.
    fn start_save(&mut self, contributions: &[&Contribution]) -> Result<(), EngineError> {
        let Some(saver) = &mut self.saver else {
            return Ok(());
        };
        let plan = &self.job.plan;
        let names = optim::state_names(&self.job.config.optimizer);
        let layout =
            |stage: usize, shard| seat::layout(plan, &plan.split.stage(&plan.model, stage), shard);
        let snapshot = checkpoint::assemble(contributions, names, layout)?;
        let manifest = Manifest {
            schema: Manifest::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            step: self.step,
            tokens: self.tokens,
            trained_s: self.trained_s,
            best: self.best,
            run: RunFacts::of(plan, self.job.config.seed, names),
            files: Default::default(),
        };
        self.seat.progress.set_idle(true);
        saver.start(snapshot, manifest);
        self.seat.progress.set_idle(false);
        Ok(())
    }

    fn finish_saves(&mut self) {
        self.seat.progress.set_idle(true);
        if let Some(saver) = &mut self.saver {
            saver.finish(&emitter(&self.seat.events));
        }
        self.seat.progress.set_idle(false);
    }

    /// Steps that the learning rate's schedule runs over; a guess from the pace where the end is a time.
    fn expected_steps(&self) -> u64 {
        match self.job.plan.stop {
            StopPlan::Steps { steps } => steps,
            StopPlan::Seconds { .. } if self.trained_s <= 0.0 => u64::MAX,
            StopPlan::Seconds { seconds } => {
                (self.step as f64 * seconds / self.trained_s).ceil() as u64
            }
        }
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

    fn strike(&mut self, step: u64) -> Result<(), EngineError> {
        let Some(fault) = self.job.inject.filter(|_| self.seat.lane == 0) else {
            return Ok(());
        };
        let store = &self.passes.stepper.store;
        let _guard = tch::no_grad_guard();
        if fault.is_due(self.seat.rank, step, FaultKind::NanGrad) {
            let _ = store.master().f_narrow(0, 0, 1)?.f_fill_(f64::NAN)?;
        }
        if fault.is_due(self.seat.rank, step, FaultKind::ShiftedShard) {
            let shard = store.layout().shard();
            let cut = store
                .specs()
                .find(|spec| shard.cuts(spec) && spec.sharding != Sharding::Vocab);
            if let Some(spec) = cut {
                let mut view = store.named_view(store.master(), &spec.name)?;
                view.f_copy_(&view.f_roll([1i64].as_slice(), [0i64].as_slice())?)?;
            }
        }
        fault.strike(self.seat.rank, step)
    }

    /// Whether this seat speaks for all.
    fn is_first(&self) -> bool {
        self.seat.number() == 0
    }

    fn emit(&self, event: Event) {
        emitter(&self.seat.events)(event);
    }

    fn emit_from_first(&self, event: Event) {
        if self.is_first() {
            self.emit(event);
        }
    }
}

/// Nobody listens only when the worker is ending.
fn emitter(events: &Sender<Message>) -> impl Fn(Event) + '_ {
    |event| {
        let _ = events.send(Message::Event(event));
    }
}
