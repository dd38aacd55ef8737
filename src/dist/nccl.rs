//! The communicator of one rank a GPU.

use tch::Tensor;

use super::{CommError, Communicator};
use crate::torch::{
    TorchError,
    nccl::{Handle, UniqueId},
    stream::{Event, Stream, Timing},
};

/// One rank's end: its own communication stream, tied to the compute stream by events.
///
/// Buffers are the engine's flat ones, which live as long as the rank, so nothing needs
/// `record_stream`. The host never waits.
pub struct NcclComm {
    rank: usize,
    world: usize,
    compute: Stream,
    handle: Handle,
    ready: Event,
    done: Event,
}

impl NcclComm {
    /// Joins the communicator; blocks until all ranks have. To be called on the rank's own thread.
    ///
    /// # Errors
    /// NCCL's or libtorch's own.
    pub fn join(
        id: UniqueId,
        rank: usize,
        world: usize,
        device: usize,
        compute: Stream,
    ) -> Result<Self, TorchError> {
        let handle = Handle::join(id, rank, world, Stream::from_pool(device)?)?;
        Ok(Self {
            rank,
            world,
            compute,
            handle,
            ready: Event::new(Timing::Off)?,
            done: Event::new(Timing::Off)?,
        })
    }

    /// Lets the communication stream start after what the compute stream was given so far.
    fn after_compute(&self) -> Result<(), TorchError> {
        self.compute.record(&self.ready)?;
        self.handle.stream().wait_for(&self.ready)
    }
}

impl Communicator for NcclComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn start_all_reduce(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.after_compute()?;
        Ok(self.handle.all_reduce(buffer)?)
    }

    fn start_reduce(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.after_compute()?;
        Ok(self.handle.reduce(buffer, root)?)
    }

    fn start_broadcast(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.after_compute()?;
        Ok(self.handle.broadcast(buffer, root)?)
    }

    fn wait(&mut self) -> Result<(), CommError> {
        self.handle.stream().record(&self.done)?;
        Ok(self.compute.wait_for(&self.done)?)
    }
}
