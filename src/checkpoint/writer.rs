//! The thread that writes checkpoints while training goes on.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{
    CheckpointError,
    publish::{self, Published},
    retention,
    snapshot::Snapshot,
};
use crate::weights::{self, Manifest};

/// Writes one checkpoint at a time.
pub struct Writer {
    checkpoints: PathBuf,
    keep: usize,
    under_way: Option<JoinHandle<()>>,
    reports: (Sender<Report>, Receiver<Report>),
}

/// How a save went.
#[derive(Debug)]
pub struct Report {
    pub step: u64,
    /// The lowest validation loss so far belongs to this step.
    pub best: bool,
    pub seconds: f64,
    /// Steps whose checkpoints made way.
    pub deleted: Vec<u64>,
    pub result: Result<Published, CheckpointError>,
}

impl Writer {
    /// A writer below `checkpoints`, which exists, that keeps the newest `keep` and the best.
    pub fn new(checkpoints: &Path, keep: usize) -> Self {
        Self {
            checkpoints: checkpoints.to_owned(),
            keep,
            under_way: None,
            reports: channel(),
        }
    }

    /// Starts to write; waits for the save under way first.
    pub fn start(&mut self, snapshot: Snapshot, manifest: Manifest) {
        self.wait();
        let (checkpoints, keep, reports) =
            (self.checkpoints.clone(), self.keep, self.reports.0.clone());
        self.under_way = Some(thread::spawn(move || {
            let began = Instant::now();
            let (step, best) = (manifest.step, manifest.best);
            let result = publish::publish(&checkpoints, &snapshot, manifest);
            let deleted = match result {
                Ok(_) => delete_superseded(&checkpoints, keep, best.map(|best| best.step)),
                Err(_) => Vec::new(),
            };
            let best = best.is_some_and(|best| best.step == step);
            // Nobody listens any more only when the run is over.
            let _ = reports.send(Report {
                step,
                best,
                seconds: began.elapsed().as_secs_f64(),
                deleted,
                result,
            });
        }));
    }

    /// Waits until nothing is being written.
    pub fn wait(&mut self) {
        if let Some(thread) = self.under_way.take() {
            // A panic of the thread shows as a missing report.
            let _ = thread.join();
        }
    }

    /// The saves that ended since the last call.
    pub fn reports(&self) -> Vec<Report> {
        self.reports.1.try_iter().collect()
    }
}

/// The steps whose checkpoints are gone. One that can't be deleted costs space, not safety: it is tried again after the
/// next save.
fn delete_superseded(checkpoints: &Path, keep: usize, best: Option<u64>) -> Vec<u64> {
    let steps: Vec<u64> = weights::steps(checkpoints)
        .unwrap_or_default()
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    let mut superseded = retention::superseded(&steps, keep, best);
    superseded.retain(|&step| {
        publish::delete(checkpoints, &checkpoints.join(publish::folder_name(step))).is_ok()
    });
    superseded
}
