//! Cores, memory and GPUs, probed or read from JSON.

use std::{fmt, path::Path, sync::mpsc, thread, time::Duration};

use serde::{Deserialize, Serialize};

use super::nvidia::{self, Visible};
use crate::base::{fs::free_bytes, units};

/// A driver that takes longer is taken for hung: a healthy one answers in milliseconds, after a cold start in seconds.
const DRIVER_ANSWERS_IN: Duration = Duration::from_secs(15);

/// Free space of /dev/shm from which NCCL is not in want there: what NVIDIA advises for containers. Every two GPUs that
/// exchange through it take about 10 MB a channel, and a container has 64 MiB in all unless told otherwise.
const ENOUGH_SHARED_MEMORY: u64 = units::GIB;

/// What a plan may count on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Cores this process may run on.
    pub cores: usize,
    pub memory_bytes: u64,
    /// Free bytes of /dev/shm, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
    /// Visible NVIDIA GPUs in CUDA's order.
    pub gpus: Vec<Gpu>,
    /// Cards that can't be used, each with the reason. CUDA may count them all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Between each two of them, where the driver tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Why there are no GPUs, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_gpus_because: Option<String>,
}

/// One visible GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    pub uuid: String,
    pub name: String,
    pub memory_bytes: u64,
    /// Of it in use when it was looked at, by whoever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Compute capability, major and minor.
    pub compute_capability: [u32; 2],
    pub driver: String,
    /// Its number in NVML and `nvidia-smi`, which may be another than CUDA's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml_index: Option<usize>,
}

/// How two visible GPUs are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// CUDA's indices, the lower first.
    pub gpus: [usize; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Whether each may read the other's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_access: Option<bool>,
}

/// What lies between two GPUs, the shortest way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    Nvlink,
    SameBoard,
    PcieSwitch,
    HostBridge,
    /// Several host bridges of one NUMA node.
    HostBridges,
    AcrossSockets,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvlink => "NVLink",
            Self::SameBoard => "the same board",
            Self::PcieSwitch => "a PCIe switch",
            Self::HostBridge => "a host bridge",
            Self::HostBridges => "host bridges of one socket",
            Self::AcrossSockets => "the link between sockets",
        })
    }
}

impl Gpu {
    /// Whether libtorch prefers cuDNN's attention on it, for 16-bit numbers: data-centre cards of Hopper (sm_90) and
    /// Blackwell (sm_100, sm_103), as `check_prefer_cudnn_attention` of libtorch 2.11 has it.
    pub const fn prefers_cudnn_attention(&self) -> bool {
        matches!(self.compute_capability, [9 | 10, 0 | 3])
    }
}

impl Machine {
    /// Looks at this machine; never fails, a missing driver means no GPUs.
    pub fn probe() -> Self {
        let (sender, answer) = mpsc::channel();
        let look = move || {
            let found = nvidia::open().and_then(|nvml| {
                let Visible { gpus, left_out } = nvidia::visible_gpus(&nvml)?;
                let links = nvidia::links(&nvml, &gpus);
                Ok((gpus, left_out, links))
            });
            // Nobody listens any more where the driver took too long.
            let _ = sender.send(found);
        };
        let asked = thread::Builder::new().name("nvml".to_owned()).spawn(look);
        let found = match asked.map(|_| answer.recv_timeout(DRIVER_ANSWERS_IN)) {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(format!(
                "the NVIDIA driver did not answer within {} s",
                DRIVER_ANSWERS_IN.as_secs()
            )),
            Err(error) => Err(format!("NVML: no thread: {error}")),
        };
        let (gpus, left_out, links, no_gpus_because) = match found {
            Ok((gpus, left_out, links)) => (gpus, left_out, links, None),
            Err(reason) => (Vec::new(), Vec::new(), Vec::new(), Some(reason)),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cores,
            memory_bytes: memory_bytes(),
            shm_bytes: free_bytes(Path::new("/dev/shm")).ok(),
            gpus,
            left_out,
            links,
            no_gpus_because,
        }
    }

    /// The free bytes of /dev/shm, where those are few for GPUs that exchange through it.
    pub fn scarce_shared_memory(&self) -> Option<u64> {
        self.shm_bytes.filter(|bytes| *bytes < ENOUGH_SHARED_MEMORY)
    }

    /// The pairs among `gpus` (CUDA's indices) that are known to have no peer access.
    pub fn without_peer_access(&self, gpus: &[usize]) -> Vec<[usize; 2]> {
        let links = self.links.iter().filter(|link| {
            link.peer_access == Some(false) && link.gpus.iter().all(|gpu| gpus.contains(gpu))
        });
        links.map(|link| link.gpus).collect()
    }
}

/// What this process may take.
pub(super) fn memory_bytes() -> u64 {
    memory().map_or(0, |(_, total)| total)
}

/// Bytes in use, and those that this process may take at most: a cgroup's limit binds before the machine's memory does.
pub(super) fn memory() -> Option<(u64, u64)> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let limits = system.cgroup_limits();
    let limits = limits.filter(|limits| limits.total_memory > 0);
    Some(limits.map_or_else(
        || (system.used_memory(), system.total_memory()),
        |limits| {
            let used = limits.total_memory.saturating_sub(limits.free_memory);
            (used, limits.total_memory)
        },
    ))
}
