//! One run as Live and Logs show it: the fold of its events, with the curves and the words.

use std::collections::VecDeque;

use super::{curves::DeviceCurves, series::Series};
use crate::{
    base::text::printable,
    config::RunConfig,
    event::{Event, Phases, RankStep, Record},
    launch::RunFolder,
    plan::RunPlan,
    store::{RunState, told},
};

/// Steps over which the anatomy is a mean.
const ANATOMY_STEPS: usize = 50;
/// The cause of a start that somebody asked for.
const RESUMED: &str = "resumed";
/// Lines of the log that are kept; the file has all.
const MOST_ENTRIES: usize = 20_000;

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    /// The word beside the line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// One line of the merged log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Unix seconds; `None` for the worker's own output, which has no clock.
    pub time: Option<f64>,
    pub level: Level,
    pub rank: Option<usize>,
    pub text: String,
    /// How often it came in a row.
    pub times: u64,
}

/// A run.
#[derive(Clone)]
pub struct Board {
    pub folder: RunFolder,
    pub state: RunState,
    /// Whether a supervisor holds it.
    pub held: bool,
    /// Why it can't be read.
    pub failed: Option<String>,
    pub plan: Option<Box<RunPlan>>,
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
    pub entries: VecDeque<Entry>,
    /// Time and words of the latest fault.
    pub fault: Option<String>,
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
            state: RunState::default(),
            held: false,
            failed: None,
            plan: None,
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
            fault: None,
            saved_at: None,
            restarted_at: None,
            dropped: 0,
        }
    }

    /// Takes in one record; records come in the log's order.
    pub fn apply(&mut self, record: &Record) {
        let before = self.state.step;
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
            Event::Run { .. } => self.fault = None,
            Event::Sensors { reading } => {
                if let Some(plan) = &self.plan {
                    self.devices.push(self.state.step, reading, plan);
                }
            }
            _ => {}
        }
        if let Some(entry) = self.entry(record) {
            self.add(entry);
        }
    }

    /// Adds lines of the worker's own output.
    pub fn add_lines(&mut self, lines: Vec<String>) {
        for line in lines {
            self.add(Entry {
                time: None,
                level: Level::Info,
                rank: None,
                text: printable(&line).replace('\t', "    "),
                times: 1,
            });
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
    pub fn events(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.iter().rev();
        entries.filter(|entry| entry.time.is_some())
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

    fn entry(&self, record: &Record) -> Option<Entry> {
        let mut rank = None;
        let mut level = Level::Info;
        let text = match &record.event {
            Event::Step { step, .. } => {
                let state = &self.state;
                let is_due = *step == 1
                    || step.is_multiple_of(state.log_every.max(1))
                    || Some(*step) == state.total_steps;
                return is_due.then(|| Entry {
                    time: Some(record.time),
                    level,
                    rank,
                    text: told::step(state),
                    times: 1,
                });
            }
            Event::Warning { rank: of, text } => {
                rank = *of;
                level = Level::Warn;
                printable(text)
            }
            Event::Fault { rank: of, .. } => {
                rank = Some(*of);
                level = Level::Error;
                told::event(&record.event)?
            }
            Event::Restart { cause, .. } => {
                if cause != RESUMED {
                    level = Level::Warn;
                }
                told::event(&record.event)?
            }
            Event::Ended {
                outcome, reason, ..
            } => {
                if *outcome == crate::event::Outcome::Failed {
                    level = Level::Error;
                }
                printable(&format!("{}: {reason}", self.state.status.name()))
            }
            Event::Sample { text, prompt, .. } => {
                let text = printable(&format!("{prompt}{text}")).replace('\n', " ");
                format!("sampled: {text}")
            }
            Event::Progress { what, .. } => format!("{what} ..."),
            event => told::event(event)?,
        };
        Some(Entry {
            time: Some(record.time),
            level,
            rank,
            text: text.replace(['\n', '\t'], " "),
            times: 1,
        })
    }

    fn add(&mut self, entry: Entry) {
        if let Some(last) = self.entries.back_mut()
            && (last.level, last.rank, &last.text) == (entry.level, entry.rank, &entry.text)
        {
            last.times += 1;
            last.time = entry.time;
            return;
        }
        if self.entries.len() == MOST_ENTRIES {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(entry);
    }
}
