//! `train`: from a config to a run, and along with it.

use std::path::Path;

use serde_json::json;

use super::{
    cli::{SuperviseArgs, TrainArgs},
    find::shortly,
    follow::{self, Interrupts, ViewKind},
    outcome::{USAGE, refusal},
    plan_text, prepare,
    text::{say, say_json},
};
use crate::{
    config::{self, RunConfig},
    hw::Machine,
    launch::{
        RunFolder,
        names::{self, Wanted},
        start,
        supervisor::{self, Begin},
        worker_program,
    },
    plan::{self, RunPlan},
};

/// `capstan train`.
pub fn train(runs_dir: &Path, args: TrainArgs) -> anyhow::Result<u8> {
    refuse_other_launchers()?;
    let view = ViewKind::choose(args.view);
    let config = config::load_file(&args.config, &args.changes.set, args.changes.layout)?.config;
    let wanted = match args.name {
        Some(name) => Wanted::Exact(name),
        None => Wanted::Base(config.name.clone()),
    };
    let (Wanted::Base(name) | Wanted::Exact(name)) = &wanted;
    names::check(name)?;
    if !args.dry_run {
        worker_program::find()?;
    }
    let plan = plan_with_weights(&config, view)?;
    if args.dry_run {
        return show_plan(name, &plan, args.view.json);
    }
    let interrupts = Interrupts::listen()?;
    let (folder, supervisor) = start::begin(runs_dir, &wanted, &config, &plan)?;
    if args.detach {
        let done = format!("started {}", folder.name());
        return show_detached(runs_dir, &folder, &done, args.view.json);
    }
    if view != ViewKind::Json {
        for line in plan_text::lines(&folder.name(), &plan) {
            say(&line)?;
        }
    }
    follow::own(runs_dir, &folder, view, supervisor, interrupts, None)
}

/// Resolves a config on this machine, with its data prepared.
///
/// # Errors
/// Unreadable data, or everything that the plan refuses.
pub fn plan(config: &RunConfig, view: ViewKind) -> anyhow::Result<RunPlan> {
    let data = prepare::prepare(&config.data, view)?;
    Ok(plan::resolve(config, &Machine::probe(), &data)?)
}

/// As [`plan`], for a run that starts: with the weights that it starts from, which must fit.
fn plan_with_weights(config: &RunConfig, view: ViewKind) -> anyhow::Result<RunPlan> {
    let data = prepare::prepare(&config.data, view)?;
    Ok(start::plan(config, &Machine::probe(), &data)?)
}

/// Started N times by mistake, N runs would fight for the same devices.
pub fn refuse_other_launchers() -> anyhow::Result<()> {
    let world = std::env::var("WORLD_SIZE")
        .ok()
        .and_then(|world| world.parse().ok());
    match world {
        Some(2u64..) => Err(refusal(
            USAGE,
            "WORLD_SIZE is above 1: capstan starts its ranks itself, run it without torchrun or srun",
        )),
        _ => Ok(()),
    }
}

/// Says what was `done` with a run that nobody follows, and where it can be found.
pub fn show_detached(
    runs_dir: &Path,
    folder: &RunFolder,
    done: &str,
    json: bool,
) -> anyhow::Result<u8> {
    if json {
        say_json(json!({ "name": folder.name(), "folder": folder.root() }))?;
    } else {
        say(&format!("{done} in {}", folder.root().display()))?;
        say(&format!(
            "follow it: capstan attach {}",
            shortly(runs_dir, folder)
        ))?;
    }
    Ok(0)
}

/// `capstan supervise`, which `train` and `resume` start.
pub fn supervise(args: SuperviseArgs) -> u8 {
    let begin = if args.resume {
        Begin::Resume
    } else {
        Begin::Fresh
    };
    supervisor::run(&args.folder, begin, args.warning)
}

fn show_plan(name: &str, plan: &RunPlan, json: bool) -> anyhow::Result<u8> {
    if json {
        say_json(json!({ "name": name, "plan": plan }))?;
        return Ok(0);
    }
    for line in plan_text::lines(name, plan) {
        say(&line)?;
    }
    Ok(0)
}
