//! Communicator and links of CPU ranks in different processes: bytes travel through the supervisor's hub.
//!
//! Slow, and the same to the bit as between threads: it lets a run of several workers be tried without a GPU.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tch::Tensor;

use super::{
    CommError, Expected, Flow, HostGroup, Links, Progress, Seating,
    comm::n_bytes,
    deferred::{Deferred, Meeting},
    seating::garbled,
};
use crate::{
    base::{fault::FaultCell, hub::Spoke},
    torch::{
        TorchError,
        peers::{self, Operation, PeerError},
        raw,
    },
};

/// One rank's end.
pub type HostComm = Deferred<Processes>;

/// Processes that send each other their buffers.
pub struct Processes {
    world: usize,
    group: HostGroup<Offer>,
    sequence: u64,
}

/// What a rank brings to a collective.
#[derive(Serialize, Deserialize)]
struct Offer {
    /// The operation and its buffer, in words; ranks that disagree find out by it.
    title: String,
    bytes: ByteBuf,
}

impl HostComm {
    /// The ends of a group's ranks of this worker; with each its seat.
    pub fn ends(seating: &Seating, members: &[usize]) -> Vec<(usize, Self)> {
        let end = |(seat, group)| {
            let processes = Processes {
                world: members.len(),
                group,
                sequence: 0,
            };
            (seat, Self::new(processes))
        };
        seating.group(members).into_iter().map(end).collect()
    }
}

impl Processes {
    fn perform_one(&mut self, operation: Operation, buffer: &Tensor) -> Result<(), CommError> {
        self.sequence += 1;
        let (len, kind, sequence) = (buffer.numel(), buffer.kind(), self.sequence);
        let title = format!("{operation} of {len} {kind:?} (number {sequence})");
        let bytes = ByteBuf::from(raw::bytes(buffer)?.to_vec());
        let offers = self
            .group
            .exchange(Offer { title, bytes })
            .map_err(PeerError::from)?;
        let stray = offers
            .iter()
            .position(|offer| offer.title != offers[0].title);
        if let Some(rank) = stray {
            return Err(CommError::Peer(PeerError::Mismatch {
                sequence,
                rank,
                this: offers[rank].title.clone(),
                first: offers[0].title.clone(),
            }));
        }
        let copies: Result<Vec<Tensor>, _> = offers
            .iter()
            .map(|offer| Tensor::f_from_data_size(&offer.bytes, &[len as i64], kind))
            .collect();
        let copies = copies.map_err(TorchError::from)?;
        Ok(peers::perform_on_copies(
            self.group.rank(),
            operation,
            &copies,
            buffer,
        )?)
    }
}

impl Meeting for Processes {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn world(&self) -> usize {
        self.world
    }

    fn perform(&mut self, operation: Operation, buffers: &[&Tensor]) -> Result<(), CommError> {
        let mut buffers = buffers.iter();
        buffers.try_for_each(|buffer| self.perform_one(operation, buffer))
    }
}

/// The links of stages in different workers.
pub struct HostLinks {
    stage: usize,
    /// The worker of each stage.
    workers: Vec<usize>,
    spoke: Arc<Spoke>,
    first_channel: u32,
    fault: Arc<FaultCell>,
    progress: Arc<Progress>,
    sent_bytes: u64,
}

/// A tensor on its way.
#[derive(Serialize, Deserialize)]
struct Parcel {
    shape: Vec<i64>,
    kind: String,
    bytes: ByteBuf,
}

impl HostLinks {
    /// The ends of a pipeline's stages of this worker; with each its seat. None where there is no other worker.
    pub fn ends(seating: &Seating, stages: &[usize]) -> Vec<(usize, Self)> {
        let n_stages = stages.len();
        let first_channel = seating.channels(2 * (n_stages * n_stages) as u32);
        let Some(spoke) = seating.spoke() else {
            return Vec::new();
        };
        let own = stages.iter().enumerate();
        own.filter(|(_, seat)| seating.own().contains(seat))
            .map(|(stage, &seat)| {
                let links = Self {
                    stage,
                    workers: stages.iter().map(|&seat| seating.worker_of(seat)).collect(),
                    spoke: Arc::clone(spoke),
                    first_channel,
                    fault: Arc::clone(seating.fault()),
                    progress: Arc::clone(seating.progress(seat)),
                    sent_bytes: 0,
                };
                (seat, links)
            })
            .collect()
    }

    fn channel(&self, flow: Flow, from: usize, to: usize) -> u32 {
        let n_stages = self.workers.len();
        let flow = usize::from(flow == Flow::Gradient);
        self.first_channel + ((flow * n_stages + from) * n_stages + to) as u32
    }
}

impl Links for HostLinks {
    fn send(&mut self, flow: Flow, to: usize, tensor: &Tensor) -> Result<(), CommError> {
        self.sent_bytes += n_bytes(tensor);
        let tensor = tensor.f_contiguous().map_err(TorchError::from)?;
        let parcel = Parcel {
            shape: tensor.size(),
            kind: format!("{:?}", tensor.kind()),
            bytes: ByteBuf::from(raw::bytes(&tensor)?.to_vec()),
        };
        let bytes = rmp_serde::to_vec_named(&parcel)
            .map_err(|error| PeerError::from(garbled(&self.fault, &self.spoke, &error)))?;
        let channel = self.channel(flow, self.stage, to);
        let sent = self.spoke.send(self.workers[to], channel, &bytes);
        Ok(sent.map_err(PeerError::from)?)
    }

    fn recv(&mut self, flow: Flow, from: usize, expected: &Expected) -> Result<Tensor, CommError> {
        self.progress.enter_collective();
        let channel = self.channel(flow, from, self.stage);
        let bytes = self.spoke.recv(self.workers[from], channel);
        let bytes = bytes.map_err(PeerError::from)?;
        self.progress.leave_collective();
        let parcel: Parcel = rmp_serde::from_slice(&bytes)
            .map_err(|error| PeerError::from(garbled(&self.fault, &self.spoke, &error)))?;
        let found = (parcel.shape.as_slice(), parcel.kind.as_str());
        if found != (expected.shape.as_slice(), &format!("{:?}", expected.kind)) {
            let text = format!("stage {from} handed over {found:?}, expected {expected:?}");
            return Err(TorchError::new(&text).into());
        }
        let tensor = Tensor::f_from_data_size(&parcel.bytes, &parcel.shape, expected.kind);
        Ok(tensor.map_err(TorchError::from)?)
    }

    fn take_sent_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tch::{Device, Kind};

    use super::{
        super::{Communicator, Reduction, seating::tests::seatings},
        *,
    };

    /// Ranks of two workers.
    fn on_ranks<R: Send>(world: usize, body: impl Fn(HostComm) -> R + Sync) -> Vec<R> {
        let members: Vec<usize> = (0..world).collect();
        let places = seatings(world, 2);
        let ends: Vec<_> = places
            .iter()
            .flat_map(|place| HostComm::ends(place, &members))
            .collect();
        thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> = ends
                .into_iter()
                .map(|(_, end)| scope.spawn(move || body(end)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        })
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).expect("fp32")
    }

    #[test]
    fn collectives_over_processes_do_what_their_names_say() {
        let results = on_ranks(4, |mut end| {
            let rank = end.rank() as f32;
            let buffer = || Tensor::from_slice(&[rank, 1.0, 2.0, 0.1 * rank]);
            let [sum, max, root, scattered, gathered] = [(); 5].map(|()| buffer());
            end.start_all_reduce(&sum, Reduction::Sum).expect("started");
            end.start_all_reduce(&max, Reduction::Max).expect("started");
            end.start_reduce(&root, 2).expect("started");
            end.start_broadcast(&root, 2).expect("started");
            end.start_reduce_scatter(&scattered).expect("started");
            end.start_all_gather(&scattered).expect("started");
            end.start_all_gather(&gathered).expect("started");
            end.wait().expect("done");
            [sum, max, root, scattered, gathered].map(|tensor| values(&tensor))
        });
        for [sum, max, root, scattered, gathered] in results {
            let total = 0.1f32 * 1.0 + 0.1 * 2.0 + 0.1 * 3.0;
            assert_eq!(sum, [6.0, 4.0, 8.0, total]);
            assert_eq!(max, [3.0, 1.0, 2.0, 0.3f32.max(0.1 * 3.0)]);
            assert_eq!((&root, &scattered), (&sum, &sum));
            assert_eq!(gathered, [0.0, 1.0, 2.0, 0.1 * 3.0]);
        }
    }

    #[test]
    fn disagreement_is_named() {
        let results = on_ranks(2, |mut end| {
            let buffer = Tensor::from_slice(&vec![1f32; 10 + end.rank()]);
            end.start_all_reduce(&buffer, Reduction::Sum)
                .expect("started");
            end.wait()
        });
        for result in results {
            let message = result.expect_err("lengths differ").to_string();
            assert!(
                message.contains("all-reduce of 11") && message.contains("all-reduce of 10"),
                "{message}"
            );
        }
    }

    #[test]
    fn stages_hand_tensors_over_in_order() {
        let places = seatings(2, 2);
        let mut links = places.iter().map(|place| {
            let mut own = HostLinks::ends(place, &[0, 1]);
            own.remove(0).1
        });
        let (mut first, mut last) = (
            links.next().expect("a stage"),
            links.next().expect("a stage"),
        );
        for value in [1.0, 2.0] {
            let tensor = Tensor::full([2, 3], value, (Kind::Float, Device::Cpu));
            first
                .send(Flow::Activation, 1, &tensor.tr())
                .expect("the hub is there");
        }
        let expected = |rows| Expected {
            shape: vec![rows, 2],
            kind: Kind::Float,
            device: Device::Cpu,
        };
        let tensor = last.recv(Flow::Activation, 0, &expected(3)).expect("sent");
        assert_eq!(values(&tensor.view([-1])), [1.0; 6]);
        let error = last.recv(Flow::Activation, 0, &expected(4));
        assert!(
            error
                .expect_err("another shape")
                .to_string()
                .contains("[3, 2]")
        );
    }
}
