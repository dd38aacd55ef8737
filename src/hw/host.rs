//! How busy this machine's cores and memory are.

use sysinfo::System;

/// What the processor and the memory do; what can't be told is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostLoad {
    /// Busy share of all cores since the sample before, in [0, 1].
    pub busy: Option<f64>,
    pub cores: Option<usize>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
}

/// Samples one after the other; the first knows no busy share.
pub struct HostSampler {
    system: Option<System>,
    samples: u64,
}

impl HostSampler {
    /// Asks nothing yet.
    pub fn new() -> Self {
        Self {
            system: System::new().ok(),
            samples: 0,
        }
    }

    /// Reads `/proc`; takes well under a millisecond.
    pub fn sample(&mut self) -> HostLoad {
        let Some(system) = &mut self.system else {
            return HostLoad::default();
        };
        system.refresh_cpu_usage();
        system.refresh_memory();
        self.samples += 1;
        let busy = f64::from(system.global_cpu_usage()) / 100.0;
        let known = |bytes: u64| (bytes > 0).then_some(bytes);
        let cores = system.cpus().len();
        HostLoad {
            busy: (self.samples > 1 && busy.is_finite()).then_some(busy.clamp(0.0, 1.0)),
            cores: (cores > 0).then_some(cores),
            memory_used_bytes: known(system.used_memory()),
            memory_total_bytes: known(system.total_memory()),
        }
    }
}

impl Default for HostSampler {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_knows_no_share_and_no_value_is_a_false_zero() {
        let mut sampler = HostSampler::new();
        let first = sampler.sample();
        assert_eq!(first.busy, None);
        assert_ne!(first.memory_total_bytes, Some(0));
    }
}
