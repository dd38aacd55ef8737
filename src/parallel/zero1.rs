//! ZeRO's first stage (Rajbhandari et al., 2020): every rank keeps, and updates, its part of each
//! group's optimizer state. Gradients are summed once a step, each part on the rank that needs it.

use std::ops::Range;

use super::Strategy;
use crate::{
    dist::{CommError, Communicator},
    nn::{FlatRange, ParamStore},
};

/// Whole weights and gradients, a shard of the optimizer state.
pub struct Zero1;

impl Strategy for Zero1 {
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
                comm.start_reduce_scatter(&grads)?;
            }
        }
        Ok(())
    }

    fn after_update(
        &mut self,
        store: &ParamStore,
        part: &FlatRange,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        gather_weights(store, part, comm)
    }
}

/// Brings every rank's updated part of each group to all.
pub(super) fn gather_weights(
    store: &ParamStore,
    part: &FlatRange,
    comm: &mut dyn Communicator,
) -> Result<(), CommError> {
    store.publish(part)?;
    for group in store.compute_groups()? {
        comm.start_all_gather(&group)?;
    }
    comm.wait()
}
