//! What ranks tell each other that is not device data: losses, decisions, NCCL ids.

use std::sync::Arc;

use crate::base::{
    fault::FaultCell,
    rendezvous::{Poisoned, Rendezvous},
};

/// One rank's seat in a group that exchanges values of one type.
#[derive(Debug)]
pub struct HostGroup<T> {
    rank: usize,
    point: Arc<Rendezvous<T>>,
}

impl<T> HostGroup<T> {
    /// Makes the seats of all ranks.
    pub fn seats(world: usize, fault: &Arc<FaultCell>) -> Vec<Self> {
        let point = Arc::new(Rendezvous::new(world, Arc::clone(fault)));
        (0..world)
            .map(|rank| Self {
                rank,
                point: Arc::clone(&point),
            })
            .collect()
    }

    /// Leaves `value`, waits for all, returns everybody's in rank order.
    ///
    /// # Errors
    /// A rank failed.
    pub fn exchange(&self, value: T) -> Result<Arc<[T]>, Poisoned> {
        self.point.exchange(self.rank, value)
    }
}
