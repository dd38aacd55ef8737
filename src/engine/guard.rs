//! Saying where a value that is no number came from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Stepper;
use crate::{data::StepBatch, torch::TorchError};

/// Where one was found, by tensor or segment: the earlier in a step, the nearer to its origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    Weights(String),
    Forward(String),
    Backward(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights(tensor) => write!(f, "weights already hold it, first in {tensor}"),
            Self::Forward(segment) => write!(f, "it appeared in the forward pass of {segment}"),
            Self::Backward(tensor) => write!(
                f,
                "it appeared in the backward pass, first seen in the gradient of {tensor}"
            ),
        }
    }
}

/// Looks for one in this rank's part of a step whose gradients stand in the buffers.
///
/// The bad update was not made (the optimizer saw the norm), so the same forward pass can be run again,
/// segment by segment.
///
/// # Errors
/// libtorch's.
pub fn look(stepper: &Stepper, batch: StepBatch, step: u64) -> Result<Option<Place>, TorchError> {
    if let Some(bad) = stepper.store.first_bad_weight()? {
        return Ok(Some(Place::Weights(bad.tensor)));
    }
    // A part of a model can't be run again alone.
    let micros = if stepper.is_whole() {
        batch.micros
    } else {
        Vec::new()
    };
    for micro in micros {
        if let Some(segment) = stepper.first_bad_segment(&micro, step)? {
            return Ok(Some(Place::Forward(segment)));
        }
    }
    let bad = stepper.store.first_bad_grad()?;
    Ok(bad.map(|bad| Place::Backward(bad.tensor)))
}
