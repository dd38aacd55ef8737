//! The merged log: events and the worker's own output as lines with time, level and rank.

use serde::Serialize;

use super::{RunState, told};
use crate::{
    base::text::one_line,
    event::{Event, Outcome, RESUMED, Record},
};

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Unix seconds; `None` for output of the worker that nobody saw arrive.
    pub time: Option<f64>,
    pub level: Level,
    /// Whose line it is; `None` for what the run does as a whole, and for output without a rank.
    pub rank: Option<usize>,
    /// On one line, without what a terminal would obey.
    pub text: String,
}

/// What an event says in the log, where it says something there; `state` has taken it in.
///
/// Losses, evaluations, checkpoints and samples are rank 0's to tell.
pub fn of_event(record: &Record, state: &RunState) -> Option<Entry> {
    let (level, rank, text) = match &record.event {
        Event::Step { step, .. } if !state.is_due(*step) => return None,
        Event::Step { .. } => (Level::Info, Some(0), told::step(state)),
        Event::Warning { rank, text } => (Level::Warn, *rank, text.clone()),
        Event::Fault { rank, .. } => (Level::Error, Some(*rank), told::event(&record.event)?),
        Event::Restart { cause, .. } => {
            let level = match cause == RESUMED {
                true => Level::Info,
                false => Level::Warn,
            };
            (level, None, told::event(&record.event)?)
        }
        Event::Ended {
            outcome, reason, ..
        } => {
            let level = match outcome {
                Outcome::Failed => Level::Error,
                _ => Level::Info,
            };
            (level, None, format!("{}: {reason}", state.status.name()))
        }
        Event::Sample { text, prompt, .. } => {
            (Level::Info, Some(0), format!("sampled: {prompt}{text}"))
        }
        Event::Progress { what, .. } => (Level::Info, Some(0), format!("{what} ...")),
        Event::Eval { .. } => (Level::Info, Some(0), told::event(&record.event)?),
        // One without a duration was found by the supervisor.
        Event::Checkpoint { seconds, .. } => {
            let rank = (*seconds > 0.0).then_some(0);
            (Level::Info, rank, told::event(&record.event)?)
        }
        event => (Level::Info, None, told::event(event)?),
    };
    Some(Entry {
        time: Some(record.time),
        level,
        rank,
        text: one_line(&text),
    })
}

/// Which work was said last: progress comes twice a second, and says something new when other work begins.
#[derive(Debug, Default)]
pub struct SaidWork(Option<String>);

impl SaidWork {
    /// Whether an event is progress of the work that was said last.
    pub fn has(&mut self, event: &Event) -> bool {
        match event {
            Event::Progress { what, .. } => self.0.replace(what.clone()).as_ref() == Some(what),
            _ => false,
        }
    }
}

/// A line that the worker printed, seen at `time` where somebody saw it arrive.
pub fn of_output(line: &str, time: Option<f64>) -> Entry {
    Entry {
        time,
        level: level_of(line),
        rank: rank_of(line),
        text: one_line(&line.replace('\t', "    ")),
    }
}

/// By the words of panics, of C++, and of the loggers of libtorch (`[W123 ...`) and NCCL (`NCCL WARN`).
fn level_of(line: &str) -> Level {
    let logger = line.trim_start_matches(|c| c != '[').as_bytes();
    let logger = logger_letter(logger).or_else(|| {
        // `[rank1]:[E123 ...`
        let (_, rest) = line.split_once("]:")?;
        logger_letter(rest.as_bytes())
    });
    let has = |wanted: &[&str]| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| wanted.contains(&word))
    };
    const GRAVE: [&str; 9] = [
        "panicked",
        "error",
        "Error",
        "ERROR",
        "fatal",
        "Fatal",
        "FATAL",
        "terminate",
        "RuntimeError",
    ];
    match logger {
        Some(b'E' | b'F') => Level::Error,
        _ if has(&GRAVE) => Level::Error,
        Some(b'W') => Level::Warn,
        _ if has(&["warning", "Warning", "WARNING", "WARN", "UserWarning"]) => Level::Warn,
        _ => Level::Info,
    }
}

/// The letter of `[W123`.
fn logger_letter(text: &[u8]) -> Option<u8> {
    match text {
        [b'[', letter @ (b'E' | b'F' | b'W'), digit, ..] if digit.is_ascii_digit() => Some(*letter),
        _ => None,
    }
}

/// By how a rank names itself: `rank 3: ...`, a panic of its thread (`'rank-3.0'`), libtorch's `[rank3]:`.
fn rank_of(line: &str) -> Option<usize> {
    let number = |after: &str, end: char| {
        let (_, rest) = line.split_once(after)?;
        let (number, _) = rest.split_once(end)?;
        number.parse().ok()
    };
    let begins = line.starts_with("rank ").then(|| number("rank ", ':'));
    begins
        .flatten()
        .or_else(|| number("thread 'rank-", '.'))
        .or_else(|| number("[rank", ']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_has_the_level_and_rank_that_its_words_tell() {
        for (line, level, rank) in [
            ("libtorch 2.11 says hello", Level::Info, None),
            ("no errors so far, warningless", Level::Info, None),
            (
                "rank 3: The following operation failed",
                Level::Info,
                Some(3),
            ),
            (
                "thread 'rank-12.0' (77) panicked at src/engine/step.rs:1:2:",
                Level::Error,
                Some(12),
            ),
            (
                "[W516 12:00:00.1 Foo.cpp:7] Warning: slow",
                Level::Warn,
                None,
            ),
            ("[E516 12:00:00.1 Foo.cpp:7] it is over", Level::Error, None),
            (
                "[rank1]:[E516 12:00:00 ProcessGroup] it is over",
                Level::Error,
                Some(1),
            ),
            ("box:12:34 [0] NCCL WARN no peer access", Level::Warn, None),
            ("terminate called after throwing", Level::Error, None),
            ("   3: std::panicking::try", Level::Info, None),
        ] {
            let entry = of_output(line, None);
            assert_eq!((entry.level, entry.rank), (level, rank), "{line}");
        }
    }

    #[test]
    fn work_is_said_when_it_begins() {
        let mut said = SaidWork::default();
        let mut is_said = |what: &str| {
            said.has(&Event::Progress {
                what: what.to_owned(),
                done: 1,
                total: None,
            })
        };
        let works = [
            "tokenizing",
            "tokenizing",
            "evaluating",
            "evaluating",
            "tokenizing",
        ];
        assert_eq!(works.map(&mut is_said), [false, true, false, true, false]);
        assert!(!said.has(&Event::Paused { step: 1 }));
    }

    #[test]
    fn what_rank_zero_reports_is_its_line_and_what_the_run_does_is_none_s() {
        let mut state = RunState::default();
        let mut line = |event: Event| {
            let record = Record {
                seq: 0,
                time: 1.0,
                event,
            };
            state.apply(&record);
            of_event(&record, &state)
        };
        let eval = line(Event::Eval {
            step: 1,
            loss: 2.0,
            targets: 1,
            seconds: 0.1,
            is_final: false,
        });
        assert_eq!(eval.map(|entry| entry.rank), Some(Some(0)));
        let ended = line(Event::Ended {
            outcome: Outcome::Failed,
            step: 1,
            reason: "disk\nfull\x1b[31m".to_owned(),
        });
        let ended = ended.expect("a line");
        assert_eq!((ended.level, ended.rank), (Level::Error, None));
        assert_eq!(ended.text, "failed: disk full\u{fffd}[31m");
    }
}
