//! ZeRO's second stage: gradients too are kept as shards. A segment's gradient is whole only until it
//! has been summed, after every micro-batch.

use std::ops::Range;

use super::{Strategy, zero1};
use crate::{
    dist::{CommError, Communicator},
    nn::{FlatRange, ParamStore},
};

/// Whole weights, shards of gradients and optimizer state.
#[derive(Default)]
pub struct Zero2 {
    /// The run whose sum is under way.
    reducing: Option<Range<usize>>,
}

impl Zero2 {
    fn finish(
        &mut self,
        store: &mut ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        if let Some(segments) = self.reducing.take() {
            comm.wait()?;
            store.fold_staged(segments)?;
        }
        Ok(())
    }
}

impl Strategy for Zero2 {
    fn goes_by_segment(&self) -> bool {
        true
    }

    fn grads_ready(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        _: bool,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        self.finish(store, comm)?;
        for grads in store.grads_of(segments.clone())? {
            comm.start_reduce_scatter(&grads)?;
        }
        let is_first_segment = segments.start == 0;
        self.reducing = Some(segments);
        if is_first_segment {
            // A parameter of it that later segments share gets the next micro-batch's gradient first.
            self.finish(store, comm)?;
        }
        Ok(())
    }

    fn before_update(
        &mut self,
        store: &mut ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        self.finish(store, comm)
    }

    fn after_update(
        &mut self,
        store: &ParamStore,
        part: &FlatRange,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        zero1::gather_weights(store, part, comm)
    }
}
