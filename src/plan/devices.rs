//! Which device each rank gets, and how the ranks talk.

use std::collections::BTreeSet;

use super::{Communicator, Mesh, RefusalKind, resolve::Resolver};
use crate::{
    config::{DeviceConfig, DevicesConfig, ParallelConfig, Precision, RanksPerWorker},
    hw::{Device, Gpu, NO_DRIVER, Unusable},
};

/// Ranks that no run comes near.
const MOST_RANKS: usize = 1024;
/// CPU ranks that a run takes when neither devices nor degrees are given.
const AUTO_CPU_RANKS: usize = 2;
/// Lowest compute capability with tensor cores for bf16 and tf32.
const TENSOR_CORES_SINCE: [u32; 2] = [8, 0];

impl Resolver<'_> {
    /// The devices of the ranks, in rank order.
    pub(super) fn devices(&mut self) -> Vec<Device> {
        let wanted = self
            .config
            .parallel
            .map(|ParallelConfig { dp, tp, pp, .. }| Mesh { pp, dp, tp }.world());
        if let Some(n) = wanted.filter(|n| *n > MOST_RANKS) {
            let remedy = format!("give degrees whose product is at most {MOST_RANKS}");
            self.refuse("parallel", format!("asks for {n} ranks"), remedy);
            return vec![Device::Cpu];
        }
        if let Some(ParallelConfig { dp, tp, pp, .. }) =
            self.config.parallel.filter(|_| wanted == Some(0))
        {
            for (axis, degree) in [("dp", dp), ("tp", tp), ("pp", pp)] {
                if degree == 0 {
                    self.refuse(&format!("parallel.{axis}"), "is 0", "give at least 1");
                }
            }
            return vec![Device::Cpu];
        }
        let mut devices = match &self.config.devices {
            DevicesConfig::Auto => self.automatic_devices(wanted),
            DevicesConfig::List(list) => list
                .iter()
                .map(|&device| self.named_device(device))
                .collect(),
        };
        if devices.is_empty() {
            self.refuse(
                "devices",
                "is empty",
                "name at least one, such as [\"cpu\"], or \"auto\"",
            );
            devices.push(Device::Cpu);
        }
        if devices.contains(&Device::Cpu)
            && devices
                .iter()
                .any(|device| matches!(device, Device::Cuda(_)))
        {
            self.refuse("devices", "mixes CPU and GPU ranks", "name one kind");
        }
        let wanted = wanted.unwrap_or(devices.len());
        if wanted > devices.len() {
            let problem = format!("{wanted} ranks on {} device(s)", devices.len());
            let is_plain = self
                .config
                .parallel
                .is_some_and(|parallel| parallel.dp == wanted);
            let (path, fewer) = match is_plain {
                true => ("parallel.dp", format!("parallel.dp={}", devices.len())),
                false => (
                    "parallel",
                    format!("a split over {} rank(s)", devices.len()),
                ),
            };
            let remedy = format!("try {fewer}, or name {wanted} devices (one may stand twice)");
            self.refuse(path, problem, remedy);
        } else if wanted < devices.len() {
            self.notes.push(format!(
                "{} of {} devices stay unused",
                devices.len() - wanted,
                devices.len()
            ));
            devices.truncate(wanted);
        }
        devices
    }

    /// How the ranks talk, and in how many worker processes they live.
    pub(super) fn communicator(&mut self, devices: &[Device]) -> (Communicator, usize) {
        let communicator = communicator(devices);
        match (communicator, self.config.ranks_per_worker) {
            (Communicator::Nccl, None | Some(RanksPerWorker::One)) => (communicator, devices.len()),
            (Communicator::Local, Some(RanksPerWorker::One)) if devices[0] == Device::Cpu => {
                (Communicator::Host, devices.len())
            }
            (Communicator::Local, Some(RanksPerWorker::One)) => {
                self.refuse(
                    "ranks_per_worker",
                    "is one, but ranks share a GPU",
                    "leave it out: such ranks live in one worker",
                );
                (communicator, 1)
            }
            _ => (communicator, 1),
        }
    }

    fn automatic_devices(&mut self, wanted: Option<usize>) -> Vec<Device> {
        let reasons: Vec<Option<Unusable>> = self.machine.gpus.iter().map(Gpu::unusable).collect();
        for (index, reason) in reasons.iter().enumerate() {
            // Cards that are unusable for one reason share a note.
            let Some(reason) = reason.as_ref() else {
                continue;
            };
            let alike = |other: &Option<Unusable>| other.as_ref() == Some(reason);
            if reasons[..index].iter().any(alike) {
                continue;
            }
            let cards = reasons.iter().enumerate();
            let cards: Vec<String> = cards
                .filter(|(_, other)| alike(other))
                .map(|(index, _)| index.to_string())
                .collect();
            let cards = cards.join(", ");
            self.notes.push(format!("not used: GPU {cards}: {reason}"));
        }
        for left_out in &self.machine.left_out {
            self.notes.push(format!("not used: {left_out}"));
        }
        let reason = self.machine.no_gpus_because.as_deref();
        if let Some(reason) = reason.filter(|reason| *reason != NO_DRIVER) {
            self.notes.push(format!("no GPU is used: {reason}"));
        }
        let gpus: Vec<Device> = (0..self.machine.gpus.len())
            .filter(|&index| reasons[index].is_none())
            .map(Device::Cuda)
            .collect();
        if !gpus.is_empty() && self.config.precision != Precision::Fp64 {
            return gpus;
        }
        let ranks = wanted.unwrap_or_else(|| self.automatic_ranks());
        vec![Device::Cpu; ranks]
    }

    /// As many CPU ranks as can share the batch.
    fn automatic_ranks(&mut self) -> usize {
        let most = AUTO_CPU_RANKS.min(self.machine.cores).max(1);
        let global = self.config.batch.global;
        let fitting = (1..=most).rev().find(|n| global.is_multiple_of(*n));
        let ranks = fitting.unwrap_or(1);
        if ranks < most {
            let (less, more) = (global / most * most, global.div_ceil(most) * most);
            let nearest = match less {
                0 => format!("{more}"),
                less => format!("{less} or {more}"),
            };
            self.notes.push(format!(
                "batch.global: {most} ranks can't share {global} evenly, so {ranks} is used; {nearest} would use all"
            ));
        }
        ranks
    }

    fn named_device(&mut self, device: DeviceConfig) -> Device {
        let DeviceConfig::Gpu(index) = device else {
            return Device::Cpu;
        };
        let n_gpus = self.machine.gpus.len();
        if index >= n_gpus {
            let problem = match (&self.machine.no_gpus_because, n_gpus) {
                (Some(reason), 0) => format!("names GPU {index}, but {reason}"),
                (_, n) => format!("names GPU {index} of {n}"),
            };
            self.refuse_as(
                RefusalKind::DeviceMissing,
                "devices",
                problem,
                "try \"auto\" or [\"cpu\"]; `capstan doctor` says more",
            );
        }
        let unusable = self.machine.gpus.get(index).and_then(Gpu::unusable);
        if let Some(reason) = unusable {
            let problem = format!("names GPU {index}, but {reason}");
            self.refuse_as(
                RefusalKind::DeviceMissing,
                "devices",
                problem,
                "name another, or \"auto\"",
            );
        }
        Device::Cuda(index)
    }

    /// Notes what a precision comes to on cards without tensor cores for it.
    pub(super) fn note_older_cards(&mut self, precision: Precision, devices: &[Device]) {
        let is_older = |index: &usize| {
            let gpu = self.machine.gpus.get(*index);
            gpu.is_some_and(|gpu| gpu.compute_capability < TENSOR_CORES_SINCE)
        };
        let gpus = devices.iter().filter_map(|device| match device {
            Device::Cuda(index) => Some(*index),
            Device::Cpu => None,
        });
        let older: BTreeSet<usize> = gpus.filter(is_older).collect();
        if older.is_empty() {
            return;
        }
        let older: Vec<String> = older.iter().map(ToString::to_string).collect();
        let effect = match precision {
            Precision::Bf16 => {
                "bf16 is slow and attention keeps all its scores there; fp32 is likely faster"
            }
            _ => "tf32 computes as fp32 there",
        };
        let [major, minor] = TENSOR_CORES_SINCE;
        self.notes.push(format!(
            "precision: GPU {} came before sm_{major}{minor}: {effect}",
            older.join(", ")
        ));
    }
}

/// NCCL needs a GPU of its own for each rank.
fn communicator(devices: &[Device]) -> Communicator {
    let distinct: std::collections::HashSet<_> = devices.iter().collect();
    let on_gpus = devices
        .iter()
        .all(|device| matches!(device, Device::Cuda(_)));
    match devices.len() {
        1 => Communicator::Solo,
        n if on_gpus && distinct.len() == n => Communicator::Nccl,
        _ => Communicator::Local,
    }
}
