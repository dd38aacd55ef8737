//! Why weights on disk can't be used.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Checkpoints that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// A file of a checkpoint, or what it should hold, is not there.
    #[error("the checkpoint does not fit this run: {0}")]
    DoesNotFit(String),
    /// There are checkpoints, and each was rejected.
    #[error("no checkpoint of {folder} can be used:\n{}", list(rejections))]
    AllRejected {
        folder: PathBuf,
        rejections: Vec<Rejection>,
    },
}

/// Why a checkpoint was passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct Rejection {
    pub path: PathBuf,
    pub reason: String,
}

impl LoadError {
    /// Names the file or folder of a failed system call.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}

fn list(rejections: &[Rejection]) -> String {
    rejections
        .iter()
        .map(|rejection| format!("  {rejection}"))
        .collect::<Vec<_>>()
        .join("\n")
}
