//! ZeRO's third stage, or fully sharded data parallel (Zhao et al., 2023): a segment's weights are whole
//! only while it computes. The next segment's are gathered meanwhile.

use std::ops::Range;

use super::{Strategy, zero2::Zero2};
use crate::{
    dist::{CommError, Communicator},
    nn::ParamStore,
};

/// Shards of everything.
#[derive(Default)]
pub struct Zero3 {
    gradients: Zero2,
    /// The run whose weights are on their way.
    prefetched: Option<Range<usize>>,
    /// They have been waited for already.
    has_arrived: bool,
}

impl Zero3 {
    fn start(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        for slot in store.acquire(segments)? {
            comm.start_all_gather(&slot)?;
        }
        Ok(())
    }
}

impl Strategy for Zero3 {
    fn goes_by_segment(&self) -> bool {
        true
    }

    fn gathers_weights(&self) -> bool {
        true
    }

    fn acquire(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        let has_arrived = std::mem::take(&mut self.has_arrived);
        match self.prefetched.take() {
            Some(prefetched) if prefetched == segments && has_arrived => return Ok(()),
            Some(prefetched) if prefetched == segments => {}
            other => {
                if let Some(unused) = other {
                    comm.wait()?;
                    store.release(unused)?;
                }
                self.start(store, segments, comm)?;
            }
        }
        comm.wait()
    }

    fn prefetch(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        if self.prefetched.is_none() {
            self.start(store, segments.clone(), comm)?;
            self.prefetched = Some(segments);
        }
        Ok(())
    }

    fn release(&mut self, store: &mut ParamStore, segments: Range<usize>) -> Result<(), CommError> {
        Ok(store.release(segments)?)
    }

    fn grads_ready(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        is_last: bool,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        // The sum that starts now goes on beside the next run's backward pass, which waits for its weights alone.
        if self.prefetched.is_some() && !self.has_arrived {
            comm.wait()?;
            self.has_arrived = true;
        }
        self.gradients.grads_ready(store, segments, is_last, comm)
    }

    fn before_update(
        &mut self,
        store: &mut ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        self.gradients.before_update(store, comm)
    }
}
