//! The communicator of CPU ranks, or of several on one GPU. There is no second stream: `start_*` registers, `wait`
//! performs. Operations of one kind are performed together, in one meeting of the ranks.

use tch::Tensor;

use super::{CommError, Communicator, Reduction, comm::n_bytes};
use crate::{event::Traffic, torch::peers::Operation};

/// How a rank performs a collective with the others.
pub trait Meeting {
    /// The rank's number in the group.
    fn rank(&self) -> usize;

    /// Ranks of the group.
    fn world(&self) -> usize;

    /// Performs one collective on each of several buffers, in place.
    ///
    /// # Errors
    /// See [`CommError`].
    fn perform(&mut self, operation: Operation, buffers: &[&Tensor]) -> Result<(), CommError>;
}

/// One rank's end.
pub struct Deferred<M> {
    meeting: M,
    started: Vec<(Operation, Tensor)>,
    traffic: Traffic,
}

impl<M> Deferred<M> {
    /// An end that has started nothing.
    pub fn new(meeting: M) -> Self {
        Self {
            meeting,
            started: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    fn start(&mut self, operation: Operation, buffer: &Tensor) {
        self.started.push((operation, buffer.shallow_clone()));
    }
}

impl<M: Meeting> Communicator for Deferred<M> {
    fn rank(&self) -> usize {
        self.meeting.rank()
    }

    fn world(&self) -> usize {
        self.meeting.world()
    }

    fn start_all_reduce(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError> {
        self.traffic.all_reduce += n_bytes(buffer);
        self.start(Operation::AllReduce { reduction }, buffer);
        Ok(())
    }

    fn start_reduce(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.traffic.reduce += n_bytes(buffer);
        self.start(Operation::Reduce { root }, buffer);
        Ok(())
    }

    fn start_broadcast(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.traffic.broadcast += n_bytes(buffer);
        self.start(Operation::Broadcast { root }, buffer);
        Ok(())
    }

    fn start_reduce_scatter(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.traffic.reduce_scatter += n_bytes(buffer);
        self.start(Operation::ReduceScatter, buffer);
        Ok(())
    }

    fn start_all_gather(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.traffic.all_gather += n_bytes(buffer);
        self.start(Operation::AllGather, buffer);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CommError> {
        let started = std::mem::take(&mut self.started);
        for alike in started.chunk_by(|(a, _), (b, _)| a == b) {
            let buffers: Vec<&Tensor> = alike.iter().map(|(_, buffer)| buffer).collect();
            self.meeting.perform(alike[0].0, &buffers)?;
        }
        Ok(())
    }

    fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }
}
