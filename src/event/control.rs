//! What a run can be told.

use serde::{Deserialize, Serialize};

/// An order to a running worker; it takes effect between two steps, at the same one on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Save a checkpoint and go on.
    Checkpoint,
    /// Hold after the current step.
    Pause,
    Continue,
    /// Generate text from the current weights, as the config's `sample` says; training waits meanwhile.
    Sample,
    /// Finish the step, save a checkpoint, end.
    Stop,
    /// End at once; what came after the last checkpoint is lost.
    Kill,
}

/// One line on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlRequest {
    pub control: Control,
}

/// The supervisor's answer, one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlReply {
    pub accepted: bool,
    /// Why not, or what will happen.
    pub message: String,
}
