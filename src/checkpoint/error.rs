//! What can go wrong with checkpoints.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{base::units, torch::TorchError, weights::LoadError};

/// A checkpoint that could not be written or restored. The one before it is untouched.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("a checkpoint needs {}, {} are free at {path}", units::bytes(*needed), units::bytes(*free))]
    NoSpace {
        path: PathBuf,
        needed: u64,
        free: u64,
    },
    /// NaN or infinity never reaches a published checkpoint.
    #[error("{tensor} holds NaN or infinity")]
    NotFinite { tensor: String },
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// The checkpoint belongs to another model or optimizer.
    #[error("the checkpoint does not fit this run: {0}")]
    DoesNotFit(String),
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl CheckpointError {
    /// Names the file or folder of a failed system call.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}
