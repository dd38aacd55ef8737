//! Workers that crash, hang, talk garbage; fronts that vanish; users who stop and kill.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use super::{
    sensors::{sampler, with_cards, with_fakes},
    support::{Workplace, check, wait, with_stand_in},
};

pub fn trials() -> Vec<Trial> {
    vec![
        with_stand_in(
            "supervisor::a_killed_worker_goes_on_from_its_checkpoint",
            killed_worker,
        ),
        with_stand_in(
            "supervisor::a_checkpoint_that_nobody_reported_is_found",
            unreported_checkpoint,
        ),
        with_stand_in("supervisor::every_death_is_named", deaths_are_named),
        with_stand_in(
            "supervisor::restarts_are_counted_anew_after_a_checkpoint",
            restarts_run_out,
        ),
        with_stand_in(
            "supervisor::a_fault_without_remedy_ends_the_run",
            fault_for_good,
        ),
        with_stand_in(
            "supervisor::a_worker_that_hangs_after_its_fault_is_killed",
            hang_after_fault,
        ),
        with_stand_in(
            "supervisor::a_worker_that_hangs_after_its_end_has_completed",
            hang_at_end,
        ),
        with_stand_in(
            "supervisor::garbage_from_the_worker_is_one_warning",
            garbage,
        ),
        with_stand_in(
            "supervisor::a_childs_hold_on_the_socket_delays_nothing",
            child_keeps_socket,
        ),
        with_stand_in("supervisor::a_stop_saves_a_checkpoint", stop),
        with_stand_in("supervisor::a_second_stop_ends_a_deaf_worker", second_stop),
        with_stand_in("supervisor::signals_stop_and_kill", signals),
        with_stand_in("supervisor::the_run_survives_its_front", front_killed),
        with_stand_in(
            "supervisor::a_dead_supervisor_is_reported_and_the_run_resumes",
            supervisor_killed,
        ),
        with_fakes("supervisor::one_that_dies_at_once_is_quoted", dead_at_once),
        with_stand_in(
            "supervisor::two_supervisors_never_share_a_folder",
            two_supervisors,
        ),
        with_stand_in(
            "supervisor::garbage_on_the_control_socket_harms_nothing",
            socket_garbage,
        ),
        with_stand_in(
            "supervisor::lost_checkpoints_never_mean_from_scratch",
            lost_checkpoints,
        ),
        with_stand_in(
            "supervisor::the_state_is_the_fold_of_the_log",
            state_is_fold,
        ),
        with_stand_in("supervisor::a_promised_sample_survives_its_worker", sample),
        with_stand_in(
            "supervisor::of_several_workers_who_went_first_is_blamed",
            first_is_blamed,
        ),
        with_stand_in("supervisor::sensors_are_part_of_the_log", sensors),
        with_stand_in(
            "supervisor::the_worker_gets_the_environment_it_needs",
            environment,
        ),
        with_fakes("supervisor::cards_are_told_by_their_uuids", cards_by_uuid),
    ]
}

fn sample() -> Result<(), Failed> {
    let place = Workplace::long("die-on-sample,well")?;
    let mut front = place.train_aside(&["--plain"])?;
    place.wait_for_step("tiny", 3)?;
    place
        .capstan(&["sample", "tiny", "--now"])?
        .ended_with(0)?
        .says(&["Abc"])?;
    check(
        place.events_named("tiny", "restart").len() == 1,
        "the first worker died of the order",
    )?;
    place.capstan(&["stop", "tiny"])?.ended_with(0)?;
    check(front.code()? == Some(75), front.said())
}

/// Whoever hangs up first is the cause, though another says more and leaves earlier; a fault that was told first is
/// the cause, though another dies of a signal before.
fn first_is_blamed() -> Result<(), Failed> {
    for (behaviour, code, reason) in [
        (
            "second-dies",
            1,
            "the worker of rank 1: killed by signal 11 (SIGSEGV)",
        ),
        (
            "second-faults",
            1,
            "rank 1 failed at step 1 in forward: no more memory",
        ),
        ("well", 0, "as asked"),
    ] {
        let place = Workplace::new(behaviour)?;
        place.write_config(json!({ "ranks_per_worker": "one", "restart": { "max": 0 } }))?;
        place.train(&["--plain"])?.ended_with(code)?;
        let (_, ended) = place.wait_for_end("tiny")?;
        check(ended.contains(reason), format!("{behaviour}: {ended}"))?;
        check(
            place.events_named("tiny", "fault").len() <= 1,
            "consequences are not told",
        )?;
    }
    Ok(())
}

/// The sampler ends with its run.
fn sensors() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.write_config(json!({ "log": { "sensors_every_s": 1 } }))?;
    let front = place.train_aside(&["--plain"])?;
    wait("a reading", || {
        !place.events_named("tiny", "sensors").is_empty()
    })?;
    let reading = place.events_named("tiny", "sensors").remove(0);
    check(
        reading["host"]["memory_used_bytes"].as_u64() > Some(0),
        reading.to_string(),
    )?;
    let supervisor = place.supervisor("tiny")?;
    let sampler = sampler(supervisor)?.as_raw_nonzero();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL)?;
    wait("the sampler's end", || {
        !std::path::Path::new(&format!("/proc/{sampler}")).exists()
    })?;
    drop(front);
    Ok(())
}

fn killed_worker() -> Result<(), Failed> {
    let place = Workplace::new("signal-9,well")?;
    place
        .train(&["--plain"])?
        .ended_with(0)?
        .says(&["killed by signal 9 (SIGKILL)"])?;
    let restart = place
        .events_named("tiny", "restart")
        .pop()
        .unwrap_or_default();
    check(restart["from_step"] == 2, format!("{restart}"))?;
    let steps: Vec<_> = place
        .events_named("tiny", "step")
        .iter()
        .map(|record| record["step"].clone())
        .collect();
    check(steps == [1, 2, 3, 3, 4], format!("{steps:?}"))?;
    let lives = place.lives("tiny");
    check(
        lives[0]["--from"] == "fresh" && lives[1]["--from"] == "checkpoint",
        format!("{lives:?}"),
    )
}

/// Found when the worker dies, and, where the supervisor died with it, at the resume.
fn unreported_checkpoint() -> Result<(), Failed> {
    let place = Workplace::new("save-and-die,well")?;
    place.write_config(json!({ "restart": { "max": 0 } }))?;
    place
        .train(&["--plain"])?
        .ended_with(1)?
        .says(&["found the checkpoint after step 3"])?;
    place.capstan(&["status"])?.says(&["checkpoint  step 3 "])?;

    let log = place.run("tiny").join("events.jsonl");
    let text = fs::read_to_string(&log)?;
    let is_lost = |line: &&str| {
        let names = |event: &str| line.contains(&format!("\"event\":\"{event}\""));
        names("ended") || (names("checkpoint") && line.contains("\"step\":3"))
    };
    let kept: Vec<&str> = text.lines().filter(|line| !is_lost(line)).collect();
    check(kept.len() + 2 == text.lines().count(), text.clone())?;
    fs::write(&log, kept.join("\n") + "\n")?;
    place.capstan(&["resume"])?.ended_with(0)?;
    let reported: Vec<_> = place
        .events_named("tiny", "checkpoint")
        .iter()
        .map(|record| record["step"].clone())
        .collect();
    check(reported == [2, 3, 4], format!("{reported:?}"))
}

fn deaths_are_named() -> Result<(), Failed> {
    for (behaviour, code, words) in [
        ("signal-11", 1, "SIGSEGV"),
        (
            "signal-6",
            1,
            "uncaught C++ exception: terminate called: bad thing",
        ),
        ("exit-101", 1, "a panic (exit code 101): last words"),
        ("exit-127", 4, "could not be loaded"),
        ("exit-5", 5, "data can't be read"),
    ] {
        let place = Workplace::new(behaviour)?;
        place.write_config(json!({ "restart": { "max": 0 } }))?;
        place
            .train(&["--plain"])?
            .ended_with(code)?
            .says(&[words, "capstan resume"])?;
        let (outcome, reason) = place.wait_for_end("tiny")?;
        check(outcome == "failed" && reason.contains(words), reason)?;
    }
    Ok(())
}

fn restarts_run_out() -> Result<(), Failed> {
    // The first life saves a checkpoint, the two after it none.
    let place = Workplace::new("signal-9")?;
    place.write_config(json!({ "restart": { "max": 2 } }))?;
    place
        .train(&["--plain"])?
        .ended_with(1)?
        .says(&["gave up after 2 restart(s)"])?;
    check(place.lives("tiny").len() == 3, "three lives")?;

    let place = Workplace::new("advance")?;
    place.write_config(json!({ "restart": { "max": 1 } }))?;
    place.train(&["--plain"])?.ended_with(0)?;
    check(
        place.lives("tiny").len() == 5,
        "a death after each step's checkpoint",
    )
}

fn fault_for_good() -> Result<(), Failed> {
    let place = Workplace::new("fault-for-good")?;
    let words = "rank 1 failed at step 3 in all_reduce: NaN in the gradient";
    place.train(&["--plain"])?.ended_with(1)?.says(&[words])?;
    check(place.lives("tiny").len() == 1, "one life")
}

fn hang_after_fault() -> Result<(), Failed> {
    let place = Workplace::new("fault-and-hang,well")?;
    let start = Instant::now();
    place.train(&["--plain"])?.ended_with(0)?;
    check(place.lives("tiny").len() == 2, "two lives")?;
    check(
        start.elapsed() < Duration::from_secs(15),
        "killed after 5 s",
    )
}

fn hang_at_end() -> Result<(), Failed> {
    let place = Workplace::new("hang-at-end")?;
    place
        .train(&["--plain"])?
        .ended_with(0)?
        .says(&["did not leave within 5 s"])?;
    let (outcome, _) = place.wait_for_end("tiny")?;
    let last = place.events("tiny").pop().unwrap_or_default();
    check(
        outcome == "completed" && last["event"] == "ended",
        format!("{last}"),
    )
}

fn garbage() -> Result<(), Failed> {
    let place = Workplace::new("garbage")?;
    place.train(&["--plain"])?.ended_with(0)?;
    let warnings = place.events_named("tiny", "warning");
    check(
        warnings.len() == 1 && warnings[0].to_string().contains("no event"),
        format!("{warnings:?}"),
    )
}

fn child_keeps_socket() -> Result<(), Failed> {
    let place = Workplace::new("child-keeps-socket,well")?;
    place
        .train(&["--plain"])?
        .ended_with(0)?
        .says(&["exit code 9"])?;
    Ok(())
}

fn stop() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    let mut front = place.train_aside(&["--plain"])?;
    place.wait_for_step("tiny", 3)?;
    place
        .capstan(&["stop", "tiny"])?
        .ended_with(0)?
        .says(&["saving a checkpoint"])?;
    check(front.code()? == Some(75), front.said())?;
    place
        .capstan(&["checkpoint", "tiny"])?
        .ended_with(1)?
        .says(&["not running"])?;
    let said = place
        .capstan(&["resume", "tiny", "--detach"])?
        .ended_with(0)?;
    let newest = place
        .events_named("tiny", "ended")
        .pop()
        .unwrap_or_default();
    let words = format!("resumed tiny after step {} in ", newest["step"]);
    check(said.out.contains(&words), format!("{words}: {}", said.out))?;
    wait("the restart", || {
        !place.events_named("tiny", "restart").is_empty()
    })?;
    let restart = place
        .events_named("tiny", "restart")
        .pop()
        .unwrap_or_default();
    check(
        restart["cause"] == "resumed" && restart["from_step"].as_u64() >= Some(3),
        format!("{restart}"),
    )
}

fn second_stop() -> Result<(), Failed> {
    let place = Workplace::long("deaf")?;
    let mut front = place.train_aside(&["--plain"])?;
    place.wait_for_step("tiny", 1)?;
    place.capstan(&["stop", "tiny"])?.ended_with(0)?;
    let start = Instant::now();
    place
        .capstan(&["stop", "tiny"])?
        .ended_with(0)?
        .says(&["at once"])?;
    check(front.code()? == Some(143), front.said())?;
    check(start.elapsed() < Duration::from_secs(5), "killed after 1 s")?;
    let (outcome, _) = place.wait_for_end("tiny")?;
    check(outcome == "killed", outcome)
}

fn signals() -> Result<(), Failed> {
    for signal in [Signal::TERM, Signal::INT, Signal::USR1] {
        let place = Workplace::long("well")?;
        let mut front = place.train_aside(&["--plain"])?;
        place.wait_for_step("tiny", 1)?;
        kill_process(place.supervisor("tiny")?, Signal::HUP)?;
        kill_process(front.pid(), signal)?;
        check(
            front.code()? == Some(75),
            format!("{signal:?}: {}", front.said()),
        )?;
    }
    let place = Workplace::long("ignore-stop")?;
    let mut front = place.train_aside(&["--plain"])?;
    place.wait_for_step("tiny", 1)?;
    kill_process(front.pid(), Signal::INT)?;
    let asked = Instant::now();
    wait("a word on the first Ctrl-C", || {
        front.said().contains("a second Ctrl-C ends at once")
    })?;
    check(
        asked.elapsed() < Duration::from_millis(500),
        format!("{:?}", asked.elapsed()),
    )?;
    kill_process(front.pid(), Signal::INT)?;
    check(front.code()? == Some(130), front.said())
}

fn front_killed() -> Result<(), Failed> {
    for signal in [Signal::KILL, Signal::HUP] {
        let place = Workplace::long("well")?;
        let mut front = place.train_with_hangup(&["--plain"])?;
        place.wait_for_step("tiny", 2)?;
        kill_process(front.pid(), signal)?;
        front.code()?;
        let step = place.step("tiny");
        place.wait_for_step("tiny", step + 5)?;
    }
    Ok(())
}

fn supervisor_killed() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    let mut front = place.train_aside(&["--plain"])?;
    place.wait_for_step("tiny", 3)?;
    let supervisor = place.supervisor("tiny")?;
    kill_process(supervisor, Signal::KILL)?;
    check(front.code()? == Some(1), front.said())?;
    check(
        front.said().contains("supervisor of") && front.said().contains("capstan resume"),
        front.said(),
    )?;
    place
        .capstan(&["status", "tiny"])?
        .ended_with(0)?
        .says(&["interrupted"])?;

    place
        .capstan(&["resume", "tiny", "--detach"])?
        .ended_with(0)?;
    wait("the restart", || {
        !place.events_named("tiny", "restart").is_empty()
    })?;
    place.wait_for_step("tiny", 3)?;
    let seqs: Vec<_> = place
        .events("tiny")
        .iter()
        .map(|record| record["seq"].as_u64())
        .collect();
    check(
        seqs.iter()
            .enumerate()
            .all(|(i, &seq)| seq == Some(i as u64)),
        format!("{seqs:?}"),
    )
}

/// Of a run whose supervisor died before it took it nothing is left, but what was said.
fn dead_at_once() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let (source, library) = (place.folder().join("die.c"), place.folder().join("die.so"));
    let dies = r#"#include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        __attribute__((constructor)) static void die(int argc, char **argv) {
            if (argc < 2 || strcmp(argv[1], "supervise")) return;
            fputs("a library is missing\n", stderr);
            _exit(9);
        }"#;
    fs::write(&source, dies)?;
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()?;
    check(compiled.success(), "die.c does not compile")?;
    let place = place.with("LD_PRELOAD", &library.to_string_lossy());
    place
        .train(&["--plain"])?
        .ended_with(70)?
        .says(&["died before it took the run (exit status: 9): a library is missing"])?;
    check(!place.run("tiny").exists(), "the folder is still there")
}

fn two_supervisors() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.train(&["--detach"])?.ended_with(0)?;
    let first = place.supervisor("tiny")?;
    let folder = place.run("tiny");
    let second = place
        .command(&["supervise"])
        .arg(&folder)
        .arg("--resume")
        .output()?;
    let said = String::from_utf8_lossy(&second.stdout).into_owned();
    check(second.status.code() == Some(2), said.clone())?;
    check(said.contains(&first.as_raw_nonzero().to_string()), said)?;
    test_kill_process(first)?;
    check(
        place.events_named("tiny", "run").len() == 1,
        "one supervisor took the run",
    )
}

fn socket_garbage() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.train(&["--detach"])?.ended_with(0)?;
    let path = place.run("tiny").join("control.sock");
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(UnixStream::connect(&path)?);
    }
    for garbage in [
        &b"\xff\xff\n"[..],
        b"{\"control\":\"dance\"}\n",
        &[b'x'; 10_000],
    ] {
        let mut stream = UnixStream::connect(&path)?;
        // It may be refused before it is written to its end.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        check(!reply.contains("\"accepted\":true"), reply)?;
    }
    place.capstan(&["pause", "tiny"])?.ended_with(0)?;
    wait("the pause", || {
        !place.events_named("tiny", "paused").is_empty()
    })?;
    place.capstan(&["continue", "tiny"])?.ended_with(0)?;
    let step = place.step("tiny");
    place.wait_for_step("tiny", step + 2)
}

fn lost_checkpoints() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.train(&["--detach"])?.ended_with(0)?;
    place.wait_for_step("tiny", 3)?;
    place.capstan(&["kill", "tiny"])?.ended_with(0)?;
    place.wait_for_end("tiny")?;
    fs::remove_dir_all(place.run("tiny").join("checkpoints"))?;
    wait("the supervisor's end", || {
        !place.run("tiny").join("control.sock").exists()
    })?;
    place
        .capstan(&["resume", "tiny"])?
        .ended_with(2)?
        .says(&["no checkpoint", "capstan train"])?;
    let supervised = place
        .command(&["supervise"])
        .arg(place.run("tiny"))
        .arg("--resume")
        .output()?;
    check(
        supervised.status.code() == Some(1),
        format!("{supervised:?}"),
    )?;
    check(
        place.lives("tiny").len() == 1,
        "no worker starts from scratch",
    )
}

fn state_is_fold() -> Result<(), Failed> {
    let place = Workplace::new("signal-9,well")?;
    place.train(&["--plain"])?.ended_with(0)?;
    let written: capstan::store::RunState =
        serde_json::from_slice(&fs::read(place.run("tiny").join("state.json"))?)?;
    let folded = capstan::store::fold_log(&place.run("tiny").join("events.jsonl"))?;
    let (written, folded) = (
        serde_json::to_value(&written)?,
        serde_json::to_value(&folded)?,
    );
    check(written == folded, format!("{written}\n{folded}"))?;
    check(
        written["status"] == "completed" && written["restarts"] == 1,
        written.to_string(),
    )
}

fn environment() -> Result<(), Failed> {
    let place = Workplace::new("well")?.with("NCCL_SOCKET_IFNAME", "eth7");
    place.train(&["--plain"])?.ended_with(0)?;
    let life = place.lives("tiny").pop().unwrap_or_default();
    check(life["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", life.to_string())?;
    check(
        life["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8",
        life.to_string(),
    )?;
    check(
        life["NCCL_SOCKET_IFNAME"] == "eth7",
        "the user's own word stands",
    )?;
    check(
        life["CUDA_VISIBLE_DEVICES"].is_null(),
        "no word on cards for ranks without one",
    )
}

/// The worker sees the visible cards by their UUIDs, in whatever order CUDA would count them.
fn cards_by_uuid() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::long("well")?, "geforce")?;
    let place = place.with("CUDA_DEVICE_ORDER", "FASTEST_FIRST");
    place.write_config(json!({ "devices": [1, 0], "stop": { "steps": 100_000 } }))?;
    let seen = |place: &Workplace, cards: [u32; 2]| -> Result<(), Failed> {
        place.wait_for_step("tiny", 1)?;
        let life = place.lives("tiny").pop().unwrap_or_default();
        let cards = cards.map(|card| format!("GPU-0000000{card}-aaaa-bbbb-cccc-dddddddddddd"));
        check(
            life["CUDA_VISIBLE_DEVICES"] == cards.join(","),
            life.to_string(),
        )
    };
    place.train(&["--detach"])?.ended_with(0)?;
    seen(&place, [1, 2])?;
    stopped(&place)?;
    // Other cards may be visible by the time it goes on.
    let place = place.with("CUDA_VISIBLE_DEVICES", "1,0");
    place
        .capstan(&["resume", "tiny", "--detach"])?
        .ended_with(0)?;
    // Each life has a worker a card.
    wait("its next life", || place.lives("tiny").len() == 4)?;
    seen(&place, [2, 1])?;
    let devices = |place: &Workplace| -> Result<Value, Failed> {
        let plan: Value = serde_json::from_slice(&fs::read(folder_of(place).plan())?)?;
        let ranks = plan["ranks"].as_array().cloned().unwrap_or_default();
        Ok(ranks
            .into_iter()
            .map(|rank| rank["device"].clone())
            .collect())
    };
    let kept = json!([{ "cuda": 0 }, { "cuda": 1 }]);
    check(devices(&place)? == kept, devices(&place)?.to_string())?;
    stopped(&place)?;
    // The first rank's card alone: others may be gone.
    let own = "sees GPU-00000002-aaaa-bbbb-cccc-dddddddddddd\n";
    place
        .capstan(&["eval", "tiny"])?
        .ended_with(0)?
        .says(&[own])?;
    let place = place.with("CUDA_VISIBLE_DEVICES", "0");
    place
        .capstan(&["resume", "tiny", "--detach"])?
        .ended_with(2)?
        .says(&["needs 2 GPU(s)", "there are 1"])?;
    let place = place
        .with("FAKE_NVML_CARDS", "3")
        .with("CUDA_VISIBLE_DEVICES", "0,2");
    place
        .capstan(&["resume", "tiny", "--detach"])?
        .ended_with(0)?;
    wait("its third life", || place.lives("tiny").len() == 6)?;
    seen(&place, [1, 3])?;
    let warnings = place.events_named("tiny", "warning");
    let is_said = warnings.iter().any(|warning| {
        let text = warning["text"].as_str().unwrap_or_default();
        text.contains("rank 0 has GPU 1 (GPU-00000003) instead of GPU-00000002")
    });
    check(is_said, format!("{warnings:?}"))
}

fn folder_of(place: &Workplace) -> capstan::launch::RunFolder {
    capstan::launch::RunFolder::new(place.run("tiny"))
}

fn stopped(place: &Workplace) -> Result<(), Failed> {
    place.capstan(&["stop", "tiny"])?.ended_with(0)?;
    wait("the supervisor's end", || {
        !capstan::launch::lock::is_held(&folder_of(place))
    })
}
