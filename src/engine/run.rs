//! All ranks of a worker, from the thread that watches over them.

use std::{
    any::Any,
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
    base::fault::{Fault, FaultCell},
    checkpoint::Loaded,
    config::{Precision, RunConfig},
    data::Prepared,
    dist::{HostGroup, LocalGroups, Progress, RankProgress},
    event::{Control, Event},
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
    let crew = Crew::start(Arc::new(job));
    Ok(crew.watch(controls, hang_limit, emit))
}

/// The threads of all ranks, as the watching thread sees them.
struct Crew {
    fault: Arc<FaultCell>,
    progress: Vec<Arc<Progress>>,
    messages: Receiver<Message>,
    orders: Sender<Control>,
    n_seats: usize,
    n_lanes: usize,
}

impl Crew {
    fn start(job: Arc<Job>) -> Self {
        let n_lanes = n_lanes(&job);
        let n_seats = job.plan.world() * n_lanes;
        let fault = Arc::new(FaultCell::default());
        let progress: Vec<Arc<Progress>> = (0..n_seats)
            .map(|_| Arc::new(Progress::default()))
            .collect();
        let (events, messages) = channel();
        let (orders, rank_orders) = channel();
        for seat in seats(&job, &fault, &progress, &events, rank_orders) {
            let no_thread = Arc::clone(&fault);
            let (job, fault, events) = (Arc::clone(&job), Arc::clone(&fault), events.clone());
            let name = format!("rank-{}.{}", seat.rank, seat.lane);
            let body = move || live(job, seat, &fault, &events);
            if let Err(error) = thread::Builder::new().name(name).spawn(body) {
                no_thread.poison(Fault {
                    rank: 0,
                    step: 0,
                    operation: "starting".to_owned(),
                    cause: format!("no thread for a rank: {error}"),
                    retry: false,
                });
            }
        }
        Self {
            fault,
            progress,
            messages,
            orders,
            n_seats,
            n_lanes,
        }
    }

    fn watch(
        &self,
        controls: &Receiver<Control>,
        hang_limit: Duration,
        emit: &mut dyn FnMut(Event),
    ) -> Ending {
        let mut finishes: Vec<Option<Finish>> = vec![None; self.n_seats];
        let mut last_watch = Instant::now();
        loop {
            match self.messages.recv_timeout(TICK) {
                Ok(Message::Event(event)) => emit(event),
                Ok(Message::Finished { seat, finish }) => finishes[seat] = Some(finish),
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
                        step: self.progress[0].step(),
                    };
                }
                // Rank 0 stops listening only when it is done.
                let _ = self.orders.send(control);
            }
            if last_watch.elapsed() >= WATCH_EVERY {
                last_watch = Instant::now();
                if let Some(stuck) = RankProgress::stuck(&self.progress, hang_limit) {
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
            retry,
        } = fault.clone();
        emit(Event::Fault {
            rank,
            step,
            operation,
            cause,
            retry,
        });
        Ending::Faulted(fault)
    }
}

/// A rank's thread. A rank that fails parks with its memory intact, since others may be reading it.
fn live(job: Arc<Job>, seat: Seat, fault: &FaultCell, events: &Sender<Message>) {
    let (rank_number, number, progress) = (seat.rank, seat.number(), Arc::clone(&seat.progress));
    let mut rank = None;
    let lived = panic::catch_unwind(AssertUnwindSafe(|| {
        let rank = rank.insert(Rank::new(job, seat)?);
        rank.run()
    }));
    let (cause, retry) = match lived {
        Ok(Ok(finish)) => {
            let _ = events.send(Message::Finished {
                seat: number,
                finish,
            });
            return;
        }
        Ok(Err(error)) if error.is_consequence() => park(),
        Ok(Err(error)) => {
            if let Some(details) = error.details() {
                eprintln!("rank {rank_number}: {details}");
            }
            (error.to_string(), error.may_help_to_retry())
        }
        Err(payload) => (format!("panic: {}", panic_text(payload.as_ref())), true),
    };
    let operation = progress.operation().to_owned();
    fault.poison(Fault {
        rank: rank_number,
        step: progress.step(),
        operation,
        cause,
        retry,
    });
    let _ = events.send(Message::Failed);
    park()
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn hang(stuck: &RankProgress, n_lanes: usize) -> Fault {
    let rank = stuck.rank / n_lanes;
    Fault {
        rank,
        step: stuck.step,
        operation: stuck.operation.to_owned(),
        cause: format!(
            "no progress for {:.1} s; rank {} is furthest behind, after {} collectives",
            stuck.silent_for.as_secs_f64(),
            rank,
            stuck.collective
        ),
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

fn seats(
    job: &Job,
    fault: &Arc<FaultCell>,
    progress: &[Arc<Progress>],
    events: &Sender<Message>,
    orders: Receiver<Control>,
) -> Vec<Seat> {
    let membership = seat::membership(&job.plan);
    let n_seats = membership.n_seats();
    let comms: Vec<CommSeat> = match job.plan.communicator {
        Communicator::Nccl => (0..n_seats).map(|_| CommSeat::Nccl).collect(),
        Communicator::Solo | Communicator::Local => LocalGroups::ends(&membership, fault, progress)
            .into_iter()
            .map(|groups| CommSeat::Local(Box::new(groups)))
            .collect(),
    };
    let mut orders = Some(orders);
    let mut notes = HostGroup::seats(n_seats, fault).into_iter();
    let mut losses = HostGroup::seats(n_seats, fault).into_iter();
    let mut ids = HostGroup::seats(n_seats, fault).into_iter();
    let mut shared = HostGroup::seats(n_seats, fault).into_iter();
    let mut saves = HostGroup::seats(n_seats, fault).into_iter();
    let mut tokens = HostGroup::seats(n_seats, fault).into_iter();
    let mut seats = Vec::with_capacity(n_seats);
    for (number, comms) in comms.into_iter().enumerate() {
        let (Some(notes), Some(losses), Some(ids), Some(shared), Some(saves), Some(tokens)) = (
            notes.next(),
            losses.next(),
            ids.next(),
            shared.next(),
            saves.next(),
            tokens.next(),
        ) else {
            break;
        };
        seats.push(Seat {
            rank: number / membership.n_lanes,
            lane: number % membership.n_lanes,
            n_lanes: membership.n_lanes,
            shared,
            notes,
            losses,
            ids,
            saves,
            tokens,
            comms,
            progress: Arc::clone(&progress[number]),
            events: events.clone(),
            controls: orders.take(),
        });
    }
    seats
}

/// Lanes of each rank; all ranks have as many.
fn n_lanes(job: &Job) -> usize {
    job.plan.ranks.first().map_or(1, |rank| rank.lanes)
}
