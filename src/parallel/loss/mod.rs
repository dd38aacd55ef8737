//! Losses that take a head's input instead of its scores, so that no more scores exist at a time than a chunk of rows
//! gives, and that make their gradients by hand.
//!
//! A loss is a function of a [`Head`] and targets. It works alike where a rank has the whole vocabulary and where
//! tensor-parallel ranks have a part each ([`Hooks::share`]). The gradient of the head's input is returned, that of its
//! matrix is summed chunk by chunk where the store keeps it.

mod chunks;
pub mod cross_entropy;
#[cfg(test)]
mod tests;

use tch::Tensor;

use crate::{
    arch::Shard,
    dist::{CommError, Reduction},
};

pub use chunks::Chunks;

/// A head before its scores: `input @ weight^T`, of which row i of the matrix gives the score of class i.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// `[.., d]`; every tensor-parallel rank has all of it.
    pub input: &'a Tensor,
    /// `[rows, d]`: this rank's part of the classes, padding behind them.
    pub weight: &'a Tensor,
    /// Classes of all parts, without padding.
    pub n_classes: i64,
    pub shard: Shard,
}

/// Which pass a loss has just done a chunk's part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Backward,
}

/// What the rank does between the parts of a loss.
pub trait Hooks {
    /// Replaces `buffer` by its sum or maximum over the ranks that have the other parts of the classes. Called only where
    /// there are any.
    ///
    /// # Errors
    /// A failed collective.
    fn share(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError>;

    /// A chunk's part of a pass is done.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn passed(&mut self, _: Pass) -> Result<(), CommError> {
        Ok(())
    }
}
