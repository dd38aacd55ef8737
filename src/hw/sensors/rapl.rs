//! The energy of processor packages, as Linux shows it (RAPL); readable by root alone on many machines.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Where Linux shows it.
const POWERCAP: &str = "/sys/class/powercap";
/// No package takes as much: a counter that says so began anew.
const MOST_PACKAGE_W: f64 = 2e3;

/// A counter of 65 kJ, the shortest known, starts again no sooner at [`MOST_PACKAGE_W`].
pub const COUNT_EVERY: Duration = Duration::from_secs(30);

/// All packages between two looks.
pub struct Packages(Vec<Package>);

/// What the packages took; unknown where one of them does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    /// Over the time since the last look.
    pub power_w: Option<f64>,
    /// Since the first look.
    pub energy_j: Option<f64>,
    /// A counter began anew meanwhile: a part of the energy is power times time.
    pub is_estimate: bool,
}

/// One processor package's counter.
struct Package {
    folder: PathBuf,
    last_uj: u64,
    last: Instant,
    /// The counter starts again from 0 beyond this.
    range_uj: u64,
    /// Between the last two counts.
    power_w: Option<f64>,
    energy_j: f64,
    is_estimate: bool,
    /// When a look was told last, and the energy then.
    told: (Instant, f64),
}

impl Packages {
    /// Takes a first look, for the second to compare with.
    pub fn find() -> Self {
        Self::in_folder(Path::new(POWERCAP), Instant::now())
    }

    /// Zones lie side by side: packages, their parts, the whole platform (`psys`), which contains the packages, and
    /// the same again as other registers tell it (`intel-rapl-mmio:0`).
    fn in_folder(powercap: &Path, now: Instant) -> Self {
        let entries = fs::read_dir(powercap).into_iter().flatten().flatten();
        let packages = entries.filter_map(|entry| {
            let folder = entry.path();
            let zone = entry.file_name();
            zone.to_str()?.strip_prefix("intel-rapl:")?;
            let name =
                crate::base::read::text(&folder.join("name"), crate::base::read::Bound::TOLD)
                    .ok()?;
            name.starts_with("package-").then_some(())?;
            Some(Package {
                last_uj: read_number(&folder.join("energy_uj"))?,
                last: now,
                range_uj: read_number(&folder.join("max_energy_range_uj"))?,
                folder,
                power_w: None,
                energy_j: 0.0,
                is_estimate: false,
                told: (now, 0.0),
            })
        });
        Self(packages.collect())
    }

    /// Counts on between two looks that are more than [`COUNT_EVERY`] apart.
    pub fn count(&mut self, now: Instant) {
        for package in &mut self.0 {
            package.count(now);
        }
    }

    /// Looks again.
    pub fn read(&mut self, now: Instant) -> Taken {
        let powers: Vec<Option<Option<f64>>> =
            self.0.iter_mut().map(|package| package.look(now)).collect();
        let Some(powers) = powers
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .filter(|powers| !powers.is_empty())
        else {
            return Taken::default();
        };
        Taken {
            power_w: powers.into_iter().sum(),
            energy_j: Some(self.0.iter().map(|package| package.energy_j).sum()),
            is_estimate: self.0.iter().any(|package| package.is_estimate),
        }
    }
}

impl Package {
    /// Watts since the last look, where they are known; `None` where the package does not tell.
    fn look(&mut self, now: Instant) -> Option<Option<f64>> {
        if !self.count(now) {
            return None;
        }
        let (last, before_j) = std::mem::replace(&mut self.told, (now, self.energy_j));
        let seconds = (now - last).as_secs_f64().max(1e-3);
        Some(self.power_w.map(|_| (self.energy_j - before_j) / seconds))
    }

    /// Whether the package told what it took since the last count.
    fn count(&mut self, now: Instant) -> bool {
        let Some(now_uj) = read_number(&self.folder.join("energy_uj")) else {
            return false;
        };
        let passed_uj = match now_uj.checked_sub(self.last_uj) {
            Some(passed) => passed,
            None => now_uj.saturating_add(self.range_uj.saturating_sub(self.last_uj)),
        };
        let seconds = (now - self.last).as_secs_f64().max(1e-3);
        let joules = passed_uj as f64 / 1e6;
        (self.last_uj, self.last) = (now_uj, now);
        if joules <= MOST_PACKAGE_W * seconds {
            self.energy_j += joules;
            self.power_w = Some(joules / seconds);
        } else {
            // After a suspension, say.
            self.energy_j += self.power_w.take().unwrap_or(0.0) * seconds;
            self.is_estimate = true;
        }
        true
    }
}

fn read_number(path: &Path) -> Option<u64> {
    crate::base::read::text(path, crate::base::read::Bound::TOLD)
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A machine with two packages, a part of one and the whole platform.
    fn machine() -> TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (zone, name) in [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ] {
            let folder = root.path().join(zone);
            fs::create_dir(&folder).expect("made");
            fs::write(folder.join("name"), format!("{name}\n")).expect("written");
            fs::write(folder.join("max_energy_range_uj"), "1000000000\n").expect("written");
            set(&root, zone, 900);
        }
        root
    }

    fn set(root: &TempDir, zone: &str, joules: u64) {
        let energy = root.path().join(zone).join("energy_uj");
        fs::write(energy, format!("{}\n", joules * 1_000_000)).expect("written");
    }

    fn taken(power_w: f64, energy_j: f64) -> Taken {
        Taken {
            power_w: Some(power_w),
            energy_j: Some(energy_j),
            is_estimate: false,
        }
    }

    #[test]
    fn packages_alone_are_counted_also_where_a_counter_starts_again() {
        let root = machine();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut packages = Packages::in_folder(root.path(), begin);
        assert_eq!(
            packages.0.len(),
            2,
            "neither parts nor the platform, and none twice"
        );
        set(&root, "intel-rapl:0", 920);
        set(&root, "intel-rapl:1", 940);
        assert_eq!(packages.read(at(2)), taken(30.0, 60.0));
        set(&root, "intel-rapl:0", 20);
        assert_eq!(
            packages.read(at(4)),
            taken(50.0, 160.0),
            "920 to 1000 and on to 20"
        );
    }

    #[test]
    fn a_look_that_fails_is_unknown_and_made_up_for() {
        let root = machine();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut packages = Packages::in_folder(root.path(), begin);
        fs::remove_file(root.path().join("intel-rapl:1/energy_uj")).expect("removed");
        set(&root, "intel-rapl:0", 920);
        assert_eq!(
            packages.read(at(2)),
            Taken::default(),
            "a part is not the whole"
        );
        set(&root, "intel-rapl:0", 940);
        set(&root, "intel-rapl:1", 980);
        assert_eq!(packages.read(at(4)), taken(10.0 + 20.0, 40.0 + 80.0));
        assert_eq!(Packages(Vec::new()).read(begin), Taken::default());
    }

    #[test]
    fn a_counter_that_starts_again_twice_between_two_looks_is_counted_between() {
        let root = machine();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut packages = Packages::in_folder(root.path(), begin);
        for (seconds, joules) in [(30, 800), (60, 700)] {
            set(&root, "intel-rapl:0", joules);
            packages.count(at(seconds));
        }
        set(&root, "intel-rapl:0", 600);
        assert_eq!(packages.read(at(90)), taken(30.0, 2_700.0));
    }

    #[test]
    fn a_counter_that_begins_anew_is_no_wrap() {
        let root = machine();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut packages = Packages::in_folder(root.path(), begin);
        for package in &mut packages.0 {
            package.range_uj = 262_144_000_000;
        }
        set(&root, "intel-rapl:0", 920);
        packages.read(at(2));
        set(&root, "intel-rapl:0", 1);
        let taken = packages.read(at(4));
        assert_eq!((taken.power_w, taken.energy_j), (None, Some(40.0)));
        assert!(taken.is_estimate, "10 W went on for 2 s");
    }
}
