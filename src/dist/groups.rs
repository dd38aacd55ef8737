//! The groups of ranks that a rank belongs to, one for each axis of the mesh and what crosses axes.

use std::sync::Arc;

use super::{
    CommError, Communicator, Flow, HostComm, HostGroup, HostLinks, LinkEnd, Links, LocalComm,
    LocalLinks, NcclComm, NcclLinks, NcclPairs, NoLinks, Progress, Seating, SoloComm, check_pairs,
};
use crate::{
    event::Traffic,
    plan::Mesh,
    torch::{TorchError, nccl::UniqueId, stream::Stream},
};

/// One rank's communicators.
pub struct Groups {
    /// Ranks that train the same parameters on other samples.
    pub dp: Box<dyn Communicator>,
    /// Ranks that share each layer.
    pub tp: Box<dyn Communicator>,
    /// Ranks whose squared gradients make up the global norm.
    pub norm: Box<dyn Communicator>,
    /// First and last stage, where they share a parameter.
    pub tied: Box<dyn Communicator>,
    /// The other stages.
    pub links: Box<dyn Links>,
}

/// Who belongs together. Seats are numbered through: the lanes of a rank one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    pub mesh: Mesh,
    pub n_lanes: usize,
    /// Data-parallel ranks keep different parts of the gradients.
    pub shards_grads: bool,
    /// First and last stage share a parameter.
    pub ties: bool,
    /// The last stage's chunks are followed by further ones of the first.
    pub wraps: bool,
}

/// The kinds of groups, in the order in which they are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Data,
    Tensor,
    Norm,
    Tied,
    Pipeline,
}

impl Membership {
    /// Seats of all ranks.
    pub fn n_seats(&self) -> usize {
        self.mesh.world() * self.n_lanes
    }

    /// The seats that belong with `seat`, itself among them, in order.
    fn members(&self, axis: Axis, seat: usize) -> Vec<usize> {
        let key = |seat: usize| {
            let (at, lane) = (self.mesh.at(seat / self.n_lanes), seat % self.n_lanes);
            let last = self.mesh.pp - 1;
            match axis {
                Axis::Data => [at.stage, at.shard, 0, 0],
                Axis::Tensor => [at.stage, at.replica, lane, 0],
                Axis::Norm if self.shards_grads => [0; 4],
                Axis::Norm => [at.replica, lane, 0, 0],
                Axis::Tied if self.ties && (at.stage == 0 || at.stage == last) => {
                    [at.replica, at.shard, lane, 0]
                }
                Axis::Tied => [0, 0, 0, 1 + seat],
                Axis::Pipeline => [at.replica, at.shard, lane, 0],
            }
        };
        let own = key(seat);
        (0..self.n_seats())
            .filter(|&other| key(other) == own)
            .collect()
    }

    /// The groups of more than one seat, by their first.
    fn groups(&self, axis: Axis) -> impl Iterator<Item = Vec<usize>> {
        let groups = (0..self.n_seats()).map(move |seat| (seat, self.members(axis, seat)));
        groups
            .filter(|(seat, members)| members[0] == *seat && members.len() > 1)
            .map(|(_, members)| members)
    }

    /// Flows between stages: (flow, from, to).
    fn flows(&self) -> Vec<(Flow, usize, usize)> {
        let n_edges = match self.wraps {
            true => self.mesh.pp,
            false => self.mesh.pp - 1,
        };
        (0..n_edges)
            .map(|from| (from, (from + 1) % self.mesh.pp))
            .flat_map(|(from, to)| [(Flow::Activation, from, to), (Flow::Gradient, to, from)])
            .collect()
    }
}

/// A rank's ends of the groups, made before the threads are.
pub struct GroupEnds {
    comms: [Option<Box<dyn Communicator + Send>>; 4],
    links: Option<Box<dyn Links + Send>>,
}

const COMMS: [Axis; 4] = [Axis::Data, Axis::Tensor, Axis::Norm, Axis::Tied];

impl GroupEnds {
    /// Makes the ends of a worker's seats, each to be moved to its thread. Where there are other workers,
    /// everything goes through the host.
    pub fn of(membership: &Membership, seating: &Seating) -> Vec<Self> {
        let own = seating.own();
        let mut seats: Vec<Self> = own
            .clone()
            .map(|_| Self {
                comms: [const { None }; 4],
                links: None,
            })
            .collect();
        for (number, axis) in COMMS.into_iter().enumerate() {
            for members in membership.groups(axis) {
                for (seat, end) in comm_ends(seating, &members) {
                    seats[seat - own.start].comms[number] = Some(end);
                }
            }
        }
        for members in membership.groups(Axis::Pipeline) {
            for (seat, end) in link_ends(seating, &members) {
                seats[seat - own.start].links = Some(end);
            }
        }
        seats
    }

    /// The groups, on the rank's own thread.
    pub fn join(self) -> Groups {
        let [dp, tp, norm, tied] = self.comms.map(|comm| match comm {
            Some(comm) => comm as Box<dyn Communicator>,
            None => Box::new(SoloComm),
        });
        Groups {
            dp,
            tp,
            norm,
            tied,
            links: match self.links {
                Some(links) => links,
                None => Box::new(NoLinks),
            },
        }
    }
}

/// The own ends of a group, with each its seat.
fn comm_ends(seating: &Seating, members: &[usize]) -> Vec<(usize, Box<dyn Communicator + Send>)> {
    if seating.spoke().is_some() {
        let ends = HostComm::ends(seating, members).into_iter();
        return ends.map(|(seat, end)| (seat, Box::new(end) as _)).collect();
    }
    let ends = LocalComm::ends(seating.fault(), &progress(seating, members));
    let boxed = ends.into_iter().map(|end| Box::new(end) as _);
    members.iter().copied().zip(boxed).collect()
}

/// The own ends of a pipeline's links, with each its seat.
fn link_ends(seating: &Seating, stages: &[usize]) -> Vec<(usize, Box<dyn Links + Send>)> {
    if seating.spoke().is_some() {
        let ends = HostLinks::ends(seating, stages).into_iter();
        return ends.map(|(seat, end)| (seat, Box::new(end) as _)).collect();
    }
    let ends = LocalLinks::ends(seating.fault(), &progress(seating, stages));
    let boxed = ends.into_iter().map(|end| Box::new(end) as _);
    stages.iter().copied().zip(boxed).collect()
}

fn progress(seating: &Seating, members: &[usize]) -> Vec<Arc<Progress>> {
    let of = |&seat: &usize| Arc::clone(seating.progress(seat));
    members.iter().map(of).collect()
}

impl Groups {
    /// The groups of a rank alone.
    pub fn solo() -> Self {
        Self {
            dp: Box::new(SoloComm),
            tp: Box::new(SoloComm),
            norm: Box::new(SoloComm),
            tied: Box::new(SoloComm),
            links: Box::new(NoLinks),
        }
    }

    /// What the rank moved since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        let mut traffic = Traffic {
            send: self.links.take_sent_bytes(),
            ..Traffic::default()
        };
        for comm in [&mut self.dp, &mut self.tp, &mut self.norm, &mut self.tied] {
            traffic += comm.take_traffic();
        }
        traffic
    }

    /// Joins the groups of one rank a GPU, once every two have been seen to understand each other; to be called on
    /// every rank's own thread.
    ///
    /// # Errors
    /// NCCL's, a failed rank, or two GPUs between which bytes change.
    pub fn join_nccl(
        membership: &Membership,
        rank: usize,
        ids: &HostGroup<Option<UniqueId>>,
        (device, compute): (usize, Stream),
    ) -> Result<Self, CommError> {
        let communication = Stream::from_pool(device)?;
        let id_of = |leader: usize, is_needed: bool| -> Result<Option<UniqueId>, CommError> {
            let own = (is_needed && leader == rank)
                .then(UniqueId::new)
                .transpose()?;
            let all = ids
                .exchange(own)
                .map_err(crate::torch::peers::PeerError::from)?;
            Ok(all[leader])
        };
        let world = membership.n_seats();
        if let Some(id) = id_of(0, true)? {
            let mut pairs = NcclPairs::join(id, rank, world, compute, communication)?;
            check_pairs(&mut pairs, rank, world, tch::Device::Cuda(device))?;
            pairs.close(device)?;
        }
        let mut comms = Vec::new();
        for axis in COMMS {
            let members = membership.members(axis, rank);
            let id = id_of(members[0], members.len() > 1)?;
            let number = members
                .iter()
                .position(|&member| member == rank)
                .unwrap_or_default();
            let comm: Box<dyn Communicator> = match id.filter(|_| members.len() > 1) {
                Some(id) => Box::new(NcclComm::join(
                    id,
                    number,
                    members.len(),
                    compute,
                    communication,
                )?),
                None => Box::new(SoloComm),
            };
            comms.push(comm);
        }
        let stages = membership.members(Axis::Pipeline, rank);
        let stage = membership.mesh.at(rank).stage;
        let mut ends = Vec::new();
        for (flow, from, to) in membership.flows() {
            let takes_part = stage == from || stage == to;
            let id = id_of(stages[from], takes_part)?;
            if let Some(id) = id.filter(|_| takes_part) {
                ends.push(LinkEnd::join(id, (flow, from, to), stage, device)?);
            }
        }
        let links: Box<dyn Links> = match ends.is_empty() {
            true => Box::new(NoLinks),
            false => Box::new(NcclLinks::new(stage, compute, ends)),
        };
        match <[_; 4]>::try_from(comms) {
            Ok([dp, tp, norm, tied]) => Ok(Self {
                dp,
                tp,
                norm,
                tied,
                links,
            }),
            Err(_) => Err(TorchError::new("a group is missing").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seat_finds_its_groups() {
        let membership = Membership {
            mesh: Mesh {
                pp: 2,
                dp: 2,
                tp: 2,
            },
            n_lanes: 1,
            shards_grads: false,
            ties: true,
            wraps: true,
        };
        // Rank 5 is stage 1, replica 0, shard 1.
        assert_eq!(membership.members(Axis::Tensor, 5), [4, 5]);
        assert_eq!(membership.members(Axis::Data, 5), [5, 7]);
        assert_eq!(membership.members(Axis::Norm, 5), [0, 1, 4, 5]);
        assert_eq!(membership.members(Axis::Pipeline, 5), [1, 5]);
        assert_eq!(membership.members(Axis::Tied, 5), [1, 5]);
        let untied = Membership {
            ties: false,
            ..membership
        };
        assert_eq!(untied.members(Axis::Tied, 5), [5]);
        assert_eq!(membership.flows().len(), 4);
        let lanes = Membership {
            mesh: Mesh {
                pp: 1,
                dp: 2,
                tp: 1,
            },
            n_lanes: 2,
            ..membership
        };
        assert_eq!(lanes.members(Axis::Data, 1), [0, 1, 2, 3]);
        assert_eq!(lanes.members(Axis::Norm, 1), [1]);
    }
}
