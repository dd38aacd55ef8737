//! Strategies: what happens between segments. One file each, a few hooks, never a change to a model.
//!
//! Each axis of the mesh has its own: a [`Strategy`] on the data-parallel axis, [`TensorAxis`], [`Pipeline`]
//! with its [`schedule`]. [`pieces`] cuts a model where they, or recomputation, need the rank's thread;
//! [`loss`] takes what goes into a head, of the whole vocabulary or of a part.

mod ddp;
pub mod loss;
mod pieces;
mod pipeline;
mod primary;
pub mod schedule;
mod single;
mod tensor;
mod zero1;
mod zero2;
mod zero3;

use std::ops::Range;

use crate::{
    dist::{CommError, Communicator},
    nn::{FlatRange, ParamStore},
    plan,
};

pub use pieces::{Cuts, Parts, Piece, pieces};
pub use pipeline::Pipeline;
pub use tensor::TensorAxis;

/// What one rank does on the data-parallel axis, in the order in which a step calls it: for each run of
/// segments in each forward and backward pass [`acquire`](Self::acquire), the computation,
/// [`release`](Self::release); after a run's backward pass [`grads_ready`](Self::grads_ready) (last run
/// first); then [`before_update`](Self::before_update), the optimizer where [`updates`](Self::updates)
/// says so, [`after_update`](Self::after_update).
///
/// All ranks of the axis call the same hooks in the same order.
pub trait Strategy {
    /// Whether gradients leave run by run, so that runs should be buckets.
    fn reduces_by_bucket(&self) -> bool {
        false
    }

    /// Whether every segment should be a run of its own, since no more than that is kept whole.
    fn goes_by_segment(&self) -> bool {
        false
    }

    /// Whether every forward pass needs all replicas, since each has a part of the weights.
    fn gathers_weights(&self) -> bool {
        false
    }

    /// Makes the weights of a run of segments whole.
    ///
    /// # Errors
    /// A failed collective, or no room.
    fn acquire(
        &mut self,
        _: &mut ParamStore,
        _: Range<usize>,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        Ok(())
    }

    /// Starts what [`acquire`](Self::acquire) of the same run will wait for.
    ///
    /// # Errors
    /// A failed collective, or no room.
    fn prefetch(
        &mut self,
        _: &mut ParamStore,
        _: Range<usize>,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        Ok(())
    }

    /// The weights of a run are not needed for now.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn release(&mut self, _: &mut ParamStore, _: Range<usize>) -> Result<(), CommError> {
        Ok(())
    }

    /// A run's gradients of one micro-batch are complete on this rank; `is_last` completes the step's.
    ///
    /// # Errors
    /// A failed collective.
    fn grads_ready(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        is_last: bool,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        if is_last {
            store.zero_unfilled(segments)?;
        }
        Ok(())
    }

    /// All gradients are complete on this rank; returns when the update may start.
    ///
    /// # Errors
    /// A failed collective.
    fn before_update(
        &mut self,
        _: &mut ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        comm.wait()
    }

    /// Whether the rank with this number on the axis runs the optimizer.
    fn updates(&self, _: usize) -> bool {
        true
    }

    /// The ranks that update have done so, this one `part` of the flat buffers; afterwards every rank
    /// computes with the new weights.
    ///
    /// # Errors
    /// A failed collective.
    fn after_update(
        &mut self,
        store: &ParamStore,
        part: &FlatRange,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        Ok(store.publish(part)?)
    }
}

/// Makes a plan's strategy.
pub fn build(strategy: plan::Strategy) -> Box<dyn Strategy> {
    match strategy {
        plan::Strategy::Single => Box::new(single::Single),
        plan::Strategy::Ddp => Box::new(ddp::Ddp),
        plan::Strategy::Primary => Box::new(primary::Primary),
        plan::Strategy::Zero1 => Box::new(zero1::Zero1),
        plan::Strategy::Zero2 => Box::new(zero2::Zero2::default()),
        plan::Strategy::Zero3 => Box::new(zero3::Zero3::default()),
    }
}
