//! A meeting point of threads where each leaves a value and takes everybody's.

use std::{
    hint,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::base::fault::FaultCell;

/// Spins before sleeping. More helps nobody: on a loaded machine a spinning rank keeps the late one off its core.
const SPINS: u32 = 200;
/// How long a sleeping rank takes to notice a fault elsewhere.
const FAULT_CHECK: Duration = Duration::from_millis(20);

/// Another rank failed; the cause lies in the [`FaultCell`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another rank failed")]
pub struct Poisoned;

/// Takes the values of all threads of this process to other processes and returns everybody's.
type Across<T> = Box<dyn Fn(Vec<T>) -> Result<Arc<[T]>, Poisoned> + Send + Sync>;

/// A reusable barrier that exchanges values.
pub struct Rendezvous<T> {
    world: usize,
    spins: u32,
    /// Absent: all threads are of this process.
    across: Option<Across<T>>,
    fault: Arc<FaultCell>,
    generation: AtomicU64,
    meeting: Mutex<Meeting<T>>,
    complete: Condvar,
}

#[derive(Debug)]
struct Meeting<T> {
    slots: Vec<Option<T>>,
    n_arrived: usize,
    /// Of the last complete generation; all ranks read it before the next can complete.
    values: Arc<[T]>,
}

impl<T> Rendezvous<T> {
    /// A meeting point for `world` threads that share `fault`.
    pub fn new(world: usize, fault: Arc<FaultCell>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let meeting = Meeting {
            slots: (0..world).map(|_| None).collect(),
            n_arrived: 0,
            values: Arc::new([]),
        };
        Self {
            world,
            spins: if world > cores { 0 } else { SPINS },
            across: None,
            fault,
            generation: AtomicU64::new(0),
            meeting: Mutex::new(meeting),
            complete: Condvar::new(),
        }
    }

    /// Lets the last thread that arrives meet other processes, with `across`, before all go on.
    #[must_use]
    pub fn meeting_others(self, across: Across<T>) -> Self {
        Self {
            across: Some(across),
            ..self
        }
    }

    /// Leaves `value` and waits for all ranks; returns everybody's in rank order.
    ///
    /// # Errors
    /// A rank failed before all had arrived.
    pub fn exchange(&self, rank: usize, value: T) -> Result<Arc<[T]>, Poisoned> {
        let mut meeting = self.lock();
        let generation = self.generation.load(Ordering::Acquire);
        meeting.slots[rank] = Some(value);
        meeting.n_arrived += 1;
        if meeting.n_arrived == self.world {
            meeting.n_arrived = 0;
            let own = meeting.slots.iter_mut().filter_map(Option::take);
            meeting.values = match &self.across {
                None => own.collect(),
                Some(across) => {
                    let own = own.collect();
                    drop(meeting);
                    let all = across(own)?;
                    meeting = self.lock();
                    all
                }
            };
            self.generation.store(generation + 1, Ordering::Release);
            self.complete.notify_all();
            return Ok(Arc::clone(&meeting.values));
        }
        drop(meeting);
        self.wait(generation)
    }

    fn wait(&self, generation: u64) -> Result<Arc<[T]>, Poisoned> {
        let arrived = || self.generation.load(Ordering::Acquire) != generation;
        for _ in 0..self.spins {
            if arrived() {
                break;
            }
            hint::spin_loop();
        }
        let mut meeting = self.lock();
        while !arrived() {
            if self.fault.is_poisoned() {
                return Err(Poisoned);
            }
            let waited = self.complete.wait_timeout(meeting, FAULT_CHECK);
            meeting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(Arc::clone(&meeting.values))
    }

    fn lock(&self) -> MutexGuard<'_, Meeting<T>> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::base::fault::{Fault, FaultKind};

    #[test]
    fn every_rank_gets_every_value_in_rank_order() {
        let point = Rendezvous::new(4, Arc::new(FaultCell::default()));
        thread::scope(|scope| {
            for rank in 0..4 {
                let point = &point;
                scope.spawn(move || {
                    for round in 0..500 {
                        let values = point
                            .exchange(rank, 10 * round + rank)
                            .expect("nobody fails");
                        assert_eq!(*values, [0, 1, 2, 3].map(|r| 10 * round + r));
                    }
                });
            }
        });
    }

    #[test]
    fn a_fault_frees_the_waiting() {
        let fault = Arc::new(FaultCell::default());
        let point = Rendezvous::new(2, Arc::clone(&fault));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| point.exchange(0, ()));
            fault.poison(Fault {
                rank: 1,
                step: 3,
                operation: "forward".to_owned(),
                cause: "a test".into(),
                kind: FaultKind::Other,
                retry: false,
            });
            assert_eq!(waiting.join().expect("no panic").map(|_| ()), Err(Poisoned));
        });
        assert_eq!(fault.first().map(|fault| fault.step), Some(3));
    }
}
