//! One life of a run: all its workers, started together and gone together.

use std::{
    io,
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::Path,
    process::ExitStatus,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use signal_hook::consts::SIGKILL;

use super::{
    Input,
    worker::{Task, Worker},
};
use crate::{base::hub, event::Control, launch::RunFolder, plan::RunPlan};

/// Time that a worker has to leave after its last event, or after a fault.
const LEAVE: Duration = Duration::from_secs(5);
/// Time that a worker has to leave after an order to end at once, or when another is gone.
const LEAVE_AT_ONCE: Duration = Duration::from_secs(1);

/// The workers of one life; their words arrive as inputs.
pub struct Workers {
    all: Vec<Worker>,
    /// In the order in which they left.
    exits: Vec<Exit>,
    /// Where this life's part of worker.log begins.
    pub log_from: u64,
}

/// How a worker left.
#[derive(Debug)]
pub struct Exit {
    pub worker: usize,
    /// `None`: it can't be waited for.
    pub status: Option<ExitStatus>,
    /// The supervisor killed it, since it was not gone in time.
    pub was_overdue: bool,
}

impl Exit {
    /// With exit code 0.
    pub fn is_well(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

impl Workers {
    /// Starts the plan's workers; the calling thread must live as long as they may (their death signal follows it).
    ///
    /// # Errors
    /// The program can't be started.
    pub fn spawn(
        program: &Path,
        folder: &RunFolder,
        plan: &RunPlan,
        task: &Task,
        inputs: &SyncSender<Input>,
    ) -> io::Result<Self> {
        let log = std::fs::metadata(folder.worker_log());
        let mut theirs: Vec<Option<UnixStream>> = vec![None];
        if plan.n_workers > 1 {
            let pairs: io::Result<Vec<_>> =
                (0..plan.n_workers).map(|_| UnixStream::pair()).collect();
            let (ours, ends): (Vec<_>, Vec<_>) = pairs?.into_iter().unzip();
            hub::relay(&ours)?;
            theirs = ends.into_iter().map(Some).collect();
        }
        let all: io::Result<Vec<Worker>> = theirs
            .into_iter()
            .enumerate()
            .map(|(number, hub)| {
                Worker::spawn(program, folder, plan, task, (number, hub), inputs.clone())
            })
            .collect();
        Ok(Self {
            all: all?,
            exits: Vec::new(),
            log_from: log.map_or(0, |log| log.len()),
        })
    }

    /// Several workers.
    pub fn are_many(&self) -> bool {
        self.all.len() > 1
    }

    /// Passes an order on: to the first, whose rank tells the others; an end at once to all.
    pub fn tell(&mut self, control: Control) {
        if control != Control::Kill {
            return self.all[0].tell(control);
        }
        for worker in &mut self.all {
            worker.tell(Control::Kill);
            worker.leave_within(LEAVE_AT_ONCE);
        }
    }

    /// All have to be gone soon.
    pub fn leave(&mut self) {
        self.all
            .iter_mut()
            .for_each(|worker| worker.leave_within(LEAVE));
    }

    /// A worker that met a fault, or hung up, has to be gone soon.
    pub fn leave_one(&mut self, worker: usize) {
        self.all[worker].leave_within(LEAVE);
    }

    /// The others wait for one that can't go on.
    pub fn leave_others(&mut self, worker: usize) {
        let others = self.all.iter_mut().enumerate();
        others
            .filter(|(number, _)| *number != worker)
            .for_each(|(_, other)| other.leave_within(LEAVE_AT_ONCE));
    }

    /// Takes note of an exit.
    pub fn exited(&mut self, worker: usize, status: Option<ExitStatus>) {
        let signal = status.and_then(|status| status.signal());
        let was_overdue = self.all[worker].was_overdue() && signal == Some(SIGKILL);
        let exit = Exit {
            worker,
            status,
            was_overdue,
        };
        if !exit.is_well() {
            self.leave_others(worker);
        }
        self.exits.push(exit);
    }

    /// None is left.
    pub fn are_gone(&self) -> bool {
        self.exits.len() == self.all.len()
    }

    /// When [`Workers::kill_overdue`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let alive = self.all.iter().enumerate();
        let alive = alive.filter(|(number, _)| !self.is_gone(*number));
        alive.filter_map(|(_, worker)| worker.deadline()).min()
    }

    /// Kills those whose deadlines have passed.
    pub fn kill_overdue(&mut self) {
        self.all.iter_mut().for_each(Worker::kill_if_overdue);
    }

    /// All left well.
    pub fn left_well(&self) -> bool {
        self.exits.iter().all(Exit::is_well)
    }

    /// The exit that says most; `silent` is the worker that hung up first without a word.
    pub fn telling_exit(&self, silent: Option<usize>) -> Option<&Exit> {
        telling(&self.exits, silent)
    }

    fn is_gone(&self, worker: usize) -> bool {
        self.exits.iter().any(|exit| exit.worker == worker)
    }
}

/// Of the worker that hung up first without a word, else the first that went wrong by itself, else the first that
/// went wrong, else the first.
fn telling(exits: &[Exit], silent: Option<usize>) -> Option<&Exit> {
    let wrong = || exits.iter().filter(|exit| !exit.is_well());
    wrong()
        .find(|exit| silent == Some(exit.worker))
        .or_else(|| wrong().find(|exit| !exit.was_overdue))
        .or_else(|| wrong().next())
        .or_else(|| exits.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(worker: usize, raw: i32, was_overdue: bool) -> Exit {
        Exit {
            worker,
            status: Some(ExitStatus::from_raw(raw)),
            was_overdue,
        }
    }

    #[test]
    fn the_exit_that_says_most_is_chosen() {
        let (fault, killed, crash, well) = (1 << 8, 9, 11, 0);
        let told = |exits: &[(usize, i32, bool)], silent| {
            let exits: Vec<Exit> = exits
                .iter()
                .map(|&(worker, raw, was_overdue)| exit(worker, raw, was_overdue))
                .collect();
            telling(&exits, silent).map(|exit| exit.worker)
        };
        // A crash that is reaped after the other's fault, which it caused.
        assert_eq!(
            told(&[(0, fault, false), (1, crash, false)], Some(1)),
            Some(1)
        );
        // A fault first, then one that had to be killed.
        assert_eq!(told(&[(1, killed, true), (0, fault, false)], None), Some(0));
        // One that left well before is nobody's cause.
        assert_eq!(
            told(&[(1, well, false), (0, crash, false)], Some(1)),
            Some(0)
        );
        assert_eq!(
            told(&[(1, well, false), (0, well, false)], Some(1)),
            Some(1)
        );
        assert_eq!(told(&[(0, killed, true), (1, killed, true)], None), Some(0));
        assert_eq!(told(&[], None), None);
    }
}
