//! One rank's life: set up, step after step, evaluations and saves between them.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::Instant,
};

use tch::{Kind, Tensor};

use super::{
    EngineError, Job, RankDevice, Stepper,
    clock::{Phase, StepClock, StepTiming},
    evaluate, generate, guard,
    inject::Kind as FaultKind,
    save::Saver,
    seat::{self, Finish, Message, Note, Orders, Seat},
    step::Backward,
};
use crate::{
    checkpoint::{self, BestEval, Manifest, RunFacts},
    config::SampleConfig,
    data::{BatchPlan, EvalWindows, Loader, StepBatch, WindowOrder},
    dist::Communicator,
    event::{Control, Event},
    nn::FlatRange,
    optim::{self, Optimizer},
    parallel::{self, Strategy},
    plan::StopPlan,
    torch::TorchError,
};

/// A step whose work has been launched, and on a GPU may not be done.
struct Launched {
    step: u64,
    /// Loss sums of the micro-batches.
    losses: Vec<Tensor>,
    /// Only on ranks that update.
    norm: Option<Tensor>,
    global_valid: u64,
    lr: f64,
    timing: StepTiming,
}

/// One rank.
pub struct Rank {
    job: Arc<Job>,
    seat: Seat,
    device: RankDevice,
    stepper: Stepper,
    strategy: Box<dyn Strategy>,
    optimizer: Box<dyn Optimizer>,
    comm: Box<dyn Communicator>,
    order: WindowOrder,
    batches: BatchPlan,
    loader: Loader,
    clock: StepClock,
    saver: Option<Saver>,
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
        let comm = seat::join(&mut seat, plan.world(), &device)?;
        let strategy = parallel::build(seat::strategy(plan.strategy, seat.n_seats));
        let (store, state) = seat::weights_and_state(&job, &seat, &device)?;
        let part = store.part(seat.lane, seat.n_lanes);
        let optimizer = optim::build(&job.config.optimizer, &store, state, &part)?;
        let bucket_bytes = plan.bucket_bytes.filter(|_| strategy.reduces_by_bucket());
        let stepper =
            Stepper::with_store(&plan.model, store, job.config.seed, device, bucket_bytes);
        let manifest = job.resume.as_ref().map(|loaded| &loaded.manifest);
        let (step, tokens, trained_s, best) = manifest.map_or((0, 0, 0.0, None), |saved| {
            (saved.step, saved.tokens, saved.trained_s, saved.best)
        });
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
            dp_rank: seat.number(),
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
            stepper,
            strategy,
            optimizer,
            comm,
            order,
            batches,
            loader,
            clock,
            saver,
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
        let losses = self.passes(batch, step)?;
        self.seat.progress.enter("reducing gradients");
        self.strategy
            .before_update(&self.stepper.store, self.comm.as_mut())?;
        self.clock.mark(Phase::Comm)?;
        let lr = optim::lr_at(
            &self.job.config.schedule,
            self.job.config.optimizer.lr(),
            step,
            self.expected_steps(),
        );
        let norm = self.update(step, lr)?;
        self.step = step;
        Ok(Launched {
            step,
            losses,
            norm,
            global_valid,
            lr,
            timing: self.clock.take(),
        })
    }

    /// Forward and backward over all micro-batches.
    fn passes(&mut self, batch: StepBatch, step: u64) -> Result<Vec<Tensor>, EngineError> {
        self.stepper.store.begin_step();
        let n_micros = batch.micros.len();
        let mut losses = Vec::with_capacity(n_micros);
        for (index, micro) in batch.micros.into_iter().enumerate() {
            let divisor = self.divisor(batch.global_valid, micro.n_valid, n_micros);
            let mut cx = Backward {
                strategy: self.strategy.as_mut(),
                comm: self.comm.as_mut(),
                clock: &mut self.clock,
                step,
                global_valid: divisor,
                is_last: index + 1 == n_micros,
            };
            losses.push(self.stepper.train(micro, &mut cx)?);
        }
        Ok(losses)
    }

    /// Valid targets of the whole global batch; a planted fault takes each micro-batch's own.
    fn divisor(&self, global_valid: u64, micro_valid: u64, n_micros: usize) -> u64 {
        match self.job.inject {
            Some(fault) if fault.kind == FaultKind::MeanOfMeans => {
                micro_valid * (n_micros * self.seat.n_seats) as u64
            }
            _ => global_valid,
        }
    }

    /// The optimizer's step where this rank takes it; returns the global gradient norm then.
    fn update(&mut self, step: u64, lr: f64) -> Result<Option<Tensor>, EngineError> {
        self.seat.progress.enter("optimizer");
        let norm = if self.strategy.updates(self.seat.rank) {
            let stats =
                optim::grad_stats(self.stepper.store.grads(), self.job.config.optimizer.clip())?;
            self.optimizer
                .update(&self.stepper.store, step, lr, &stats)?;
            Some(stats.norm)
        } else {
            None
        };
        self.clock.mark(Phase::Optimizer)?;
        self.strategy
            .after_update(&self.stepper.store, self.comm.as_mut())?;
        self.clock.mark(Phase::Comm)?;
        self.stepper.store.publish(self.part.clone())?;
        self.clock.mark(Phase::Optimizer)?;
        Ok(norm)
    }

    /// Meets the other ranks between two steps: the finished step's numbers, and what has been ordered.
    fn boundary(&mut self, finished: Option<Launched>) -> Result<Orders, EngineError> {
        let mut note = Note {
            orders: self.take_orders(),
            ..Note::default()
        };
        if let Some(finished) = &finished {
            note.loss_sum = host_sum(&finished.losses)?;
            note.grad_norm = finished
                .norm
                .as_ref()
                .map_or(Ok(0.0), |norm| norm.f_double_value(&[]))?;
            self.tokens += finished.global_valid;
        }
        let step_time_s = self.clock.lap();
        note.trained_s = self.trained_s + if finished.is_some() { step_time_s } else { 0.0 };
        let notes = self.seat.notes.exchange(note)?;
        self.trained_s = notes[0].trained_s;
        if let Some(finished) = finished {
            let loss = notes.iter().map(|note| note.loss_sum).sum::<f64>()
                / finished.global_valid.max(1) as f64;
            self.report_step(finished, loss, notes[0].grad_norm, step_time_s)?;
        }
        Ok(notes[0].orders)
    }

    fn report_step(
        &mut self,
        finished: Launched,
        loss: f64,
        grad_norm: f64,
        step_time_s: f64,
    ) -> Result<(), EngineError> {
        if self.is_first() {
            let phases = finished.timing.phases(step_time_s)?;
            let tokens_per_sec = finished.global_valid as f64 / step_time_s;
            let plan = &self.job.plan;
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
            });
        }
        if loss.is_finite() && grad_norm.is_finite() {
            return Ok(());
        }
        let batch = StepBatch::read(
            &self.job.data.train,
            &self.order,
            &self.batches,
            finished.step - 1,
        );
        Err(guard::explain(&self.stepper, batch, finished.step, loss)?)
    }

    /// What lies between two steps: evaluation, checkpoint, pause, stop.
    fn interlude(&mut self, mut orders: Orders) -> Result<Option<Finish>, EngineError> {
        let evaluates = self.step.is_multiple_of(self.job.config.eval.every) && !self.is_complete();
        let saves = self.step.is_multiple_of(self.job.config.checkpoint.every);
        if let Some(saver) = &mut self.saver {
            saver.report(&emitter(&self.seat.events));
        }
        if !(evaluates || saves || orders.checkpoint || orders.stop || orders.pause) {
            return Ok(None);
        }
        if let Some(pending) = self.pending.take() {
            orders = orders.and(self.boundary(Some(pending))?);
        }
        let improved = evaluates && self.evaluate(false)?;
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
        self.clock.restart();
        Ok(None)
    }

    /// Holds all ranks until they are told to go on or to stop.
    fn pause(&mut self) -> Result<Orders, EngineError> {
        let step = self.step;
        self.emit_from_first(Event::Paused { step });
        self.seat.progress.set_idle(true);
        loop {
            let mut note = Note {
                trained_s: self.trained_s,
                ..Note::default()
            };
            note.orders.pause = true;
            if let Some(controls) = &self.seat.controls {
                match controls.recv() {
                    Ok(Control::Continue) => note.orders.pause = false,
                    Ok(Control::Checkpoint) => note.orders.checkpoint = true,
                    Ok(Control::Stop | Control::Kill) | Err(_) => note.orders.stop = true,
                    Ok(Control::Pause) => {}
                }
            }
            let orders = self.seat.notes.exchange(note)?[0].orders;
            if orders.checkpoint {
                self.save()?;
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
        self.save()?;
        self.evaluate(true)?;
        if let Some(sample) = self.job.config.sample.clone() {
            self.sample(&sample)?;
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
        let mut last_word = began;
        let on_batch = |done, total| {
            self.seat.progress.enter("evaluating");
            if self.is_first() && last_word.elapsed().as_secs_f64() > 0.5 {
                last_word = Instant::now();
                self.emit(Event::Progress {
                    what: "evaluating".to_owned(),
                    done,
                    total: Some(total),
                });
            }
        };
        let seat = (self.seat.number(), self.seat.n_seats);
        let evaluated = evaluate::evaluate(
            &self.stepper,
            tokens,
            &windows,
            plan.micro_batch,
            seat,
            &self.seat.losses,
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

    /// Rank 0 starts a save of this step, unless one has begun; false where there is no space and the run is to stop.
    fn save(&mut self) -> Result<bool, EngineError> {
        let Some(saver) = self
            .saver
            .as_mut()
            .filter(|saver| !saver.has_saved(self.step))
        else {
            return Ok(true);
        };
        self.seat.progress.enter("saving");
        let emit = emitter(&self.seat.events);
        let snapshot = checkpoint::take(&self.stepper.store, self.optimizer.as_ref())?;
        if let Some(controls) = &self.seat.controls {
            let n_bytes = snapshot.n_bytes();
            if !saver.wait_for_space(n_bytes, self.step, &self.seat.progress, controls, &emit)? {
                return Ok(false);
            }
        }
        let names = optim::state_names(&self.job.config.optimizer);
        let manifest = Manifest {
            schema: Manifest::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            step: self.step,
            tokens: self.tokens,
            trained_s: self.trained_s,
            best: self.best,
            run: RunFacts::of(&self.job.plan, self.job.config.seed, names),
            files: Default::default(),
        };
        self.seat.progress.set_idle(true);
        saver.start(snapshot, manifest);
        self.seat.progress.set_idle(false);
        Ok(true)
    }

    fn finish_saves(&mut self) {
        self.seat.progress.set_idle(true);
        if let Some(saver) = &mut self.saver {
            saver.finish(&emitter(&self.seat.events));
        }
        self.seat.progress.set_idle(false);
    }

    fn sample(&mut self, config: &SampleConfig) -> Result<(), EngineError> {
        let Some(tokenizer) = self.job.data.tokenizer.as_ref().filter(|_| self.is_first()) else {
            return Ok(());
        };
        self.seat.progress.enter("sampling");
        let prompt = tokenizer.encode(&config.prompt)?;
        let (seq_len, vocab_size) = (self.job.plan.model.seq_len(), self.job.data.vocab_size);
        let ids = generate::generate(&self.stepper, &prompt, seq_len, vocab_size, config, |_| {
            self.seat.progress.enter("sampling");
        })?;
        let text = tokenizer.decode(&ids);
        self.emit(Event::Sample {
            step: self.step,
            prompt: config.prompt.clone(),
            text,
        });
        Ok(())
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
        if fault.is_due(self.seat.rank, step, FaultKind::NanGrad) {
            let _guard = tch::no_grad_guard();
            let _ = self
                .stepper
                .store
                .master()
                .f_narrow(0, 0, 1)?
                .f_fill_(f64::NAN)?;
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

/// Sum in fp64 of numbers that may still be on their way.
fn host_sum(losses: &[Tensor]) -> Result<f64, TorchError> {
    losses
        .iter()
        .map(|loss| Ok(loss.f_to_kind(Kind::Double)?.f_double_value(&[])?))
        .sum()
}
