//! The gravest thing there is to say about a run, and what to do about it.

use super::{
    app::{App, Screen},
    board::Board,
    draw::{ago, cut},
    keys::Action,
    live::now,
};
use crate::{
    base::text::{columns, printable},
    event::Outcome,
};

/// Rows of a screen that an alarm takes at most.
const MOST_ROWS: usize = 2;
/// Below this height of a screen's body an alarm is one row.
const TALL: u16 = 20;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub is_grave: bool,
    pub what: String,
    /// Empty where nothing helps.
    pub remedy: String,
}

impl Alarm {
    /// The words in as many rows as they take, and as `height` has for them; what is cut off is never the remedy.
    pub fn rows(&self, width: usize, height: u16) -> Vec<String> {
        let most = if height >= TALL { MOST_ROWS } else { 1 };
        let rows = wrapped(&self.text(&self.what), width);
        if rows.len() <= most {
            return rows;
        }
        let lengths = (1..self.what.chars().count()).rev();
        let mut shorter =
            lengths.map(|length| wrapped(&self.text(&cut(&self.what, length)), width));
        let fits = shorter.find(|rows| rows.len() <= most);
        fits.unwrap_or_else(|| vec![cut(&self.text(""), width)])
    }

    fn text(&self, what: &str) -> String {
        match (what, self.remedy.as_str()) {
            ("", remedy) => format!(" ! {remedy}"),
            (what, "") => format!(" ! {what}"),
            (what, remedy) => format!(" ! {what}; {remedy}"),
        }
    }
}

/// A text in rows of a width, between words where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let row = rows.last().map_or(0, |row| columns(row));
        if row > 1 && row + columns(word.trim_end()) > width {
            rows.push("   ".to_owned());
        }
        if let Some(row) = rows.last_mut() {
            row.push_str(word);
        }
    }
    rows.iter().map(|row| cut(row.trim_end(), width)).collect()
}

/// The gravest alarm of a run.
pub fn of(app: &App, board: &Board) -> Option<Alarm> {
    let grave = |what: String, remedy: String| Alarm {
        is_grave: true,
        what,
        remedy,
    };
    let state = &board.state;
    if board.reading.is_some() {
        return None;
    }
    if let Some(text) = &board.failed {
        return Some(grave(text.clone(), String::new()));
    }
    let logs = app.key(Action::Show(Screen::Logs));
    let resumes = state.newest_checkpoint().map(|checkpoint| {
        let key = app.key(Action::Resume);
        format!("{key} resumes from step {}", checkpoint.step)
    });
    match &state.ended {
        Some(ending) if ending.outcome == Outcome::Killed => {
            let what = format!(
                "{} after step {}{}",
                printable(&ending.reason),
                ending.step,
                lost(board)
            );
            return Some(Alarm {
                is_grave: false,
                what,
                remedy: resumes.unwrap_or_default(),
            });
        }
        Some(ending) if ending.outcome == Outcome::Failed => {
            let reason = printable(&ending.reason);
            // What to try stands behind what is wrong.
            let (reason, own) = reason.rsplit_once("; ").unwrap_or((&reason, ""));
            let what = format!("failed after step {}: {reason}", ending.step);
            let remedy = resumes.unwrap_or_else(|| format!("{logs} shows the log"));
            let remedy = match own {
                "" => remedy,
                own => format!("{own}; {remedy}"),
            };
            return Some(grave(what, remedy));
        }
        None if !board.held && state.next_seq > 0 => {
            let cause = board.fault.clone();
            let cause = cause.unwrap_or_else(|| "its supervisor is gone".to_owned());
            let what = format!(
                "interrupted after step {} ({}): {cause}{}",
                state.step,
                age(now(app), state.updated),
                lost(board)
            );
            let remedy = resumes.unwrap_or_else(|| "it left no checkpoint".to_owned());
            return Some(grave(what, remedy));
        }
        _ => {}
    }
    if let Some(text) = &board.damage {
        return Some(Alarm {
            is_grave: false,
            what: format!("left out: {text}"),
            remedy: String::new(),
        });
    }
    if board.loss.non_finite() > 0 {
        let n = board.loss.non_finite();
        let remedy = "a smaller learning rate or clipping may help";
        return Some(grave(
            format!("{n} loss(es) were no number"),
            remedy.to_owned(),
        ));
    }
    warning(board, &logs)
}

fn warning(board: &Board, logs: &str) -> Option<Alarm> {
    let state = &board.state;
    if let (Some(cause), true) = (&state.last_restart, board.is_shaken()) {
        let (n, cause) = (state.restarts, printable(cause));
        return Some(Alarm {
            is_grave: false,
            what: format!("restarted {n} time(s), last: {cause}"),
            remedy: format!("{logs} shows what came before"),
        });
    }
    // How a run ended says more than what it was warned of.
    let warning = board.warning.as_ref().filter(|_| state.ended.is_none());
    let what = printable(warning?);
    let remedy = match state.warnings {
        ..=1 => String::new(),
        n => format!("{logs} shows all {n} warnings"),
    };
    Some(Alarm {
        is_grave: false,
        what,
        remedy,
    })
}

/// What a death without a checkpoint cost.
fn lost(board: &Board) -> String {
    let saved = board.state.newest_checkpoint();
    let saved = saved.map_or(0, |checkpoint| checkpoint.step);
    match board.state.step.saturating_sub(saved) {
        0 => String::new(),
        steps => format!(", {steps} step(s) lost"),
    }
}

/// What to say where nothing is wrong.
pub fn well(app: &App, board: &Board) -> String {
    if let Some(percent) = board.reading {
        return format!("reading the log, {percent} %");
    }
    let state = &board.state;
    let standing = board.word();
    let saved = match (state.newest_checkpoint(), board.saved_at) {
        (Some(checkpoint), Some(at)) => {
            let width = state.total_steps.unwrap_or(0).to_string().len();
            let (step, age) = (checkpoint.step, age(now(app), at));
            format!("checkpoint step {step:>width$} saved {age}")
        }
        _ if state.ended.is_some() => "no checkpoint".to_owned(),
        _ => "no checkpoint yet".to_owned(),
    };
    match &state.ended {
        Some(ending) => {
            let reason = printable(&ending.reason);
            let told = match reason.strip_prefix(standing) {
                Some(rest) => format!("{standing}{rest}"),
                None => format!("{standing}: {reason}"),
            };
            let warned = match state.warnings {
                0 => String::new(),
                n => format!("  {n} warning(s): {}", app.key(Action::Show(Screen::Logs))),
            };
            format!("{told}.  {saved}{warned}")
        }
        None => {
            let restarted = match state.restarts {
                0 => String::new(),
                n => format!("  restarted {n} time(s)"),
            };
            format!("{standing}, no alarm.  {saved}{restarted}")
        }
    }
}

fn age(now: f64, then: f64) -> String {
    match ago(now, then).as_str() {
        "now" => "just now".to_owned(),
        time => format!("{time} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_never_cut_off() {
        let alarm = Alarm {
            is_grave: true,
            what:
                "interrupted after step 40288 (3 m ago): its supervisor is gone, 288 step(s) lost"
                    .to_owned(),
            remedy: "r resumes from step 40000".to_owned(),
        };
        for (width, height, n) in [(40, 7, 1), (80, 7, 1), (80, 22, 2), (200, 22, 1)] {
            let rows = alarm.rows(width, height);
            assert_eq!(rows.len(), n, "{rows:?}");
            let text = rows.join(" ");
            assert!(text.ends_with(&alarm.remedy), "{text}");
            assert!(text.contains("interrup"), "{text}");
            assert!(rows.iter().all(|row| row.chars().count() <= width));
        }
        let narrow = alarm.rows(20, 7);
        assert_eq!(narrow, [" ! r resumes from s…"]);
        assert!(alarm.rows(0, 0).iter().all(|row| row.len() <= 3));
    }
}
