//! Strategies: what happens between segments. One file each, a few hooks, never a change to a model.

mod ddp;
mod primary;
mod single;

use std::ops::Range;

use tch::Tensor;

use crate::{
    dist::{CommError, Communicator},
    nn::ParamStore,
    plan,
};

/// The hooks of one rank, in the order in which a step calls them:
/// [`grads_ready`](Self::grads_ready) for each span of the last micro-batch's backward pass (last
/// span first), [`before_update`](Self::before_update), the optimizer where
/// [`updates`](Self::updates) says so, [`after_update`](Self::after_update).
///
/// All ranks call the same hooks in the same order.
pub trait Strategy {
    /// Whether gradients leave span by span, so that spans should be buckets.
    fn reduces_by_bucket(&self) -> bool;

    /// A span's gradients are complete on this rank.
    ///
    /// # Errors
    /// A failed collective.
    fn grads_ready(&mut self, grads: &Tensor, comm: &mut dyn Communicator)
    -> Result<(), CommError>;

    /// All spans' gradients are complete on this rank; returns when the update may start.
    ///
    /// # Errors
    /// A failed collective.
    fn before_update(
        &mut self,
        store: &ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError>;

    /// Whether this rank runs the optimizer.
    fn updates(&self, rank: usize) -> bool;

    /// The ranks that update have done so; afterwards every rank holds the new master weights.
    ///
    /// # Errors
    /// A failed collective.
    fn after_update(
        &mut self,
        store: &ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError>;
}

/// Makes a plan's strategy.
pub fn build(strategy: plan::Strategy) -> Box<dyn Strategy> {
    match strategy {
        plan::Strategy::Single => Box::new(single::Single),
        plan::Strategy::Ddp => Box::new(ddp::Ddp),
        plan::Strategy::Primary => Box::new(primary::Primary),
    }
}

/// Cuts segments into spans, each one graph and one autograd call.
///
/// `segment_bytes` are the gradients' sizes. Without a bucket size all segments are one span; with one,
/// a span is closed from the back as soon as it holds that much.
pub fn spans(segment_bytes: &[u64], bucket_bytes: Option<u64>) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut end = segment_bytes.len();
    let mut bytes = 0;
    for (segment, size) in segment_bytes.iter().enumerate().rev() {
        bytes += size;
        if segment == 0 || bucket_bytes.is_some_and(|bucket| bytes >= bucket) {
            spans.push(segment..end);
            (end, bytes) = (segment, 0);
        }
    }
    spans.reverse();
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_all_segments_once() {
        let sizes = [40, 10, 10, 10, 1];
        assert_eq!(spans(&sizes, None), vec![0..5]);
        assert_eq!(spans(&sizes, Some(1)), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(spans(&sizes, Some(15)), [0..2, 2..5]);
        assert_eq!(spans(&sizes, Some(1_000)), vec![0..5]);
    }
}
