//! The supervisor's loop: a worker's life after the other until the run has ended.

use std::{
    path::PathBuf,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use signal_hook::consts::SIGINT;

use super::{
    Begin, Input, Inputs,
    cause::{self, Cause},
    found,
    journal::Journal,
    oom::OomKills,
    restarts::Restarts,
    sampler::Sampler,
    server::Server,
    worker::{From, Task},
    workers::{Exit, Workers},
};
use crate::{
    base::fault::FaultKind,
    event::{Control, ControlReply, Event, NO_SAMPLE, Outcome, RESUMED},
    launch::{RunFolder, lock::RunLock, output::last_line},
    plan::RunPlan,
};

/// The loop's longest nap.
const NAP: Duration = Duration::from_secs(60);

const STOPPING: &str = "finishing the step and saving a checkpoint; another stop ends it at once";
const ENDING: &str = "ending at once; what came after the last checkpoint is lost";

/// What a supervisor works with.
pub struct Means {
    pub folder: RunFolder,
    pub plan: RunPlan,
    pub program: PathBuf,
    pub begin: Begin,
    /// The data has a tokenizer.
    pub can_sample: bool,
    pub journal: Journal,
    pub restarts: Restarts,
    pub inputs: Inputs,
    pub sender: SyncSender<Input>,
    pub _sampler: Option<Sampler>,
    pub _lock: RunLock,
    pub _server: Server,
}

/// One supervisor's work.
pub struct Duty {
    means: Means,
    wish: Wish,
    paused: bool,
    /// A sample was promised; a worker that dies before does not keep the promise.
    owes_sample: bool,
    /// Workers leave cuDNN's attention out, which may have given NaN.
    without_cudnn_attention: bool,
    signal: Option<i32>,
}

/// What the user wants of the run; it only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    GoOn,
    Stop,
    Kill,
}

/// What was heard of one life's workers.
#[derive(Default)]
struct Heard {
    last_words: Option<Ending>,
    /// The first, with its kind; what other workers say of its consequences is nobody's cause.
    fault: Option<(FaultKind, Cause)>,
    has_stepped: bool,
    /// The first worker that hung up without a word, before any fault was heard.
    silent: Option<usize>,
    garbage: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ending {
    outcome: Outcome,
    step: u64,
    reason: String,
    /// Of a failed run.
    code: u8,
}

/// What follows a worker's death.
enum Next {
    End(Ending),
    Again { cause: String, after: Duration },
}

impl Duty {
    /// A duty that nobody has given an order yet.
    pub fn new(means: Means) -> Self {
        Self {
            // A run that is resumed remembers.
            without_cudnn_attention: means.journal.state().without_cudnn_attention,
            means,
            wish: Wish::GoOn,
            paused: false,
            owes_sample: false,
            signal: None,
        }
    }

    /// Brings the run to its end and returns the exit code.
    pub fn fulfil(mut self) -> u8 {
        let mut cause = (self.means.begin == Begin::Resume).then(|| RESUMED.to_owned());
        loop {
            match self.worker_life(cause.take()) {
                Next::End(ending) => return self.end(ending),
                Next::Again { cause: why, after } => {
                    self.wait(after);
                    if self.wish > Wish::GoOn {
                        return self.end_without_worker();
                    }
                    cause = Some(why);
                }
            }
        }
    }

    fn worker_life(&mut self, cause: Option<String>) -> Next {
        self.find_checkpoints();
        let kills_before = OomKills::count();
        let Some(from) = self.whence(cause.is_some()) else {
            return self.fail("no checkpoint is left in the run folder".to_owned(), 1);
        };
        let task = Task {
            from,
            cause,
            without_cudnn_attention: self.without_cudnn_attention,
        };
        let Means {
            program,
            folder,
            plan,
            sender,
            ..
        } = &self.means;
        let mut workers = match Workers::spawn(program, folder, plan, &task, sender) {
            Ok(workers) => workers,
            Err(error) => {
                let reason = format!("the worker {} can't be started: {error}", program.display());
                return self.fail(reason, 4);
            }
        };
        self.repeat_wishes(&mut workers);
        let mut heard = Heard::default();
        self.attend(&mut workers, &mut heard);
        self.find_checkpoints();
        self.judge(&workers, heard, kills_before)
    }

    /// Reports checkpoints that a worker published and died before it could say so.
    ///
    /// Those beyond the log's last step are none of them: they were passed over as damaged.
    fn find_checkpoints(&mut self) {
        let state = self.means.journal.state();
        let published = self.means.folder.published();
        let found = found::unreported(&published, state);
        let mut deleted = found::deleted(&published, state);
        for (step, path) in found {
            self.means.restarts.checkpointed();
            let event = found::checkpoint(step, &path, std::mem::take(&mut deleted));
            self.means.journal.note(event);
        }
    }

    /// Where the next worker starts; `None` rather than silently from scratch.
    fn whence(&self, again: bool) -> Option<From> {
        if again && self.means.folder.has_checkpoint() {
            return Some(From::Checkpoint);
        }
        let lost = self.means.journal.state().newest_checkpoint().is_some();
        let promised = self.means.begin == Begin::Resume || lost;
        (!promised).then_some(From::Fresh)
    }

    /// A worker that starts late has missed what was asked before.
    fn repeat_wishes(&self, workers: &mut Workers) {
        if self.paused {
            workers.tell(Control::Pause);
        }
        if self.owes_sample {
            workers.tell(Control::Sample);
        }
        if self.wish >= Wish::Stop {
            workers.tell(Control::Stop);
        }
    }

    /// Serves inputs until all workers are gone.
    fn attend(&mut self, workers: &mut Workers, heard: &mut Heard) {
        loop {
            let due = [workers.deadline(), self.means.journal.next_tick()]
                .into_iter()
                .flatten()
                .min();
            match self.next_input(due) {
                Some(Input::Said(number, event)) => self.hear(number, event, workers, heard),
                Some(Input::Garbage(text)) => self.hear_garbage(&text, heard),
                Some(Input::Sensed(event)) => self.means.journal.note(event),
                Some(Input::HungUp(number)) => {
                    if heard.fault.is_none() {
                        heard.silent.get_or_insert(number);
                    }
                    workers.leave_one(number);
                }
                Some(Input::Exited(number, status)) => workers.exited(number, status.ok()),
                Some(Input::Asked(request, reply)) => {
                    let _ = reply.send(self.obey(request.control, Some(workers)));
                }
                Some(Input::Signal(signal)) => self.obey_signal(signal, Some(workers)),
                None => {}
            }
            if workers.are_gone() {
                return;
            }
            workers.kill_overdue();
            self.means.journal.tick();
        }
    }

    /// `None` when `due` came first.
    fn next_input(&self, due: Option<Instant>) -> Option<Input> {
        let nap = due.map_or(NAP, |due| {
            due.saturating_duration_since(Instant::now()).min(NAP)
        });
        // A sender is kept in `means`: the channel never closes.
        self.means.inputs.recv_timeout(nap).ok()
    }

    fn hear(&mut self, number: usize, event: Event, workers: &mut Workers, heard: &mut Heard) {
        match &event {
            // Written when the worker is gone: nothing may follow it.
            Event::Ended {
                outcome,
                step,
                reason,
            } => {
                heard.last_words = Some(Ending {
                    outcome: *outcome,
                    step: *step,
                    reason: reason.clone(),
                    code: 1,
                });
                workers.leave();
                return;
            }
            // A run is the supervisor's to announce.
            Event::Run { .. } => return,
            Event::Fault {
                rank,
                step,
                operation,
                cause,
                kind,
                retry,
            } => {
                workers.leave_one(number);
                workers.leave_others(number);
                if heard.fault.is_some() {
                    return;
                }
                let cause = Cause {
                    text: format!("rank {rank} failed at step {step} in {operation}: {cause}"),
                    retry: *retry,
                    code: 1,
                };
                heard.fault = Some((*kind, cause));
            }
            Event::Step { .. } => heard.has_stepped = true,
            Event::Checkpoint { .. } => self.means.restarts.checkpointed(),
            Event::Sample { .. } => self.owes_sample = false,
            Event::Warning { text, .. } if text.starts_with(NO_SAMPLE) => self.owes_sample = false,
            _ => {}
        }
        self.means.journal.note(event);
    }

    fn hear_garbage(&mut self, text: &str, heard: &mut Heard) {
        if !std::mem::replace(&mut heard.garbage, true) {
            self.warn(format!(
                "the worker said something that is no event: {text}"
            ));
        }
    }

    fn warn(&mut self, text: String) {
        self.means.journal.note(Event::Warning { text, rank: None });
    }

    fn obey_signal(&mut self, signal: i32, workers: Option<&mut Workers>) {
        self.signal.get_or_insert(signal);
        self.obey(Control::Stop, workers);
    }

    fn obey(&mut self, control: Control, workers: Option<&mut Workers>) -> ControlReply {
        let wish = match (control, self.wish) {
            (Control::Stop, Wish::GoOn) => Wish::Stop,
            (Control::Stop, _) | (Control::Kill, _) => Wish::Kill,
            (_, Wish::Stop | Wish::Kill) => return reply(false, "the run is ending"),
            (Control::Pause, _) => {
                self.paused = true;
                Wish::GoOn
            }
            (Control::Continue, _) => {
                self.paused = false;
                Wish::GoOn
            }
            (Control::Sample, _) if !self.means.can_sample => {
                return reply(
                    false,
                    "the run's tokens have no tokenizer, so text can't be sampled",
                );
            }
            (Control::Sample, _) => {
                self.owes_sample = true;
                Wish::GoOn
            }
            (Control::Checkpoint, _) => Wish::GoOn,
        };
        self.wish = self.wish.max(wish);
        if let Some(workers) = workers {
            workers.tell(match self.wish {
                Wish::Kill => Control::Kill,
                _ => control,
            });
        }
        match self.wish {
            Wish::Kill => reply(true, ENDING),
            Wish::Stop => reply(true, STOPPING),
            Wish::GoOn => reply(true, promise(control)),
        }
    }

    fn judge(&mut self, workers: &Workers, heard: Heard, kills_before: OomKills) -> Next {
        let exit = workers.telling_exit(heard.silent);
        let mut seen = self.cause_of(exit, &heard, workers.log_from, kills_before);
        if let Some(exit) = exit.filter(|_| workers.are_many()) {
            seen.text = format!("the worker of rank {}: {}", exit.worker, seen.text);
        }
        if let Some(ending) = heard.last_words {
            if !workers.left_well() && ending.outcome != Outcome::Failed {
                self.warn(format!(
                    "after its last event the worker was not well: {}",
                    seen.text
                ));
            }
            return Next::End(ending);
        }
        if self.wish == Wish::Kill {
            let step = self.means.journal.state().step;
            return Next::End(killed(step));
        }
        // That another worker failed is a consequence of the death of one that had hung up before.
        let died_first =
            exit.is_some_and(|exit| heard.silent == Some(exit.worker) && !exit.is_well());
        let fault = heard.fault.filter(|_| !died_first);
        let (kind, cause) = fault.unwrap_or((FaultKind::Other, seen));
        if kind == FaultKind::NotFinite && self.wish == Wish::GoOn && self.may_blame_attention() {
            return self.leave_cudnn_attention_out(cause.text);
        }
        let plan = &self.means.plan;
        let Cause { text, retry, code } = cause::with_remedy(cause, kind, plan, heard.has_stepped);
        if self.wish == Wish::Stop {
            return self.stopped_badly(&text, code);
        }
        if !retry {
            return self.fail(text, code);
        }
        self.restart_or_fail(text)
    }

    /// Whether a value that is not finite may come of cuDNN's attention, and a run without it is worth a try.
    fn may_blame_attention(&self) -> bool {
        let Means { plan, restarts, .. } = &self.means;
        plan.cudnn_attention && !self.without_cudnn_attention && restarts.max() > 0
    }

    /// Goes on without it, once: what is not finite again has another cause.
    fn leave_cudnn_attention_out(&mut self, cause: String) -> Next {
        self.without_cudnn_attention = true;
        self.warn(format!(
            "{cause}; cuDNN's attention, which ran on these GPUs, is known to give NaN now and then: the run goes on \
             without it, {}; \"attention\": \"flash\" leaves it out from the start",
            self.place()
        ));
        Next::Again {
            cause,
            after: Duration::ZERO,
        }
    }

    /// Where the next worker starts, in words.
    fn place(&self) -> String {
        match self.means.journal.state().newest_checkpoint() {
            Some(checkpoint) => format!("from the checkpoint at step {}", checkpoint.step),
            None => "from the start, there is no checkpoint yet".to_owned(),
        }
    }

    fn cause_of(
        &self,
        exit: Option<&Exit>,
        heard: &Heard,
        log_from: u64,
        kills_before: OomKills,
    ) -> Cause {
        let Some(Exit {
            status: Some(status),
            was_overdue,
            ..
        }) = exit
        else {
            return died("it can't be waited for");
        };
        if *was_overdue && heard.last_words.is_some() {
            return died("it did not leave within 5 s and was killed");
        }
        if *was_overdue {
            return died("it had to leave, did not in time and was killed");
        }
        let out_of_memory = OomKills::count().rose_since(kills_before);
        let last_line = last_line(&self.means.folder.worker_log(), log_from);
        cause::of_exit(*status, out_of_memory, last_line.as_deref())
    }

    /// A worker that dies while it stops has done its duty if the last step's checkpoint is durable.
    fn stopped_badly(&self, cause: &str, code: u8) -> Next {
        let state = self.means.journal.state();
        match state.newest_checkpoint() {
            Some(checkpoint) if checkpoint.step == state.step => Next::End(Ending {
                outcome: Outcome::Stopped,
                step: state.step,
                reason: format!(
                    "stopped on request; after its checkpoint the worker died: {cause}"
                ),
                code,
            }),
            _ => self.fail(format!("while stopping: {cause}"), code),
        }
    }

    fn restart_or_fail(&mut self, cause: String) -> Next {
        let restarts = &mut self.means.restarts;
        let Some(after) = restarts.take() else {
            let reason = match restarts.max() {
                0 => cause,
                n => format!("{cause}; gave up after {n} restart(s) without a new checkpoint"),
            };
            return self.fail(reason, 1);
        };
        let count = format!("restart {} of {}", restarts.used(), restarts.max());
        let step = self.means.journal.state().step;
        let place = self.place();
        self.warn(format!(
            "the worker died after step {step}: {cause}; {count}, {place}"
        ));
        Next::Again { cause, after }
    }

    fn fail(&self, reason: String, code: u8) -> Next {
        Next::End(Ending {
            outcome: Outcome::Failed,
            step: self.means.journal.state().step,
            reason,
            code,
        })
    }

    /// Lets time pass between two workers, with an ear for the user.
    fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.wish == Wish::GoOn && Instant::now() < until {
            match self.next_input(Some(until)) {
                Some(Input::Asked(request, reply)) => {
                    let _ = reply.send(self.obey(request.control, None));
                }
                Some(Input::Signal(signal)) => self.obey_signal(signal, None),
                Some(Input::Sensed(event)) => self.means.journal.note(event),
                _ => {}
            }
            self.means.journal.tick();
        }
    }

    fn end_without_worker(self) -> u8 {
        let step = self
            .means
            .journal
            .state()
            .newest_checkpoint()
            .map(|checkpoint| checkpoint.step);
        let ending = match step {
            Some(step) if self.wish == Wish::Stop && self.means.folder.has_checkpoint() => Ending {
                outcome: Outcome::Stopped,
                step,
                reason: "stopped on request, between two workers".to_owned(),
                code: 1,
            },
            _ => killed(self.means.journal.state().step),
        };
        self.end(ending)
    }

    fn end(mut self, ending: Ending) -> u8 {
        let code = match ending.outcome {
            Outcome::Completed => 0,
            Outcome::Stopped => 75,
            Outcome::Failed => ending.code,
            Outcome::Killed if self.signal == Some(SIGINT) => 130,
            Outcome::Killed => 143,
        };
        self.means.journal.note(Event::Ended {
            outcome: ending.outcome,
            step: ending.step,
            reason: ending.reason,
        });
        self.means.journal.close();
        code
    }
}

fn killed(step: u64) -> Ending {
    Ending {
        outcome: Outcome::Killed,
        step,
        reason: "killed on request".to_owned(),
        code: 1,
    }
}

fn died(text: &str) -> Cause {
    Cause {
        text: text.to_owned(),
        retry: true,
        code: 1,
    }
}

fn reply(accepted: bool, message: &str) -> ControlReply {
    ControlReply {
        accepted,
        message: message.to_owned(),
    }
}

const fn promise(control: Control) -> &'static str {
    match control {
        Control::Checkpoint => "saving a checkpoint after this step",
        Control::Pause => "holding after this step",
        Control::Continue => "going on",
        Control::Sample => "sampling after this step",
        Control::Stop => STOPPING,
        Control::Kill => ENDING,
    }
}
