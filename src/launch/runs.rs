//! The folder of runs: which there are, how they stand, what can be done with one that nobody runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Child,
    time::SystemTime,
};

use super::{
    LaunchError, RunFolder, dirs,
    lock::{self, RunLock},
    start::supervise,
    supervisor::Begin,
};
use crate::{
    event::Outcome,
    store::{RunState, StoreError, fold_log, read_state},
};

/// All runs of a folder, the latest first.
pub fn all(runs_dir: &Path) -> Vec<RunFolder> {
    let entries = fs::read_dir(runs_dir).into_iter().flatten().flatten();
    let mut runs: Vec<(SystemTime, RunFolder)> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| RunFolder::new(entry.path()))
        .filter(is_run)
        .map(|folder| (last_written(&folder), folder))
        .collect();
    runs.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.name().cmp(&right.name())));
    runs.into_iter().map(|(_, folder)| folder).collect()
}

/// Whether a run was made here.
pub fn is_run(folder: &RunFolder) -> bool {
    folder.config().is_file()
}

/// How a command line names the run: shortly where its name is enough.
pub fn shortly(runs_dir: &Path, folder: &RunFolder) -> String {
    let is_default = dirs::runs_dir() == runs_dir;
    if is_default && folder.root().parent() == Some(runs_dir) {
        folder.name()
    } else {
        folder.root().display().to_string()
    }
}

/// When the run's log was written last; before its first event, when it was made.
pub fn last_written(folder: &RunFolder) -> SystemTime {
    let written = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified());
    written(folder.events())
        .or_else(|_| written(folder.config()))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What is known of a run. The state file of a dead supervisor lags behind its log.
///
/// # Errors
/// Neither can be read.
pub fn see(folder: &RunFolder) -> Result<RunState, StoreError> {
    let state = read_state(&folder.state(), &folder.events())?;
    if state.ended.is_none() && !lock::is_held(folder) {
        return fold_log(&folder.events());
    }
    Ok(state)
}

/// The word for a run's status; one whose supervisor is gone (`held` is false) without an ending was interrupted.
pub const fn word(state: &RunState, held: bool) -> &'static str {
    if state.ended.is_none() && !held {
        return "interrupted";
    }
    state.status.name()
}

/// Refuses what can't be resumed; `name` is how a command names the run. Returns the run's state.
///
/// # Errors
/// The run is running, has no checkpoint, or (where nothing is `changed`) has completed.
pub fn resumable(folder: &RunFolder, name: &str, changed: bool) -> Result<RunState, LaunchError> {
    let refuse = |message: String| Err(LaunchError::NotResumable { message });
    if lock::is_held(folder) {
        return refuse(format!(
            "{name} is running; follow it: capstan attach {name}"
        ));
    }
    if !folder.has_checkpoint() {
        let config = folder.config();
        let remedy = format!("to start from scratch: capstan train {}", config.display());
        return refuse(format!("{name} has no checkpoint to go on from; {remedy}"));
    }
    let state = fold_log(&folder.events())?;
    if !changed && is_complete(&state) {
        let more = state.total_steps.unwrap_or(state.step) * 2;
        let remedy = format!("to train on: capstan resume {name} --set stop.steps={more}");
        return refuse(format!("{name} has completed; {remedy}"));
    }
    Ok(state)
}

/// Whether the run made all its steps.
pub fn is_complete(state: &RunState) -> bool {
    state
        .ended
        .as_ref()
        .is_some_and(|ending| ending.outcome == Outcome::Completed)
}

/// Goes on with a run as it was; returns its supervisor.
///
/// # Errors
/// As [`resumable`], and the supervisor's own reason.
pub fn resume(folder: &RunFolder, name: &str) -> Result<Child, LaunchError> {
    resumable(folder, name, false)?;
    supervise(folder, Begin::Resume)
}

/// Deletes a run and all that is in its folder.
///
/// # Errors
/// A supervisor holds it, or a file can't be deleted.
pub fn delete(folder: &RunFolder) -> Result<(), LaunchError> {
    let _lock = RunLock::acquire(folder)?;
    remove(folder).map_err(LaunchError::io("deleting", folder.root()))
}

/// Out of sight first: a half-deleted run is none.
fn remove(folder: &RunFolder) -> io::Result<()> {
    let hidden = format!(".del-{}-{}", folder.name(), std::process::id());
    let hidden = folder.root().with_file_name(hidden);
    fs::rename(folder.root(), &hidden)?;
    fs::remove_dir_all(hidden)
}
