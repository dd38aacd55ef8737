//! GPUs' values as columns: what `top` and the Live screen show. What a card does not tell is `n/a`, never 0.

use crate::{base::units, event::GpuReading};

/// The word for a value that is not known.
pub const UNKNOWN: &str = "n/a";

/// One value of every card.
pub struct Column {
    /// With the unit.
    pub title: &'static str,
    /// Characters that a cell takes.
    pub width: usize,
    /// Few cards tell it: the column is left out where none does.
    is_rare: bool,
    value: fn(&GpuReading) -> Option<String>,
}

/// All of them, the most important first.
const COLUMNS: [Column; 12] = [
    usual("busy %", 6, |gpu| gpu.busy.map(percent)),
    usual("GiB", 11, |gpu| {
        let (used, total) = (gpu.memory_used_bytes?, gpu.memory_total_bytes?);
        Some(format!("{:.1}/{:.1}", gib(used), gib(total)))
    }),
    usual("W", 7, |gpu| {
        let limit = gpu.power_limit_w.map(|limit| format!("/{limit:.0}"));
        Some(format!("{:.0}{}", gpu.power_w?, limit.unwrap_or_default()))
    }),
    usual("°C", 3, |gpu| gpu.temperature_c.map(|c| c.to_string())),
    usual("MHz", 4, |gpu| gpu.sm_clock_mhz.map(|mhz| mhz.to_string())),
    usual("limited by", 11, |gpu| match gpu.limited_by.as_deref()? {
        [] => Some("-".to_owned()),
        reasons => Some(reasons.join(", ")),
    }),
    usual("PCIe GB/s", 9, |gpu| {
        both(gpu.pcie_rx_bytes_per_sec, gpu.pcie_tx_bytes_per_sec)
    }),
    usual("link", 6, |gpu| {
        let sign = if gpu.is_link_narrow() { " !" } else { "" };
        Some(format!("{} x{}{sign}", gpu.pcie_gen?, gpu.pcie_width?))
    }),
    rare("mem °C", 6, |gpu| {
        gpu.memory_temperature_c.map(|c| c.to_string())
    }),
    rare("NVLink GB/s", 11, |gpu| {
        both(gpu.nvlink_rx_bytes_per_sec, gpu.nvlink_tx_bytes_per_sec)
    }),
    rare("ECC", 3, |gpu| gpu.ecc_uncorrected.map(|n| n.to_string())),
    rare("fan %", 5, |gpu| gpu.fan.map(percent)),
];

impl Column {
    /// The card's value in words.
    pub fn cell(&self, gpu: &GpuReading) -> String {
        (self.value)(gpu).unwrap_or_else(|| UNKNOWN.to_owned())
    }
}

/// The columns that these cards have.
pub fn columns(gpus: &[GpuReading]) -> Vec<&'static Column> {
    let is_told =
        |column: &&Column| !column.is_rare || gpus.iter().any(|gpu| (column.value)(gpu).is_some());
    COLUMNS.iter().filter(is_told).collect()
}

const fn usual(
    title: &'static str,
    width: usize,
    value: fn(&GpuReading) -> Option<String>,
) -> Column {
    Column {
        title,
        width,
        is_rare: false,
        value,
    }
}

const fn rare(
    title: &'static str,
    width: usize,
    value: fn(&GpuReading) -> Option<String>,
) -> Column {
    let mut column = usual(title, width, value);
    column.is_rare = true;
    column
}

fn percent(share: f64) -> String {
    format!("{:.0}", 100.0 * share)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / units::GIB as f64
}

/// What is received and sent, in SI units.
fn both(rx: Option<u64>, tx: Option<u64>) -> Option<String> {
    Some(format!("{:.1}/{:.1}", rx? as f64 / 1e9, tx? as f64 / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Event, Record},
        hw::recorded,
        store::RunState,
    };

    #[test]
    fn what_a_card_does_not_tell_is_not_zero() {
        let silent = GpuReading::default();
        for column in columns(&[]) {
            let cell = column.cell(&silent);
            assert_eq!(cell, UNKNOWN, "{}", column.title);
        }
        for name in recorded::ALL {
            for gpu in recorded::machine(name)
                .readings
                .iter()
                .flat_map(|reading| &reading.gpus)
            {
                for column in columns(std::slice::from_ref(gpu)) {
                    let cell = column.cell(gpu);
                    assert!(
                        cell.chars().count() <= column.width,
                        "{name} {}: {cell}",
                        column.title
                    );
                }
            }
        }
    }

    #[test]
    fn energy_adds_up_on_every_machine() {
        for (name, joules) in [
            (
                "geforce-4",
                Some(10.0 * (338.0 + 331.0 + 335.0 + 308.0 + 62.0)),
            ),
            ("nvlink-8", Some(10.0 * (8.0 * 655.0 + 5.0 * 28.0))),
            ("laptop", None),
            ("lost-card", Some(4.0 * 345.0 * 2.0 + 8.0 * 130.0)),
            ("no-driver", None),
        ] {
            let mut state = RunState::default();
            for (seq, reading) in (0..).zip(recorded::machine(name).readings) {
                let event = Event::Sensors { reading };
                state.apply(&Record {
                    seq,
                    time: 0.0,
                    event,
                });
            }
            assert_eq!(state.energy_j, joules, "{name}");
        }
    }
}
