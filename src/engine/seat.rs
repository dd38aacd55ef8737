//! A thread's seat among the ranks: what it is given, what it says, how it sets up.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender},
};

use tch::Tensor;

use super::{EngineError, Job, RankDevice, evaluate::PartialLoss};
use crate::{
    checkpoint,
    dist::{Communicator, HostGroup, LocalComm, NcclComm, Progress, SoloComm},
    event::{Control, Event},
    nn::{ParamStore, SharedWeights},
    optim, plan,
    torch::{SharedTensor, TorchError, nccl::UniqueId},
};

/// What a thread gets to take part. A rank has a thread for each of its lanes, each with a seat.
pub struct Seat {
    pub rank: usize,
    pub lane: usize,
    pub n_lanes: usize,
    /// Seats of all ranks together.
    pub n_seats: usize,
    /// The state that lanes of a rank share, from lane 0 of each rank.
    pub shared: HostGroup<Option<Arc<SharedState>>>,
    pub notes: HostGroup<Note>,
    pub losses: HostGroup<Vec<PartialLoss>>,
    pub ids: HostGroup<Option<UniqueId>>,
    pub comm: CommSeat,
    pub progress: Arc<Progress>,
    pub events: Sender<Message>,
    /// Rank 0's orders; the others learn them from its notes.
    pub controls: Option<Receiver<Control>>,
}

/// What the lanes of a rank have in common.
pub struct SharedState {
    weights: SharedWeights,
    optimizer: Vec<SharedTensor>,
}

impl Seat {
    /// The number among all seats, lanes of a rank one after the other.
    pub fn number(&self) -> usize {
        self.rank * self.n_lanes + self.lane
    }
}

/// The communicator that a rank will have; NCCL's is joined on the rank's own thread.
pub enum CommSeat {
    Solo,
    Local(LocalComm),
    Nccl,
}

/// From a rank's thread to the worker's main thread.
pub enum Message {
    Event(Event),
    Finished {
        seat: usize,
        finish: Finish,
    },
    /// The fault lies in the fault cell; the thread is parked.
    Failed,
}

/// How a rank's life ends well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    Completed {
        step: u64,
    },
    /// On request; `unsaved` says why there is no checkpoint of this step, if there is none.
    Stopped {
        step: u64,
        unsaved: Option<String>,
    },
}

/// What ranks tell each other between two steps. Orders and time count from rank 0 only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note {
    pub loss_sum: f64,
    pub grad_norm: f64,
    pub orders: Orders,
    pub trained_s: f64,
}

/// What has been asked of the run since the last step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    pub checkpoint: bool,
    pub stop: bool,
    pub pause: bool,
}

impl Orders {
    /// Both together.
    pub fn and(self, later: Self) -> Self {
        Self {
            checkpoint: self.checkpoint || later.checkpoint,
            stop: self.stop || later.stop,
            pause: self.pause || later.pause,
        }
    }
}

/// Lanes of one rank sum their gradients as data-parallel ranks do.
pub fn strategy(planned: plan::Strategy, n_seats: usize) -> plan::Strategy {
    match planned {
        plan::Strategy::Single if n_seats > 1 => plan::Strategy::Ddp,
        planned => planned,
    }
}

/// Lane 0 of a rank makes (or restores) weights and optimizer state, its other lanes share them.
///
/// # Errors
/// No room, a checkpoint that does not fit, a failed rank.
pub fn weights_and_state(
    job: &Job,
    seat: &Seat,
    device: &RankDevice,
) -> Result<(ParamStore, Vec<Tensor>), EngineError> {
    let segments = job.plan.model.segments();
    if seat.lane > 0 {
        let all = seat.shared.exchange(None)?;
        let shared = all[seat.rank * seat.n_lanes].as_deref();
        let shared = shared.ok_or_else(|| TorchError::new("lane 0 shares nothing"))?;
        let state = shared.optimizer.iter().map(SharedTensor::handle).collect();
        return Ok((ParamStore::sharing(&segments, &shared.weights)?, state));
    }
    let mut store = ParamStore::new(
        &segments,
        job.plan.precision,
        job.config.seed,
        device.device,
    )?;
    let state = optim::new_state(&job.config.optimizer, &store)?;
    if let Some(loaded) = &job.resume {
        let names = optim::state_names(&job.config.optimizer);
        let named: Vec<_> = names.iter().copied().zip(&state).collect();
        checkpoint::restore(loaded, &mut store, &named)?;
    }
    let optimizer = state.iter().map(SharedTensor::of).collect();
    let weights = store.share();
    seat.shared
        .exchange(Some(Arc::new(SharedState { weights, optimizer })))?;
    Ok((store, state))
}

/// Joins the communicator on the rank's own thread.
///
/// # Errors
/// NCCL's, or a failed rank.
pub fn join(
    seat: &mut Seat,
    world: usize,
    device: &RankDevice,
) -> Result<Box<dyn Communicator>, EngineError> {
    match std::mem::replace(&mut seat.comm, CommSeat::Solo) {
        CommSeat::Solo => Ok(Box::new(SoloComm)),
        CommSeat::Local(comm) => Ok(Box::new(comm)),
        CommSeat::Nccl => {
            let own = if seat.rank == 0 {
                Some(UniqueId::new()?)
            } else {
                None
            };
            let id = seat.ids.exchange(own)?[0];
            match (id, device.device, device.stream) {
                (Some(id), tch::Device::Cuda(index), Some(stream)) => Ok(Box::new(NcclComm::join(
                    id, seat.rank, world, index, stream,
                )?)),
                _ => Err(TorchError::new("NCCL needs a GPU for each rank").into()),
            }
        }
    }
}
