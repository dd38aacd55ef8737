//! Distributed data parallel (Li et al., 2020): gradients are summed bucket by bucket while the backward
//! pass goes on; every rank makes the same update.

use std::ops::Range;

use super::Strategy;
use crate::{
    dist::{CommError, Communicator, Reduction},
    nn::ParamStore,
};

/// Full copies everywhere.
pub struct Ddp;

impl Strategy for Ddp {
    fn reduces_by_bucket(&self) -> bool {
        true
    }

    fn grads_ready(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        is_last: bool,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        if is_last {
            store.zero_unfilled(segments.clone())?;
            for grads in store.grads_of(segments)? {
                comm.start_all_reduce(&grads, Reduction::Sum)?;
            }
        }
        Ok(())
    }
}
