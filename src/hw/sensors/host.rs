//! Cores, memory, and the energy of processor packages (RAPL).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use sysinfo::System;

use crate::{base::fs::free_bytes, event::HostReading};

/// Where Linux shows RAPL; readable by root alone on many machines.
const POWERCAP: &str = "/sys/class/powercap";

/// The host between two looks.
pub struct Host {
    /// Absent where sysinfo does not know the platform.
    system: Option<System>,
    /// Whose disk is looked at.
    folder: PathBuf,
    packages: Vec<Package>,
    energy_j: f64,
    last: Instant,
}

/// One processor package's counter.
struct Package {
    folder: PathBuf,
    last_uj: u64,
    /// The counter starts again from 0 beyond this.
    range_uj: u64,
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
            packages: packages(Path::new(POWERCAP)),
            energy_j: 0.0,
            last: Instant::now(),
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
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        let joules = self
            .packages
            .iter_mut()
            .map(Package::advance)
            .sum::<Option<f64>>();
        let joules = joules.filter(|_| !self.packages.is_empty());
        self.energy_j += joules.unwrap_or(0.0);
        HostReading {
            cpu_busy: system.map(|system| f64::from(system.global_cpu_usage()) / 100.0),
            memory_used_bytes: system.filter(|_| total.is_some()).map(System::used_memory),
            memory_total_bytes: total,
            disk_free_bytes: self
                .folder
                .ancestors()
                .find_map(|folder| free_bytes(folder).ok()),
            package_power_w: joules.map(|joules| joules / seconds.max(1e-3)),
            // A failed look adds nothing, and forgets nothing.
            package_energy_j: (!self.packages.is_empty()).then_some(self.energy_j),
        }
    }
}

impl Package {
    /// Joules since the last look.
    fn advance(&mut self) -> Option<f64> {
        let now = read_number(&self.folder.join("energy_uj"))?;
        let passed = match now.checked_sub(self.last_uj) {
            Some(passed) => passed,
            None => now + self.range_uj.saturating_sub(self.last_uj),
        };
        self.last_uj = now;
        Some(passed as f64 / 1e6)
    }
}

/// Packages are `intel-rapl:0`, ...; their parts (`intel-rapl:0:1`) are counted in them.
fn packages(powercap: &Path) -> Vec<Package> {
    let entries = fs::read_dir(powercap).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("intel-rapl:")
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    folders
        .filter_map(|folder| {
            Some(Package {
                last_uj: read_number(&folder.join("energy_uj"))?,
                range_uj: read_number(&folder.join("max_energy_range_uj"))?,
                folder,
            })
        })
        .collect()
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_goes_on_where_the_counter_starts_again() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["intel-rapl:0", "intel-rapl:0:0", "other"] {
            let folder = root.path().join(name);
            fs::create_dir(&folder).expect("made");
            fs::write(folder.join("energy_uj"), "9000000\n").expect("written");
            fs::write(folder.join("max_energy_range_uj"), "10000000\n").expect("written");
        }
        let mut found = packages(root.path());
        assert_eq!(found.len(), 1, "parts are not counted twice");
        let energy = root.path().join("intel-rapl:0/energy_uj");
        fs::write(&energy, "9500000").expect("written");
        assert_eq!(found[0].advance(), Some(0.5));
        fs::write(&energy, "500000").expect("written");
        assert_eq!(found[0].advance(), Some(1.0));
        fs::remove_file(&energy).expect("removed");
        assert_eq!(found[0].advance(), None);
    }

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
