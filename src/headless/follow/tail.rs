//! A run's log as it grows, folded on the way.

use crate::{
    event::{LogReader, Record},
    launch::RunFolder,
    store::RunState,
};

/// What a log held when it was read, and the place where it goes on.
pub struct History {
    reader: Option<LogReader>,
    state: RunState,
}

impl History {
    /// Reads the log to its present end; one that doesn't exist yet is empty.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn read(folder: &RunFolder) -> anyhow::Result<Self> {
        if !folder.events().exists() {
            return Ok(Self {
                reader: None,
                state: RunState::default(),
            });
        }
        let mut reader = LogReader::open(&folder.events())?;
        let mut state = RunState::default();
        state.read_on(&mut reader, LogReader::next_record)?;
        let reader = Some(reader);
        Ok(Self { reader, state })
    }

    /// The fold of what was read so far.
    pub const fn state(&self) -> &RunState {
        &self.state
    }
}

/// Records from a place on.
pub struct Tail {
    reader: LogReader,
    state: RunState,
}

impl Tail {
    /// Goes on after `history`, or starts at the log's first record.
    ///
    /// # Errors
    /// The log can't be opened.
    pub fn open(folder: &RunFolder, history: Option<History>) -> anyhow::Result<Self> {
        let (reader, state) = match history {
            Some(history) => (history.reader, history.state),
            None => (None, RunState::default()),
        };
        let reader = match reader {
            Some(reader) => reader,
            None => LogReader::open(&folder.events())?,
        };
        Ok(Self { reader, state })
    }

    /// The next record, folded; `None` where the log ends for now.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn next_record(&mut self) -> anyhow::Result<Option<Record>> {
        let record = self.reader.next_record()?;
        if let Some(record) = &record {
            self.state.apply(record);
        }
        Ok(record)
    }

    /// Whether another log, or none, lies where this one was opened.
    pub fn is_replaced(&self) -> bool {
        self.reader.is_replaced()
    }

    /// The fold of what was read so far.
    pub const fn state(&self) -> &RunState {
        &self.state
    }
}
