//! Tasks on a run's newest checkpoint, and on libtorch itself. Results are events on standard output.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::json;

use super::job::{self, Material};
use crate::{
    checkpoint::{self, Loaded},
    config::SampleConfig,
    data::EvalWindows,
    dist::HostGroup,
    engine::{self, Passes, RankDevice, Stepper, Turn},
    event::Event,
    hw::{Device, WorkerReport},
    launch::RunFolder,
    plan::RunPlan,
    torch::{nccl, nvrtc, runtime},
};

/// Exit codes as in the README.
const DONE: i32 = 0;
const FAILED: i32 = 1;

/// Generates text; returns the process's exit code.
pub fn sample(folder: &RunFolder, config: &SampleConfig) -> i32 {
    ending(|| {
        let (material, loaded, mut passes) = open(folder)?;
        let tokenizer = material.data.tokenizer.as_ref();
        let tokenizer = tokenizer.context("the data has no tokenizer: text can't become tokens")?;
        let prompt = tokenizer.encode(&config.prompt)?;
        let (seq_len, vocab_size) = (material.plan.model.seq_len(), material.data.vocab_size);
        let mut meter = Meter::new("sampling", config.tokens as u64);
        let mut n_drawn = 0;
        let ids = engine::generate(
            &prompt,
            seq_len,
            vocab_size,
            config,
            |context| passes.logits(context, Some(1)),
            |drawn| {
                n_drawn += 1;
                meter.done(n_drawn);
                Ok(drawn.unwrap_or_default())
            },
        )?;
        let text = tokenizer.decode(&ids);
        say(&Event::Sample {
            step: loaded.manifest.step,
            prompt: config.prompt.clone(),
            text,
        })
    })
}

/// Evaluates; returns the process's exit code.
pub fn evaluate(folder: &RunFolder) -> i32 {
    ending(|| {
        let (material, loaded, mut passes) = open(folder)?;
        let began = Instant::now();
        let val = &material.data.val;
        let windows = EvalWindows::all(val.len(), material.plan.model.seq_len())?;
        let seats = HostGroup::of_threads(&Arc::default(), &[Arc::default()]);
        let group = seats.into_iter().next().context("a group of one")?;
        let mut meter = Meter::new("evaluating", 0);
        let evaluated = engine::evaluate(
            val,
            &windows,
            material.plan.micro_batch,
            Turn::ALONE,
            &group,
            |batch| passes.loss_sum(batch),
            |done, total| {
                meter.total = total;
                meter.done(done);
            },
        )?;
        say(&Event::Eval {
            step: loaded.manifest.step,
            loss: evaluated.loss,
            targets: evaluated.targets,
            seconds: began.elapsed().as_secs_f64(),
            is_final: true,
        })
    })
}

/// Prints a row of logits for each id; returns the process's exit code.
pub fn logits(folder: &RunFolder, ids: &[i64]) -> i32 {
    ending(|| {
        let (.., mut passes) = open(folder)?;
        let logits = passes.logits(ids, None)?.context("one rank has the head")?;
        let rows: Vec<Vec<f64>> = logits.f_to_kind(tch::Kind::Double)?.try_into()?;
        Ok(writeln!(io::stdout().lock(), "{}", json!(rows))?)
    })
}

/// Says what libtorch offers; returns the process's exit code.
pub fn doctor() -> i32 {
    ending(|| {
        let cuda = runtime::load_cuda().map(|()| "loaded".to_owned());
        job::ready_this_thread()?;
        let report = WorkerReport {
            libtorch: env!("CAPSTAN_LIBTORCH").to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cuda_devices: usize::try_from(tch::Cuda::device_count()).unwrap_or(0),
            cuda: cuda.into(),
            has_cudnn: tch::Cuda::cudnn_is_available(),
            nccl: nccl::load().into(),
            nvrtc: nvrtc::check().into(),
        };
        let report = serde_json::to_string(&report)?;
        Ok(writeln!(io::stdout().lock(), "{report}")?)
    })
}

fn ending(task: impl FnOnce() -> Result<()>) -> i32 {
    match task() {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: {error:#}");
            match job::is_of_data(&error) {
                true => job::DATA,
                false => FAILED,
            }
        }
    }
}

/// The newest checkpoint of a run as a model on the run's first device.
fn open(folder: &RunFolder) -> Result<(Material, Loaded, Passes)> {
    let material = job::read(folder, &|_| ())?;
    let device = material
        .plan
        .ranks
        .first()
        .map_or(Device::Cpu, |rank| rank.device);
    job::ready_libtorch(&material.plan)?;
    let loaded = checkpoint::newest_valid(&folder.checkpoints())?.loaded;
    let loaded = loaded.context("the run has no checkpoint yet")?;
    let stepper = stepper(&material.plan, device)?;
    checkpoint::restore(&loaded, &stepper.store, &[])?;
    Ok((material, loaded, Passes::alone(stepper)))
}

fn stepper(plan: &RunPlan, device: Device) -> Result<Stepper> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let device = RankDevice::enter(device, threads)?;
    Ok(Stepper::alone(&plan.model, plan.precision, 0, device)?)
}

fn say(event: &Event) -> Result<()> {
    Ok(writeln!(
        io::stdout().lock(),
        "{}",
        serde_json::to_string(event)?
    )?)
}

/// Says how far a task is, twice a second.
struct Meter {
    what: &'static str,
    total: u64,
    last_word: Instant,
}

impl Meter {
    fn new(what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            last_word: Instant::now(),
        }
    }

    fn done(&mut self, done: u64) {
        if self.last_word.elapsed().as_secs_f64() > 0.5 {
            self.last_word = Instant::now();
            // A reader that has gone away ends the task at its result.
            let _ = say(&Event::Progress {
                what: self.what.to_owned(),
                done,
                total: Some(self.total),
            });
        }
    }
}
