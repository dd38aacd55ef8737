//! The communicator of one rank a GPU.

use tch::Tensor;

use super::{
    CommError, Communicator, Reduction,
    comm::n_bytes,
    links::{Expected, Flow, Links},
};
use crate::{
    event::Traffic,
    torch::{
        TorchError,
        nccl::{Handle, UniqueId},
        runtime,
        stream::{Event, Stream, Timing},
    },
};

/// One rank's end: its own communication stream, tied to the compute stream by events.
///
/// The handles of buffers are kept until the compute stream waits for what was started, so nothing
/// needs `record_stream`. The host never waits.
pub struct NcclComm {
    rank: usize,
    world: usize,
    compute: Stream,
    handle: Handle,
    ready: Event,
    done: Event,
    /// Buffers of operations that the compute stream does not wait for yet.
    in_use: Vec<Tensor>,
    traffic: Traffic,
}

impl NcclComm {
    /// Joins the communicator; blocks until all ranks have. To be called on the rank's own thread.
    ///
    /// All communicators of a rank share one communication stream: their operations run in the order in
    /// which the rank starts them.
    ///
    /// # Errors
    /// NCCL's or libtorch's own.
    pub fn join(
        id: UniqueId,
        rank: usize,
        world: usize,
        compute: Stream,
        communication: Stream,
    ) -> Result<Self, TorchError> {
        let handle = Handle::join(id, rank, world, communication)?;
        Ok(Self {
            rank,
            world,
            compute,
            handle,
            ready: Event::new(Timing::Off)?,
            done: Event::new(Timing::Off)?,
            in_use: Vec::new(),
            traffic: Traffic::default(),
        })
    }

    /// Lets the communication stream start after what the compute stream was given so far.
    fn take(&mut self, buffer: &Tensor) -> Result<(), TorchError> {
        self.compute.record(&self.ready)?;
        self.handle.stream().wait_for(&self.ready)?;
        self.in_use.push(buffer.shallow_clone());
        Ok(())
    }
}

impl Communicator for NcclComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn start_all_reduce(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError> {
        self.take(buffer)?;
        self.traffic.all_reduce += n_bytes(buffer);
        Ok(self.handle.all_reduce(buffer, reduction)?)
    }

    fn start_reduce(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.take(buffer)?;
        self.traffic.reduce += n_bytes(buffer);
        Ok(self.handle.reduce(buffer, root)?)
    }

    fn start_broadcast(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.take(buffer)?;
        self.traffic.broadcast += n_bytes(buffer);
        Ok(self.handle.broadcast(buffer, root)?)
    }

    fn start_reduce_scatter(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.take(buffer)?;
        self.traffic.reduce_scatter += n_bytes(buffer);
        Ok(self.handle.reduce_scatter(buffer, self.rank, self.world)?)
    }

    fn start_all_gather(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.take(buffer)?;
        self.traffic.all_gather += n_bytes(buffer);
        Ok(self.handle.all_gather(buffer, self.rank, self.world)?)
    }

    fn wait(&mut self) -> Result<(), CommError> {
        if self.in_use.is_empty() {
            return Ok(());
        }
        self.handle.stream().record(&self.done)?;
        self.compute.wait_for(&self.done)?;
        self.in_use.clear();
        Ok(())
    }

    fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }
}

/// The links of stages on different GPUs: a communicator of two for each flow between two stages, on a
/// stream of its own, so that no hand-off waits for another.
pub struct NcclLinks {
    stage: usize,
    compute: Stream,
    ends: Vec<LinkEnd>,
    sent_bytes: u64,
}

/// Sends and receives on one communicator, each behind what the compute stream was given before. The host never waits.
struct Wire {
    handle: Handle,
    event: Event,
    /// What was sent last, until the next send.
    in_flight: Option<Tensor>,
}

impl Wire {
    fn join(id: UniqueId, rank: usize, world: usize, stream: Stream) -> Result<Self, TorchError> {
        Ok(Self {
            handle: Handle::join(id, rank, world, stream)?,
            event: Event::new(Timing::Off)?,
            in_flight: None,
        })
    }

    fn send(&mut self, compute: Stream, tensor: &Tensor, peer: usize) -> Result<(), CommError> {
        // The previous tensor's memory may be handed out again only after its send.
        self.leave(compute)?;
        self.in_flight = None;
        self.enter(compute)?;
        self.handle.send(tensor, peer)?;
        self.in_flight = Some(tensor.shallow_clone());
        Ok(())
    }

    fn recv(
        &mut self,
        compute: Stream,
        expected: &Expected,
        peer: usize,
    ) -> Result<Tensor, CommError> {
        let options = (expected.kind, expected.device);
        let tensor =
            Tensor::f_empty(expected.shape.as_slice(), options).map_err(TorchError::from)?;
        self.enter(compute)?;
        self.handle.recv(&tensor, peer)?;
        self.leave(compute)?;
        Ok(tensor)
    }

    /// Lets the communicator's stream wait for the compute stream; [`Self::leave`] the other way round.
    fn enter(&self, compute: Stream) -> Result<(), TorchError> {
        compute.record(&self.event)?;
        self.handle.stream().wait_for(&self.event)
    }

    fn leave(&self, compute: Stream) -> Result<(), TorchError> {
        self.handle.stream().record(&self.event)?;
        compute.wait_for(&self.event)
    }
}

/// One flow between two stages.
pub struct LinkEnd {
    flow: Flow,
    from: usize,
    to: usize,
    wire: Wire,
}

impl LinkEnd {
    /// Joins the pair; blocks until both stages have. The sender is rank 0.
    ///
    /// # Errors
    /// NCCL's or libtorch's own.
    pub fn join(
        id: UniqueId,
        (flow, from, to): (Flow, usize, usize),
        stage: usize,
        device: usize,
    ) -> Result<Self, TorchError> {
        let rank = usize::from(stage == to);
        Ok(Self {
            flow,
            from,
            to,
            wire: Wire::join(id, rank, 2, Stream::from_pool(device)?)?,
        })
    }
}

/// Links of every rank to every other, over one communicator: for few words, since each waits for the one before.
pub struct NcclPairs {
    compute: Stream,
    wire: Wire,
}

impl NcclPairs {
    /// Joins the communicator of all ranks; blocks until all have.
    ///
    /// # Errors
    /// NCCL's or libtorch's own.
    pub fn join(
        id: UniqueId,
        rank: usize,
        world: usize,
        compute: Stream,
        communication: Stream,
    ) -> Result<Self, TorchError> {
        let wire = Wire::join(id, rank, world, communication)?;
        Ok(Self { compute, wire })
    }

    /// Leaves the communicator; every rank does.
    ///
    /// # Errors
    /// A device fault of earlier work surfaces here.
    pub fn close(self, device: usize) -> Result<(), TorchError> {
        runtime::synchronize(device)?;
        self.wire.handle.destroy();
        Ok(())
    }
}

impl Links for NcclPairs {
    fn send(&mut self, _: Flow, to: usize, tensor: &Tensor) -> Result<(), CommError> {
        self.wire.send(self.compute, tensor, to)
    }

    fn recv(&mut self, _: Flow, from: usize, expected: &Expected) -> Result<Tensor, CommError> {
        self.wire.recv(self.compute, expected, from)
    }

    fn take_sent_bytes(&mut self) -> u64 {
        0
    }
}

impl NcclLinks {
    /// The ends of stage `stage`.
    pub fn new(stage: usize, compute: Stream, ends: Vec<LinkEnd>) -> Self {
        Self {
            stage,
            compute,
            ends,
            sent_bytes: 0,
        }
    }

    fn end(&mut self, flow: Flow, from: usize, to: usize) -> Result<&mut LinkEnd, TorchError> {
        let found = self
            .ends
            .iter_mut()
            .find(|end| (end.flow, end.from, end.to) == (flow, from, to));
        found.ok_or_else(|| {
            TorchError::new(&format!("stages {from} and {to} have no {flow:?} link"))
        })
    }
}

impl Links for NcclLinks {
    fn send(&mut self, flow: Flow, to: usize, tensor: &Tensor) -> Result<(), CommError> {
        let (stage, compute) = (self.stage, self.compute);
        self.sent_bytes += n_bytes(tensor);
        self.end(flow, stage, to)?.wire.send(compute, tensor, 1)
    }

    fn recv(&mut self, flow: Flow, from: usize, expected: &Expected) -> Result<Tensor, CommError> {
        let (stage, compute) = (self.stage, self.compute);
        let end = self.end(flow, from, stage)?;
        end.wire.recv(compute, expected, 0)
    }

    fn take_sent_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }
}
