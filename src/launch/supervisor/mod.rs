//! One process a run, that outlives every front: it owns the folder, the log, the socket and the worker.
//!
//! It links no libtorch and does no work of its own, so that nothing that kills a worker kills it.

mod cause;
mod duty;
mod found;
mod journal;
mod oom;
mod restarts;
mod sampler;
mod server;
mod wire;
mod worker;
mod workers;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
};

use serde::de::DeserializeOwned;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use self::{duty::Duty, journal::Journal, restarts::Restarts, sampler::Sampler};
use super::{LaunchError, RunFolder, in_full, lock::RunLock, start::Answer, worker_program};
use crate::{
    config::RunConfig,
    event::{ControlReply, ControlRequest, EVENT_VERSION, Event},
    plan::RunPlan,
};

/// Where a supervisor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Fresh,
    /// From the newest sound checkpoint.
    Resume,
}

/// What reaches the supervisor's loop.
enum Input {
    /// A worker said something; workers are numbered.
    Said(usize, Event),
    /// A worker said something that is no event.
    Garbage(String),
    /// A worker closed its socket.
    HungUp(usize),
    /// A worker is gone, and everything it said came before.
    Exited(usize, io::Result<std::process::ExitStatus>),
    /// What the sampler says.
    Sensed(Event),
    Asked(ControlRequest, SyncSender<ControlReply>),
    Signal(i32),
}

/// Inputs that may wait; a worker that floods its socket waits for the log.
const INPUTS: usize = 1024;

/// Supervises one run to its end and returns the exit code; the caller exits with it.
///
/// Says on stdout, in one line, whether it took the run; then it is silent. The run's log begins with `warning`.
pub fn run(root: &Path, begin: Begin, warning: Option<String>) -> u8 {
    // Fails only for a process that leads its group already: one started by hand.
    let _ = rustix::process::setsid();
    match take(&RunFolder::new(root), begin, warning) {
        Ok(duty) => {
            answer(&Answer::Ready);
            duty.fulfil()
        }
        Err(error) => {
            let code = error.exit_code();
            let message = in_full(&error);
            answer(&Answer::Refused { code, message });
            code
        }
    }
}

fn answer(answer: &Answer) {
    // Whoever started the run may be gone already.
    let _ = writeln!(io::stdout().lock(), "{}", answer.line());
    let _ = io::stdout().flush();
}

/// Everything that can refuse the run comes before its first event.
fn take(folder: &RunFolder, begin: Begin, warning: Option<String>) -> Result<Duty, LaunchError> {
    let (sender, inputs) = mpsc::sync_channel(INPUTS);
    let lock = RunLock::acquire(folder)?;
    listen_for_signals(sender.clone()).map_err(LaunchError::io("signals of", folder.root()))?;
    let config: RunConfig = read_json(folder.config())?;
    let plan: RunPlan = read_json(folder.plan())?;
    let program = worker_program::find()?;
    let mut journal = Journal::open(folder)?;
    let server = server::Server::bind(folder, sender.clone())?;
    journal.note(Event::Run {
        version: EVENT_VERSION,
        name: folder.name(),
        pid: std::process::id(),
        world: plan.world(),
        strategy: plan.split.name(),
        total_steps: plan.total_steps(),
        log_every: config.log.every,
    });
    if let Some(text) = warning {
        journal.note(Event::Warning { text, rank: None });
    }
    let sampler = config
        .log
        .sensors_every_s
        .and_then(|every_s| Sampler::spawn(every_s, folder, &plan, sender.clone()).ok());
    Ok(Duty::new(duty::Means {
        folder: folder.clone(),
        plan,
        program,
        begin,
        can_sample: config.data.has_tokenizer(),
        journal,
        restarts: Restarts::new(config.restart.max),
        inputs,
        sender,
        _sampler: sampler,
        _lock: lock,
        _server: server,
    }))
}

/// SIGHUP is caught and dropped: a closed terminal is none of the run's business.
fn listen_for_signals(sender: SyncSender<Input>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever().filter(|&signal| signal != SIGHUP) {
                if sender.send(Input::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

fn read_json<T: DeserializeOwned>(path: PathBuf) -> Result<T, LaunchError> {
    let bytes = crate::base::read::bytes(&path, crate::base::read::Bound::TOLD)
        .map_err(LaunchError::io("reading", &path))?;
    serde_json::from_slice(&bytes).map_err(|error| LaunchError::Malformed {
        path,
        message: error.to_string(),
    })
}

type Inputs = Receiver<Input>;
