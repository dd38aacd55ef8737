//! The loss over held-out windows, the same number under every split.

use std::collections::VecDeque;

use super::{EngineError, late::LateLoss};
use crate::{
    data::{EvalWindows, HostBatch, TokenFile},
    dist::HostGroup,
};

/// Batches that are launched before the first of them is read: a device never waits for the host's next launch.
const MOST_UNREAD: usize = 4;

/// A part of an evaluation: its number, summed loss and valid targets.
pub type PartialLoss = (u64, f64, u64);

/// Mean loss over windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluated {
    pub loss: f64,
    pub targets: u64,
}

/// Which of an evaluation's batches a replica takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub replica: usize,
    pub n_replicas: usize,
    /// No replica can compute without the others: those without a batch repeat the last.
    pub in_step: bool,
}

impl Turn {
    /// The only replica.
    pub const ALONE: Self = Self {
        replica: 0,
        n_replicas: 1,
        in_step: false,
    };
}

/// Evaluates batches of `rows` windows, one replica after the other in turn; all ranks get the result.
///
/// Batches are cut and added in the same order whatever the number of ranks. `loss_sum` launches a batch, and gives
/// its summed loss on the one rank of each replica that reports it. Losses are read a few batches later. `on_batch`
/// hears how many of how many are done.
///
/// # Errors
/// What `loss_sum` says, or a failed rank.
pub fn evaluate(
    tokens: &TokenFile,
    windows: &EvalWindows,
    rows: usize,
    turn: Turn,
    group: &HostGroup<Vec<PartialLoss>>,
    mut loss_sum: impl FnMut(HostBatch) -> Result<LateLoss, EngineError>,
    mut on_batch: impl FnMut(u64, u64),
) -> Result<Evaluated, EngineError> {
    let rows = rows.max(1) as u64;
    let n_batches = windows.len().div_ceil(rows);
    let mut own = Vec::new();
    let mut unread: VecDeque<(u64, LateLoss, u64)> = VecDeque::new();
    let mut read = |(number, loss, n_valid): (u64, LateLoss, u64)| -> Result<(), EngineError> {
        let loss = group.progress().waiting_for_device(|| loss.read())?;
        let loss = loss.filter(|_| number < n_batches);
        own.extend(loss.map(|loss| (number, loss, n_valid)));
        on_batch(number.min(n_batches - 1) + 1, n_batches);
        Ok(())
    };
    let n_rounds = n_batches.div_ceil(turn.n_replicas as u64);
    for round in 0..n_rounds {
        let number = round * turn.n_replicas as u64 + turn.replica as u64;
        if number >= n_batches && !turn.in_step {
            break;
        }
        let first = number.min(n_batches - 1) * rows;
        let batch = HostBatch::of_eval(tokens, windows, first..(first + rows).min(windows.len()))?;
        let n_valid = batch.n_valid;
        unread.push_back((number, loss_sum(batch)?, n_valid));
        if unread.len() > MOST_UNREAD {
            unread.pop_front().map(&mut read).transpose()?;
        }
    }
    unread.into_iter().try_for_each(read)?;
    let mut all: Vec<PartialLoss> = group.exchange(own)?.iter().flatten().copied().collect();
    all.sort_unstable_by_key(|&(number, ..)| number);
    let targets: u64 = all.iter().map(|&(_, _, n_valid)| n_valid).sum();
    let sum: f64 = all.iter().map(|&(_, loss, _)| loss).sum();
    Ok(Evaluated {
        loss: sum / targets.max(1) as f64,
        targets,
    })
}
