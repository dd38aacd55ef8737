//! A run's life on simulated cards: stopped, resumed, killed, out of memory, on cards that vanish or are named otherwise.

use std::fs;

use libtest_mimic::Failed;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::{
    splits::{self, Bound, merged},
    training::{RUN, Training, on_cpu, with_cards},
};
use crate::support::{Workplace, check, wait};

/// Writes a row's config for cards into a workplace, with some keys replaced.
pub fn configure(place: &Workplace, row: &str, changes: Value) -> Result<(), Failed> {
    let split = splits::named(row).ok_or("no such row")?;
    place.write_config(merged(&[split.on_gpus(), changes]))
}

/// Steps and evaluations; a sample that was asked for is no part of the training.
fn numbers(place: &Workplace, name: &str) -> Vec<(String, Value)> {
    let all = place.training(name).into_iter();
    all.filter(|(title, _)| !title.contains("sample")).collect()
}

/// Every number and the last checkpoint of two runs are the same to the bit.
fn same_runs(place: &Workplace, one: &str, other: &str) -> Result<(), Failed> {
    check(
        numbers(place, one) == numbers(place, other),
        format!("{:?}\n{:?}", numbers(place, one), numbers(place, other)),
    )?;
    let step = place.step(other);
    check(
        place.checkpoint(one, step)? == place.checkpoint(other, step)?,
        "the same checkpoint",
    )
}

/// Paused, sampled, continued, sampled, stopped with Ctrl-C, resumed: as if nothing had been asked.
pub fn interrupted() -> Result<(), Failed> {
    let place = with_cards(2)?;
    configure(
        &place,
        "zero3",
        json!({ "stop": { "steps": 150 }, "eval": { "every": 50, "batches": 2 } }),
    )?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    let mut front = place.train_aside(&["--name", "stopped"])?;
    place.wait_for_step("stopped", 5)?;
    place.capstan(&["pause", "stopped"])?.ended_with(0)?;
    wait("the pause", || {
        !place.events_named("stopped", "paused").is_empty()
    })?;
    let sampled = |expected: &str| -> Result<Value, Failed> {
        let said = place.capstan(&["sample", "stopped", "--now", "--json"])?;
        let sample = said.ended_with(0)?.json()?;
        check(sample["text"].is_string(), format!("{expected}: {sample}"))?;
        Ok(sample)
    };
    let paused = sampled("while paused")?;
    place.capstan(&["continue", "stopped"])?.ended_with(0)?;
    let step = place.step("stopped");
    place.wait_for_step("stopped", step + 5)?;
    let running = sampled("while running")?;
    check(
        running["step"].as_u64() > paused["step"].as_u64() && running["text"] != paused["text"],
        format!("{running} {paused}"),
    )?;
    kill_process(front.pid(), Signal::INT)?;
    check(front.code()? == Some(75), front.said())?;
    check(
        numbers(&place, "stopped").len() < numbers(&place, "clean").len(),
        "stopped before its end",
    )?;
    place.capstan(&["resume", "stopped"])?.ended_with(0)?;
    same_runs(&place, "stopped", "clean")
}

/// From one split's checkpoint on under another: as CPU ranks do, to the bit.
pub fn resumed_elsewhere() -> Result<(), Failed> {
    for (row, layout) in [
        ("ddp", "tp=2,sequence_parallel=true"),
        ("zero3", "pp=2"),
        ("tp", "dp=2,zero=1"),
        ("1f1b", "dp=1"),
    ] {
        let train = |place: Workplace, config: Value| -> Result<Training, Failed> {
            place.write_config(config)?;
            place
                .train(&["--name", RUN, "--set", "stop.steps=4"])?
                .ended_with(0)?;
            let resume = ["resume", RUN, "--layout", layout, "--set", "stop.steps=7"];
            place.capstan(&resume)?.ended_with(0)?;
            check(place.step(RUN) == 7, "all steps")?;
            Training::of(&place, RUN)
        };
        let split = splits::named(row).ok_or("no such row")?;
        let cards = train(with_cards(2)?, split.on_gpus())?;
        let cpu = train(Workplace::real()?, split.on_cpu())?;
        cards.is_like(&cpu, Bound::Exact).map_err(|failed| {
            format!("{row}, {layout}: {}", failed.message().unwrap_or_default())
        })?;
    }
    Ok(())
}

/// kill -9 of one worker, then of the other: each is named, and every number is as it would have been.
pub fn killed() -> Result<(), Failed> {
    let place = with_cards(2)?;
    let changes = json!({
        "stop": { "steps": 120 }, "checkpoint": { "every": 10 }, "eval": { "every": 50, "batches": 2 }, "restart": { "max": 2 },
    });
    configure(&place, "zero2", changes)?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    let mut front = place.train_aside(&["--name", "killed"])?;
    for (rank, step) in [(1, 15), (0, 45)] {
        place.wait_for_step("killed", step)?;
        let lives = place.events_named("killed", "restart").len();
        kill_process(place.worker("killed", rank)?, Signal::KILL)?;
        wait("the next life", || {
            place.events_named("killed", "restart").len() > lives
        })?;
    }
    check(front.code()? == Some(0), front.said())?;
    let restarts = place.events_named("killed", "restart");
    for (rank, restart) in [1, 0].iter().zip(&restarts) {
        let expected = format!("the worker of rank {rank}: killed by signal 9 (SIGKILL)");
        check(restart["cause"] == expected, restart.to_string())?;
        check(
            restart["from_step"].as_u64() >= Some(10),
            restart.to_string(),
        )?;
    }
    same_runs(&place, "killed", "clean")
}

/// What befalls one rank ends all, and is told with rank, step and operation.
pub fn faults() -> Result<(), Failed> {
    for (row, kind, reason) in [
        ("ddp", "exception", "rank 1 failed at step 3 in "),
        ("1f1b", "panic", "rank 1 failed at step 3 in "),
        (
            "zero3",
            "abort",
            "the worker of rank 1: killed by signal 6 (SIGABRT)",
        ),
        ("ddp", "hang", "rank 1 is furthest behind"),
        ("ddp", "nan-grad", "first in wte.weight"),
    ] {
        let place = with_cards(2)?.with("CAPSTAN_INJECT", &format!("1:3:{kind}"));
        let restart = json!({ "restart": { "max": 0, "hang_after_s": 3 } });
        configure(&place, row, restart)?;
        place
            .train(&["--name", RUN, "--plain"])?
            .ended_with(1)?
            .says(&[reason])?;
        let (outcome, ended) = place.wait_for_end(RUN)?;
        check(outcome == "failed" && ended.contains(reason), ended)?;
    }
    Ok(())
}

/// The end of a run that must fail with an exit code: its reason.
fn failure(place: &Workplace, code: i32) -> Result<String, Failed> {
    place.train(&["--name", RUN, "--plain"])?.ended_with(code)?;
    let (outcome, reason) = place.wait_for_end(RUN)?;
    check(outcome == "failed" && reason.lines().count() == 1, &reason)?;
    Ok(reason)
}

/// NaN on cards where cuDNN's attention may run: one more life without it, and then the learning rate is blamed.
pub fn not_finite() -> Result<(), Failed> {
    let place = with_cards(2)?.with("CAPSTAN_INJECT", "1:3:nan-grad");
    let restart = json!({ "max": 1, "hang_after_s": 30 });
    let changes = json!({ "precision": "bf16", "restart": restart });
    configure(&place, "ddp", changes)?;
    let reason = failure(&place, 1)?;
    check(reason.contains("a smaller learning rate"), reason)?;
    let restarts = place.events_named(RUN, "restart");
    let without = restarts
        .iter()
        .map(|restart| &restart["without_cudnn_attention"]);
    let without: Vec<&Value> = without.collect();
    check(without == [&json!(true)], format!("{restarts:?}"))
}

/// A card that is too small for the training is told as that.
pub fn out_of_memory() -> Result<(), Failed> {
    for row in ["single", "zero3", "1f1b"] {
        let place = with_cards(2)?.with("SIMGPU_MEMORY_MB", "3");
        let large = json!({ "gpt": { "n_layer": 4, "n_head": 4, "d_model": 128, "seq_len": 64 } });
        configure(&place, row, json!({ "model": large }))?;
        let reason = failure(&place, 3)?;
        check(
            place.events_named(RUN, "restart").is_empty(),
            "it would run out again",
        )?;
        check(
            reason.contains("rank ") && reason.contains("out of memory") && reason.len() < 600,
            format!("{row}: {reason}"),
        )?;
    }
    Ok(())
}

/// A kernel that writes where it must not: the device is lost from then on, and the cause is told.
pub fn failing_kernel() -> Result<(), Failed> {
    for row in ["single", "ddp", "tp", "1f1b"] {
        let place = with_cards(2)?.with("SIMGPU_FAIL_AT", "1500");
        // In training: a rank that hands its evaluation on does not look at its device.
        let changes = json!({ "stop": { "steps": 40 }, "eval": { "every": 1000 } });
        configure(&place, row, changes)?;
        let reason = failure(&place, 1)?;
        check(
            reason.contains("rank ")
                && reason.contains(" at step ")
                && reason.contains("illegal memory access"),
            format!("{row}: {reason}"),
        )?;
        check(place.step(RUN) < 40, "it ended before its last step")?;
    }
    Ok(())
}

/// A card that NVML does not show any more: one warning of its rank while the run goes on; a resumption takes another
/// card, or says that there are too few.
pub fn vanished_card() -> Result<(), Failed> {
    let place = with_cards(3)?;
    let gone = place.folder().join("gone");
    let place = place.with("FAKE_NVML_GONE", &gone.to_string_lossy());
    let changes = json!({
        "stop": { "steps": 100_000 }, "eval": { "every": 100_000 }, "log": { "every": 1, "sensors_every_s": 1 },
    });
    configure(&place, "zero3", changes)?;
    let mut front = place.train_aside(&["--name", RUN, "--plain"])?;
    place.wait_for_step(RUN, 3)?;
    check(
        cards_of(&place, RUN)? == ["GPU-00000001", "GPU-00000002", "GPU-00000003"],
        "all cards are there",
    )?;
    fs::write(&gone, "")?;
    let warned = || -> Vec<Value> {
        let warnings = place.events_named(RUN, "warning").into_iter();
        warnings
            .filter(|warning| warning["text"].to_string().contains("GPU-00000002"))
            .collect()
    };
    wait("the warning of rank 1", || !warned().is_empty())?;
    check(
        warned().iter().all(|warning| warning["rank"] == 1),
        format!("{:?}", warned()),
    )?;
    kill_process(front.pid(), Signal::INT)?;
    check(front.code()? == Some(75), front.said())?;
    let last = place.step(RUN) + 3;
    let steps = format!("stop.steps={last}");
    place
        .capstan(&["resume", RUN, "--set", &steps])?
        .ended_with(0)?;
    check(
        cards_of(&place, RUN)? == ["GPU-00000001", "GPU-00000003"],
        "another card in its place",
    )?;
    let told = place.events_named(RUN, "warning");
    let words = "rank 1 has GPU 1 (GPU-00000003) instead of GPU-00000002";
    check(
        told.iter()
            .any(|warning| warning["text"].to_string().contains(words)),
        format!("{told:?}"),
    )?;
    let two = place.with("FAKE_NVML_CARDS", "2");
    let further = format!("stop.steps={}", last + 3);
    two.capstan(&["resume", RUN, "--set", &further])?
        .ended_with(4)?
        .says(&["names GPU 1 of 1"])?;
    Ok(())
}

/// The cards that a run's plan counts, by the beginnings of their UUIDs.
fn cards_of(place: &Workplace, name: &str) -> Result<Vec<String>, Failed> {
    let plan: Value = serde_json::from_slice(&fs::read(place.run(name).join("plan.json"))?)?;
    let uuids = plan["gpu_uuids"]
        .as_array()
        .ok_or("the plan names no cards")?;
    let beginnings = uuids.iter().filter_map(|uuid| uuid.as_str()?.get(..12));
    Ok(beginnings.map(str::to_owned).collect())
}

/// `CUDA_VISIBLE_DEVICES` by index and by UUID, in an order of its own: workers see exactly those, by their UUIDs, whatever
/// order NVML has (the stand-in's is that of buses turned round).
pub fn visible() -> Result<(), Failed> {
    let cpu = on_cpu(&splits::named("ddp").ok_or("no such row")?)?;
    for (list, cards) in [
        ("2,0", ["GPU-00000003", "GPU-00000001"]),
        (
            "GPU-00000004,GPU-00000002",
            ["GPU-00000004", "GPU-00000002"],
        ),
    ] {
        let place = with_cards(4)?.with("CUDA_VISIBLE_DEVICES", list);
        let changes = json!({ "devices": "auto", "stop": { "steps": 100_000 }, "log": { "every": 1, "sensors_every_s": 1 } });
        configure(&place, "ddp", changes)?;
        let _front = place.train_aside(&["--name", "long"])?;
        place.wait_for_step("long", 1)?;
        for rank in 0..2 {
            let pid = place.worker("long", rank)?.as_raw_nonzero();
            let environment = fs::read(format!("/proc/{pid}/environ"))?;
            let seen = variable(&environment, "CUDA_VISIBLE_DEVICES").ok_or("none is set")?;
            let seen: Vec<&str> = seen.split(',').filter_map(|uuid| uuid.get(..12)).collect();
            check(seen == cards, format!("{list}: {seen:?}"))?;
        }
        wait("a look at the cards", || {
            !place.events_named("long", "sensors").is_empty()
        })?;
        let look = place
            .events_named("long", "sensors")
            .pop()
            .unwrap_or_default();
        let uuids: Vec<&str> = look["gpus"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|gpu| gpu["uuid"].as_str()?.get(..12))
            .collect();
        check(uuids == cards, look.to_string())?;
        configure(&place, "ddp", json!({ "devices": "auto" }))?;
        place.train(&["--name", RUN])?.ended_with(0)?;
        check(cards_of(&place, RUN)? == cards, "the plan counts them so")?;
        Training::of(&place, RUN)?.is_like(&cpu, Bound::Exact)?;
    }
    Ok(())
}

fn variable(environment: &[u8], name: &str) -> Option<String> {
    let entries = environment.split(|&byte| byte == 0);
    let mut texts = entries.map(String::from_utf8_lossy);
    texts.find_map(|text| Some(text.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Without devices in the config, a run takes all cards.
pub fn counted() -> Result<(), Failed> {
    for n_cards in [1, 2, 4, 8] {
        let place = with_cards(n_cards)?;
        let changes = json!({ "devices": "auto", "batch": { "global": 8, "micro": 1 } });
        let split = splits::named("single").ok_or("no such row")?;
        let config = merged(&[split.on_gpus(), changes]);
        let without = |mut config: Value| {
            config
                .as_object_mut()
                .map(|config| config.remove("parallel"));
            config
        };
        place.write_config(without(config.clone()))?;
        place.train(&["--name", RUN])?.ended_with(0)?;
        check(cards_of(&place, RUN)?.len() == n_cards, "all cards")?;
        let cpu = Workplace::real()?;
        cpu.write_config(without(merged(&[
            config,
            json!({ "devices": vec!["cpu"; n_cards] }),
        ])))?;
        cpu.train(&["--name", RUN])?.ended_with(0)?;
        let (cards, cpu) = (Training::of(&place, RUN)?, Training::of(&cpu, RUN)?);
        cards.is_like(&cpu, Bound::Exact).map_err(|failed| {
            format!("{n_cards} cards: {}", failed.message().unwrap_or_default())
        })?;
    }
    Ok(())
}
