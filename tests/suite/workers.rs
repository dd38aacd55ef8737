//! Runs of several workers: the same training as in one, and one fault ends or restarts all.

use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Workplace, check, wait};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("workers::every_split_trains_as_in_one_worker", every_split),
        Trial::test(
            "workers::a_killed_one_is_named_and_all_go_on",
            killed_worker,
        ),
        Trial::test("workers::a_fault_in_one_is_named_and_ends_all", faults),
        Trial::test("workers::a_silent_one_is_blamed", frozen_worker),
        Trial::test("workers::a_stop_and_a_resume_elsewhere", stop_and_resume),
    ]
}

fn workplace(changes: Value) -> Result<Workplace, Failed> {
    let place = Workplace::real()?;
    let mut config = json!({
        "stop": { "steps": 12 },
        "batch": { "global": 8, "micro": 1 },
        "model": { "gpt": { "preset": "gpt-nano", "n_head": 4, "seq_len": 32, "dropout": 0.1 } },
        "checkpoint": { "every": 5 },
        "eval": { "every": 6, "batches": 2 },
        "sample": { "prompt": "To be", "tokens": 8, "seed": 3 },
        "threads_per_rank": 1,
        "ranks_per_worker": "one",
    });
    if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
        config.extend(changes);
    }
    place.write_config(config)?;
    Ok(place)
}

fn every_split() -> Result<(), Failed> {
    let splits = [
        json!({ "dp": 2 }),
        json!({ "dp": 2, "primary": true }),
        json!({ "dp": 2, "zero": 2 }),
        json!({ "dp": 2, "zero": 3 }),
        json!({ "tp": 2, "sequence_parallel": true }),
        json!({ "pp": 2, "dp": 2, "zero": 1 }),
        json!({ "pp": 2, "tp": 2, "schedule": "interleaved", "virtual_stages": 2 }),
    ];
    for (number, split) in splits.into_iter().enumerate() {
        let degree = |axis: &str| split[axis].as_u64().unwrap_or(1) as usize;
        let devices = vec!["cpu"; degree("dp") * degree("tp") * degree("pp")];
        let place = workplace(json!({ "parallel": split, "devices": devices }))?;
        let (many, one) = (format!("many-{number}"), format!("one-{number}"));
        place.train(&["--name", &many])?.ended_with(0)?;
        let all = "ranks_per_worker=all";
        place
            .train(&["--name", &one, "--set", all])?
            .ended_with(0)?;
        let (there, here) = (place.training(&many), place.training(&one));
        check(
            there.len() == 15 && there == here,
            format!("{split}: {there:?}\n{here:?}"),
        )?;
        check(
            place.checkpoint(&many, 12)? == place.checkpoint(&one, 12)?,
            format!("{split}: the same checkpoint"),
        )?;
        let bytes = |name: &str| {
            let step = place.events_named(name, "step").pop().unwrap_or_default();
            let ranks = step["ranks"].as_array().cloned().unwrap_or_default();
            ranks
                .iter()
                .map(|rank| rank["bytes"].clone())
                .collect::<Vec<_>>()
        };
        check(
            bytes(&many) == bytes(&one),
            format!("{split}: the same traffic"),
        )?;
    }
    Ok(())
}

fn killed_worker() -> Result<(), Failed> {
    let place = workplace(json!({ "stop": { "steps": 150 } }))?;
    let all = "ranks_per_worker=all";
    place
        .train(&["--name", "clean", "--set", all])?
        .ended_with(0)?;
    let mut front = place.train_aside(&["--name", "killed"])?;
    for (rank, step) in [(1, 20), (0, 60)] {
        place.wait_for_step("killed", step)?;
        let lives = place.events_named("killed", "restart").len();
        kill_process(place.worker("killed", rank)?, Signal::KILL)?;
        wait("the next life", || {
            place.events_named("killed", "restart").len() > lives
        })?;
    }
    check(front.code()? == Some(0), front.said())?;
    let causes = place.events_named("killed", "restart");
    for (rank, restart) in [1, 0].iter().zip(&causes) {
        let expected = format!("the worker of rank {rank}: killed by signal 9 (SIGKILL)");
        check(restart["cause"] == expected, restart.to_string())?;
    }
    check(
        place.training("killed") == place.training("clean"),
        "every number is the same to the bit",
    )
}

fn faults() -> Result<(), Failed> {
    for (kind, reason) in [
        ("exception", "rank 1 failed at step 3 in"),
        ("panic", "rank 1 failed at step 3 in"),
        (
            "abort",
            "the worker of rank 1: killed by signal 6 (SIGABRT)",
        ),
        ("hang", "rank 1 is furthest behind"),
    ] {
        let place = workplace(json!({ "restart": { "max": 0, "hang_after_s": 2 } }))?
            .with("CAPSTAN_INJECT", &format!("1:3:{kind}"));
        place.train(&["--plain"])?.ended_with(1)?.says(&[reason])?;
        let (outcome, ended) = place.wait_for_end("tiny")?;
        check(outcome == "failed" && ended.contains(reason), ended)?;
        check(
            place.events_named("tiny", "step").len() == 2,
            "the steps before it are told",
        )?;
    }
    Ok(())
}

/// A process that does not even look after itself.
fn frozen_worker() -> Result<(), Failed> {
    let place = workplace(json!({
        "stop": { "steps": 10_000 },
        "restart": { "max": 0, "hang_after_s": 2 },
    }))?;
    let mut front = place.train_aside(&["--plain"])?;
    place.wait_for_step("tiny", 3)?;
    kill_process(place.worker("tiny", 1)?, Signal::STOP)?;
    check(front.code()? == Some(1), front.said())?;
    let (_, reason) = place.wait_for_end("tiny")?;
    check(
        reason.contains("rank 1") && reason.contains("no progress"),
        reason,
    )
}

fn stop_and_resume() -> Result<(), Failed> {
    let place = workplace(json!({ "stop": { "steps": 100 }, "parallel": { "dp": 2, "zero": 3 } }))?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    let mut front = place.train_aside(&["--name", "stopped"])?;
    place.wait_for_step("stopped", 10)?;
    place.capstan(&["pause", "stopped"])?.ended_with(0)?;
    wait("the pause", || {
        !place.events_named("stopped", "paused").is_empty()
    })?;
    place.capstan(&["continue", "stopped"])?.ended_with(0)?;
    place.wait_for_step("stopped", 15)?;
    kill_process(front.pid(), Signal::INT)?;
    check(front.code()? == Some(75), "stopped with a checkpoint")?;
    let n_steps = place.events_named("stopped", "step").len();
    check(n_steps < 100, "stopped before its end")?;
    place.capstan(&["resume", "stopped"])?.ended_with(0)?;
    check(
        place.training("stopped") == place.training("clean"),
        "every number is the same to the bit",
    )
}
