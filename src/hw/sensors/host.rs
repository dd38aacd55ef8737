//! Cores, memory, disk, and what the processor takes.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use sysinfo::System;

use super::rapl::{COUNT_EVERY, Packages};
use crate::{base::fs::free_bytes, event::HostReading};

/// The host between two looks.
pub struct Host {
    /// Absent where sysinfo does not know the platform.
    system: Option<System>,
    /// Whose disk is looked at.
    folder: PathBuf,
    packages: Packages,
}

impl Host {
    /// Takes a first look, for the second to compare with; the disk is that of `folder`, which need not exist.
    pub fn new(folder: &Path) -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        Self {
            system,
            folder: folder.to_owned(),
            packages: Packages::find(),
        }
    }

    /// Lets time pass until the next look. Counters of energy are read meanwhile, before they start again.
    pub fn wait(&mut self, until: Instant) {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            thread::sleep(left.min(COUNT_EVERY));
            if left <= COUNT_EVERY {
                return;
            }
            self.packages.count(Instant::now());
        }
    }

    /// Looks again.
    pub fn read(&mut self) -> HostReading {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory();
        }
        let system = self.system.as_ref();
        let total = system.map(System::total_memory).filter(|total| *total > 0);
        let taken = self.packages.read(Instant::now());
        HostReading {
            cores: system
                .map(|system| system.cpus().len())
                .filter(|cores| *cores > 0),
            cpu_busy: system.map(|system| f64::from(system.global_cpu_usage()) / 100.0),
            memory_used_bytes: system.filter(|_| total.is_some()).map(System::used_memory),
            memory_total_bytes: total,
            disk_free_bytes: self
                .folder
                .ancestors()
                .find_map(|folder| free_bytes(folder).ok()),
            package_power_w: taken.power_w,
            package_energy_j: taken.energy_j,
            package_energy_is_estimate: taken.is_estimate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_cores() {
        let reading = Host::new(Path::new("/nowhere/at/all")).read();
        assert!(reading.memory_used_bytes < reading.memory_total_bytes);
        assert!(reading.disk_free_bytes.is_some_and(|free| free > 0));
        assert!(
            reading
                .cpu_busy
                .is_some_and(|busy| (0.0..=1.0).contains(&busy))
        );
    }
}
