//! One run as Live and Logs show it: the fold of its events, with the curves and the words.

use std::collections::VecDeque;

use super::{curves::DeviceCurves, series::Series};
use crate::{
    base::text::{one_line, printable},
    config::RunConfig,
    event::{Event, Phases, RESUMED, RankStep, Record},
    launch::{RunFolder, runs},
    plan::RunPlan,
    store::{
        RunState,
        lines::{self, Entry, Level},
    },
};

/// Steps over which the anatomy is a mean.
const ANATOMY_STEPS: usize = 50;
/// Lines of the log that are kept; the file has all.
const MOST_ENTRIES: usize = 20_000;

/// Bytes of text in them.
const MOST_BYTES: usize = 32 << 20;

/// A line of the merged log, or one that came several times in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// Counts up from the run's first line; what it names stays the same when older lines go.
    pub number: u64,
    /// As it came last.
    pub entry: Entry,
    /// The worker printed it.
    pub is_output: bool,
    /// Unix seconds at which it came first.
    pub first: Option<f64>,
    pub times: u64,
}

/// A run.
#[derive(Clone)]
pub struct Board {
    pub folder: RunFolder,
    /// What is told of it has this number.
    pub watch: u64,
    pub state: RunState,
    /// Whether a supervisor holds it.
    pub held: bool,
    /// How much of the log as it was found is read, in percent, until all is.
    pub reading: Option<u64>,
    /// Why it can't be read.
    pub failed: Option<String>,
    /// What is wrong with a line of its log, which was left out.
    pub damage: Option<String>,
    pub plan: Option<Box<RunPlan>>,
    /// A supervisor took the run, perhaps with another plan, since it was read.
    pub is_planned_anew: bool,
    pub config: Option<Box<RunConfig>>,
    pub loss: Series,
    pub validation: Vec<(f64, f64)>,
    pub lr: Series,
    pub grad_norm: Series,
    pub tokens_per_sec: Series,
    pub mfu: Series,
    pub step_time: Series,
    pub devices: DeviceCurves,
    /// Of the latest steps.
    ranks: VecDeque<Vec<RankStep>>,
    pub entries: VecDeque<LogLine>,
    /// Bytes of their texts.
    entry_bytes: usize,
    /// Time and words of the latest fault.
    pub fault: Option<String>,
    /// The latest warning, unless something came that says more.
    pub warning: Option<String>,
    /// Unix seconds of the newest checkpoint.
    pub saved_at: Option<f64>,
    /// Unix seconds of the latest restart that nobody asked for.
    restarted_at: Option<f64>,
    dropped: u64,
}

impl Board {
    /// A run of which nothing is read yet.
    pub fn new(folder: RunFolder) -> Self {
        Self {
            folder,
            watch: 0,
            state: RunState::default(),
            held: false,
            reading: None,
            failed: None,
            damage: None,
            plan: None,
            is_planned_anew: false,
            config: None,
            loss: Series::default(),
            validation: Vec::new(),
            lr: Series::default(),
            grad_norm: Series::default(),
            tokens_per_sec: Series::default(),
            mfu: Series::default(),
            step_time: Series::default(),
            devices: DeviceCurves::default(),
            ranks: VecDeque::new(),
            entries: VecDeque::new(),
            entry_bytes: 0,
            fault: None,
            warning: None,
            saved_at: None,
            restarted_at: None,
            dropped: 0,
        }
    }

    /// Another run in the place of this one, followed by the same.
    pub fn anew(&self) -> Self {
        let mut board = Self::new(self.folder.clone());
        board.watch = self.watch;
        board
    }

    /// Takes in one record; records come in the log's order.
    pub fn apply(&mut self, record: &Record) {
        let before = self.state.step;
        let ordered = self.in_order(record);
        let record = ordered.as_ref().unwrap_or(record);
        self.state.apply(record);
        match &record.event {
            Event::Step { step, .. } => {
                if *step <= before {
                    self.cut(step.saturating_sub(1));
                }
                self.advance(record);
            }
            Event::Eval { step, loss, .. } => {
                self.validation.retain(|&(at, _)| at != *step as f64);
                if loss.is_finite() {
                    self.validation.push((*step as f64, *loss));
                }
            }
            Event::Restart {
                from_step, cause, ..
            } => {
                self.cut(*from_step);
                self.warning = None;
                self.restarted_at = (cause != RESUMED).then_some(record.time);
            }
            Event::Checkpoint { .. } => self.saved_at = Some(record.time),
            Event::Fault {
                rank,
                operation,
                cause,
                ..
            } => {
                self.fault = Some(printable(&format!("rank {rank} in {operation}: {cause}")));
            }
            Event::Run { .. } => {
                self.is_planned_anew = true;
                self.fault = None;
                self.warning = None;
            }
            Event::Warning { text, .. } => self.warning = Some(text.clone()),
            Event::Sensors { reading } => {
                if let Some(plan) = &self.plan {
                    self.devices.push(self.state.step, reading, plan);
                }
            }
            _ => {}
        }
        if let Some(entry) = lines::of_event(record, &self.state) {
            self.add(entry, false);
        }
    }

    /// A look at the sensors with the cards in the plan's order; `None` where they are that already. In an earlier
    /// session they may have been counted otherwise.
    fn in_order(&self, record: &Record) -> Option<Record> {
        let Event::Sensors { reading } = &record.event else {
            return None;
        };
        let uuids = &self.plan.as_ref()?.gpu_uuids;
        let said = reading.gpus.iter().map(|gpu| &gpu.uuid);
        if said.eq(uuids) {
            return None;
        }
        let mut reading = reading.clone();
        reading.order(uuids);
        let event = Event::Sensors { reading };
        Some(Record { event, ..*record })
    }

    /// Adds lines of the worker's own output, which arrived at `time` where that was seen.
    pub fn add_output(&mut self, lines: &[String], time: Option<f64>) {
        for line in lines {
            self.add(lines::of_output(line, time), true);
        }
    }

    /// Notes that a line of the log is no record.
    pub fn add_damage(&mut self, text: String) {
        let entry = Entry {
            time: None,
            level: Level::Error,
            rank: None,
            text: one_line(&text),
        };
        self.add(entry, false);
        self.damage = Some(text);
    }

    /// How it stands, in a word or two.
    pub const fn word(&self) -> &'static str {
        match self.reading {
            Some(_) => "reading its log",
            None => runs::word(&self.state, self.held),
        }
    }

    /// Mean phases over the latest steps, and over all ranks.
    pub fn mean_phases(&self) -> Option<Phases> {
        let of_ranks: Vec<Phases> = self.mean_ranks().iter().map(|rank| rank.phases).collect();
        (!of_ranks.is_empty()).then(|| Phases::mean(&of_ranks))
    }

    /// Mean parts of every rank over the latest steps, with the bytes of the last.
    pub fn mean_ranks(&self) -> Vec<RankStep> {
        let last = self.ranks.back().map_or(&[][..], Vec::as_slice);
        let mean = |rank: &RankStep| {
            let steps = self.ranks.iter().flatten();
            let same = steps.filter(|other| other.rank == rank.rank);
            let phases: Vec<Phases> = same.map(|other| other.phases).collect();
            RankStep {
                phases: Phases::mean(&phases),
                ..*rank
            }
        };
        last.iter().map(mean).collect()
    }

    /// What happened, the latest first; without the worker's own output.
    pub fn events(&self) -> impl Iterator<Item = &LogLine> {
        self.entries.iter().rev().filter(|line| !line.is_output)
    }

    /// Whether a worker had to be started again, and nothing was saved since.
    pub fn is_shaken(&self) -> bool {
        self.restarted_at > self.saved_at
    }

    /// Lines that were dropped to bound the memory; they are in the run's files.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn advance(&mut self, record: &Record) {
        let Event::Step {
            step,
            loss,
            lr,
            grad_norm,
            step_time_s,
            tokens_per_sec,
            mfu,
            ranks,
            ..
        } = &record.event
        else {
            return;
        };
        let x = *step as f64;
        self.loss.push(x, *loss);
        self.lr.push(x, *lr);
        self.grad_norm.push(x, *grad_norm);
        self.step_time.push(x, *step_time_s);
        self.tokens_per_sec.push(x, *tokens_per_sec);
        if let Some(mfu) = mfu {
            self.mfu.push(x, *mfu);
        }
        self.ranks.push_back(ranks.clone());
        if self.ranks.len() > ANATOMY_STEPS {
            self.ranks.pop_front();
        }
    }

    fn cut(&mut self, step: u64) {
        let x = step as f64;
        for series in [
            &mut self.loss,
            &mut self.lr,
            &mut self.grad_norm,
            &mut self.step_time,
            &mut self.tokens_per_sec,
            &mut self.mfu,
        ] {
            series.cut(x);
        }
        self.devices.cut(x);
        self.validation.retain(|&(at, _)| at <= x);
        self.ranks.clear();
    }

    fn add(&mut self, entry: Entry, is_output: bool) {
        if let Some(last) = self.entries.back_mut()
            && (last.entry.level, last.entry.rank, &last.entry.text)
                == (entry.level, entry.rank, &entry.text)
        {
            last.times += 1;
            last.entry.time = entry.time;
            return;
        }
        self.entry_bytes += entry.text.len();
        self.entries.push_back(LogLine {
            number: self.dropped + self.entries.len() as u64,
            first: entry.time,
            is_output,
            entry,
            times: 1,
        });
        while self.entries.len() > MOST_ENTRIES || self.entry_bytes > MOST_BYTES {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.entry_bytes -= oldest.entry.text.len();
            self.dropped += 1;
        }
    }
}
