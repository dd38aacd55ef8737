//! `capstan logs`, and runs whose files are damaged.

use std::{fs, path::Path};

use capstan::{
    event::{Event, LogWriter},
    launch::{RunFolder, lock::RunLock},
};
use libtest_mimic::{Failed, Trial};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use super::support::{Workplace, check, wait, with_stand_in};

pub fn trials() -> Vec<Trial> {
    vec![
        with_stand_in("logs::events_and_what_the_worker_printed_are_merged", logs),
        with_stand_in("logs::a_run_is_followed_to_its_end", followed_logs),
        Trial::test(
            "logs::work_is_said_once_and_a_damaged_line_as_one",
            said_once,
        ),
        Trial::test("logs::another_run_in_its_place_is_told_from_it", replaced),
        with_stand_in("logs::a_damaged_run_is_listed_stopped_and_deleted", damaged),
    ]
}

fn logs() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.train(&["--plain"])?.ended_with(0)?;
    let log = place.run("tiny").join("worker.log");
    fs::write(&log, "one \x1b[31mred\nrank 1: error\ntorn")?;
    let said = place.capstan(&["logs"])?.ended_with(0)?.says(&[
        "worker                    info      one",
        "worker                    error r1  rank 1: error",
        "torn",
        " info  r0  step 4/4",
        " info      completed: ",
    ])?;
    check(!said.out.contains('\x1b'), said.out.clone())?;
    let first = said.out.lines().nth(3).unwrap_or_default();
    let zoned = first.split_whitespace().next().unwrap_or_default();
    check(
        zoned.len() == 25 && zoned.starts_with("20") && first.contains("rank(s): starting"),
        said.out.clone(),
    )?;
    let said = place.capstan(&["logs", "-f", "--json"])?.ended_with(0)?;
    let lines: Vec<Value> = said
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let of = |source: &str| lines.iter().filter(|line| line["source"] == source).count();
    check(of("worker") == 3 && of("events") > 3, said.out.clone())?;
    let error = lines.iter().find(|line| line["level"] == "error");
    check(
        error.is_some_and(|line| line["rank"] == 1 && line["time"].is_null()),
        said.out.clone(),
    )?;
    let step = lines.iter().find(|line| {
        line["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("step 4/4"))
    });
    check(
        step.is_some_and(|line| line["rank"] == 0 && line["time"].as_f64() > Some(1e9)),
        said.out,
    )
}

fn followed_logs() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.train(&["--detach"])?.ended_with(0)?;
    let output = place.folder().join("logs.txt");
    let mut follower = place
        .command(&["logs", "tiny", "-f"])
        .stdout(fs::File::create(&output)?)
        .spawn()?;
    let has = |part: &str| {
        fs::read_to_string(&output)
            .unwrap_or_default()
            .contains(part)
    };
    wait("a step", || has("r0  step 2/"))?;
    let log = place.run("tiny").join("worker.log");
    fs::OpenOptions::new()
        .append(true)
        .open(log)
        .and_then(|mut log| std::io::Write::write_all(&mut log, b"rank 1: just so\n"))?;
    wait("the worker's line", || has("info  r1  rank 1: just so"))?;
    place.capstan(&["stop", "tiny"])?.ended_with(0)?;
    wait("the end", || matches!(follower.try_wait(), Ok(Some(_))))?;
    check(has("stopped: "), fs::read_to_string(&output)?)
}

/// A run folder with these events.
fn made(place: &Workplace, name: &str, events: &[Event]) -> Result<RunFolder, Failed> {
    let folder = RunFolder::new(place.run(name));
    fs::create_dir_all(folder.root())?;
    let mut log = LogWriter::open(&folder.events())?;
    for event in events {
        log.append(event.clone())?;
    }
    Ok(folder)
}

fn warning(text: &str) -> Event {
    Event::Warning {
        text: text.to_owned(),
        rank: None,
    }
}

fn said_once() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let tokenizing = |done| Event::Progress {
        what: "tokenizing".to_owned(),
        done,
        total: None,
    };
    let folder = made(
        &place,
        "tiny",
        &[tokenizing(1), tokenizing(2), tokenizing(3)],
    )?;
    let text = fs::read_to_string(folder.events())?;
    fs::write(folder.events(), format!("{text}garbage\n"))?;
    let said = place.capstan(&["logs"])?.ended_with(0)?;
    let lines = |part: &str| said.out.lines().filter(|line| line.contains(part)).count();
    let is_named = said
        .out
        .lines()
        .any(|line| line.starts_with("events ") && line.contains("line 4"));
    check(lines("tokenizing") == 1 && is_named, said.out.clone())
}

fn replaced() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let held = |name: &str| -> Result<(RunFolder, RunLock), Failed> {
        let folder = made(&place, name, &[warning(&format!("of {name}"))])?;
        let lock = RunLock::acquire(&folder)?;
        Ok((folder, lock))
    };
    let ((one, _one), (two, two_lock)) = (held("one")?, held("two")?);
    let follow = |arguments: &[&str], output: &Path| {
        let output = fs::File::create(output)?;
        place.command(arguments).stdout(output).spawn()
    };
    let (logs, attached) = (place.folder().join("logs"), place.folder().join("attached"));
    let mut fronts = [
        follow(&["logs", "one", "-f"], &logs)?,
        follow(&["attach", "one", "--plain"], &attached)?,
    ];
    let says = |output: &Path, part: &str| {
        let said = fs::read_to_string(output).unwrap_or_default();
        said.contains(part)
    };
    wait("both fronts", || {
        says(&logs, "of one") && says(&attached, "attached to one")
    })?;
    renameat_with(CWD, two.root(), CWD, one.root(), RenameFlags::EXCHANGE)?;
    wait("the other run's events", || says(&logs, "of two"))?;
    wait("the end of attach", || says(&attached, "took its place"))?;
    drop(two_lock);
    for front in &mut fronts {
        wait("a front's end", || matches!(front.try_wait(), Ok(Some(_))))?;
    }
    check(fronts[1].wait()?.code() == Some(1), "attach reached no end")
}

fn damaged() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place
        .train(&["--detach", "--name", "bare"])?
        .ended_with(0)?;
    place.wait_for_step("bare", 2)?;
    fs::remove_file(place.run("bare").join("config.json"))?;
    place.capstan(&["runs"])?.ended_with(0)?.says(&[
        "running",
        "bare: the config",
        "No such file",
    ])?;
    place
        .capstan(&["status", "bare"])?
        .ended_with(0)?
        .says(&["unreadable", "config.json"])?;
    place.capstan(&["stop", "bare"])?.ended_with(0)?;
    place.wait_for_end("bare")?;
    wait("the supervisor's end", || {
        !capstan::launch::lock::is_held(&capstan::launch::RunFolder::new(place.run("bare")))
    })?;
    place
        .capstan(&["delete", "bare", "--confirm", "bare"])?
        .ended_with(0)?;
    let nothing = place.run("nothing");
    fs::create_dir(&nothing)?;
    fs::write(nothing.join("config.json"), "{")?;
    let said = place.capstan(&["runs", "--json"])?.ended_with(0)?.json()?;
    let run = &said["runs"][0];
    check(
        run["status"] == "unreadable" && run["error"].as_str().is_some_and(|e| e.contains("EOF")),
        said.to_string(),
    )?;
    let escape = place.run("esc\x1b[31mred");
    fs::create_dir(&escape)?;
    fs::write(escape.join("config.json"), "{}")?;
    let said = place.capstan(&["runs"])?.ended_with(0)?;
    check(
        !said.out.contains('\x1b') && said.out.contains("esc"),
        said.out,
    )?;
    let file = place.folder().join("file");
    fs::write(&file, "")?;
    let file = file.display().to_string();
    place
        .capstan(&["--runs-dir", &file, "runs"])?
        .ended_with(1)?
        .says(&["the runs folder", "Not a directory"])?;
    let absent = place.folder().join("absent").display().to_string();
    place
        .capstan(&["--runs-dir", &absent, "runs"])?
        .ended_with(0)?
        .says(&["there are no runs"])
        .map(drop)
}
