//! A thread's seat among the ranks: what it is given, what it says, how it sets up.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{
    EngineError, Job, Passes, RankDevice, Stepper,
    evaluate::PartialLoss,
    guard::Origin,
    inject::{self, Injection},
    step::{self, Recipe},
};
use crate::{
    arch::{Shard, StageSpec},
    checkpoint::{self, Contribution, Place},
    dist::{GroupEnds, Groups, HostGroup, Membership, Progress},
    event::{Control, Event, RankStep},
    nn::{Layout, Numbers, ParamStore, Partition, SharedWeights},
    optim,
    parallel::{self, Pipeline, TensorAxis},
    plan::{self, Coordinates, RunPlan},
    torch::{SharedTensor, TorchError, nccl::UniqueId},
};

/// How often a work that takes a while says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What a thread gets to take part. A rank has a thread for each of its lanes, each with a seat.
pub struct Seat {
    pub rank: usize,
    pub lane: usize,
    pub n_lanes: usize,
    /// The rank's lanes: the state that they share, from lane 0.
    pub lanes: HostGroup<Option<Arc<SharedState>>>,
    pub notes: HostGroup<Note>,
    pub losses: HostGroup<Vec<PartialLoss>>,
    pub ids: HostGroup<Option<UniqueId>>,
    pub saves: HostGroup<Option<Contribution>>,
    pub tokens: HostGroup<Option<u32>>,
    pub origins: HostGroup<Option<Origin>>,
    pub comms: CommSeat,
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
    /// Takes in how much of a work is done, and of how much; the first seat says so twice a second.
    pub fn teller(&self, what: &'static str) -> impl FnMut(u64, u64) + use<'_> {
        let mut last_word = Instant::now();
        move |done, total| {
            self.progress.enter(what);
            if self.number() == 0 && last_word.elapsed() > TELL_EVERY {
                last_word = Instant::now();
                // Nobody listens only when the worker is ending.
                let _ = self.events.send(Message::Event(Event::Progress {
                    what: what.to_owned(),
                    done,
                    total: Some(total),
                }));
            }
        }
    }

    /// The number among all seats, lanes of a rank one after the other.
    pub fn number(&self) -> usize {
        self.rank * self.n_lanes + self.lane
    }
}

/// The communicators that a rank will have; NCCL's are joined on the rank's own thread.
pub enum CommSeat {
    Ends(Box<GroupEnds>),
    Nccl,
    /// They have been joined.
    Taken,
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
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Note {
    /// From one rank of each replica; 0 from the others.
    pub loss_sum: f64,
    pub part: RankStep,
    pub grad_norm: f64,
    pub orders: Orders,
    pub trained_s: f64,
    /// Where the rank starts; of the first exchange only.
    pub from_step: u64,
}

impl Note {
    /// A rank's part in a step: the first lane's time, all lanes' traffic and memory.
    pub fn of_lanes(lanes: &[Self]) -> RankStep {
        let mut part = lanes
            .first()
            .map_or_else(RankStep::default, |lane| lane.part);
        for Self { part: other, .. } in lanes.iter().skip(1) {
            part.bytes += other.bytes;
            let sum = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
            part.memory_bytes = sum(part.memory_bytes, other.memory_bytes);
            part.memory_peak_bytes = sum(part.memory_peak_bytes, other.memory_peak_bytes);
        }
        part
    }
}

/// What has been asked of the run since the last step.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Orders {
    pub checkpoint: bool,
    pub stop: bool,
    pub pause: bool,
    pub sample: bool,
}

impl Orders {
    /// Both together.
    pub fn and(self, later: Self) -> Self {
        Self {
            checkpoint: self.checkpoint || later.checkpoint,
            stop: self.stop || later.stop,
            pause: self.pause || later.pause,
            sample: self.sample || later.sample,
        }
    }
}

/// Lanes of one rank sum their gradients as data-parallel ranks do.
fn strategy(planned: plan::Strategy, n_lanes: usize) -> plan::Strategy {
    match planned {
        plan::Strategy::Single if n_lanes > 1 => plan::Strategy::Ddp,
        planned => planned,
    }
}

/// Who belongs together under a plan.
pub fn membership(plan: &RunPlan) -> Membership {
    Membership {
        mesh: plan.split.mesh,
        n_lanes: plan.ranks.first().map_or(1, |rank| rank.lanes),
        shards_grads: plan.split.data.zero() > 0,
        ties: !plan.split.stage(&plan.model, 0).tied.is_empty(),
        wraps: plan
            .split
            .chunks
            .first()
            .is_some_and(|chunks| chunks.len() > 1),
    }
}

/// How the ranks of a stage and shard lay out their flat buffers.
pub fn layout(plan: &RunPlan, stage: &StageSpec, shard: Shard) -> Layout {
    Layout::new(stage, shard, plan.split.n_parts())
}

/// What a rank brings to its first step.
pub struct Equipment {
    pub passes: Passes,
    /// The optimizer's buffers.
    pub state: Vec<Tensor>,
}

impl Seat {
    /// The rank's place in the mesh.
    pub fn at(&self, plan: &RunPlan) -> Coordinates {
        plan.split.mesh.at(self.rank)
    }

    /// The rank's place as checkpoints see it.
    pub fn place(&self, plan: &RunPlan) -> Place {
        let at = self.at(plan);
        Place {
            stage: at.stage,
            shard: plan.split.shard(at.shard),
            replica: at.replica,
        }
    }

    /// Joins the communicators, makes (or restores) weights and optimizer state.
    ///
    /// # Errors
    /// No room, a checkpoint that does not fit, a failed rank.
    pub fn equip(&mut self, job: &Job, device: &RankDevice) -> Result<Equipment, EngineError> {
        let (plan, at) = (&job.plan, self.at(&job.plan));
        let split = &plan.split;
        let stage = split.stage(&plan.model, at.stage);
        let groups = self.join(plan, device)?;
        let strategy = parallel::build(strategy(split.data, self.n_lanes));
        let layout = layout(plan, &stage, split.shard(at.shard));
        let partition = match split.data.zero() {
            0 => Partition::NONE,
            level => Partition {
                level,
                index: at.replica,
                of: split.mesh.dp,
            },
        };
        let (store, state) = self.weights_and_state(job, layout, partition, device)?;
        let recipe = Recipe {
            stage: &stage,
            cuts: step::cuts(split, strategy.as_ref(), plan.bucket_bytes),
            tensor: TensorAxis {
                sequence_parallel: split.sequence_parallel,
            },
        };
        let mut stepper = Stepper::new(&plan.model, store, job.config.seed, *device, &recipe);
        let mistake = job.inject.map(|Injection { kind, .. }| kind);
        stepper.forgets_input_grads = mistake == Some(inject::Kind::MissingReduction);
        let passes = Passes {
            stepper,
            strategy,
            groups,
            pipeline: Pipeline {
                stage: at.stage,
                n_stages: split.mesh.pp,
                n_chunks: split.chunks[at.stage].len(),
                schedule: split.schedule,
            },
            mistake,
        };
        Ok(Equipment { passes, state })
    }

    /// Lane 0 of a rank makes weights and optimizer state, its other lanes share them.
    fn weights_and_state(
        &self,
        job: &Job,
        layout: Layout,
        partition: Partition,
        device: &RankDevice,
    ) -> Result<(ParamStore, Vec<Tensor>), EngineError> {
        if self.lane > 0 {
            let all = self.lanes.exchange(None)?;
            let shared = all[0].as_deref();
            let shared = shared.ok_or_else(|| TorchError::new("lane 0 shares nothing"))?;
            let state = shared.optimizer.iter().map(SharedTensor::handle).collect();
            return Ok((ParamStore::sharing(layout, &shared.weights)?, state));
        }
        let numbers = Numbers::of(job.plan.precision).with_short_grads(job.plan.short_grads);
        let store = ParamStore::new(layout, partition, numbers, job.config.seed, device.device)?;
        let state = optim::new_state(&job.config.optimizer, &store)?;
        if let Some(loaded) = &job.resume {
            let names = optim::state_names(&job.config.optimizer);
            let named: Vec<_> = names.iter().copied().zip(&state).collect();
            checkpoint::restore(loaded, &store, &named)?;
        } else if let Some(pretrained) = &job.pretrained {
            checkpoint::start_from(pretrained, &store)?;
        }
        let optimizer = state.iter().map(SharedTensor::of).collect();
        let shared = store
            .share()
            .map(|weights| Arc::new(SharedState { weights, optimizer }));
        self.lanes.exchange(shared)?;
        Ok((store, state))
    }

    /// Joins the communicators on the rank's own thread.
    fn join(&mut self, plan: &RunPlan, device: &RankDevice) -> Result<Groups, EngineError> {
        match std::mem::replace(&mut self.comms, CommSeat::Taken) {
            CommSeat::Ends(groups) => Ok(groups.join()),
            CommSeat::Nccl => match (device.device, device.stream) {
                (tch::Device::Cuda(index), Some(stream)) => {
                    let membership = membership(plan);
                    Ok(Groups::join_nccl(
                        &membership,
                        self.rank,
                        &self.ids,
                        (index, stream),
                    )?)
                }
                _ => Err(TorchError::new("NCCL needs a GPU for each rank").into()),
            },
            CommSeat::Taken => Err(TorchError::new("the communicators are joined already").into()),
        }
    }
}
