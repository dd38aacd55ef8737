//! `resume`: on from the last checkpoint, perhaps under another split.

use std::path::Path;

use super::{
    cli::{ChangeArgs, ResumeArgs},
    find::{find, shortly},
    follow::{self, History, Interrupts, ViewKind},
    outcome::{USAGE, refusal},
    prepare,
    text::say,
    train,
};
use crate::{
    config::{self, RunConfig},
    hw::Machine,
    launch::{
        RunFolder, cards,
        lock::RunLock,
        runs::{is_complete, resumable},
        start,
        supervisor::Begin,
    },
    plan::{self, RunPlan},
    store::RunState,
};

/// `capstan resume`.
pub fn resume(runs_dir: &Path, args: ResumeArgs) -> anyhow::Result<u8> {
    train::refuse_other_launchers()?;
    let view = ViewKind::choose(args.view);
    let folder = find(runs_dir, args.run.as_deref())?;
    let name = shortly(runs_dir, &folder);
    let changed = !args.changes.set.is_empty() || args.changes.layout.is_some();
    let state = resumable(&folder, &name, changed)?;
    let step = newest_step(&folder);
    if changed {
        change(&folder, &name, &args.changes, view, &state)?;
    }
    let history = History::read(&folder)?;
    let interrupts = Interrupts::listen()?;
    let supervisor = start::supervise(&folder, Begin::Resume)?;
    if args.detach {
        let done = format!("resumed {} after step {step}", folder.name());
        return train::show_detached(runs_dir, &folder, &done, args.view.json);
    }
    if view != ViewKind::Json {
        say(&format!("resuming {name} after step {step}"))?;
    }
    follow::own(
        runs_dir,
        &folder,
        view,
        supervisor,
        interrupts,
        Some(history),
    )
}

/// The step that the newest checkpoint stands after.
fn newest_step(folder: &RunFolder) -> u64 {
    folder.published().last().map_or(0, |&(step, _)| step)
}

/// Rewrites what the run is to do; a changed model could not load the checkpoint.
fn change(
    folder: &RunFolder,
    name: &str,
    changes: &ChangeArgs,
    view: ViewKind,
    state: &RunState,
) -> anyhow::Result<()> {
    let config: RunConfig =
        config::load_file(&folder.config(), &changes.set, changes.layout)?.config;
    let before: RunPlan = serde_json::from_slice(&crate::base::read::bytes(
        &folder.plan(),
        crate::base::read::Bound::TOLD,
    )?)?;
    let own = config::load_file(&folder.config(), &[], None)?.config;
    // What a run started from does not change with what it is to do.
    let mut plan = RunPlan {
        init: before.init.clone(),
        ..planned(&config, &own, changes, &before, view)?
    };
    if config.devices == own.devices {
        cards::carry(&mut plan, &before);
    }
    if !plan.model.is_same_network(&before.model) {
        let (old, new) = (
            serde_json::to_string(&before.model)?,
            serde_json::to_string(&plan.model)?,
        );
        let message =
            format!("the checkpoints hold another model: {old}, not {new}; start a new run for it");
        return Err(refusal(USAGE, message));
    }
    // A run that was cut off after its last step has its end still to do.
    let is_as_before = plan.stop == before.stop && !is_complete(state);
    let done = newest_step(folder);
    if let Some(steps) = plan.total_steps().filter(|&steps| steps <= done)
        && !is_as_before
    {
        let remedy = format!("capstan resume {name} --set stop.steps={}", done * 2);
        let message = format!(
            "{name} has a checkpoint after step {done}, and a run of {steps} steps is over by then; give more than {done}: {remedy}"
        );
        return Err(refusal(USAGE, message));
    }
    let _lock = RunLock::acquire(folder)?;
    start::write_intent(folder, &config, &plan)?;
    Ok(())
}

/// The plan of what the run is to do; its data stay its own, unless `changes` name them.
fn planned(
    config: &RunConfig,
    own: &RunConfig,
    changes: &ChangeArgs,
    before: &RunPlan,
    view: ViewKind,
) -> anyhow::Result<RunPlan> {
    let names_data = changes.set.iter().any(|set| set.is_within("data"));
    if names_data || config.data != own.data {
        return train::plan(config, view);
    }
    let data = prepare::reopen(&config.data, &before.data, view)?;
    Ok(plan::resolve(config, &Machine::probe(), &data)?)
}
