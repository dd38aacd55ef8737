//! Every command, good and bad input, what is printed and which exit code follows.

use std::{
    fs,
    process::{Command, Stdio},
};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::support::{Said, Workplace, check, wait, with_stand_in};

pub fn trials() -> Vec<Trial> {
    vec![
        with_stand_in("cli::train_json_is_the_event_log", train_json),
        with_stand_in("cli::plain_output_is_lines_without_escapes", plain),
        with_stand_in("cli::names_are_taken_in_turn", names),
        with_stand_in(
            "cli::concurrent_runs_get_names_of_their_own",
            concurrent_names,
        ),
        with_stand_in("cli::runs_and_status_answer_in_json", queries),
        with_stand_in("cli::pause_continue_checkpoint", controls),
        with_stand_in("cli::attach_only_leaves", attach),
        with_stand_in("cli::sample_and_eval_ask_the_worker", ask),
        with_stand_in(
            "cli::tokens_without_a_tokenizer_are_never_sampled",
            tokens_without_tokenizer,
        ),
        with_stand_in("cli::delete_wants_the_name", delete),
        with_stand_in("cli::resume_extends_and_refuses", resume),
        with_stand_in("cli::doctor_checks_the_worker", doctor),
        Trial::test("cli::a_dry_run_starts_nothing", dry_run),
        Trial::test("cli::bad_configs_exit_2", bad_configs),
        Trial::test("cli::bad_data_exits_5", bad_data),
        Trial::test("cli::a_missing_worker_exits_4", missing_worker),
        Trial::test("cli::started_by_torchrun_is_refused", torchrun),
        Trial::test("cli::config_explains_who_set_what", config),
        Trial::test("cli::data_is_inspected_and_tokenized", data),
        Trial::test("cli::paths_completions_man_schema_help", install),
        Trial::test("cli::a_closed_pipe_is_no_error", closed_pipe),
        Trial::test("cli::top_shows_the_machine", top),
        with_script("cli::a_terminal_gets_a_bar", terminal),
    ]
}

fn train_json() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let said = place.train(&["--json"])?.ended_with(0)?;
    let log = fs::read_to_string(place.run("tiny").join("events.jsonl"))?;
    check(said.out == log, format!("{}\n{log}", said.out))?;
    let records: Vec<Value> = said
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    for (seq, record) in records.iter().enumerate() {
        check(
            record["seq"] == seq && record["time"].as_f64() > Some(1e9),
            record.to_string(),
        )?;
    }
    let events: Vec<_> = records
        .iter()
        .filter_map(|record| record["event"].as_str())
        .collect();
    check(
        events.first() == Some(&"run") && events.last() == Some(&"ended"),
        format!("{events:?}"),
    )
}

fn plain() -> Result<(), Failed> {
    let place = Workplace::new("well")?.with("STAND_IN_STEPS", "6");
    place.write_config(json!({ "stop": { "steps": 6 }, "log": { "every": 3 } }))?;
    for arguments in [&["--plain"][..], &[]] {
        let said = place.train(arguments)?.ended_with(0)?;
        check(!said.out.contains(['\x1b', '\r']), said.out.clone())?;
        let steps = said.out.lines().filter(|line| line.starts_with("step "));
        let steps: Vec<_> = steps
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        check(steps == ["1/6", "3/6", "6/6"], said.out.clone())?;
        said.says(&[
            "validation loss 2.5000 after step 2, 1.2500 after step 6",
            "To be",
            "capstan sample",
        ])?;
    }
    Ok(())
}

fn names() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    for _ in 0..2 {
        place.train(&["--plain"])?.ended_with(0)?;
    }
    check(
        place.run("tiny-2").join("config.json").exists(),
        "the second is tiny-2",
    )?;
    place.train(&["--name", "mine", "--plain"])?.ended_with(0)?;
    place
        .train(&["--name", "mine"])?
        .ended_with(2)?
        .says(&["capstan resume mine"])?;
    place
        .train(&["--name", "../x"])?
        .ended_with(2)?
        .says(&["can't name a run"])?;
    let config: Value = serde_json::from_slice(&fs::read(place.run("mine").join("config.json"))?)?;
    let path = config["data"]["text"]["path"].as_str().unwrap_or_default();
    check(
        path.starts_with('/') && config["name"] == "mine",
        config.to_string(),
    )?;
    let schema = place
        .run("mine")
        .join(config["$schema"].as_str().unwrap_or_default());
    check(schema.exists(), "an editor finds the schema")
}

fn concurrent_names() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let fronts: Vec<_> = (0..4)
        .map(|_| {
            place
                .train_command(&["--json"])
                .stdout(Stdio::piped())
                .spawn()
        })
        .collect::<Result<_, _>>()?;
    for front in fronts {
        Said::from(front.wait_with_output()?).ended_with(0)?;
    }
    let runs = place.capstan(&["runs", "--json"])?.json()?;
    check(
        runs["runs"].as_array().map(Vec::len) == Some(4),
        runs.to_string(),
    )
}

fn queries() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place
        .capstan(&["runs"])?
        .ended_with(0)?
        .says(&["no runs"])?;
    place.capstan(&["status"])?.ended_with(2)?;
    place.train(&["--plain"])?.ended_with(0)?;
    let runs = place.capstan(&["runs", "--json"])?.ended_with(0)?.json()?;
    check(
        runs["schema"] == 1 && runs["runs"][0]["name"] == "tiny",
        runs.to_string(),
    )?;
    for run in [&["status", "--json"][..], &["status", "tiny", "--json"]] {
        let status = place.capstan(run)?.ended_with(0)?.json()?;
        check(
            status["schema"] == 1 && status["run"]["status"] == "completed",
            status.to_string(),
        )?;
        check(
            status["run"]["best_eval"]["loss"] == 2.5,
            status.to_string(),
        )?;
    }
    place.capstan(&["runs"])?.ended_with(0)?.says(&[
        "NAME",
        "tiny",
        "completed",
        "4/4",
        "2.5000",
    ])?;
    place.capstan(&["status"])?.ended_with(0)?.says(&[
        "completed",
        "step 4",
        "2.5000 at step 2 (best 2.5000 at step 2)",
        "1.2500 at step 4, over the whole validation split",
    ])?;
    place
        .capstan(&["status", "tinny"])?
        .ended_with(2)?
        .says(&["did you mean tiny?"])?;
    Ok(())
}

fn controls() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place
        .train(&["--detach"])?
        .ended_with(0)?
        .says(&["capstan attach"])?;
    place.wait_for_step("tiny", 3)?;
    let reply = place.capstan(&["pause", "--json"])?.ended_with(0)?.json()?;
    check(
        reply["schema"] == 1 && reply["accepted"] == true,
        reply.to_string(),
    )?;
    wait("the pause", || {
        !place.events_named("tiny", "paused").is_empty()
    })?;
    place.capstan(&["status"])?.says(&["paused"])?;
    place.capstan(&["continue"])?.ended_with(0)?;
    wait("the going on", || {
        !place.events_named("tiny", "continued").is_empty()
    })?;
    let before = place.events_named("tiny", "checkpoint").len();
    place.capstan(&["checkpoint"])?.ended_with(0)?;
    wait("the checkpoint", || {
        place.events_named("tiny", "checkpoint").len() > before
    })?;
    place
        .capstan(&["delete", "tiny", "--confirm", "tiny"])?
        .ended_with(2)?
        .says(&["locked"])?;
    place
        .capstan(&["resume", "tiny"])?
        .ended_with(2)?
        .says(&["is running"])?;
    place.capstan(&["kill"])?.ended_with(0)?;
    place.wait_for_end("tiny")?;
    Ok(())
}

fn attach() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.train(&["--detach"])?.ended_with(0)?;
    place.wait_for_step("tiny", 2)?;
    let mut viewer = place
        .command(&["attach", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut first = String::new();
    if let Some(stdout) = viewer.stdout.as_mut() {
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut first)?;
    }
    check(first.contains("\"event\":\"run\""), first)?;
    kill_process(Pid::from_child(&viewer), Signal::INT)?;
    check(viewer.wait()?.code() == Some(0), "attach leaves with 0")?;
    let step = place.step("tiny");
    place.wait_for_step("tiny", step + 3)?;
    place.capstan(&["stop"])?.ended_with(0)?;
    place.wait_for_end("tiny")?;
    place
        .capstan(&["attach", "--plain"])?
        .ended_with(75)?
        .says(&["stopped after step"])?;
    Ok(())
}

fn ask() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.train(&["--plain"])?.ended_with(0)?;
    let said = place
        .capstan(&["sample", "--prompt", "Ab", "--tokens", "3"])?
        .ended_with(0)?
        .says(&["Abc"])?;
    check(!said.out.contains('\x1b'), said.out)?;
    let sample = place
        .capstan(&["sample", "--prompt", "Ab", "--json"])?
        .ended_with(0)?
        .json()?;
    check(
        sample["event"] == "sample" && sample["schema"] == 1,
        sample.to_string(),
    )?;
    let eval = place.capstan(&["eval", "--json"])?.ended_with(0)?.json()?;
    check(
        eval["event"] == "eval" && eval["schema"] == 1,
        eval.to_string(),
    )?;
    place
        .capstan(&["sample", "--prompt", "bad"])?
        .ended_with(5)?
        .says(&["the prompt is bad"])?;
    place
        .capstan(&["sample", "--temperature", "-1"])?
        .ended_with(2)?;
    place
        .capstan(&["eval"])?
        .ended_with(0)?
        .says(&["loss 1.2500", "64 held-out targets"])?;
    fs::remove_dir_all(place.run("tiny").join("checkpoints"))?;
    place
        .capstan(&["eval"])?
        .ended_with(2)?
        .says(&["no checkpoint"])?;
    Ok(())
}

fn tokens_without_tokenizer() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let ids: Vec<u8> = (0..4000u16).flat_map(|i| (i % 65).to_le_bytes()).collect();
    fs::write(place.config.with_file_name("train.bin"), ids)?;
    let data = json!({ "tokens": { "train": "train.bin", "vocab_size": 65 } });
    place.write_config(json!({ "data": data }))?;
    let said = place.train(&["--plain"])?.ended_with(0)?;
    let said = said.says(&["capstan resume tiny"])?;
    check(!said.out.contains("capstan sample"), said.out)?;
    let said = place.capstan(&["sample"])?.ended_with(2)?;
    let is_told = said.err.starts_with("error: ") && said.err.contains("data.tokens.tokenizer");
    check(is_told && said.err.lines().count() == 1, said.err)
}

fn delete() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.train(&["--plain"])?.ended_with(0)?;
    for arguments in [
        &["delete", "tiny"][..],
        &["delete", "tiny", "--confirm", "tin"],
    ] {
        place
            .capstan(arguments)?
            .ended_with(2)?
            .says(&["--confirm tiny"])?;
    }
    check(place.run("tiny").exists(), "still there")?;
    place
        .capstan(&["delete", "tiny", "--confirm", "tiny"])?
        .ended_with(0)?;
    check(!place.run("tiny").exists(), "gone")
}

fn resume() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.train(&["--plain"])?.ended_with(0)?;
    place
        .capstan(&["resume"])?
        .ended_with(2)?
        .says(&["has completed", "stop.steps=8"])?;
    let bigger = ["resume", "--set", "model.gpt.n_layer=5"];
    place
        .capstan(&bigger)?
        .ended_with(2)?
        .says(&["another model"])?;
    place
        .capstan(&["resume", "--layout", "dp=3"])?
        .ended_with(2)?
        .says(&["parallel.dp"])?;
    for no_more in ["stop.steps=3", "stop.steps=4", "stop.tokens=100"] {
        place
            .capstan(&["resume", "--set", no_more])?
            .ended_with(2)?
            .says(&["after step 4", "more than 4", "stop.steps=8"])?;
    }
    place
        .capstan(&["resume", "--layout", "dp=1"])?
        .ended_with(2)?
        .says(&["more than 4"])?;
    check(place.lives("tiny").len() == 1, "no worker was started")?;

    let mut more = place.command(&[
        "resume",
        "--set",
        "stop.steps=9",
        "--layout",
        "dp=1",
        "--plain",
    ]);
    let said = Said::from(more.env("STAND_IN_STEPS", "9").output()?).ended_with(0)?;
    check(said.out.contains("step 9/9"), said.out)?;
    let plan: Value = serde_json::from_slice(&fs::read(place.run("tiny").join("plan.json"))?)?;
    check(plan["split"]["data"] == "single", plan.to_string())?;
    check(
        place.lives("tiny")[1]["--cause"] == "resumed",
        "the worker knows why it starts",
    )
}

fn top() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let once = ["top", "--count", "1", "--every-s", "1"];
    let said = place.capstan(&[&once[..], &["--json"]].concat())?;
    let said = said.ended_with(0)?.json()?;
    let total = said["host"]["memory_total_bytes"].as_u64();
    check(total > Some(1 << 28), said.to_string())?;
    place
        .capstan(&once)?
        .ended_with(0)?
        .says(&["DEVICE", "host", "GiB"])?;
    Ok(())
}

fn doctor() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let said = place
        .capstan(&["doctor", "--json"])?
        .ended_with(0)?
        .json()?;
    check(
        said["schema"] == 1 && said["machine"]["cores"].as_u64() >= Some(1),
        said.to_string(),
    )?;
    place.capstan(&["doctor"])?.ended_with(0)?.says(&[
        "cores",
        "libtorch: none",
        "not usable, not needed on CPU",
    ])?;
    let place = place.with("CAPSTAN_WORKER", "/nonexistent");
    place
        .capstan(&["doctor"])?
        .ended_with(4)?
        .says(&["BAD", "make build"])?;
    Ok(())
}

fn dry_run() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place
        .train(&["--dry-run"])?
        .ended_with(0)?
        .says(&["ddp on 2 ranks", "after 4 steps"])?;
    let said = place
        .train(&["--dry-run", "--json", "--layout", "dp=1"])?
        .ended_with(0)?
        .json()?;
    check(
        said["schema"] == 1 && said["plan"]["split"]["data"] == "single",
        said.to_string(),
    )?;
    check(!place.runs().exists(), "no run folder")
}

fn bad_configs() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    for (change, parts) in [
        (
            json!({ "modle": {} }),
            &["modle", "did you mean `model`?"][..],
        ),
        (json!({ "model": { "gtp": {} } }), &["did you mean `gpt`?"]),
        (
            json!({ "batch": { "global": "four" } }),
            &["batch.global", "line 1"],
        ),
        (
            json!({ "batch": { "global": 3 } }),
            &["batch.global", "try 4"],
        ),
        (
            json!({ "parallel": { "dp": 3 }, "batch": { "global": 4, "micro": 3 } }),
            &["3 ranks on 2"],
        ),
    ] {
        place.write_config(change)?;
        place.train(&[])?.ended_with(2)?.says(parts)?;
    }
    place.write_config(json!({}))?;
    place
        .train(&["--set", "stop"])?
        .ended_with(2)?
        .says(&["key.path=value"])?;
    let said = place
        .train(&["--set", "batch.global=many"])?
        .ended_with(2)?
        .says(&["--set batch.global: expected a whole number"])?;
    check(!said.err.contains(" line "), said.err)?;
    place.train(&["--layout", "dq=2"])?.ended_with(2)?;
    place
        .capstan(&["train", "/nonexistent.json"])?
        .ended_with(2)?
        .says(&["/nonexistent.json"])?;
    place.capstan(&["no-such-command"])?.ended_with(2)?;
    check(!place.runs().exists(), "no run folder")
}

fn bad_data() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let input = place.config.with_file_name("input.txt");
    fs::write(&input, b"good \xff bad")?;
    place
        .train(&[])?
        .ended_with(5)?
        .says(&["invalid UTF-8 at byte 5"])?;
    fs::write(&input, "")?;
    place.train(&[])?.ended_with(5)?.says(&["empty"])?;
    fs::remove_file(&input)?;
    place.train(&[])?.ended_with(5)?.says(&["no such file"])?;
    fs::write(&input, "short")?;
    place
        .train(&[])?
        .ended_with(2)?
        .says(&["a window needs 65"])?;
    check(!place.runs().exists(), "no run folder")
}

fn missing_worker() -> Result<(), Failed> {
    let place = Workplace::new("well")?.with("CAPSTAN_WORKER", "/nonexistent");
    place
        .train(&[])?
        .ended_with(4)?
        .says(&["capstan-worker", "/nonexistent"])?;
    check(!place.runs().exists(), "no run folder")
}

fn torchrun() -> Result<(), Failed> {
    let place = Workplace::new("well")?.with("WORLD_SIZE", "2");
    let said = place.train(&[])?.ended_with(2)?.says(&["torchrun"])?;
    check(said.err.lines().count() == 1, said.err)
}

fn config() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let path = place.config.display().to_string();
    let said = place
        .capstan(&["config", "--explain", &path, "--set", "seed=7"])?
        .ended_with(0)?;
    let line = |key: &str| {
        said.out
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default()
            .to_owned()
    };
    check(line("seed").ends_with("command line"), line("seed"))?;
    check(
        line("batch.global").ends_with("file") && line("precision").ends_with("default"),
        said.out.clone(),
    )?;
    let said = place
        .capstan(&["config", &path, "--json"])?
        .ended_with(0)?
        .json()?;
    check(
        said["schema"] == 1 && said["config"]["seed"] == 1337,
        said.to_string(),
    )
}

fn data() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let path = place.config.display().to_string();
    place
        .capstan(&["data", "tokenize", &path])?
        .ended_with(0)?
        .says(&["tokens", "tokenized in"])?;
    place
        .capstan(&["data", "tokenize", &path])?
        .ended_with(0)?
        .says(&["tokenized before"])?;
    let text = place
        .config
        .with_file_name("input.txt")
        .display()
        .to_string();
    let said = place
        .capstan(&["data", "inspect", &text, "--tokenizer", "char", "--json"])?
        .ended_with(0)?
        .json()?;
    check(
        said["schema"] == 1 && said["vocab_size"].as_u64() < Some(30),
        said.to_string(),
    )?;
    place
        .capstan(&["data", "inspect", &text])?
        .ended_with(0)?
        .says(&["To be, or not to be"])?;
    place
        .capstan(&["data", "inspect", "/nonexistent"])?
        .ended_with(5)?;
    Ok(())
}

fn install() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let paths = place.capstan(&["paths", "--json"])?.ended_with(0)?.json()?;
    check(
        paths["runs"] == place.runs().display().to_string(),
        paths.to_string(),
    )?;
    for shell in ["bash", "zsh", "fish"] {
        place
            .capstan(&["completions", shell])?
            .ended_with(0)?
            .says(&["capstan", "checkpoint"])?;
    }
    place
        .capstan(&["man"])?
        .ended_with(0)?
        .says(&[".TH capstan", "Exit codes"])?;
    let pages = place.config.with_file_name("man");
    place
        .capstan(&["man", "--out", &pages.display().to_string()])?
        .ended_with(0)?;
    check(pages.join("capstan-train.1").exists(), "a page a command")?;
    let schema = place.capstan(&["schema"])?.ended_with(0)?.json()?;
    check(
        schema["properties"]["batch"].is_object(),
        schema.to_string(),
    )?;
    place
        .capstan(&["--help"])?
        .ended_with(0)?
        .says(&["Exit codes", "75", "RUN is"])?;
    Ok(())
}

fn closed_pipe() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut front = place
        .command(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(front.stdout.take());
    let said = Said::from(front.wait_with_output()?).ended_with(0)?;
    check(said.err.is_empty(), said.err)
}

/// `script` (util-linux) gives a command a terminal.
fn with_script(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    let has_script = Command::new("script").arg("--version").output().is_ok();
    let trial = with_stand_in(name, test);
    let is_ignored = trial.has_ignored_flag() || !has_script;
    trial.with_ignored_flag(is_ignored)
}

fn terminal() -> Result<(), Failed> {
    let place = Workplace::new("well")?
        .with("STAND_IN_STEPS", "40")
        .with("NO_COLOR", "1");
    place.write_config(json!({ "stop": { "steps": 40 } }))?;
    let bar = place
        .train_on_terminal("xterm-256color")?
        .ended_with(0)?
        .out;
    check(
        bar.contains('\x1b') && bar.contains("=>") && bar.contains("loss"),
        bar.clone(),
    )?;
    check(
        !bar.contains("\x1b[3") && !bar.contains("\x1b[1m"),
        "NO_COLOR means no colours",
    )?;
    let dumb = place.train_on_terminal("dumb")?.ended_with(0)?.out;
    check(!dumb.contains('\x1b') && dumb.contains("step 40/40"), dumb)
}
