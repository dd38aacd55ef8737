//! Why a rank can't go on.

use crate::{
    base::{fault::FaultKind, rendezvous::Poisoned},
    checkpoint::CheckpointError,
    data::DataError,
    dist::CommError,
    torch::TorchError,
    torch::peers::PeerError,
};

/// A rank's error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The consequence of another rank's error, which is reported instead.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error(transparent)]
    Comm(CommError),
    #[error(transparent)]
    Torch(#[from] TorchError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Each worker reads its checkpoint by itself.
    #[error("the ranks would go on from different steps: {steps:?}")]
    Apart { steps: Vec<u64> },
    /// Training has diverged. Where the norm is not finite, the weights are those before the bad step.
    #[error("the {what} is no finite number; {place}")]
    NotFinite { what: &'static str, place: String },
}

impl EngineError {
    /// Whether starting again from a checkpoint may help.
    pub fn may_help_to_retry(&self) -> bool {
        match self {
            Self::Torch(_) | Self::Comm(CommError::Torch(_)) | Self::Apart { .. } => true,
            Self::Poisoned(_)
            | Self::Comm(_)
            | Self::Data(_)
            | Self::Checkpoint(_)
            | Self::NotFinite { .. } => false,
        }
    }

    /// The kind that the worker's fault is of; `has_no_memory`: the rank's GPU refused a tensor its memory.
    pub fn kind(&self, has_no_memory: bool) -> FaultKind {
        match self {
            Self::NotFinite { .. } => FaultKind::NotFinite,
            Self::Torch(_) | Self::Comm(CommError::Torch(_)) if has_no_memory => {
                FaultKind::OutOfMemory
            }
            _ => FaultKind::Other,
        }
    }

    /// What libtorch said beyond the first line, for the worker's log.
    pub fn details(&self) -> Option<&str> {
        let (Self::Torch(error)
        | Self::Comm(CommError::Torch(error) | CommError::Peer(PeerError::Torch(error)))) = self
        else {
            return None;
        };
        error.has_more().then_some(error.details.as_str())
    }

    /// Whether another rank's error is behind it.
    pub fn is_consequence(&self) -> bool {
        matches!(self, Self::Poisoned(_))
    }
}

impl From<CommError> for EngineError {
    fn from(error: CommError) -> Self {
        match error {
            CommError::Peer(PeerError::Poisoned(poisoned)) => Self::Poisoned(poisoned),
            other => Self::Comm(other),
        }
    }
}

impl From<tch::TchError> for EngineError {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(error.into())
    }
}
