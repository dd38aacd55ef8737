//! What can go wrong before and around a worker.

use std::{io, path::PathBuf};

use crate::{event::LogError, store::StoreError};

/// A run that can't be created, taken or reached.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("a run named \"{name}\" exists in {}; go on with it: capstan resume {name}", runs_dir.display())]
    NameTaken { name: String, runs_dir: PathBuf },
    #[error("\"{name}\" can't name a run: {problem}")]
    BadName { name: String, problem: &'static str },
    #[error(
        "the run folder {} is locked by {}; capstan stop {} ends a run",
        folder.display(), holder(*pid), folder.display()
    )]
    Locked { folder: PathBuf, pid: Option<u32> },
    #[error("the run {name} is not running (no supervisor answers)")]
    NotRunning { name: String },
    #[error("{message}")]
    NotResumable { message: String },
    #[error(
        "capstan-worker was not found in {searched}; build it (make build) or set CAPSTAN_WORKER to its path"
    )]
    NoWorker { searched: String },
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}: {message}", path.display())]
    Malformed { path: PathBuf, message: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The supervisor's own words.
    #[error("{message}")]
    Supervisor { code: u8, message: String },
}

impl LaunchError {
    /// The exit code that tells a script what kind of error this is.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NameTaken { .. }
            | Self::BadName { .. }
            | Self::Locked { .. }
            | Self::NotResumable { .. } => 2,
            Self::NoWorker { .. } => 4,
            Self::Supervisor { code, .. } => *code,
            Self::NotRunning { .. }
            | Self::Io { .. }
            | Self::Malformed { .. }
            | Self::Log(_)
            | Self::Store(_) => 1,
        }
    }

    /// Wraps a failing system call.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// An error's text with those of its causes, each once.
pub fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("the supervisor with process id {pid}"),
        None => "another supervisor".to_owned(),
    }
}
