//! What ranks tell each other that is not device data: losses, decisions, NCCL ids.

use std::sync::Arc;

use super::Progress;
use crate::base::{
    fault::FaultCell,
    rendezvous::{Poisoned, Rendezvous},
};

/// One rank's seat in a group that exchanges values of one type.
pub struct HostGroup<T> {
    /// The number among the group's threads of this process.
    number: usize,
    /// The number in the group.
    rank: usize,
    point: Arc<Rendezvous<T>>,
    progress: Arc<Progress>,
}

impl<T> HostGroup<T> {
    /// The ends of a group's threads of this process: each one's number in the group and its progress.
    /// `prepare` may let their meeting point meet other processes.
    pub fn ends(
        fault: &Arc<FaultCell>,
        threads: Vec<(usize, Arc<Progress>)>,
        prepare: impl FnOnce(Rendezvous<T>) -> Rendezvous<T>,
    ) -> Vec<Self> {
        let point = Arc::new(prepare(Rendezvous::new(threads.len(), Arc::clone(fault))));
        threads
            .into_iter()
            .enumerate()
            .map(|(number, (rank, progress))| Self {
                number,
                rank,
                point: Arc::clone(&point),
                progress,
            })
            .collect()
    }

    /// The ends of threads that are a group by themselves.
    pub fn of_threads(fault: &Arc<FaultCell>, threads: &[Arc<Progress>]) -> Vec<Self> {
        let threads = threads.iter().cloned().enumerate().collect();
        Self::ends(fault, threads, |point| point)
    }

    /// The rank's number in the group.
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// How far the rank is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Leaves `value`, waits for all, returns everybody's in rank order.
    ///
    /// # Errors
    /// A rank failed.
    pub fn exchange(&self, value: T) -> Result<Arc<[T]>, Poisoned> {
        self.progress.enter_collective();
        let all = self.point.exchange(self.number, value)?;
        self.progress.leave_collective();
        Ok(all)
    }
}
