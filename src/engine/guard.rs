//! Saying where a value that is no number came from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Stepper;
use crate::{data::StepBatch, torch::TorchError};

/// Where one was found. The least of several is the nearest to its origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    pass: Pass,
    /// When in the pass, by stage and by position on it.
    when: (i64, i64),
    /// A tensor's or a segment's.
    name: String,
}

/// A part of a step, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Pass {
    Before,
    Forward,
    Backward,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.pass {
            Pass::Before => write!(f, "weights already hold it, first in {name}"),
            Pass::Forward => write!(f, "it appeared in the forward pass of {name}"),
            Pass::Backward => write!(
                f,
                "it appeared in the backward pass, first seen in the gradient of {name}"
            ),
        }
    }
}

/// Looks for one in this rank's part of a step whose gradients stand in the buffers.
///
/// The bad update was not made (the optimizer saw the norm), nor any after it, so the same forward pass can be run
/// again, segment by segment.
///
/// # Errors
/// libtorch's.
pub fn look(
    stepper: &Stepper,
    stage: usize,
    batch: StepBatch,
    step: u64,
) -> Result<Option<Origin>, TorchError> {
    let stage = stage as i64;
    let origin = |pass, when, name: &str| {
        Some(Origin {
            pass,
            when,
            name: name.to_owned(),
        })
    };
    let store = &stepper.store;
    if let Some(bad) = store.bad_weights()?.first() {
        return Ok(origin(
            Pass::Before,
            (stage, bad.segment as i64),
            &bad.tensor,
        ));
    }
    // A part of a model can't be run again alone.
    let micros = if stepper.is_whole() {
        batch.micros
    } else {
        Vec::new()
    };
    for micro in micros {
        if let Some((number, segment)) = stepper.first_bad_segment(&micro, step)? {
            return Ok(origin(Pass::Forward, (stage, number as i64), &segment));
        }
    }
    // The backward pass goes the other way.
    let bad = store.bad_grads()?;
    let last = bad.iter().map(|bad| bad.segment).max();
    let bad = bad.iter().find(|bad| Some(bad.segment) == last);
    Ok(bad.and_then(|bad| {
        let when = (-stage, -(bad.segment as i64));
        origin(Pass::Backward, when, &bad.tensor)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_in_a_step_is_the_least() {
        let at = |pass, when, name: &str| Origin {
            pass,
            when,
            name: name.to_owned(),
        };
        let mut origins = [
            at(Pass::Backward, (0, 0), "wte.weight"),
            at(Pass::Backward, (-1, -10), "h.9.mlp"),
            at(Pass::Backward, (-1, -2), "h.1.mlp"),
            at(Pass::Forward, (0, 10), "h.9.mlp"),
            at(Pass::Forward, (0, 2), "h.10.mlp"),
            at(Pass::Before, (1, 3), "ln_f.weight"),
        ];
        origins.sort();
        let names: Vec<&str> = origins.iter().map(|origin| origin.name.as_str()).collect();
        let expected = [
            "ln_f.weight",
            "h.10.mlp",
            "h.9.mlp",
            "h.9.mlp",
            "h.1.mlp",
            "wte.weight",
        ];
        assert_eq!(names, expected);
    }
}
