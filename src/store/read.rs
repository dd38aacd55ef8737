//! The fold from disk: `state.json` where it is readable, else the event log.

use std::{fs, io, path::Path, path::PathBuf};

use super::{RunState, STATE_VERSION};
use crate::event::{LogError, LogReader};

/// A run whose state can't be told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Folds a whole event log; a log that does not exist yet is an empty one.
///
/// # Errors
/// The log can't be read, or a complete line of it is no record.
pub fn fold_log(events: &Path) -> Result<RunState, StoreError> {
    let mut state = RunState::default();
    if !events.exists() {
        return Ok(state);
    }
    let mut reader = LogReader::open(events)?;
    while let Some(record) = reader.next_record()? {
        state.apply(&record);
    }
    Ok(state)
}

/// As [`fold_log`], for looking only: lines that are no records are left out.
///
/// # Errors
/// The log can't be read.
pub fn fold_readable(events: &Path) -> Result<RunState, StoreError> {
    let mut state = RunState::default();
    if !events.exists() {
        return Ok(state);
    }
    let mut reader = LogReader::open(events)?;
    while let Some(record) = reader.next_sound_record()? {
        state.apply(&record);
    }
    Ok(state)
}

/// The state as last written, or, where that is missing, damaged or of another version, the fold of
/// the log: `state.json` is a copy, never the truth.
///
/// # Errors
/// Neither can be read.
pub fn read_state(state: &Path, events: &Path) -> Result<RunState, StoreError> {
    let written = match fs::read(state) {
        Ok(bytes) => serde_json::from_slice::<RunState>(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => {
            let path = state.to_owned();
            return Err(StoreError::Io { path, source });
        }
    };
    match written {
        Some(state) if state.schema == STATE_VERSION => Ok(state),
        _ => fold_log(events),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, LogWriter};

    #[test]
    fn a_damaged_state_is_folded_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, events) = (
            folder.path().join("state.json"),
            folder.path().join("events.jsonl"),
        );
        let mut log = LogWriter::open(&events).expect("a log");
        log.append(Event::Paused { step: 7 }).expect("written");
        assert_eq!(read_state(&state, &events).expect("no state yet").step, 7);
        fs::write(&state, r#"{"schema":1,"st"#).expect("writable");
        assert_eq!(read_state(&state, &events).expect("a torn state").step, 7);
    }

    #[test]
    fn no_files_are_an_empty_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = read_state(
            &folder.path().join("state.json"),
            &folder.path().join("events.jsonl"),
        );
        assert_eq!(read.expect("empty"), RunState::default());
    }
}
