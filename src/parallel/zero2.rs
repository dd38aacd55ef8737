//! ZeRO's second stage: gradients too are kept as shards. A segment's gradient is whole only until it
//! has been summed, after every micro-batch.

use std::ops::Range;

use super::{Strategy, zero1};
use crate::{
    dist::{CommError, Communicator},
    nn::{FlatRange, ParamStore},
};

/// Whole gradients that may wait to be summed together: ranks meet less often where segments are small.
const MOST_STAGED_BYTES: usize = 8 << 20;

/// Whole weights, shards of gradients and optimizer state.
#[derive(Default)]
pub struct Zero2 {
    /// The runs whose sums are under way.
    reducing: Vec<Range<usize>>,
    staged_bytes: usize,
}

impl Zero2 {
    fn finish(
        &mut self,
        store: &mut ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        if self.reducing.is_empty() {
            return Ok(());
        }
        comm.wait()?;
        self.staged_bytes = 0;
        for segments in self.reducing.drain(..) {
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
        if self.staged_bytes >= MOST_STAGED_BYTES {
            self.finish(store, comm)?;
        }
        for grads in store.grads_of(segments.clone())? {
            self.staged_bytes += grads.numel() * grads.kind().elt_size_in_bytes();
            comm.start_reduce_scatter(&grads)?;
        }
        let is_first_segment = segments.start == 0;
        self.reducing.push(segments);
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
