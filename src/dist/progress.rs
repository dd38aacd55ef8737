//! How far each rank is, for the watchdog and for fault reports.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// One rank's position, written by its thread and read by the watchdog.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    last_beat_ms: AtomicU64,
    step: AtomicU64,
    collective: AtomicU64,
    /// What was begun or done in the step.
    place: AtomicU64,
    in_collective: AtomicBool,
    idle: AtomicBool,
    operation: Mutex<&'static str>,
}

/// What the watchdog read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankProgress {
    pub rank: usize,
    pub step: u64,
    pub collective: u64,
    /// How far it is in its step: the number of things begun or done.
    pub place: u64,
    pub in_collective: bool,
    pub operation: String,
    pub silent_for: Duration,
    /// The rank waits on purpose (paused).
    pub idle: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last_beat_ms: AtomicU64::new(0),
            step: AtomicU64::new(0),
            collective: AtomicU64::new(0),
            place: AtomicU64::new(0),
            in_collective: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            operation: Mutex::new("starting"),
        }
    }
}

impl Progress {
    /// Says what the rank does next.
    pub fn enter(&self, operation: &'static str) {
        *self
            .operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = operation;
        self.advance();
    }

    /// Says that a part of the operation is done.
    pub fn advance(&self) {
        self.place.fetch_add(1, Ordering::Relaxed);
        self.beat();
    }

    /// Says that a step begins.
    pub fn enter_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
        self.place.store(0, Ordering::Relaxed);
        self.beat();
    }

    /// Says that the rank waits for others: in its next collective, or for what a stage hands over.
    pub fn enter_collective(&self) {
        self.collective.fetch_add(1, Ordering::Relaxed);
        self.in_collective.store(true, Ordering::Relaxed);
        self.beat();
    }

    /// Says that the wait is over.
    pub fn leave_collective(&self) {
        self.in_collective.store(false, Ordering::Relaxed);
        self.beat();
    }

    /// Does `body`, in which the rank waits for its own device, whose work may wait for other ranks'. It is no
    /// collective: some ranks do so more often than others.
    pub fn waiting_for_device<T>(&self, body: impl FnOnce() -> T) -> T {
        self.in_collective.store(true, Ordering::Relaxed);
        self.beat();
        let result = body();
        self.leave_collective();
        result
    }

    /// Says that the rank waits on purpose, or no longer.
    pub fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
        self.beat();
    }

    /// What the rank is doing.
    pub fn operation(&self) -> &'static str {
        *self
            .operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The step under way.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    fn beat(&self) {
        self.last_beat_ms
            .store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// What a watchdog sees of it.
    pub fn read(&self, rank: usize) -> RankProgress {
        let last_beat = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        RankProgress {
            rank,
            step: self.step(),
            collective: self.collective.load(Ordering::Relaxed),
            place: self.place.load(Ordering::Relaxed),
            in_collective: self.in_collective.load(Ordering::Relaxed),
            operation: self.operation().to_owned(),
            silent_for: self.began.elapsed().saturating_sub(last_beat),
            idle: self.idle.load(Ordering::Relaxed),
        }
    }
}

impl RankProgress {
    /// The rank furthest behind, where every rank has been silent for `limit`.
    ///
    /// A stuck rank stops the others at their next meeting, so all fall silent; the one to blame does not
    /// wait for others, or has made the least progress. A rank whose device waits for another's collective may stand
    /// still without saying that it waits, in a launch that finds the device's queue full; it is further in its step.
    pub fn stuck(ranks: Vec<Self>, limit: Duration) -> Option<Self> {
        let all_silent = ranks
            .iter()
            .all(|rank| rank.silent_for >= limit && !rank.idle);
        let furthest_behind = ranks
            .into_iter()
            .min_by_key(|rank| (rank.in_collective, rank.step, rank.collective, rank.place));
        furthest_behind.filter(|_| all_silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_waits_for_its_device_is_not_blamed_before_one_that_does_not_wait() {
        let ranks: Vec<_> = (0..2).map(|_| Progress::default()).collect();
        let blamed = || {
            let ranks = ranks.iter().enumerate();
            let read = ranks.map(|(rank, progress)| progress.read(rank)).collect();
            RankProgress::stuck(read, Duration::ZERO).map(|stuck| stuck.rank)
        };
        // Rank 1 has not come to the collective of step 4 that rank 0's device is in; rank 0 reads step 3 meanwhile.
        for progress in &ranks {
            progress.enter_step(4);
        }
        assert_eq!(blamed(), Some(0), "nothing tells the two apart");
        ranks[0].waiting_for_device(|| assert_eq!(blamed(), Some(1)));
        assert_eq!(blamed(), Some(0), "it waits no longer, and is no further");
        // It has launched until its device's queue was full.
        ranks[0].enter("forward and backward");
        ranks[0].advance();
        assert_eq!(blamed(), Some(1));
    }

    #[test]
    fn the_rank_furthest_behind_is_named() {
        let ranks: Vec<_> = (0..3).map(|_| Progress::default()).collect();
        for (rank, progress) in ranks.iter().enumerate() {
            progress.enter_step(7);
            progress.enter("backward");
            if rank != 1 {
                progress.enter_collective();
            }
        }
        let read = || {
            let ranks = ranks.iter().enumerate();
            ranks.map(|(rank, progress)| progress.read(rank)).collect()
        };
        let stuck = RankProgress::stuck(read(), Duration::ZERO).expect("all are silent");
        assert_eq!(
            (stuck.rank, stuck.step, stuck.operation.as_str()),
            (1, 7, "backward")
        );
        assert_eq!(
            RankProgress::stuck(read(), Duration::from_secs(3_600)),
            None
        );
        ranks.iter().for_each(|rank| rank.set_idle(true));
        assert_eq!(RankProgress::stuck(read(), Duration::ZERO), None);
    }
}
