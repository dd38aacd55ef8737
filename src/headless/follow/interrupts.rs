//! Ctrl-C and its kin: passed on to the supervisor, with a word on what happens.

use std::{os::fd::OwnedFd, process::Child};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use crate::store::RunState;

/// Catches SIGINT, SIGTERM and SIGUSR1 from its making on.
pub struct Interrupts {
    signals: Signals,
    supervisor: Option<OwnedFd>,
    seen: u32,
}

impl Interrupts {
    /// Starts to listen.
    ///
    /// # Errors
    /// A handler can't be installed.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            signals: Signals::new([SIGINT, SIGTERM, SIGUSR1])?,
            supervisor: None,
            seen: 0,
        })
    }

    /// Sends on to this process what comes, also what came already.
    ///
    /// # Errors
    /// The kernel has no pidfd.
    pub fn pass_on_to(&mut self, supervisor: &Child) -> anyhow::Result<()> {
        self.supervisor = Some(pidfd_open(
            Pid::from_child(supervisor),
            PidfdFlags::empty(),
        )?);
        Ok(())
    }

    /// Passes on what came since the last call; returns words for the user if something did.
    pub fn heed(&mut self, state: &RunState) -> Option<String> {
        let before = self.seen;
        for signal in self.signals.pending() {
            self.seen += 1;
            if let (Some(supervisor), Some(signal)) =
                (&self.supervisor, Signal::from_named_raw(signal))
            {
                // A supervisor that is gone needs no order.
                let _ = pidfd_send_signal(supervisor, signal);
            }
        }
        (self.seen > before).then(|| words(self.seen, state))
    }
}

fn words(seen: u32, state: &RunState) -> String {
    let lost = match state.newest_checkpoint() {
        Some(checkpoint) => format!(
            "what came after the checkpoint at step {} is lost",
            checkpoint.step
        ),
        None => "all steps are lost, there is no checkpoint yet".to_owned(),
    };
    match seen {
        1 => format!(
            "stopping: finishing the step, then saving a checkpoint; a second Ctrl-C ends at once: {lost}"
        ),
        _ => format!("ending at once: {lost}"),
    }
}
