//! Follows the run that is watched: its log and its worker's output, also where another run takes its place.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::{Duration, Instant},
};

use super::app::{Msg, News};
use crate::{
    base::clock::unix_seconds,
    event::{LogError, LogReader, Record},
    launch::{RunFolder, in_full, lock, output::Output},
    store::read_state,
};

/// Between two looks at the end of a log.
const TAIL_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at the lock, and at whether the folder is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Records that are passed on at once.
const BATCH: usize = 2048;
/// The worker's output is shown from here before its end on.
const OUTPUT_BYTES: u64 = 2 << 20;

/// Tells what happens to a run until told to stop, or until the run is gone.
///
/// `watch` is the number of all that it tells.
pub fn tail(folder: &RunFolder, watch: u64, stop: &Arc<AtomicBool>, to: &SyncSender<Msg>) {
    let mut tail = Tail {
        folder,
        watch,
        stop,
        to,
        log: None,
        unread: None,
        output: Output::new(&folder.worker_log(), Some(OUTPUT_BYTES)),
        has_seen_output: false,
        held: None,
        looked: None,
        is_told: false,
    };
    while tail.look().is_some() {}
}

struct Tail<'a> {
    folder: &'a RunFolder,
    watch: u64,
    stop: &'a AtomicBool,
    to: &'a SyncSender<Msg>,
    log: Option<LogReader>,
    /// Bytes that the log had when it was opened, until they are read.
    unread: Option<u64>,
    output: Output,
    has_seen_output: bool,
    held: Option<bool>,
    looked: Option<Instant>,
    /// What `state.json` says was told, there being no log.
    is_told: bool,
}

/// What a look at the log brought.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    /// A line that is no record ended it.
    damage: Option<String>,
}

impl Tail<'_> {
    /// One look at everything; `None` where it was the last.
    fn look(&mut self) -> Option<()> {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            self.look_at_folder()?;
        }
        if self.log.is_none() {
            self.open()?;
        }
        let batch = match self.log.as_mut().map_or(Ok(Batch::default()), read) {
            Ok(batch) => batch,
            Err(error) => return self.fail(&error),
        };
        let is_idle = batch.records.is_empty() && batch.damage.is_none();
        if !batch.records.is_empty() {
            self.tell(News::Records(batch.records))?;
        }
        if let Some(text) = batch.damage {
            self.tell(News::Damaged(text))?;
        }
        self.tell_progress(is_idle)?;
        if self.unread.is_none() {
            self.look_at_output()?;
        }
        if is_idle {
            if self.log.as_ref().is_some_and(LogReader::is_replaced) {
                return self.begin_anew();
            }
            thread::sleep(TAIL_EVERY);
        }
        (!self.stop.load(Ordering::Relaxed)).then_some(())
    }

    fn tell(&self, news: News) -> Option<()> {
        let is_wanted = !self.stop.load(Ordering::Relaxed);
        let watch = self.watch;
        (is_wanted && self.to.send(Msg::Watched { watch, news }).is_ok()).then_some(())
    }

    fn look_at_folder(&mut self) -> Option<()> {
        if !self.folder.root().exists() {
            self.tell(News::Gone)?;
            return None;
        }
        let held = lock::is_held(self.folder);
        if self.held != Some(held) {
            self.held = Some(held);
            self.tell(News::Held(held))?;
        }
        Some(())
    }

    fn open(&mut self) -> Option<()> {
        let path = self.folder.events();
        if !path.exists() {
            return self.tell_without_log();
        }
        if self.is_told {
            return self.begin_anew();
        }
        match LogReader::open(&path) {
            Ok(log) => self.log = Some(log),
            Err(error) => return self.fail(&error),
        }
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
        self.unread = Some(bytes);
        self.tell(News::Reading(Some(0)))
    }

    /// A run that just begins has neither file; one without a log is shown as its supervisor wrote it down last.
    fn tell_without_log(&mut self) -> Option<()> {
        if self.is_told || !self.folder.state().exists() {
            return Some(());
        }
        self.is_told = true;
        if let Ok(state) = read_state(&self.folder.state(), &self.folder.events()) {
            self.tell(News::State(Box::new(state)))?;
        }
        let path = self.folder.events();
        self.tell(News::Failed(format!(
            "{} is gone; what is shown is from state.json",
            path.display()
        )))
    }

    /// A torn last line is never read: where nothing more comes, all is.
    fn tell_progress(&mut self, is_idle: bool) -> Option<()> {
        let (Some(bytes), Some(log)) = (self.unread, &self.log) else {
            return Some(());
        };
        let position = log.position();
        if position >= bytes || is_idle {
            self.unread = None;
            return self.tell(News::Reading(None));
        }
        self.tell(News::Reading(Some(position * 100 / bytes)))
    }

    fn fail(&self, error: &LogError) -> Option<()> {
        self.tell(News::Failed(in_full(error)))?;
        None
    }

    fn begin_anew(&mut self) -> Option<()> {
        self.log = None;
        self.output = Output::new(&self.folder.worker_log(), Some(OUTPUT_BYTES));
        self.has_seen_output = false;
        self.held = None;
        self.looked = None;
        self.is_told = false;
        self.tell(News::Begun)
    }

    fn look_at_output(&mut self) -> Option<()> {
        let time = self.has_seen_output.then(unix_seconds);
        loop {
            let lines = match self.output.fresh() {
                Ok(lines) => lines,
                // The events are what matters; the next look may bring it.
                Err(_) => return Some(()),
            };
            if lines.is_empty() {
                self.has_seen_output = true;
                return Some(());
            }
            self.tell(News::Output { lines, time })?;
        }
    }
}

fn read(log: &mut LogReader) -> Result<Batch, LogError> {
    let mut batch = Batch::default();
    while batch.records.len() < BATCH {
        match log.next_record() {
            Ok(Some(record)) => batch.records.push(record),
            Ok(None) => break,
            Err(error @ LogError::Malformed { .. }) => {
                batch.damage = Some(error.to_string());
                break;
            }
            Err(error) if batch.records.is_empty() => return Err(error),
            // It comes again at the next look, when these are told.
            Err(_) => break,
        }
    }
    Ok(batch)
}
