//! What is said of steps on simulated cards, where the host runs ahead of them: their times, which one was bad, and why a
//! rank failed.

use std::fs;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::{
    life::configure,
    splits,
    training::{RUN, on_gpus, with_cards},
};
use crate::support::{Workplace, check};

/// The share of a training's wall clock that may be neither a step's nor an evaluation's.
const MOST_UNTOLD: f64 = 0.35;
/// Runs of which one must tell its time.
const MOST_RUNS: usize = 3;

/// The events of a run as far as they tell of time.
struct Times {
    /// Seconds of each step.
    steps: Vec<f64>,
    /// Seconds of all evaluations between the first step and the last.
    evaluations: f64,
    /// Seconds from the first step's event to the last one's.
    wall: f64,
}

impl Times {
    fn of(place: &Workplace) -> Result<Self, Failed> {
        let number = |event: &Value, key: &str| event[key].as_f64().unwrap_or(f64::NAN);
        let steps = place.events_named(RUN, "step");
        for step in &steps {
            let seconds = number(step, "step_time_s");
            let phases = step["phases"].as_object().ok_or("no phases")?;
            let phases: f64 = phases.values().filter_map(Value::as_f64).sum();
            let tokens = number(step, "tokens_per_sec") * seconds;
            let is_whole = (tokens - tokens.round()).abs() < 1e-3 && tokens > 1.0;
            check(
                (phases - seconds).abs() < 1e-6 && is_whole,
                format!("its parts make up the step: {step}"),
            )?;
        }
        let time = |event: Option<&Value>| event.map_or(f64::NAN, |event| number(event, "time"));
        let (first, last) = (time(steps.first()), time(steps.last()));
        let evaluations = place.events_named(RUN, "eval").into_iter();
        let between = evaluations.filter(|eval| (first..last).contains(&number(eval, "time")));
        Ok(Self {
            steps: steps
                .iter()
                .map(|step| number(step, "step_time_s"))
                .collect(),
            evaluations: between.map(|eval| number(&eval, "seconds")).sum(),
            wall: last - first,
        })
    }

    /// All steps but the first, whose event begins the wall clock.
    fn later(&self) -> f64 {
        self.steps.iter().skip(1).sum()
    }
}

/// Steps before an evaluation, a checkpoint and the end take as long as others, and no step takes an evaluation's time.
pub fn times() -> Result<(), Failed> {
    for row in ["single", "ddp", "1f1b"] {
        let split = splits::named(row).ok_or("no such row")?;
        let changes = json!({
            "stop": { "steps": 24 }, "eval": { "every": 2, "batches": 8 }, "checkpoint": { "every": 6 }, "sample": null,
        });
        let (place, said) = on_gpus(&split, changes, &[])?;
        said.ended_with(0)?;
        let times = Times::of(&place)?;
        // The first steps learn shapes.
        let mut settled = times.steps[4..].to_vec();
        settled.sort_by(f64::total_cmp);
        let median = settled[settled.len() / 2];
        check(
            settled[0] > median / 8.0,
            format!("{row}: a step took no time: {:?}", times.steps),
        )?;
        let told = times.later() + times.evaluations;
        check(
            told <= times.wall * 1.02 + 0.05,
            format!(
                "{row}: {told} s are told of {} s: {:?}",
                times.wall, times.steps
            ),
        )?;
    }
    Ok(())
}

/// A run that is to train for two seconds does so, however often it evaluates, and stops within two steps.
///
/// A busy machine takes time of its own between two steps, a clock that tells of too few steps does so in every run: the
/// best of some runs counts.
pub fn seconds() -> Result<(), Failed> {
    let mut least = f64::INFINITY;
    for _ in 0..MOST_RUNS {
        least = least.min(untold_share()?);
        if least < MOST_UNTOLD {
            return Ok(());
        }
    }
    Err(format!("{least:.2} of the time are nobody's, at most {MOST_UNTOLD} may be").into())
}

/// Trains for two seconds and returns the share of the wall clock that is neither a step's nor an evaluation's.
fn untold_share() -> Result<f64, Failed> {
    const SECONDS: f64 = 2.0;
    let split = splits::named("ddp").ok_or("no such row")?;
    let changes = json!({
        "stop": { "seconds": SECONDS }, "eval": { "every": 2, "batches": 1 }, "sample": null,
    });
    let (place, said) = on_gpus(&split, changes, &[])?;
    said.ended_with(0)?;
    let times = Times::of(&place)?;
    let trained: f64 = times.steps.iter().sum();
    let launched_meanwhile: f64 = times.steps.iter().rev().take(2).sum();
    check(
        trained >= SECONDS && trained - launched_meanwhile < SECONDS,
        format!("trained for {trained} s: {:?}", times.steps),
    )?;
    Ok((times.wall - times.later() - times.evaluations) / times.wall)
}

/// The fault of a run that must fail.
fn fault(place: &Workplace, config: Value) -> Result<Value, Failed> {
    place.write_config(config)?;
    place.train(&["--name", RUN, "--plain"])?.ended_with(1)?;
    let mut faults = place.events_named(RUN, "fault");
    let fault = faults.pop().ok_or("no fault is told")?;
    Ok(json!([
        fault["rank"],
        fault["step"],
        fault["operation"],
        fault["cause"]
    ]))
}

/// A value that is not finite is told with its own step, though the host has launched the next one, and found where it is
/// found on CPU ranks.
pub fn bad_steps() -> Result<(), Failed> {
    for (row, rank, kind) in [
        ("single", 0, "nan-grad"),
        ("ddp", 1, "nan-grad"),
        ("zero3", 0, "nan-grad"),
        ("tp", 1, "nan-grad"),
        ("1f1b", 1, "nan-grad"),
        ("single", 0, "broken-grad"),
        ("ddp", 1, "broken-grad"),
        ("zero2", 1, "broken-grad"),
        ("1f1b", 1, "broken-grad"),
    ] {
        let split = splits::named(row).ok_or("no such row")?;
        let planted = format!("{rank}:3:{kind}");
        let cards = with_cards(2)?.with("CAPSTAN_INJECT", &planted);
        let cards = fault(&cards, split.on_gpus())?;
        let cpu = Workplace::real()?.with("CAPSTAN_INJECT", &planted);
        let cpu = fault(&cpu, split.on_cpu())?;
        check(
            cards == cpu && cards[1] == 3,
            format!("{row}, {kind}: {cards} on cards, {cpu} on CPU ranks"),
        )?;
    }
    Ok(())
}

/// Where ranks gather the weights again behind an update, that mends a copy which was broken: what is left to say on cards
/// is that the step was bad, and is not when it is computed again.
pub fn mended() -> Result<(), Failed> {
    for row in ["zero1", "zero2"] {
        let split = splits::named(row).ok_or("no such row")?;
        let cards = with_cards(2)?.with("CAPSTAN_INJECT", "1:3:nan-grad");
        let cards = fault(&cards, split.on_gpus())?;
        let said = cards[3].to_string();
        check(
            cards[1] == 3 && said.contains("for a moment only"),
            format!("{row}: {cards}"),
        )?;
    }
    Ok(())
}

/// An operator that finds no room, also one that takes a number, is an error of one line.
pub fn no_room() -> Result<(), Failed> {
    // The pattern that pairs of cards exchange takes 2 MiB, its product with a number as much again.
    for (row, megabytes) in [("ddp", "3"), ("dropout", "3"), ("single", "1")] {
        let place = with_cards(2)?.with("SIMGPU_MEMORY_MB", megabytes);
        configure(&place, row, json!({}))?;
        place.train(&["--name", RUN, "--plain"])?.ended_with(3)?;
        let faults = place.events_named(RUN, "fault");
        let causes: Vec<&str> = faults
            .iter()
            .filter_map(|fault| fault["cause"].as_str())
            .collect();
        let is_plain = |cause: &&str| {
            cause.contains("out of memory") && !cause.contains("panic") && cause.len() <= 400
        };
        check(
            !causes.is_empty() && causes.iter().all(is_plain),
            format!("{row}: {causes:?}"),
        )?;
    }
    Ok(())
}

/// A training with an evaluation, a checkpoint, dropout and a sample prints no warning of libtorch's.
pub fn silence() -> Result<(), Failed> {
    for row in ["dropout", "zero3", "bf16"] {
        let split = splits::named(row).ok_or("no such row")?;
        let (place, said) = on_gpus(&split, json!({ "checkpoint": { "every": 2 } }), &[])?;
        said.ended_with(0)?;
        let log = fs::read_to_string(place.run(RUN).join("worker.log"))?;
        check(!log.contains("arning"), format!("{row}: {log}"))?;
    }
    Ok(())
}
