//! Machines as JSON, for tests: what a plan may count on, and what the sensors said.
//!
//! `readings` are lines of `capstan top --json`; a machine is `recorded` by it, or `composed` from NVIDIA's documents.

use std::{fs, path::Path};

use serde::Deserialize;

use super::Machine;
use crate::event::Reading;

/// One file of `tests/fixtures/machines`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    pub source: Source,
    pub about: String,
    /// Seconds between two readings.
    pub every_s: f64,
    pub machine: Machine,
    pub readings: Vec<Reading>,
}

/// Where a machine's file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Recorded,
    Composed,
}

/// The names of all machines.
pub const ALL: [&str; 5] = ["geforce-4", "nvlink-8", "laptop", "lost-card", "no-driver"];

/// Reads a machine by its name.
pub fn machine(name: &str) -> Recorded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/machines");
    let text = fs::read_to_string(folder.join(format!("{name}.json"))).expect("a machine");
    let recorded: Recorded = serde_json::from_str(&text).expect("a sound machine");
    assert!(!recorded.about.is_empty() && !recorded.readings.is_empty());
    recorded
}

/// `n` GPUs made of those of a machine, again and again.
pub fn with_gpus(name: &str, n: usize) -> Recorded {
    let mut recorded = machine(name);
    recorded.machine.links.clear();
    let gpus = recorded.machine.gpus.clone();
    recorded.machine.gpus = gpus.into_iter().cycle().take(n).collect();
    for reading in &mut recorded.readings {
        let gpus = std::mem::take(&mut reading.gpus);
        reading.gpus = gpus.into_iter().cycle().take(n).collect();
    }
    recorded
}

#[test]
fn each_machine_is_what_its_readings_say() {
    for name in ALL {
        let recorded = machine(name);
        let gpus = &recorded.machine.gpus;
        for reading in &recorded.readings {
            let same = |(gpu, read): (&super::Gpu, &crate::event::GpuReading)| {
                (&gpu.uuid, &gpu.name) == (&read.uuid, &read.name)
            };
            assert_eq!(reading.gpus.len(), gpus.len(), "{name}");
            assert!(gpus.iter().zip(&reading.gpus).all(same), "{name}");
        }
        let pairs = gpus.len() * gpus.len().saturating_sub(1) / 2;
        assert_eq!(recorded.machine.links.len(), pairs, "{name}");
        assert!(recorded.every_s > 0.0, "{name}");
    }
    assert_eq!(with_gpus("geforce-4", 16).readings[0].gpus.len(), 16);
}
