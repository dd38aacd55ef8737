//! Cores, memory and GPUs, probed or read from JSON.

use serde::{Deserialize, Serialize};

use super::nvidia;

/// What a plan may count on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Cores this process may run on.
    pub cores: usize,
    pub memory_bytes: u64,
    /// Visible NVIDIA GPUs in CUDA's order.
    pub gpus: Vec<Gpu>,
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
    /// Compute capability, major and minor.
    pub compute_capability: [u32; 2],
    pub driver: String,
}

impl Machine {
    /// Looks at this machine; never fails, a missing driver means no GPUs.
    pub fn probe() -> Self {
        let (gpus, no_gpus_because) = match nvidia::visible_gpus() {
            Ok(gpus) => (gpus, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cores,
            memory_bytes: memory_bytes(),
            gpus,
            no_gpus_because,
        }
    }
}

/// A cgroup's limit binds before the machine's memory does.
fn memory_bytes() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else {
        return 0;
    };
    system.refresh_memory();
    system
        .cgroup_limits()
        .map(|limits| limits.total_memory)
        .filter(|&bytes| bytes > 0)
        .unwrap_or_else(|| system.total_memory())
}
