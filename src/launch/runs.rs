//! The folder of runs: which there are, how they stand, what can be done with one that nobody runs.

use std::{fs, io, path::Path, process::Child, time::SystemTime};

use super::{
    LaunchError, RunFolder, dirs,
    lock::{self, RunLock},
    start::supervise,
    supervisor::Begin,
};
use crate::{
    event::Outcome,
    store::{RunState, catch_up, fold_log, fold_readable, read_state},
};

/// When a run's log was written last, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub written: SystemTime,
    pub bytes: u64,
}

/// All runs of a folder, the latest first; none where it can't be read.
pub fn all(runs_dir: &Path) -> Vec<RunFolder> {
    let runs = listed(runs_dir).unwrap_or_default();
    runs.into_iter().map(|(_, folder)| folder).collect()
}

/// All runs of a folder, the latest first; none where there is no such folder.
///
/// # Errors
/// It is there and can't be read.
pub fn listed(runs_dir: &Path) -> Result<Vec<(Stamp, RunFolder)>, LaunchError> {
    let entries = match fs::read_dir(runs_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LaunchError::io("the runs folder", runs_dir)(error)),
    };
    let mut runs: Vec<(Stamp, RunFolder)> = entries
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| RunFolder::new(entry.path()))
        .filter_map(|folder| Some((stamp(&folder)?, folder)))
        .collect();
    runs.sort_by(|(a, left), (b, right)| {
        let order = b.written.cmp(&a.written);
        order.then_with(|| left.name().cmp(&right.name()))
    });
    Ok(runs)
}

/// Whether a run was made here, whatever is left of it.
pub fn is_run(folder: &RunFolder) -> bool {
    stamp(folder).is_some()
}

/// Of the run's log; before its first event, of what is there of it. `None`: nothing, so it is no run.
pub fn stamp(folder: &RunFolder) -> Option<Stamp> {
    let paths = [
        RunFolder::events,
        RunFolder::config,
        RunFolder::state,
        RunFolder::lock,
    ];
    let meta = paths
        .iter()
        .find_map(|path| fs::metadata(path(folder)).ok())?;
    Some(Stamp {
        written: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        bytes: meta.len(),
    })
}

/// Refuses a run whose config is gone or damaged: it can be looked at and deleted, not resumed or repeated.
///
/// # Errors
/// What is wrong with the config.
pub fn check_config(folder: &RunFolder) -> Result<(), LaunchError> {
    let path = folder.config();
    let text = crate::base::read::bytes(&path, crate::base::read::Bound::TOLD)
        .map_err(LaunchError::io("the config", &path))?;
    let parsed = serde_json::from_slice::<serde_json::Value>(&text);
    parsed.map(drop).map_err(|error| LaunchError::Malformed {
        path,
        message: error.to_string(),
    })
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

/// What is known of a run. The state file of a dead supervisor lags behind its log. Lines of the log that are no
/// records are left out.
///
/// # Errors
/// Neither can be read, or nothing is left that tells of the run.
pub fn see(folder: &RunFolder) -> Result<RunState, LaunchError> {
    let is_held = lock::is_held(folder);
    let state = match read_state(&folder.state(), &folder.events()) {
        Ok(state) if state.ended.is_some() || is_held => state,
        Ok(state) if folder.events().exists() => catch_up(state, &folder.events())?,
        _ => fold_readable(&folder.events())?,
    };
    if state.next_seq == 0 && !is_held {
        check_config(folder)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, LogWriter};

    #[test]
    fn a_damaged_run_is_listed_and_seen_as_far_as_it_can_be() {
        let runs = tempfile::tempdir().expect("a folder");
        let make = |name: &str| {
            let folder = RunFolder::new(runs.path().join(name));
            fs::create_dir(folder.root()).expect("made");
            folder
        };
        make("empty");
        let no_config = make("no-config");
        let mut log = LogWriter::open(&no_config.events()).expect("a log");
        log.append(Event::Paused { step: 7 }).expect("written");
        let garbled = make("garbled");
        let text = fs::read_to_string(no_config.events()).expect("readable");
        fs::write(garbled.events(), format!("garbage\n{text}")).expect("written");
        let bare = make("bare");
        fs::write(bare.config(), "{").expect("written");

        let names: Vec<String> = all(runs.path()).iter().map(RunFolder::name).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        for folder in [&no_config, &garbled] {
            assert_eq!(see(folder).expect("seen").step, 7);
        }
        let error = see(&bare).expect_err("nothing tells of it").to_string();
        assert!(error.contains("config.json"), "{error}");
        assert!(check_config(&no_config).is_err());
        delete(&bare).expect("deleted");
        assert!(!bare.root().exists());
    }

    #[test]
    fn a_runs_folder_that_is_none_is_an_error_and_an_absent_one_is_empty() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(
            listed(&root.path().join("absent"))
                .expect("empty")
                .is_empty()
        );
        let file = root.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(listed(&file).is_err());
    }
}
