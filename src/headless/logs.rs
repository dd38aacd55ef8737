//! `logs`: what happened, when, on which rank: events and what the worker printed, merged.

use std::{path::Path, thread, time::Duration};

use jiff::tz::TimeZone;
use serde_json::json;

use super::{
    cli::LogsArgs,
    find::find,
    text::{say, say_json},
};
use crate::{
    base::clock::{self, unix_seconds},
    event::{LogError, LogReader},
    launch::{RunFolder, lock, output::Output},
    store::{
        RunState,
        lines::{Entry, Level, SaidWork, of_event, of_output},
    },
};

const POLL: Duration = Duration::from_millis(100);
/// Columns of a time with its zone.
const TIME_WIDTH: usize = 25;

/// `capstan logs`.
pub fn logs(runs_dir: &Path, args: &LogsArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    let mut log = Log::new(&folder, args.json);
    log.print_output(None)?;
    if !args.follow {
        log.print_torn()?;
    }
    loop {
        // Asked before anything is read: what a dead supervisor wrote is printed.
        let is_running = args.follow && lock::is_held(&folder);
        log.print_events()?;
        if !is_running {
            log.print_output(args.follow.then(unix_seconds))?;
            log.print_torn()?;
            return Ok(0);
        }
        thread::sleep(POLL);
        log.print_output(Some(unix_seconds()))?;
    }
}

struct Log<'a> {
    folder: &'a RunFolder,
    events: Option<LogReader>,
    state: RunState,
    said: SaidWork,
    output: Output,
    is_json: bool,
    zone: TimeZone,
}

impl<'a> Log<'a> {
    fn new(folder: &'a RunFolder, is_json: bool) -> Self {
        Self {
            folder,
            events: None,
            state: RunState::default(),
            said: SaidWork::default(),
            output: Output::new(&folder.worker_log(), None),
            is_json,
            zone: TimeZone::system(),
        }
    }

    fn print_events(&mut self) -> anyhow::Result<()> {
        self.print_rest()?;
        if self.events.as_ref().is_none_or(LogReader::is_replaced) {
            let path = self.folder.events();
            self.events = path.exists().then(|| LogReader::open(&path)).transpose()?;
            (self.state, self.said) = Default::default();
            self.print_rest()?;
        }
        Ok(())
    }

    fn print_rest(&mut self) -> anyhow::Result<()> {
        loop {
            let read = self
                .events
                .as_mut()
                .map_or(Ok(None), LogReader::next_record);
            let entry = match read {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => {
                    self.state.apply(&record);
                    let is_said = self.said.has(&record.event);
                    of_event(&record, &self.state).filter(|_| !is_said)
                }
                Err(error @ LogError::Malformed { .. }) => Some(Entry {
                    time: None,
                    level: Level::Error,
                    rank: None,
                    text: error.to_string(),
                }),
                Err(error) => return Err(error.into()),
            };
            if let Some(entry) = entry {
                self.print(&entry, "events")?;
            }
        }
    }

    /// `time`: when the lines arrived, where that was seen.
    fn print_output(&mut self, time: Option<f64>) -> anyhow::Result<()> {
        loop {
            let lines = self.output.fresh()?;
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines {
                self.print(&of_output(&line, time), "worker")?;
            }
        }
    }

    fn print_torn(&mut self) -> anyhow::Result<()> {
        match self.output.torn() {
            Some(line) => self.print(&of_output(&line, None), "worker"),
            None => Ok(()),
        }
    }

    fn print(&self, entry: &Entry, source: &str) -> anyhow::Result<()> {
        if self.is_json {
            say_json(json!({
                "source": source,
                "time": entry.time,
                "level": entry.level,
                "rank": entry.rank,
                "text": entry.text,
            }))?;
        } else {
            say(&self.told(entry, source))?;
        }
        Ok(())
    }

    /// What has no time has its source there.
    fn told(&self, entry: &Entry, source: &str) -> String {
        let time = entry
            .time
            .and_then(|time| clock::told(time, &self.zone, "%Y-%m-%dT%H:%M:%S%:z"));
        let time = time.unwrap_or_else(|| source.to_owned());
        let rank = entry
            .rank
            .map_or_else(String::new, |rank| format!("r{rank}"));
        let level = entry.level.name();
        format!("{time:<TIME_WIDTH$} {level:<5} {rank:<3} {}", entry.text)
    }
}
