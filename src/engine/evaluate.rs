//! The loss over held-out windows, the same number under every split.

use super::{EngineError, Stepper};
use crate::{
    data::{EvalWindows, HostBatch, TokenFile},
    dist::HostGroup,
};

/// A part of an evaluation: its number, summed loss and valid targets.
pub type PartialLoss = (u64, f64, u64);

/// Mean loss over windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluated {
    pub loss: f64,
    pub targets: u64,
}

/// Evaluates batches of `rows` windows, one rank after the other in turn; all ranks get the result.
///
/// Batches are cut and added in the same order whatever the number of ranks. `on_batch` hears how many
/// of how many are done.
///
/// # Errors
/// libtorch's, or a failed rank.
pub fn evaluate(
    stepper: &Stepper,
    tokens: &TokenFile,
    windows: &EvalWindows,
    rows: usize,
    (rank, world): (usize, usize),
    group: &HostGroup<Vec<PartialLoss>>,
    mut on_batch: impl FnMut(u64, u64),
) -> Result<Evaluated, EngineError> {
    let rows = rows.max(1) as u64;
    let n_batches = windows.len().div_ceil(rows);
    let mut own = Vec::new();
    for number in (rank as u64..n_batches).step_by(world) {
        let range = number * rows..((number + 1) * rows).min(windows.len());
        let batch = HostBatch::of_eval(tokens, windows, range);
        let n_valid = batch.n_valid;
        own.push((number, stepper.loss_sum(batch)?, n_valid));
        on_batch(number + 1, n_batches);
    }
    let mut all: Vec<PartialLoss> = group.exchange(own)?.iter().flatten().copied().collect();
    all.sort_unstable_by_key(|&(number, ..)| number);
    let targets: u64 = all.iter().map(|&(_, _, n_valid)| n_valid).sum();
    let sum: f64 = all.iter().map(|&(_, loss, _)| loss).sum();
    Ok(Evaluated {
        loss: sum / targets.max(1) as f64,
        targets,
    })
}
