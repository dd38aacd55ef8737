//! Training under a supervisor.

use std::{cell::RefCell, env, fs, sync::Mutex, time::Instant};

use anyhow::{Context, Result, bail};

use super::{
    job::{self, Material},
    link::{self, Link},
};
use crate::{
    base::{brief::Brief, fault::FaultKind, text::one_line},
    checkpoint::{self, Loaded, RunFacts},
    config::Attention,
    data::Progress,
    engine::{self, Ending, Finish, HubSocket, Injection, Job},
    event::{Event, Outcome},
    launch::RunFolder,
    optim,
    plan::{Communicator, PlanError},
    torch::{nccl, process},
    weights::Source,
};

/// Names a planted fault, as `rank:step:kind`; for tests.
const INJECTION_VARIABLE: &str = "CAPSTAN_INJECT";
/// Exit code after an event that says why.
const FAULTED: i32 = 1;

/// What a worker is started to do.
pub struct Task {
    pub folder: RunFolder,
    /// Go on from the newest checkpoint.
    pub from_checkpoint: bool,
    /// Why the run starts again.
    pub cause: Option<String>,
    /// Leave cuDNN's attention out where the plan lets libtorch choose it.
    pub without_cudnn_attention: bool,
    /// The number among the run's workers.
    pub worker: usize,
}

/// Trains the run; returns the process's exit code.
pub fn main(task: &Task) -> i32 {
    process::keep_freed_memory();
    let mut link = match Link::open(task.worker) {
        Ok(link) => link,
        Err(error) => {
            eprintln!("capstan-worker train is started by capstan's supervisor: {error}");
            return 2;
        }
    };
    match train(task, &mut link) {
        Ok(code) => code,
        // The supervisor names the cause by the exit code and the log's last line.
        Err(error) if job::is_of_data(&error) => {
            eprintln!("{}", format!("{error:#}").replace('\n', "; "));
            job::DATA
        }
        Err(error) => {
            let text = format!("{error:#}");
            let cause = Brief::from(one_line(&text));
            if !cause.is_all_of(&text) {
                eprintln!("{text}");
            }
            let operation = "starting".to_owned();
            // Where there are several workers, each has one rank.
            link.emit(&Event::Fault {
                rank: task.worker,
                step: 0,
                operation,
                cause,
                kind: FaultKind::Other,
                retry: false,
            });
            FAULTED
        }
    }
}

fn train(task: &Task, link: &mut Link) -> Result<i32> {
    let folder = &task.folder;
    let Material {
        config,
        mut plan,
        data,
    } = read_with_progress(folder, link)?;
    if task.without_cudnn_attention && plan.attention == Attention::Auto {
        plan.attention = Attention::Flash;
    }
    let hub = match plan.n_workers {
        1 => None,
        _ => Some(HubSocket {
            socket: link::take_hub().context("no socket to the run's other workers")?,
            worker: task.worker,
        }),
    };
    job::ready_libtorch(&plan)?;
    if plan.communicator == Communicator::Nccl {
        nccl::load().context("NCCL can't be loaded")?;
    }
    let names = optim::state_names(&config.optimizer);
    let facts = RunFacts::of(&plan, config.seed, names);
    let checkpoints = folder.checkpoints();
    fs::create_dir_all(&checkpoints)
        .with_context(|| format!("can't make {}", checkpoints.display()))?;
    if task.worker == 0 {
        checkpoint::remove_leftovers(&checkpoints)?;
    }
    let resume = if task.from_checkpoint {
        Some(newest(folder, &facts, link)?)
    } else {
        None
    };
    let pretrained = match (&config.init, &resume) {
        (Some(init), None) => {
            let opened = Source::open(&init.pretrained).and_then(|source| source.fit(&plan.model));
            Some(opened.map_err(PlanError)?)
        }
        _ => None,
    };
    if let Some(cause) = &task.cause {
        let from_step = resume.as_ref().map_or(0, |loaded| loaded.manifest.step);
        link.emit(&Event::Restart {
            from_step,
            cause: cause.clone(),
            without_cudnn_attention: task.without_cudnn_attention,
        });
    }
    let inject = injection()?;
    let job = Job {
        config,
        plan,
        data,
        resume,
        pretrained,
        checkpoints: Some(checkpoints),
        inject,
        hub,
    };
    let link = RefCell::new(link);
    // The receiver is lent to the engine while events go out through the same link.
    let controls = std::mem::replace(
        &mut link.borrow_mut().controls,
        std::sync::mpsc::channel().1,
    );
    let ending = engine::run(job, &controls, &mut |event| link.borrow_mut().emit(&event))?;
    let link = link.into_inner();
    Ok(end(ending, link))
}

/// Says how it ended; returns the exit code.
fn end(ending: Ending, link: &mut Link) -> i32 {
    let (outcome, step, reason) = match ending {
        Ending::Faulted(_) => return FAULTED,
        Ending::Killed { step } => (Outcome::Killed, step, "killed on request".to_owned()),
        Ending::Finished(Finish::Completed { step }) => {
            (Outcome::Completed, step, "all steps are done".to_owned())
        }
        Ending::Finished(Finish::Stopped {
            step,
            unsaved: None,
        }) => (
            Outcome::Stopped,
            step,
            "stopped on request, with a checkpoint".to_owned(),
        ),
        Ending::Finished(Finish::Stopped {
            step,
            unsaved: Some(why),
        }) => (
            Outcome::Failed,
            step,
            format!("stopped on request, but without a checkpoint of this step: {why}"),
        ),
    };
    link.emit(&Event::Ended {
        outcome,
        step,
        reason,
    });
    0
}

/// Reads the run's folder; work of more than half a second is said.
fn read_with_progress(folder: &RunFolder, link: &mut Link) -> Result<Material> {
    let link = Mutex::new((link, Instant::now()));
    job::read(folder, &|Progress { what, done, total }| {
        let Ok(mut guard) = link.lock() else { return };
        if guard.1.elapsed().as_secs_f64() > 0.5 {
            guard.1 = Instant::now();
            guard.0.emit(&Event::Progress {
                what: what.to_owned(),
                done,
                total: Some(total),
            });
        }
    })
}

fn newest(folder: &RunFolder, facts: &RunFacts, link: &mut Link) -> Result<Loaded> {
    let newest = checkpoint::newest_valid(&folder.checkpoints())?;
    for rejection in &newest.rejections {
        let text = format!("passed over a checkpoint: {rejection}");
        link.emit(&Event::Warning { text, rank: None });
    }
    let Some(loaded) = newest.loaded else {
        bail!("there is no checkpoint to go on from; start again with `capstan train`");
    };
    if let Some(obstacle) = loaded.manifest.run.obstacle(facts) {
        bail!("{}: {obstacle}", loaded.path.display());
    }
    for text in loaded.manifest.run.differences(facts) {
        link.emit(&Event::Warning { text, rank: None });
    }
    Ok(loaded)
}

fn injection() -> Result<Option<Injection>> {
    match env::var(INJECTION_VARIABLE) {
        Ok(text) => text
            .parse()
            .map(Some)
            .map_err(anyhow::Error::msg)
            .context(INJECTION_VARIABLE),
        Err(_) => Ok(None),
    }
}
