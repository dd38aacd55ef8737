//! What a person wants to know when a run has ended.

use crate::{
    base::{text::printable, units},
    config::RunConfig,
    event::Outcome,
    launch::RunFolder,
    store::{RunState, SampleText},
};

/// How it ended, what it reached, where it lies, what to try next; `run` is how a command names it.
pub fn lines(folder: &RunFolder, run: &str, state: &RunState) -> Vec<String> {
    let mut lines = vec![String::new(), headline(state)];
    lines.extend(validation(state));
    let sample = state
        .sample
        .as_ref()
        .filter(|_| is(state, Outcome::Completed));
    lines.extend(sample.into_iter().flat_map(sampled));
    lines.push(format!("run folder: {}", folder.root().display()));
    lines.push("what next:".to_owned());
    lines.extend(
        next(folder, run, state)
            .into_iter()
            .map(|line| format!("  {line}")),
    );
    lines
}

fn headline(state: &RunState) -> String {
    let Some(ending) = &state.ended else {
        return "the run has not ended".to_owned();
    };
    let time = units::seconds(state.elapsed_s());
    let step = ending.step;
    let reason = printable(&ending.reason);
    match ending.outcome {
        Outcome::Completed => format!("completed {step} steps in {time}"),
        Outcome::Stopped => format!("stopped after step {step}, with a complete checkpoint"),
        Outcome::Failed => format!("failed after step {step}: {reason}"),
        Outcome::Killed => format!("killed after step {step}, without a new checkpoint"),
    }
}

fn validation(state: &RunState) -> Option<String> {
    let (first, last) = (state.evals.first()?, state.evals.last()?);
    if state.evals.len() == 1 {
        return Some(format!(
            "validation loss {} after step {}",
            units::loss(last.loss),
            last.step
        ));
    }
    Some(format!(
        "validation loss {} after step {}, {} after step {}",
        units::loss(first.loss),
        first.step,
        units::loss(last.loss),
        last.step
    ))
}

fn sampled(sample: &SampleText) -> Vec<String> {
    let text = printable(&format!("{}{}", sample.prompt, sample.text));
    let mut lines = vec!["sampled text:".to_owned()];
    lines.extend(
        text.trim_matches('\n')
            .lines()
            .map(|line| format!("  | {line}")),
    );
    lines
}

fn next(folder: &RunFolder, run: &str, state: &RunState) -> Vec<String> {
    if is(state, Outcome::Completed) {
        let more = state.total_steps.unwrap_or(state.step) * 2;
        let sample =
            has_tokenizer(folder).then(|| format!("capstan sample {run} --prompt \"The \""));
        let resume = format!("capstan resume {run} --set stop.steps={more}");
        return sample.into_iter().chain([resume]).collect();
    }
    let mut lines = Vec::new();
    if is(state, Outcome::Failed) {
        lines.push(format!("capstan logs {run}"));
    }
    if folder.has_checkpoint() {
        lines.push(format!("capstan resume {run}"));
    } else {
        lines.push(format!("capstan train {}", folder.config().display()));
    }
    lines
}

fn has_tokenizer(folder: &RunFolder) -> bool {
    let config = crate::base::read::bytes(&folder.config(), crate::base::read::Bound::TOLD)
        .ok()
        .and_then(|text| serde_json::from_slice::<RunConfig>(&text).ok());
    config.is_some_and(|config| config.data.has_tokenizer())
}

fn is(state: &RunState, outcome: Outcome) -> bool {
    state
        .ended
        .as_ref()
        .is_some_and(|ending| ending.outcome == outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Ending, EvalPoint};

    fn ended(outcome: Outcome) -> RunState {
        let eval = |step, loss| EvalPoint {
            step,
            loss,
            is_final: step > 0,
        };
        RunState {
            step: 10,
            total_steps: Some(10),
            evals: vec![eval(0, 5.5), eval(10, 1.25)],
            sample: Some(SampleText {
                step: 10,
                prompt: "a".to_owned(),
                text: "b\x1b[2Jc\nd".to_owned(),
            }),
            ended: Some(Ending {
                outcome,
                step: 10,
                reason: "why".to_owned(),
            }),
            ..RunState::default()
        }
    }

    #[test]
    fn a_completed_run_shows_losses_a_sample_and_what_next() {
        let folder = RunFolder::new("/runs/r");
        let text = lines(&folder, "r", &ended(Outcome::Completed)).join("\n");
        for part in [
            "5.5000 after step 0",
            "1.2500 after step 10",
            "| ab",
            "/runs/r",
            "stop.steps=20",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn a_failed_run_without_checkpoint_points_to_its_log_and_to_train() {
        let text = lines(&RunFolder::new("/runs/r"), "r", &ended(Outcome::Failed)).join("\n");
        for part in [
            "failed after step 10: why",
            "capstan logs r",
            "capstan train",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
