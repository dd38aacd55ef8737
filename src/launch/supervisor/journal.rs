//! The run's memory: the event log, and the fold of it beside it.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    base::{
        fs::replace,
        own::{self, Flush},
    },
    event::{Event, LogWriter},
    launch::{LaunchError, RunFolder},
    store::RunState,
};

/// The state file is a convenience of readers: it may lag this much behind the log.
const STATE_LAG: Duration = Duration::from_millis(500);
/// Between two attempts to write to a log that can't be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Events that wait for a full disk; the oldest go first.
const MOST_WAITING: usize = 1 << 16;

/// Appends events and keeps `state.json` up to date.
///
/// A log that can't be written (a full disk) never stops the run: its events wait.
pub struct Journal {
    events: PathBuf,
    state_file: PathBuf,
    log: Option<LogWriter>,
    waiting: VecDeque<Event>,
    retry_at: Instant,
    state: RunState,
    /// When the state file was last written; `None` while it is up to date.
    behind_since: Option<Instant>,
}

impl Journal {
    /// Opens the log, folding what is in it.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn open(folder: &RunFolder) -> Result<Self, LaunchError> {
        let events = folder.events();
        let mut state = RunState::default();
        let log = LogWriter::open_with(&events, |record| state.apply(record))?;
        Ok(Self {
            events,
            state_file: folder.state(),
            log: Some(log),
            waiting: VecDeque::new(),
            retry_at: Instant::now(),
            state,
            behind_since: None,
        })
    }

    /// The fold of all events that the log holds.
    pub const fn state(&self) -> &RunState {
        &self.state
    }

    /// Writes one event, or keeps it until it can be written.
    pub fn note(&mut self, event: Event) {
        let at_once = !matches!(
            event,
            Event::Step { .. }
                | Event::Progress { .. }
                | Event::Warning { .. }
                | Event::Sensors { .. }
        );
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(event);
        if self.log.is_some() {
            self.write_waiting();
        }
        if at_once {
            self.write_state();
        }
    }

    /// Does what is due; called between inputs.
    pub fn tick(&mut self) {
        if !self.waiting.is_empty() && Instant::now() >= self.retry_at {
            self.write_waiting();
        }
        if self
            .behind_since
            .is_some_and(|since| since.elapsed() >= STATE_LAG)
        {
            self.write_state();
        }
    }

    /// When [`Journal::tick`] has something to do next, at the latest.
    pub fn next_tick(&self) -> Option<Instant> {
        let state = self.behind_since.map(|since| since + STATE_LAG);
        let retry = (!self.waiting.is_empty()).then_some(self.retry_at);
        [state, retry].into_iter().flatten().min()
    }

    /// Writes the state a last time, to survive a power cut.
    pub fn close(mut self) {
        self.tick();
        if let Ok(text) = self.state_text() {
            let _ = replace(&self.state_file, &text);
        }
    }

    fn write_waiting(&mut self) {
        if self.log.is_none() {
            // Drops the torn line that a failed write left.
            self.log = LogWriter::open(&self.events).ok();
        }
        while let (Some(log), Some(event)) = (self.log.as_mut(), self.waiting.front()) {
            match log.append(event.clone()) {
                Ok(record) => {
                    self.state.apply(&record);
                    self.waiting.pop_front();
                    self.behind_since.get_or_insert_with(Instant::now);
                }
                Err(_) => self.log = None,
            }
        }
        if !self.waiting.is_empty() {
            self.retry_at = Instant::now() + RETRY_AFTER;
        }
    }

    /// Atomic for readers; not flushed, since it can be made again from the log.
    fn write_state(&mut self) {
        let written = self
            .state_text()
            .and_then(|text| own::replace(&self.state_file, &text, Flush::Never));
        self.behind_since = written.is_err().then(Instant::now);
    }

    fn state_text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(&self.state)?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::read_state;

    fn journal() -> (tempfile::TempDir, RunFolder, Journal) {
        let root = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::new(root.path());
        let journal = Journal::open(&folder).expect("a new log");
        (root, folder, journal)
    }

    #[test]
    fn important_events_reach_the_state_file_at_once() {
        let (_root, folder, mut journal) = journal();
        journal.note(Event::Paused { step: 3 });
        let read = read_state(&folder.state(), &folder.events()).expect("written");
        assert_eq!(read.step, 3);
        assert_eq!(journal.next_tick(), None);
    }

    #[test]
    fn frequent_events_wait_for_the_lag() {
        let (_root, folder, mut journal) = journal();
        let text = "slow".to_owned();
        journal.note(Event::Warning { text, rank: None });
        assert!(!folder.state().exists());
        assert!(journal.next_tick().is_some());
        journal.close();
        assert_eq!(
            read_state(&folder.state(), &folder.events())
                .expect("written")
                .warnings,
            1
        );
    }

    #[test]
    fn events_wait_while_the_log_cannot_be_written() {
        let (_root, folder, mut journal) = journal();
        journal.note(Event::Paused { step: 1 });
        fs::rename(folder.events(), folder.root().join("away")).expect("moved");
        fs::create_dir(folder.events()).expect("a folder in its place");
        journal.log = None;
        journal.waiting.push_back(Event::Paused { step: 2 });
        journal.write_waiting();
        assert_eq!((journal.state.step, journal.waiting.len()), (1, 1));

        fs::remove_dir(folder.events()).expect("removed");
        fs::rename(folder.root().join("away"), folder.events()).expect("moved back");
        journal.retry_at = Instant::now();
        journal.tick();
        assert_eq!((journal.state.step, journal.state.next_seq), (2, 2));
    }
}
