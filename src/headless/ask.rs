//! `sample` and `eval`: a worker's answer from a checkpoint.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context;

use super::{
    cli::{RunArgs, SampleArgs},
    find::find,
    follow::{History, Tail},
    outcome::{FAILED, USAGE, refusal},
    text::{JSON_VERSION, say, say_exactly},
};
use crate::{
    base::{text::printable, units},
    config::{RunConfig, SampleConfig},
    event::{Control, Event, NO_SAMPLE},
    hw::{Device, Machine},
    launch::{RunFolder, control, lock, worker_program},
};

/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(50);

/// `capstan sample`.
pub fn sample(runs_dir: &Path, args: &SampleArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    let config = config(&folder)?;
    if !config.data.has_tokenizer() {
        let message = format!(
            "{} trained on tokens without a tokenizer, so text can't be sampled; state data.tokens.tokenizer in the config of another run",
            folder.name()
        );
        return Err(refusal(USAGE, message));
    }
    if args.now {
        return sample_now(&folder, args.json);
    }
    let settings = settings(config, args)?;
    let mut command = worker("sample", &folder)?;
    command
        // In one argument: a prompt may start with a dash.
        .arg(format!("--prompt={}", settings.prompt))
        .args(["--tokens", &settings.tokens.to_string()])
        .args(["--temperature", &settings.temperature.to_string()])
        .args(["--seed", &settings.seed.to_string()]);
    if let Some(top_k) = settings.top_k {
        command.args(["--top-k", &top_k.to_string()]);
    }
    ask(command, args.json)
}

/// Orders a sample of the run and waits for it in the run's log.
fn sample_now(folder: &RunFolder, json: bool) -> anyhow::Result<u8> {
    let history = History::read(folder)?;
    let reply = control::send(folder, Control::Sample)?;
    if !reply.accepted {
        return Err(refusal(FAILED, reply.message));
    }
    let mut tail = Tail::open(folder, Some(history))?;
    loop {
        // Before the look at the log, so that a run's last words are seen.
        let is_running = lock::is_held(folder);
        while let Some(record) = tail.next_record()? {
            match &record.event {
                Event::Sample { .. } => {
                    show(&serde_json::to_string(&record)?, json)?;
                    return Ok(0);
                }
                Event::Warning { text, .. } if text.starts_with(NO_SAMPLE) => {
                    return Err(refusal(FAILED, text.clone()));
                }
                _ => {}
            }
        }
        if !is_running {
            let message = format!("{} ended before it sampled", folder.name());
            return Err(refusal(FAILED, message));
        }
        thread::sleep(POLL);
    }
}

/// `capstan eval`.
pub fn eval(runs_dir: &Path, args: &RunArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    ask(worker("eval", &folder)?, args.json)
}

fn config(folder: &RunFolder) -> anyhow::Result<RunConfig> {
    let path = folder.config();
    let text = crate::base::read::bytes(&path, crate::base::read::Bound::TOLD)
        .with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// What the command line leaves out, the run's config says.
fn settings(config: RunConfig, args: &SampleArgs) -> anyhow::Result<SampleConfig> {
    let own = config.sample.unwrap_or_default();
    let temperature = args.temperature.unwrap_or(own.temperature);
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(refusal(
            USAGE,
            format!("--temperature {temperature}: give at least 0"),
        ));
    }
    Ok(SampleConfig {
        prompt: args.prompt.clone().unwrap_or(own.prompt),
        tokens: args.tokens.unwrap_or(own.tokens),
        temperature,
        top_k: args.top_k.or(own.top_k).filter(|&k| k > 0),
        seed: args.seed.unwrap_or(own.seed),
    })
}

fn worker(task: &str, folder: &RunFolder) -> anyhow::Result<Command> {
    if !folder.has_checkpoint() {
        return Err(refusal(
            USAGE,
            format!("{} has no checkpoint yet", folder.name()),
        ));
    }
    let program = worker_program::find()?;
    let mut command = Command::new(&program);
    command
        .arg(task)
        .arg(folder.root())
        .envs(worker_program::environment())
        .envs(cards_of(folder))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(command)
}

/// What makes the worker see the card of the run's first rank, where that is there; else it takes those that CUDA counts.
fn cards_of(folder: &RunFolder) -> Vec<(OsString, OsString)> {
    // What is wrong with the plan the worker says.
    let plan = folder.read_plan();
    let Some(mut plan) = plan.filter(|plan| !plan.gpu_uuids.is_empty()) else {
        return Vec::new();
    };
    // Cards behind it count for nothing; one before it that is gone would end CUDA's list.
    if let Some(Device::Cuda(index)) = plan.ranks.first().map(|rank| rank.device) {
        plan.gpu_uuids.truncate(index + 1);
    }
    let visible = Machine::probe().gpus;
    let is_there = |uuid: &String| visible.iter().any(|gpu| gpu.uuid == *uuid);
    match plan.gpu_uuids.iter().all(is_there) {
        true => worker_program::environment_of(&plan),
        false => Vec::new(),
    }
}

/// Shows what the worker says as it says it, and takes its exit code.
fn ask(mut command: Command, json: bool) -> anyhow::Result<u8> {
    let mut child = command.spawn().context("starting capstan-worker")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            show(&line?, json)?;
        }
    }
    let status = child.wait()?;
    match status.code() {
        Some(code) => Ok(u8::try_from(code).unwrap_or(FAILED)),
        None => Err(refusal(FAILED, format!("the worker died ({status})"))),
    }
}

fn show(line: &str, json: bool) -> anyhow::Result<()> {
    if json {
        match line.strip_prefix('{') {
            // Not read and written again: that could cost a loss its last bit.
            Some(fields) => say_exactly(&format!("{{\"schema\":{JSON_VERSION},{fields}"))?,
            None => say_exactly(line)?,
        }
        return Ok(());
    }
    match serde_json::from_str(line) {
        Ok(Event::Sample { prompt, text, .. }) => say(&printable(&format!("{prompt}{text}")))?,
        Ok(Event::Eval {
            step,
            loss,
            targets,
            seconds,
            ..
        }) => say(&format!(
            "loss {} over {targets} held-out targets, after step {step} ({})",
            units::loss(loss),
            units::seconds(seconds)
        ))?,
        Ok(Event::Warning { text, .. }) => say(&format!("warning: {text}"))?,
        _ => {}
    }
    Ok(())
}
