//! Saying where a value that is no number came from.

use super::{EngineError, Stepper};
use crate::{data::StepBatch, torch::TorchError};

/// Explains a non-finite loss or gradient norm of `step`.
///
/// The bad update was not made (the optimizer saw the norm), so the same forward pass can be run again,
/// segment by segment.
///
/// # Errors
/// libtorch's.
pub fn explain(
    stepper: &Stepper,
    batch: StepBatch,
    step: u64,
    loss: f64,
) -> Result<EngineError, TorchError> {
    let what = if loss.is_finite() {
        "gradient norm"
    } else {
        "loss"
    };
    Ok(EngineError::NotFinite {
        what,
        place: place(stepper, batch, step)?,
    })
}

fn place(stepper: &Stepper, batch: StepBatch, step: u64) -> Result<String, TorchError> {
    if let Some(bad) = stepper.store.first_bad_weight()? {
        return Ok(format!("weights already hold it, first in {}", bad.tensor));
    }
    // A part of a model can't be run again alone.
    let micros = if stepper.is_whole() {
        batch.micros
    } else {
        Vec::new()
    };
    for micro in micros {
        if let Some(segment) = stepper.first_bad_segment(&micro, step)? {
            return Ok(format!("it appeared in the forward pass of {segment}"));
        }
    }
    Ok(match stepper.store.first_bad_grad()? {
        Some(bad) => format!(
            "it appeared in the backward pass, first seen in the gradient of {}",
            bad.tensor
        ),
        None => "this rank's weights and gradients are finite, so another rank's part was not"
            .to_owned(),
    })
}
