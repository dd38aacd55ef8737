//! `runs` and `status`: what is known, without asking anyone.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    cli::{QueryArgs, RunArgs},
    find::{find, listed},
    text::{facts, say, say_json, table},
};
use crate::{
    base::{clock::unix_seconds, text::one_line, units},
    launch::{
        LaunchError, RunFolder, in_full, lock,
        runs::{self, check_config, see},
    },
    store::{RunState, told},
};

/// `capstan runs`.
pub fn runs(runs_dir: &Path, args: &QueryArgs) -> anyhow::Result<u8> {
    let runs: Vec<RunFolder> = listed(runs_dir)?
        .into_iter()
        .map(|(_, folder)| folder)
        .collect();
    if args.json {
        let runs: Vec<Value> = runs.iter().map(as_json).collect();
        say_json(json!({ "runs_dir": runs_dir, "runs": runs }))?;
        return Ok(0);
    }
    if runs.is_empty() {
        say(&format!("there are no runs in {}", runs_dir.display()))?;
        return Ok(0);
    }
    let seen: Vec<Seen<'_>> = runs.iter().map(|folder| (folder, see(folder))).collect();
    let rows: Vec<Vec<String>> = seen.iter().map(row).collect();
    for line in table(
        &["NAME", "STATUS", "STEP", "LOSS", "BEST EVAL", "LAST EVENT"],
        &rows,
    ) {
        say(&line)?;
    }
    for run in &seen {
        if let Some(fault) = fault(run) {
            say(&format!("{}: {fault}", one_line(&run.0.name())))?;
        }
    }
    Ok(0)
}

/// A run and what is known of it.
type Seen<'a> = (&'a RunFolder, Result<RunState, LaunchError>);

/// Why a run can't be read, or what it was made from can't be.
fn fault((folder, state): &Seen<'_>) -> Option<String> {
    match state {
        Ok(_) => check_config(folder)
            .err()
            .as_ref()
            .map(|error| in_full(error)),
        Err(error) => Some(in_full(error)),
    }
}

/// `capstan status`.
pub fn status(runs_dir: &Path, args: &RunArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    if args.json {
        say_json(json!({ "run": as_json(&folder) }))?;
        return Ok(0);
    }
    let state = see(&folder)?;
    for line in facts(&facts_of(&folder, &state)) {
        say(&line)?;
    }
    Ok(0)
}

/// The word for how a run stands.
fn word(folder: &RunFolder, state: &RunState) -> &'static str {
    runs::word(state, lock::is_held(folder))
}

fn as_json(folder: &RunFolder) -> Value {
    match see(folder) {
        Ok(state) => json!({
            "name": folder.name(),
            "folder": folder.root(),
            "status": word(folder, &state),
            "remaining_s": state.remaining_s(),
            "best_eval": state.best_eval(),
            "state": state,
            "config_fault": check_config(folder).err().map(|error| in_full(&error)),
        }),
        Err(error) => json!({
            "name": folder.name(),
            "folder": folder.root(),
            "status": "unreadable",
            "error": in_full(&error),
        }),
    }
}

fn row((folder, state): &Seen<'_>) -> Vec<String> {
    let Ok(state) = state else {
        let dashes = std::iter::repeat_with(dash).take(4);
        return [one_line(&folder.name()), "unreadable".to_owned()]
            .into_iter()
            .chain(dashes)
            .collect();
    };
    let loss = state.last.map_or_else(dash, |last| units::loss(last.loss));
    let best = state
        .best_eval()
        .map_or_else(dash, |best| units::loss(best.loss));
    vec![
        one_line(&folder.name()),
        word(folder, state).to_owned(),
        of_total(state),
        loss,
        best,
        ago(state.updated),
    ]
}

fn facts_of(folder: &RunFolder, state: &RunState) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("run", one_line(&folder.name())),
        ("status", told_status(folder, state)),
    ];
    facts.push(("step", told_step(state)));
    if let Some(work) = &state.preparation {
        facts.push(("doing", told::work(work)));
    }
    if let Some(last) = state.last {
        let text = format!(
            "{} (lr {:.2e}, grad_norm {:.3})",
            units::loss(last.loss),
            last.lr,
            last.grad_norm
        );
        facts.push(("loss", text));
        facts.push(("speed", told_speed(last.tokens_per_sec, last.mfu)));
    }
    facts.extend(told_evals(state));
    facts.extend(state.energy.words().map(|words| ("energy", words)));
    if let Some(checkpoint) = state.newest_checkpoint() {
        let size = units::bytes(checkpoint.bytes);
        facts.push(("checkpoint", format!("step {} ({size})", checkpoint.step)));
    }
    if let Some(cause) = &state.last_restart {
        facts.push(("restarts", format!("{} (last: {cause})", state.restarts)));
    }
    if let Some(warning) = &state.last_warning {
        facts.push(("warnings", format!("{} (last: {warning})", state.warnings)));
    }
    if let Err(error) = check_config(folder) {
        facts.push(("unreadable", in_full(&error)));
    }
    facts.push(("last event", ago(state.updated)));
    facts.push(("folder", folder.root().display().to_string()));
    facts
}

/// The latest periodic evaluation beside the best of them, and the one over the whole split.
fn told_evals(state: &RunState) -> Vec<(&'static str, String)> {
    let latest = |is_final| state.evals.iter().rfind(|eval| eval.is_final == is_final);
    let mut facts = Vec::new();
    if let Some(eval) = latest(false) {
        let best = state
            .best_eval()
            .filter(|best| !best.is_final)
            .map(|best| format!(" (best {} at step {})", units::loss(best.loss), best.step))
            .unwrap_or_default();
        let text = format!("{} at step {}{best}", units::loss(eval.loss), eval.step);
        facts.push(("eval", text));
    }
    if let Some(eval) = latest(true) {
        let text = format!(
            "{} at step {}, over the whole validation split",
            units::loss(eval.loss),
            eval.step
        );
        facts.push(("final eval", text));
    }
    facts
}

fn told_status(folder: &RunFolder, state: &RunState) -> String {
    let word = word(folder, state);
    match &state.ended {
        Some(ending) => format!("{word}: {}", ending.reason),
        None if word == "interrupted" => {
            format!("{word}: its supervisor is gone; capstan resume goes on")
        }
        None => word.to_owned(),
    }
}

fn told_step(state: &RunState) -> String {
    let left = match state.remaining_s() {
        Some(seconds) if state.ended.is_none() => {
            format!(", about {} left", units::seconds(seconds))
        }
        _ => String::new(),
    };
    format!("{}{left}", of_total(state))
}

fn told_speed(tokens_per_sec: f64, mfu: Option<f64>) -> String {
    let mfu = mfu
        .map(|mfu| format!(", MFU {:.1} %", mfu * 100.0))
        .unwrap_or_default();
    format!("{} tokens/s{mfu}", units::count(tokens_per_sec.round()))
}

fn of_total(state: &RunState) -> String {
    match state.total_steps {
        Some(total) => format!("{}/{total}", state.step),
        None => state.step.to_string(),
    }
}

fn ago(time: f64) -> String {
    if time == 0.0 {
        return dash();
    }
    format!("{} ago", units::seconds((unix_seconds() - time).max(0.0)))
}

fn dash() -> String {
    "-".to_owned()
}
