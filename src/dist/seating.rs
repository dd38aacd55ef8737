//! The seats of one worker among all of a run's, and its way to the other workers.

use std::{
    cell::Cell,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{HostGroup, Progress, RankProgress};
use crate::base::{
    fault::{Fault, FaultCell, FaultKind},
    hub::Spoke,
    rendezvous::Poisoned,
};

/// One worker's share of the seats: as many as every other worker's, in order.
pub struct Seating {
    n_seats: usize,
    own: Range<usize>,
    fault: Arc<FaultCell>,
    /// Of the own seats.
    progress: Vec<Arc<Progress>>,
    /// Absent: there is no other worker.
    spoke: Option<Arc<Spoke>>,
    n_channels: Cell<u32>,
}

impl Seating {
    /// The place of the worker at `spoke`, or of the only one; `n_seats` are shared evenly.
    pub fn new(n_seats: usize, spoke: Option<Spoke>, fault: &Arc<FaultCell>) -> Self {
        let (worker, n_workers) = spoke
            .as_ref()
            .map_or((0, 1), |spoke| (spoke.worker(), spoke.n_workers()));
        let n_own = n_seats / n_workers;
        Self {
            n_seats,
            own: n_own * worker..n_own * (worker + 1),
            fault: Arc::clone(fault),
            progress: (0..n_own).map(|_| Arc::default()).collect(),
            spoke: spoke.map(Arc::new),
            n_channels: Cell::new(0),
        }
    }

    /// Seats of all workers.
    pub const fn n_seats(&self) -> usize {
        self.n_seats
    }

    /// The seats whose threads live here.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// The worker's fault.
    pub const fn fault(&self) -> &Arc<FaultCell> {
        &self.fault
    }

    /// The way to the other workers.
    pub(super) fn spoke(&self) -> Option<&Arc<Spoke>> {
        self.spoke.as_ref()
    }

    /// How far an own seat is.
    pub fn progress(&self, seat: usize) -> &Arc<Progress> {
        &self.progress[seat - self.own.start]
    }

    /// The worker where a seat's thread lives.
    pub fn worker_of(&self, seat: usize) -> usize {
        seat / self.own.len()
    }

    /// The first of `n` channels for one purpose. Every worker asks for the same in the same order.
    pub(super) fn channels(&self, n: u32) -> u32 {
        self.n_channels.replace(self.n_channels.get() + n)
    }

    /// The own seats' ends of a group in which `members`, in order, exchange values; with each its seat.
    ///
    /// Every worker makes the same groups in the same order.
    pub fn group<T>(&self, members: &[usize]) -> Vec<(usize, HostGroup<T>)>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let channel = self.channels(1);
        let own = members.iter().enumerate();
        let own: Vec<(usize, usize)> = own
            .filter(|(_, seat)| self.own.contains(seat))
            .map(|(rank, &seat)| (rank, seat))
            .collect();
        let ends = HostGroup::ends(
            &self.fault,
            own.iter()
                .map(|&(rank, seat)| (rank, Arc::clone(self.progress(seat))))
                .collect(),
            |point| match &self.spoke {
                None => point,
                Some(spoke) => {
                    let mut workers: Vec<usize> =
                        members.iter().map(|&seat| self.worker_of(seat)).collect();
                    workers.dedup();
                    let (spoke, fault) = (Arc::clone(spoke), Arc::clone(&self.fault));
                    point.meeting_others(Box::new(move |own| {
                        meet(&spoke, channel, &workers, own, &fault)
                    }))
                }
            },
        );
        own.into_iter().map(|(_, seat)| seat).zip(ends).collect()
    }

    /// The own seats' ends of a group of all seats, in order.
    pub fn everyone<T>(&self) -> Vec<HostGroup<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let members: Vec<usize> = (0..self.n_seats).collect();
        self.group(&members)
            .into_iter()
            .map(|(_, end)| end)
            .collect()
    }

    /// What looks after all seats, those of other workers by what they say of themselves.
    pub fn watch(&self) -> Watch {
        let began = Instant::now();
        Watch {
            own: self.own.start,
            progress: self.progress.clone(),
            spoke: self.spoke.clone(),
            channel: self.channels(1),
            heard: (0..self.n_seats)
                .map(|seat| (began, Progress::default().read(seat)))
                .collect(),
        }
    }
}

/// Gives the own values to the group's other workers and takes theirs.
fn meet<T: Serialize + DeserializeOwned>(
    spoke: &Spoke,
    channel: u32,
    workers: &[usize],
    own: Vec<T>,
    fault: &FaultCell,
) -> Result<Arc<[T]>, Poisoned> {
    let others = || workers.iter().filter(|&&worker| worker != spoke.worker());
    let bytes = rmp_serde::to_vec_named(&own).map_err(|error| garbled(fault, spoke, &error))?;
    for &worker in others() {
        spoke.send(worker, channel, &bytes)?;
    }
    let mut all = Vec::new();
    let mut own = Some(own);
    for &worker in workers {
        if worker == spoke.worker() {
            all.extend(own.take().into_iter().flatten());
            continue;
        }
        let bytes = spoke.recv(worker, channel)?;
        let theirs: Vec<T> =
            rmp_serde::from_slice(&bytes).map_err(|error| garbled(fault, spoke, &error))?;
        all.extend(theirs);
    }
    Ok(all.into())
}

/// A worker of another build, or memory of one that is gone; a fault, recorded.
pub(super) fn garbled(fault: &FaultCell, spoke: &Spoke, error: &dyn std::error::Error) -> Poisoned {
    fault.poison(Fault {
        rank: spoke.worker(),
        step: 0,
        operation: "reading what another worker said".to_owned(),
        cause: error.to_string().into(),
        kind: FaultKind::Other,
        retry: true,
    });
    Poisoned
}

/// Looks after the progress of all seats.
pub struct Watch {
    /// The first own seat.
    own: usize,
    progress: Vec<Arc<Progress>>,
    spoke: Option<Arc<Spoke>>,
    channel: u32,
    /// Of every seat the last word, and when it came.
    heard: Vec<(Instant, RankProgress)>,
}

impl Watch {
    /// Tells the other workers how far this one is, and hears them.
    fn update(&mut self) {
        let now = Instant::now();
        let own = self.own..self.own + self.progress.len();
        for seat in own.clone() {
            self.heard[seat] = (now, self.progress[seat - own.start].read(seat));
        }
        let Some(spoke) = &self.spoke else { return };
        let said: Vec<&RankProgress> = self.heard[own].iter().map(|(_, said)| said).collect();
        let said = rmp_serde::to_vec_named(&said).unwrap_or_default();
        for worker in (0..spoke.n_workers()).filter(|&worker| worker != spoke.worker()) {
            // Without a hub this process is about to end.
            let _ = spoke.send(worker, self.channel, &said);
            while let Some(bytes) = spoke.try_recv(worker, self.channel) {
                let theirs: Vec<RankProgress> = rmp_serde::from_slice(&bytes).unwrap_or_default();
                for said in theirs {
                    let seat = said.rank;
                    self.heard[seat] = (now, said);
                }
            }
        }
    }

    /// The seat furthest behind, where every one has been silent for `limit`.
    pub fn stuck(&mut self, limit: Duration) -> Option<RankProgress> {
        self.update();
        let now = self.heard.iter().map(|(when, said)| RankProgress {
            silent_for: said.silent_for + when.elapsed(),
            ..said.clone()
        });
        RankProgress::stuck(now.collect(), limit)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::thread;

    use super::*;
    use crate::base::hub;

    /// The places of workers whose hub runs in this process.
    pub fn seatings(n_seats: usize, n_workers: usize) -> Vec<Seating> {
        hub::tests::spokes(n_workers, &Arc::default())
            .into_iter()
            .map(|spoke| Seating::new(n_seats, Some(spoke), &Arc::default()))
            .collect()
    }

    #[test]
    fn seats_of_all_workers_exchange_values() {
        let places = seatings(6, 3);
        assert_eq!((places[2].own(), places[2].worker_of(3)), (4..6, 1));
        // Groups of all, of one worker, across two.
        for members in [vec![0, 1, 2, 3, 4, 5], vec![2, 3], vec![1, 4, 5]] {
            let ends: Vec<_> = places
                .iter()
                .flat_map(|place| place.group::<f64>(&members))
                .collect();
            assert_eq!(ends.len(), members.len());
            let expected: Vec<f64> = members.iter().map(|&seat| seat as f64 / 3.0).collect();
            thread::scope(|scope| {
                for (seat, end) in &ends {
                    let expected = &expected;
                    scope.spawn(move || {
                        for _ in 0..100 {
                            let all = end.exchange(*seat as f64 / 3.0).expect("nobody fails");
                            assert_eq!(*all, **expected);
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn what_is_not_a_number_survives() {
        let places = seatings(2, 2);
        let ends: Vec<_> = places
            .iter()
            .flat_map(|place| place.everyone::<f64>())
            .collect();
        thread::scope(|scope| {
            for (value, end) in [f64::NAN, f64::NEG_INFINITY].into_iter().zip(&ends) {
                scope.spawn(move || {
                    let all = end.exchange(value).expect("nobody fails");
                    assert!(all[0].is_nan() && all[1] == f64::NEG_INFINITY);
                });
            }
        });
    }

    #[test]
    fn a_silent_worker_is_blamed_by_the_others() {
        let places = seatings(2, 2);
        let mut watches: Vec<Watch> = places.iter().map(Seating::watch).collect();
        for (seat, place) in places.iter().enumerate() {
            place.progress(seat).enter_step(3);
        }
        places[1].progress(1).enter_collective();
        let mut stuck = None;
        let began = Instant::now();
        // Until the other worker's words have arrived.
        while began.elapsed() < Duration::from_secs(20)
            && stuck
                .as_ref()
                .is_none_or(|stuck: &RankProgress| stuck.step != 3)
        {
            watches[1].update();
            stuck = watches[0].stuck(Duration::ZERO);
        }
        assert_eq!(stuck.map(|stuck| (stuck.rank, stuck.step)), Some((0, 3)));
        assert_eq!(watches[0].stuck(Duration::from_secs(3_600)), None);
    }
}
