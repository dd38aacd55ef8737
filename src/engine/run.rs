//! All ranks of a worker, from the thread that watches over them.

use std::{
    any::Any,
    os::unix::net::UnixStream,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Injection,
    rank::Rank,
    seat::{self, CommSeat, Finish, Message, Seat},
};
use crate::{
    base::{
        brief::Brief,
        fault::{Fault, FaultCell, FaultKind},
        hub::Spoke,
    },
    checkpoint::Loaded,
    config::{Precision, RunConfig},
    data::Prepared,
    dist::{GroupEnds, HostGroup, Membership, RankProgress, Seating},
    event::{Control, Event},
    hw::Device,
    plan::{Communicator, RunPlan},
    torch::{TorchError, memory, runtime},
    weights::Pretrained,
};

/// How often the watching thread looks around when nothing happens.
const TICK: Duration = Duration::from_millis(20);
/// How often it asks whether a rank is stuck.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// What a worker does.
pub struct Job {
    pub config: RunConfig,
    pub plan: RunPlan,
    pub data: Prepared,
    /// Where training goes on; absent: from the initial weights.
    pub resume: Option<Loaded>,
    /// Weights that training starts from where it does not go on; absent: they are made from the seed.
    pub pretrained: Option<Pretrained>,
    /// Where checkpoints go; absent: none are saved.
    pub checkpoints: Option<PathBuf>,
    pub inject: Option<Injection>,
    /// The way to the run's other workers; absent: there are none.
    pub hub: Option<HubSocket>,
}

/// A worker's socket to the hub, not listened to yet.
pub struct HubSocket {
    pub socket: UnixStream,
    /// This worker's number.
    pub worker: usize,
}

/// How a worker's work ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished(Finish),
    /// The ranks' threads are parked and hold their memory: end the process.
    Faulted(Fault),
    /// The ranks' threads are still at work: end the process.
    Killed {
        step: u64,
    },
}

/// Trains as `job` says. Blocks; events go to `emit` in the order in which they happened.
///
/// # Errors
/// A process-wide setting of libtorch is refused. Everything later is an [`Ending`].
pub fn run(
    job: Job,
    controls: &Receiver<Control>,
    emit: &mut dyn FnMut(Event),
) -> Result<Ending, TorchError> {
    memory::count_cpu_tensors()?;
    if job.config.deterministic {
        runtime::set_deterministic(true)?;
    }
    if job.plan.precision == Precision::Tf32 {
        runtime::allow_tf32(true)?;
    }
    let hang_limit = Duration::from_secs(job.config.restart.hang_after_s);
    let crew = Crew::start(job)?;
    Ok(crew.watch(controls, hang_limit, emit))
}

/// The threads of a worker's ranks, as the watching thread sees them.
struct Crew {
    fault: Arc<FaultCell>,
    seating: Seating,
    messages: Receiver<Message>,
    orders: Sender<Control>,
    n_lanes: usize,
}

impl Crew {
    fn start(mut job: Job) -> Result<Self, TorchError> {
        let fault = Arc::new(FaultCell::default());
        let membership = seat::membership(&job.plan);
        let spoke = job.hub.take().map(|HubSocket { socket, worker }| {
            Spoke::open(socket, worker, job.plan.n_workers, &fault)
                .map_err(|error| TorchError::new(&format!("no way to the other workers: {error}")))
        });
        let seating = Seating::new(membership.n_seats(), spoke.transpose()?, &fault);
        let (events, messages) = channel();
        let (orders, rank_orders) = channel();
        let job = Arc::new(job);
        for seat in seats(&job.plan, &membership, &seating, &events, rank_orders) {
            let no_thread = Arc::clone(&fault);
            let (job, fault, events) = (Arc::clone(&job), Arc::clone(&fault), events.clone());
            let name = format!("rank-{}.{}", seat.rank, seat.lane);
            let rank = seat.rank;
            let body = move || live(job, seat, &fault, &events);
            if let Err(error) = thread::Builder::new().name(name).spawn(body) {
                no_thread.poison(Fault {
                    rank,
                    step: 0,
                    operation: "starting".to_owned(),
                    cause: format!("no thread for a rank: {error}").into(),
                    kind: FaultKind::Other,
                    retry: false,
                });
            }
        }
        Ok(Self {
            fault,
            seating,
            messages,
            orders,
            n_lanes: membership.n_lanes,
        })
    }

    fn watch(
        &self,
        controls: &Receiver<Control>,
        hang_limit: Duration,
        emit: &mut dyn FnMut(Event),
    ) -> Ending {
        let own = self.seating.own();
        let mut finishes: Vec<Option<Finish>> = vec![None; own.len()];
        let mut watch = self.seating.watch();
        let mut last_watch = Instant::now();
        loop {
            match self.messages.recv_timeout(TICK) {
                Ok(Message::Event(event)) => emit(event),
                Ok(Message::Finished { seat, finish }) => {
                    finishes[seat - own.start] = Some(finish);
                }
                Ok(Message::Failed)
                | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if let Some(fault) = self.fault.first() {
                return self.faulted(fault, emit);
            }
            if let Some(finish) = all(&finishes) {
                return Ending::Finished(finish);
            }
            for control in controls.try_iter() {
                if control == Control::Kill {
                    return Ending::Killed {
                        step: self.seating.progress(own.start).step(),
                    };
                }
                // Rank 0 stops listening only when it is done; the ranks of other workers never listen.
                let _ = self.orders.send(control);
            }
            if last_watch.elapsed() >= WATCH_EVERY {
                last_watch = Instant::now();
                if let Some(stuck) = watch.stuck(hang_limit) {
                    return self.faulted(hang(&stuck, self.n_lanes), emit);
                }
            }
        }
    }

    /// Passes on what was said before the fault, then the fault.
    fn faulted(&self, fault: Fault, emit: &mut dyn FnMut(Event)) -> Ending {
        for message in self.messages.try_iter() {
            if let Message::Event(event) = message {
                emit(event);
            }
        }
        let Fault {
            rank,
            step,
            operation,
            cause,
            kind,
            retry,
        } = fault.clone();
        emit(Event::Fault {
            rank,
            step,
            operation,
            cause,
            kind,
            retry,
        });
        Ending::Faulted(fault)
    }
}

/// A rank's thread. A rank that fails parks with its memory intact, since others may be reading it.
fn live(job: Arc<Job>, seat: Seat, fault: &FaultCell, events: &Sender<Message>) {
    let (rank_number, number, progress) = (seat.rank, seat.number(), Arc::clone(&seat.progress));
    let (has_other_workers, device) = (job.plan.n_workers > 1, job.plan.ranks[seat.rank].device);
    let mut rank = None;
    let lived = panic::catch_unwind(AssertUnwindSafe(|| {
        let rank = rank.insert(Rank::new(job, seat)?);
        rank.run()
    }));
    let (cause, kind, retry) = match lived {
        Ok(Ok(finish)) => {
            let _ = events.send(Message::Finished {
                seat: number,
                finish,
            });
            if has_other_workers {
                // The process is about to end: taking it apart here could only go wrong, and end the others.
                park();
            }
            return;
        }
        Ok(Err(error)) if error.is_consequence() => park(),
        Ok(Err(error)) => {
            let (text, retry) = (error.to_string(), error.may_help_to_retry());
            let cause = Brief::from(&text);
            let rest = (!cause.is_all_of(&text)).then_some(text.as_str());
            if let Some(details) = error.details().or(rest) {
                eprintln!("rank {rank_number}: {details}");
            }
            let kind = error.kind(has_no_memory(device));
            (cause, kind, retry)
        }
        // The panic's hook has printed all of it.
        Err(payload) => {
            let kind = match has_no_memory(device) {
                true => FaultKind::OutOfMemory,
                false => FaultKind::Other,
            };
            (panic_cause(payload.as_ref()), kind, true)
        }
    };
    let operation = progress.operation().to_owned();
    fault.poison(Fault {
        rank: rank_number,
        step: progress.step(),
        operation,
        cause,
        kind,
        retry,
    });
    let _ = events.send(Message::Failed);
    park()
}

/// Whether a GPU refused a tensor its memory; on a CPU the kernel ends the process instead.
fn has_no_memory(device: Device) -> bool {
    match device {
        Device::Cpu => false,
        Device::Cuda(index) => memory::refusals_of_gpu(index).is_ok_and(|refusals| refusals > 0),
    }
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

fn panic_cause(payload: &(dyn Any + Send)) -> Brief {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a word")).into()
}

fn hang(stuck: &RankProgress, n_lanes: usize) -> Fault {
    let rank = stuck.rank / n_lanes;
    Fault {
        rank,
        step: stuck.step,
        operation: stuck.operation.clone(),
        cause: format!(
            "no progress for {:.1} s; rank {} is furthest behind, after {} collectives",
            stuck.silent_for.as_secs_f64(),
            rank,
            stuck.collective
        )
        .into(),
        kind: FaultKind::Other,
        retry: true,
    }
}

/// The common finish, once every rank has one. Rank 0's knows about saves.
fn all(finishes: &[Option<Finish>]) -> Option<Finish> {
    finishes
        .iter()
        .all(Option::is_some)
        .then(|| finishes.first().cloned().flatten())
        .flatten()
}

/// The seats of this worker.
fn seats(
    plan: &RunPlan,
    membership: &Membership,
    seating: &Seating,
    events: &Sender<Message>,
    orders: Receiver<Control>,
) -> Vec<Seat> {
    let (own, n_lanes) = (seating.own(), membership.n_lanes);
    let comms: Vec<CommSeat> = match plan.communicator {
        Communicator::Nccl => own.clone().map(|_| CommSeat::Nccl).collect(),
        Communicator::Solo | Communicator::Local | Communicator::Host => {
            GroupEnds::of(membership, seating)
                .into_iter()
                .map(|ends| CommSeat::Ends(Box::new(ends)))
                .collect()
        }
    };
    let progress: Vec<_> = own
        .clone()
        .map(|seat| Arc::clone(seating.progress(seat)))
        .collect();
    let lanes = progress
        .chunks(n_lanes)
        .flat_map(|rank| HostGroup::of_threads(seating.fault(), rank));
    let mut lanes = lanes.collect::<Vec<_>>().into_iter();
    let mut orders = Some(orders).filter(|_| own.start == 0);
    let mut notes = seating.everyone().into_iter();
    let mut losses = seating.everyone().into_iter();
    let mut ids = seating.everyone().into_iter();
    let mut saves = seating.everyone().into_iter();
    let mut tokens = seating.everyone().into_iter();
    let mut origins = seating.everyone().into_iter();
    let mut seats = Vec::with_capacity(own.len());
    for ((number, comms), progress) in own.zip(comms).zip(progress) {
        let (
            Some(notes),
            Some(losses),
            Some(ids),
            Some(lanes),
            Some(saves),
            Some(tokens),
            Some(origins),
        ) = (
            notes.next(),
            losses.next(),
            ids.next(),
            lanes.next(),
            saves.next(),
            tokens.next(),
            origins.next(),
        )
        else {
            break;
        };
        seats.push(Seat {
            rank: number / n_lanes,
            lane: number % n_lanes,
            n_lanes,
            lanes,
            notes,
            losses,
            ids,
            saves,
            tokens,
            origins,
            comms,
            progress,
            events: events.clone(),
            controls: orders.take(),
        });
    }
    seats
}
