//! The fold from disk: `state.json` where it is readable, else the event log.

use std::{io, path::Path, path::PathBuf};

use super::{RunState, STATE_VERSION};
use crate::event::{LogError, LogReader, Record};

/// A run whose state can't be told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// How the records of a log are read: [`LogReader::next_record`], or past lines that are none.
type Next = fn(&mut LogReader) -> Result<Option<Record>, LogError>;

impl RunState {
    /// Takes in what is left of a log.
    ///
    /// # Errors
    /// `next`'s.
    pub fn read_on(&mut self, reader: &mut LogReader, next: Next) -> Result<(), LogError> {
        while let Some(record) = next(reader)? {
            self.apply(&record);
        }
        Ok(())
    }
}

/// Folds a whole event log; a log that does not exist yet is an empty one.
///
/// # Errors
/// The log can't be read, or a complete line of it is no record.
pub fn fold_log(events: &Path) -> Result<RunState, StoreError> {
    fold(events, LogReader::next_record)
}

/// As [`fold_log`], for looking only: lines that are no records are left out.
///
/// # Errors
/// The log can't be read.
pub fn fold_readable(events: &Path) -> Result<RunState, StoreError> {
    fold(events, LogReader::next_sound_record)
}

fn fold(events: &Path, next: Next) -> Result<RunState, StoreError> {
    let mut state = RunState::default();
    if events.exists() {
        state.read_on(&mut LogReader::open(events)?, next)?;
    }
    Ok(state)
}

/// A written state with what the log says beyond it; lines that are no records are left out.
///
/// The lines before are passed over unread, which a long log takes seconds for otherwise.
///
/// # Errors
/// The log can't be read.
pub fn catch_up(mut state: RunState, events: &Path) -> Result<RunState, StoreError> {
    let mut reader = LogReader::open(events)?;
    if reader.pass_over(state.next_seq)? < state.next_seq {
        // It is not the log that the state is of.
        return fold_readable(events);
    }
    while let Some(record) = reader.next_sound_record()? {
        if record.seq >= state.next_seq {
            state.apply(&record);
        }
    }
    Ok(state)
}

/// The state as last written, or, where that is missing, damaged or of another version, the fold of
/// the log: `state.json` is a copy, never the truth.
///
/// # Errors
/// Neither can be read.
pub fn read_state(state: &Path, events: &Path) -> Result<RunState, StoreError> {
    let written = match crate::base::read::bytes(state, crate::base::read::Bound::TOLD) {
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
    use std::fs;

    use super::*;
    use crate::event::{Energy, Event, LogWriter, Phases, Reading};

    fn begun() -> Event {
        Event::Run {
            version: 1,
            name: "run".to_owned(),
            pid: 1,
            world: 1,
            strategy: "single".to_owned(),
            total_steps: Some(100),
            log_every: 1,
        }
    }

    fn step(step: u64) -> Event {
        Event::Step {
            step,
            loss: 1.0,
            lr: 0.1,
            grad_norm: 1.0,
            tokens: step * 100,
            step_time_s: 0.5,
            tokens_per_sec: 200.0,
            mfu: None,
            phases: Phases::default(),
            ranks: Vec::new(),
        }
    }

    fn sensed(joules: f64, is_first: bool) -> Event {
        let run_energy = Some(Energy {
            joules,
            is_estimate: false,
        });
        let reading = Reading {
            is_first,
            run_energy,
            ..Reading::default()
        };
        Event::Sensors { reading }
    }

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
    fn a_state_that_lags_is_brought_up_to_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let events = folder.path().join("events.jsonl");
        let mut log = LogWriter::open(&events).expect("a log");
        let mut written = RunState::default();
        for step in 1..=9 {
            let record = log.append(Event::Paused { step }).expect("written");
            if step <= 5 {
                written.apply(&record);
            }
        }
        let whole = fold_log(&events).expect("readable");
        assert_eq!(catch_up(written.clone(), &events).expect("readable"), whole);
        // Lines before that are no records make it no less exact.
        let text = fs::read_to_string(&events).expect("readable");
        fs::write(&events, format!("garbage\n{text}")).expect("written");
        assert_eq!(catch_up(written.clone(), &events).expect("readable"), whole);
        // What is not in the log did not happen.
        let two: String = text.split_inclusive('\n').take(2).collect();
        fs::write(&events, two).expect("written");
        assert_eq!(catch_up(written, &events).expect("readable").step, 2);
    }

    #[test]
    fn a_state_that_lags_counts_energy_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, events) = (
            folder.path().join("state.json"),
            folder.path().join("events.jsonl"),
        );
        let mut log = LogWriter::open(&events).expect("a log");
        let history = [
            begun(),
            step(1),
            sensed(10.0, true),
            step(2),
            sensed(25.0, false),
            begun(),
            step(3),
            sensed(5.0, true),
            step(4),
            sensed(12.0, false),
        ];
        let records: Vec<_> = history
            .into_iter()
            .map(|event| log.append(event).expect("written"))
            .collect();
        let whole = fold_log(&events).expect("readable").energy;
        assert_eq!((whole.joules, whole.tokens), (Some(37.0), 400));
        for n in 0..=records.len() {
            let mut written = RunState::default();
            records[..n].iter().for_each(|record| written.apply(record));
            fs::write(&state, serde_json::to_vec(&written).expect("JSON")).expect("written");
            let read = read_state(&state, &events).expect("readable");
            let caught_up = catch_up(read, &events).expect("readable");
            assert_eq!(caught_up.energy, whole, "after {n} records");
        }
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
