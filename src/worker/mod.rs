//! The worker process: the only one that links libtorch.
//!
//! `train` speaks JSON lines over file descriptor 0, a socket to the supervisor: events up, controls
//! down. The other tasks print events to standard output.

mod inspect;
mod job;
mod link;
mod self_test;
mod train;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use self::train::Task as TrainTask;
use crate::{config::SampleConfig, launch::RunFolder, torch::process::exit_now};

/// The worker's command line; people use `capstan`.
#[derive(Debug, Parser)]
#[command(name = "capstan-worker", version)]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Train a run, under its supervisor.
    Train {
        folder: PathBuf,
        #[arg(long)]
        from: Origin,
        /// Why the run starts again.
        #[arg(long)]
        cause: Option<String>,
        /// cuDNN's attention may have given NaN.
        #[arg(long)]
        without_cudnn_attention: bool,
        /// The number among the run's workers; where there are several, standard output is a socket to their hub.
        #[arg(long, default_value_t = 0)]
        worker: usize,
    },
    /// Generate text from the newest checkpoint.
    Sample {
        folder: PathBuf,
        #[arg(long, default_value = "\n")]
        prompt: String,
        #[arg(long)]
        tokens: usize,
        #[arg(long)]
        temperature: f64,
        #[arg(long)]
        top_k: Option<usize>,
        #[arg(long)]
        seed: u64,
    },
    /// Evaluate the newest checkpoint over the whole held-out split.
    Eval { folder: PathBuf },
    /// Print the logits of token ids under the newest checkpoint, to compare them with other programs'.
    Logits {
        folder: PathBuf,
        /// At most as many as the model's context.
        #[arg(long, value_delimiter = ',')]
        ids: Vec<i64>,
    },
    /// Say what libtorch offers here.
    Doctor,
    /// Test streams, events and NCCL on the first GPU.
    #[command(hide = true)]
    SelfTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Origin {
    Fresh,
    Checkpoint,
}

/// Does what the command line says and ends the process.
pub fn main() -> ! {
    let code = match Arguments::parse().task {
        Task::Train {
            folder,
            from,
            cause,
            without_cudnn_attention,
            worker,
        } => train::main(&TrainTask {
            folder: RunFolder::new(folder),
            from_checkpoint: from == Origin::Checkpoint,
            cause,
            without_cudnn_attention,
            worker,
        }),
        Task::Sample {
            folder,
            prompt,
            tokens,
            temperature,
            top_k,
            seed,
        } => {
            let config = SampleConfig {
                prompt,
                tokens,
                temperature,
                top_k,
                seed,
            };
            inspect::sample(&RunFolder::new(folder), &config)
        }
        Task::Eval { folder } => inspect::evaluate(&RunFolder::new(folder)),
        Task::Logits { folder, ids } => inspect::logits(&RunFolder::new(folder), &ids),
        Task::Doctor => inspect::doctor(),
        Task::SelfTest => self_test::main(),
    };
    exit_now(code)
}
