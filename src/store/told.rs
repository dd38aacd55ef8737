//! Events in words.

use crate::{
    base::{text::printable, units},
    event::Event,
    store::{Preparation, RunState},
};

/// The latest step in one line of `name value` pairs.
pub fn step(state: &RunState) -> String {
    let Some(last) = state.last else {
        return String::new();
    };
    let mfu = last
        .mfu
        .map(|mfu| format!("  mfu {:.1}%", mfu * 100.0))
        .unwrap_or_default();
    format!(
        "step {}  loss {}  lr {:.3e}  grad_norm {:.3}  tok/s {:.0}{mfu}{}",
        of_total(state),
        units::loss(last.loss),
        last.lr,
        last.grad_norm,
        last.tokens_per_sec,
        left(state, "  left ")
    )
}

/// The latest step for a progress bar's message: what matters most comes first, the end may be cut off.
pub fn briefly(state: &RunState) -> String {
    let Some(last) = state.last else {
        return String::new();
    };
    format!(
        "{}  loss {}  {} tok/s{}  {} elapsed",
        of_total(state),
        units::loss(last.loss),
        units::count(last.tokens_per_sec.round()),
        left(state, "  left "),
        units::seconds(state.elapsed_s())
    )
}

/// Work before or between steps.
pub fn work(work: &Preparation) -> String {
    match work.total {
        Some(total) if total > 0 => format!("{} {} %", work.what, work.done * 100 / total),
        _ => work.what.clone(),
    }
}

/// An event other than a step, if it has something to say as it happens.
pub fn event(event: &Event) -> Option<String> {
    let line = match event {
        Event::Run {
            world, strategy, ..
        } => format!("{strategy} on {world} rank(s): starting"),
        Event::Eval {
            step,
            loss,
            is_final,
            ..
        } => {
            let whole = if *is_final {
                " (whole validation split)"
            } else {
                ""
            };
            format!("eval after step {step}  loss {}{whole}", units::loss(*loss))
        }
        Event::Checkpoint {
            step,
            bytes,
            seconds,
            best,
            ..
        } => {
            let best = if *best { ", the best so far" } else { "" };
            let (size, time) = (units::bytes(*bytes), units::seconds(*seconds));
            if *seconds > 0.0 {
                format!("checkpoint after step {step}  {size} in {time}{best}")
            } else {
                format!("found the checkpoint after step {step}  {size}{best}")
            }
        }
        Event::Sensors { .. } => return None,
        Event::Restart {
            from_step,
            cause,
            without_cudnn_attention,
        } => {
            let without = match without_cudnn_attention {
                true => ", without cuDNN's attention",
                false => "",
            };
            format!("going on from step {from_step}{without}: {cause}")
        }
        Event::Paused { step } => format!("paused after step {step}"),
        Event::Continued { step } => format!("going on after step {step}"),
        Event::Warning { text, rank: None } => format!("warning: {text}"),
        Event::Warning {
            text,
            rank: Some(rank),
        } => format!("warning: rank {rank}: {text}"),
        Event::Fault {
            rank,
            step,
            operation,
            cause,
            ..
        } => {
            format!("fault: rank {rank} at step {step} in {operation}: {cause}")
        }
        // Told as they go on, or at the end.
        Event::Step { .. }
        | Event::Progress { .. }
        | Event::Sample { .. }
        | Event::Ended { .. } => return None,
    };
    Some(printable(&line))
}

fn of_total(state: &RunState) -> String {
    match state.total_steps {
        Some(total) => format!("{}/{total}", state.step),
        None => state.step.to_string(),
    }
}

fn left(state: &RunState, before: &str) -> String {
    let seconds = state.remaining_s().filter(|&seconds| seconds > 0.0);
    seconds
        .map(|seconds| format!("{before}{}", units::seconds(seconds)))
        .unwrap_or_default()
}
