//! The whole program with the real worker: trained, killed, stopped, resumed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Workplace, check, wait};

/// Kills of promise P1 in the test suite.
const KILLS: u32 = 20;
/// Longest from the beginning of a save to a kill: most saves of a tiny model last longer.
const LATEST_INTO_SAVE_US: u64 = 4_000;
/// Promise P11 for a tiny model.
const BACK_WITHIN_S: f64 = 10.0;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("survival::train_sample_eval_end_to_end", end_to_end),
        Trial::test(
            "survival::twenty_kills_inside_saves_leave_every_loss_as_it_was",
            kills,
        ),
        Trial::test(
            "survival::a_stop_and_a_resume_leave_every_loss_as_it_was",
            stop_and_resume,
        ),
        Trial::test("survival::resume_under_another_split", resume_elsewhere),
        Trial::test(
            "survival::an_abort_of_libtorch_is_named_and_survived",
            abort_is_survived,
        ),
        Trial::test(
            "survival::the_rest_of_an_exception_is_in_the_log",
            exception_is_logged,
        ),
        Trial::test(
            "survival::a_damaged_checkpoint_is_passed_over",
            damaged_checkpoint,
        ),
        Trial::test("survival::a_run_from_its_own_config_repeats", repeat),
        Trial::test("survival::a_running_run_is_sampled", sampled),
        Trial::test("survival::nothing_of_a_run_is_left", nothing_left),
        Trial::test(
            "survival::pretrained_weights_are_read_again_where_no_checkpoint_is",
            pretrained_again,
        ),
    ]
}

fn workplace(steps: u64, checkpoint_every: u64) -> Result<Workplace, Failed> {
    let place = Workplace::real()?;
    place.write_config(json!({
        "stop": { "steps": steps },
        "batch": { "global": 4, "micro": 1 },
        "model": { "gpt": { "preset": "gpt-nano", "seq_len": 32, "dropout": 0.1 } },
        "checkpoint": { "every": checkpoint_every },
        "eval": { "every": 25, "batches": 2 },
        "restart": { "max": 100 },
        "threads_per_rank": 1,
    }))?;
    Ok(place)
}

/// The loss of each step, as its bits; of steps made twice the last.
fn losses(place: &Workplace, name: &str) -> BTreeMap<u64, u64> {
    let bits = |event: &Value| {
        (
            event["step"].as_u64().unwrap_or(0),
            event["loss"].as_f64().unwrap_or(0.0).to_bits(),
        )
    };
    place.events_named(name, "step").iter().map(bits).collect()
}

fn end_to_end() -> Result<(), Failed> {
    let place = workplace(60, 20)?;
    place.train(&["--name", "a"])?.ended_with(0)?;
    let evals = place.events_named("a", "eval");
    check(
        evals.last().is_some_and(|eval| eval["final"] == true),
        "a final evaluation",
    )?;
    check(losses(&place, "a").len() == 60, "a step event a step")?;
    let said = place.capstan(&["eval", "a", "--json"])?.ended_with(0)?;
    let last_line = said.out.lines().last().unwrap_or_default();
    let eval: Value = serde_json::from_str(last_line)?;
    let apart = eval["loss"].as_f64().unwrap_or(0.0)
        / evals.last().and_then(|e| e["loss"].as_f64()).unwrap_or(1.0);
    check(
        (apart - 1.0).abs() < 1e-6,
        format!("the same loss again: {said:?}"),
    )?;
    let sample = || {
        place.capstan(&[
            "sample", "a", "--prompt", "To be", "--tokens", "20", "--seed", "3",
        ])
    };
    let first = sample()?.ended_with(0)?;
    check(
        !first.out.trim().is_empty() && first.out == sample()?.out,
        "a seed gives one text",
    )
}

/// All inside a save. One that the save outran is made up for by another.
fn kills() -> Result<(), Failed> {
    let place = workplace(700, 10)?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    let mut front = place.train_aside(&["--name", "killed"])?;
    let restarts = || place.events_named("killed", "restart");
    let (mut n_kills, mut n_torn) = (0, 0);
    let mut seed = u64::from(std::process::id());
    while n_torn < KILLS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let into_save = Duration::from_micros((seed >> 33) % LATEST_INTO_SAVE_US);
        let torn = kill_in_save(&place, into_save)?;
        let killed_at = Instant::now();
        n_kills += 1;
        n_torn += u32::from(torn.is_some());
        wait("the next life", || restarts().len() >= n_kills)?;
        let back_s = killed_at.elapsed().as_secs_f64();
        check(
            back_s < BACK_WITHIN_S + 16.0,
            format!("back after {back_s} s"),
        )?;
        let restart = restarts().pop().unwrap_or_default();
        let is_whole = |step: u64| {
            restart["from_step"]
                .as_u64()
                .is_some_and(|from| from < step)
        };
        check(
            torn.is_none_or(is_whole),
            format!("{torn:?} is torn: {restart}"),
        )?;
    }
    check(front.code()? == Some(0), "the run completes")?;
    check(
        losses(&place, "killed") == losses(&place, "clean"),
        "every loss is the same to the bit",
    )?;
    let events = place.events("killed");
    let mut seqs = events.iter().map(|event| event["seq"].as_u64()).zip(0..);
    check(seqs.all(|(seq, i)| seq == Some(i)), "the log has no gap")
}

/// Kills the worker that long after a save began. The step of the save, if it is torn: its folder kept the name that
/// only an unfinished one has.
fn kill_in_save(place: &Workplace, into_save: Duration) -> Result<Option<u64>, Failed> {
    let checkpoints = place.run("killed").join("checkpoints");
    let under_way = || {
        let entries = std::fs::read_dir(&checkpoints).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix(".tmp-step-")?.parse().ok()
        })
    };
    let mut worker = None;
    wait("a worker", || {
        worker = worker_of(place, "killed");
        worker.is_some()
    })?;
    let worker = worker.ok_or("a worker")?;
    // A leftover of the life before vanishes before the first save.
    wait("the end of the save before", || under_way().is_none())?;
    let until = Instant::now() + Duration::from_secs(30);
    while under_way().is_none() {
        check(Instant::now() < until, "waited in vain for a save")?;
        std::thread::sleep(Duration::from_micros(100));
    }
    std::thread::sleep(into_save);
    kill_process(worker, Signal::KILL)?;
    wait("the worker's end", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.as_raw_nonzero()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    })?;
    Ok(under_way())
}

fn stop_and_resume() -> Result<(), Failed> {
    let place = workplace(200, 1_000)?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    let mut front = place.train_aside(&["--name", "stopped"])?;
    place.wait_for_step("stopped", 20)?;
    kill_process(front.pid(), Signal::INT)?;
    check(front.code()? == Some(75), "stopped with a checkpoint")?;
    check(
        losses(&place, "stopped").len() < 200,
        "stopped before its end",
    )?;
    place.capstan(&["resume", "stopped"])?.ended_with(0)?;
    check(
        losses(&place, "stopped") == losses(&place, "clean"),
        "every loss is the same to the bit",
    )
}

fn resume_elsewhere() -> Result<(), Failed> {
    let place = workplace(60, 1_000)?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    let mut front = place.train_aside(&["--name", "moved"])?;
    place.wait_for_step("moved", 10)?;
    kill_process(front.pid(), Signal::TERM)?;
    check(front.code()? == Some(75), "stopped with a checkpoint")?;
    place
        .capstan(&["resume", "moved", "--layout", "dp=1"])?
        .ended_with(0)?;
    let (moved, clean) = (losses(&place, "moved"), losses(&place, "clean"));
    let apart = moved.iter().map(|(step, bits)| {
        let (a, b) = (
            f64::from_bits(*bits),
            f64::from_bits(clean.get(step).copied().unwrap_or(0)),
        );
        (a - b).abs() / b
    });
    let largest = apart.fold(0.0, f64::max);
    check(
        moved.len() == 60 && largest < 1e-4,
        format!("largest difference {largest:e}"),
    )
}

/// No checkpoint comes before the abort, so that nothing renews the one restart.
fn abort_is_survived() -> Result<(), Failed> {
    let place = workplace(30, 1_000)?.with("CAPSTAN_INJECT", "1:15:abort");
    place.write_config(json!({ "stop": { "steps": 30 }, "restart": { "max": 1 } }))?;
    place
        .train(&["--name", "a"])?
        .ended_with(1)?
        .says(&["SIGABRT"])?;
    let restarts = place.events_named("a", "restart");
    let named = restarts.iter().all(|event| {
        event["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("SIGABRT"))
    });
    check(restarts.len() == 1 && named, format!("{restarts:?}"))?;
    check(
        restarts[0]["from_step"] == 0,
        format!("from the start: {restarts:?}"),
    )
}

fn damaged_checkpoint() -> Result<(), Failed> {
    let place = workplace(40, 10)?;
    place.train(&["--name", "a"])?.ended_with(0)?;
    let newest = place
        .run("a")
        .join("checkpoints/step-00000040/model.safetensors");
    let mut bytes = std::fs::read(&newest)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&newest, bytes)?;
    place
        .capstan(&["resume", "a", "--set", "stop.steps=45"])?
        .ended_with(0)?;
    let warned = place.events_named("a", "warning");
    let says = warned.iter().any(|event| {
        event["text"]
            .as_str()
            .is_some_and(|text| text.contains("checksum"))
    });
    check(says, format!("{warned:?}"))?;
    let restart = place.events_named("a", "restart").pop().unwrap_or_default();
    check(
        restart["from_step"].as_u64().is_some_and(|step| step < 40),
        format!("{restart}"),
    )?;
    let checkpoints = place.run("a").join("checkpoints");
    for folder in std::fs::read_dir(checkpoints)?.flatten() {
        std::fs::remove_file(folder.path().join("manifest.json"))?;
    }
    let said = place.capstan(&["eval", "a"])?.ended_with(1)?;
    check(said.err.starts_with("error: "), said.err)
}

fn exception_is_logged() -> Result<(), Failed> {
    let place = workplace(30, 10)?.with("CAPSTAN_INJECT", "1:3:exception");
    place.write_config(json!({ "restart": { "max": 0 } }))?;
    let words = "must match the size";
    let said = place.train(&["--name", "a"])?.ended_with(1)?;
    let told = said.out.lines().filter(|line| line.contains(words));
    check(told.count() > 0, format!("{said:?}"))?;
    check(!said.out.contains("frame #"), format!("{said:?}"))?;
    let log = place.capstan(&["logs", "a"])?.ended_with(0)?;
    log.says(&["rank 1: ", words, "frame #"]).map(|_| ())
}

fn repeat() -> Result<(), Failed> {
    let place = workplace(20, 10)?;
    place.train(&["--name", "a"])?.ended_with(0)?;
    let config = place.run("a").join("config.json").display().to_string();
    place
        .capstan(&["train", &config, "--name", "b"])?
        .ended_with(0)?;
    check(
        losses(&place, "a") == losses(&place, "b"),
        "every loss is the same to the bit",
    )
}

/// A worker that dies before the first checkpoint: the next begins with the same weights.
fn pretrained_again() -> Result<(), Failed> {
    let place = workplace(30, 1_000)?;
    place.train(&["--name", "base"])?.ended_with(0)?;
    let folder = place.config.with_file_name("exported");
    let target = folder.display().to_string();
    place.capstan(&["export", "base", &target])?.ended_with(0)?;
    let init = format!("init.pretrained={target}");
    let set = |name: &'static str| {
        let changes = ["--set", init.as_str(), "--set", "stop.steps=200"];
        [&["--name", name, "--set", "eval.every=1000"], &changes[..]].concat()
    };
    place.train(&set("clean"))?.ended_with(0)?;
    let mut front = place.train_aside(&set("killed"))?;
    place.wait_for_step("killed", 5)?;
    let worker = worker_of(&place, "killed").ok_or("a worker")?;
    kill_process(worker, Signal::KILL)?;
    check(front.code()? == Some(0), front.said())?;
    let restarts = place.events_named("killed", "restart");
    check(
        restarts.len() == 1 && restarts[0]["from_step"] == 0,
        format!("{restarts:?}"),
    )?;
    let (clean, base) = (losses(&place, "clean"), losses(&place, "base"));
    check(
        clean[&1] != base[&1],
        "the weights are others than the seed's",
    )?;
    check(
        losses(&place, "killed") == clean,
        "every loss is the same to the bit",
    )
}

/// From the weights of the moment, also while it is paused; training goes on as if nothing had been asked.
fn sampled() -> Result<(), Failed> {
    let place = workplace(300, 1_000)?;
    place.train(&["--name", "clean"])?.ended_with(0)?;
    for set in ["ranks_per_worker=all", "ranks_per_worker=one"] {
        let name = set.split('=').nth(1).unwrap_or_default();
        let mut front = place.train_aside(&["--name", name, "--set", set])?;
        place.wait_for_step(name, 5)?;
        let said = place.capstan(&["sample", name, "--now", "--json"])?;
        let early = said.ended_with(0)?.json()?;
        place.capstan(&["pause", name])?.ended_with(0)?;
        wait("the pause", || {
            !place.events_named(name, "paused").is_empty()
        })?;
        let said = place.capstan(&["sample", name, "--now", "--json"])?;
        let paused = said.ended_with(0)?.json()?;
        place.capstan(&["continue", name])?.ended_with(0)?;
        let step = |sample: &Value| sample["step"].as_u64().unwrap_or_default();
        check(
            step(&early) >= 5 && step(&early) < step(&paused) && step(&paused) < 300,
            format!("{early} {paused}"),
        )?;
        check(
            early["text"] != paused["text"],
            "other weights, another text",
        )?;
        check(front.code()? == Some(0), front.said())?;
        check(
            losses(&place, name) == losses(&place, "clean"),
            "every loss is the same to the bit",
        )?;
    }
    place
        .capstan(&["sample", "one", "--now"])?
        .says(&["one is not running"])?;
    place
        .capstan(&["sample", "one", "--now", "--tokens", "3"])?
        .ended_with(2)?;
    Ok(())
}

/// However a run ends, by itself or not, no process of it stays.
fn nothing_left() -> Result<(), Failed> {
    let place = workplace(30, 10)?;
    place.write_config(json!({ "stop": { "steps": 30 }, "log": { "sensors_every_s": 1 } }))?;
    place.train(&["--name", "completed"])?.ended_with(0)?;
    let faulty = workplace(30, 10)?.with("CAPSTAN_INJECT", "0:15:abort");
    faulty.write_config(json!({ "stop": { "steps": 30 }, "restart": { "max": 0 } }))?;
    faulty.train(&["--name", "failed"])?.ended_with(1)?;
    none_of(&faulty, "failed")?;
    for (name, ends) in [("stopped", "stop"), ("killed", "kill")] {
        let endless = ["--name", name, "--set", "stop.steps=1000000"];
        let mut front = place.train_aside(&endless)?;
        place.wait_for_step(name, 5)?;
        let present = processes_of(&place, name).len();
        check(
            present >= 3,
            format!("{present}: supervisor, worker and sampler"),
        )?;
        place.capstan(&[ends, name])?.ended_with(0)?;
        front.code()?;
    }
    let orphaned = ["--name", "orphaned", "--set", "stop.steps=1000000"];
    let mut front = place.train_aside(&orphaned)?;
    place.wait_for_step("orphaned", 5)?;
    kill_process(place.supervisor("orphaned")?, Signal::KILL)?;
    front.code()?;
    for name in ["completed", "stopped", "killed", "orphaned"] {
        none_of(&place, name)?;
    }
    Ok(())
}

fn none_of(place: &Workplace, name: &str) -> Result<(), Failed> {
    wait(&format!("the end of all processes of {name}"), || {
        processes_of(place, name).is_empty()
    })
}

/// Command lines that name the run's folder, but for those of fronts.
fn processes_of(place: &Workplace, name: &str) -> Vec<String> {
    let folder = place.run(name).display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&folder)).collect()
}

/// The run's worker: its command line names the run's folder.
fn worker_of(place: &Workplace, name: &str) -> Option<Pid> {
    let folder = place.run(name).display().to_string();
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        let is_worker = arguments.first()?.ends_with(b"capstan-worker")
            && arguments.contains(&folder.as_bytes());
        is_worker.then(|| Pid::from_raw(pid)).flatten()
    })
}
