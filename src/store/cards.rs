//! GPUs' values as columns: what `top` and the Live screen show. What a card does not tell is `n/a`, never 0.

use crate::{base::units, event::GpuReading};

/// The word for a value that is not known.
pub const UNKNOWN: &str = "n/a";

/// Time in which anything ran.
const BUSY: &str = "busy %";

/// One value of every card.
pub struct Column {
    /// With the unit.
    pub title: &'static str,
    /// Characters that a cell takes.
    pub width: usize,
    /// Few cards tell it: the column is left out where none does.
    is_rare: bool,
    /// A host has it too.
    pub is_hosts: bool,
    value: fn(&GpuReading) -> Option<String>,
}

/// All of them, the most important first.
const COLUMNS: [Column; 15] = [
    rare("SM %", 4, |gpu| gpu.sm_active.map(percent)),
    hosts(BUSY, 6, |gpu| gpu.busy.map(percent)),
    hosts("GiB", 11, |gpu| {
        let (used, total) = (gpu.memory_used_bytes?, gpu.memory_total_bytes?);
        Some(format!("{:.1}/{:.1}", gib(used), gib(total)))
    }),
    hosts("W", 7, |gpu| {
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
    rare("tensor %", 8, |gpu| gpu.tensor_active.map(percent)),
    rare("DRAM %", 6, |gpu| gpu.dram_active.map(percent)),
];

impl Column {
    /// The card's value in words.
    pub fn cell(&self, gpu: &GpuReading) -> String {
        (self.value)(gpu).unwrap_or_else(|| UNKNOWN.to_owned())
    }
}

/// The columns that these cards have. Where all that live tell how many multiprocessors work, that stands for busy.
pub fn columns(gpus: &[GpuReading]) -> Vec<&'static Column> {
    let is_told =
        |column: &&Column| !column.is_rare || gpus.iter().any(|gpu| (column.value)(gpu).is_some());
    let mut living = gpus.iter().filter(|gpu| !gpu.is_lost).peekable();
    let tell_better = living.peek().is_some() && living.all(|gpu| gpu.sm_active.is_some());
    COLUMNS
        .iter()
        .filter(is_told)
        .filter(|column| !tell_better || column.title != BUSY)
        .collect()
}

/// The columns of [`columns`], and busy in any case, which the host has too.
pub fn columns_with_host(gpus: &[GpuReading]) -> Vec<&'static Column> {
    let mut columns = columns(gpus);
    if columns.iter().all(|column| column.title != BUSY) {
        columns.splice(..0, COLUMNS.iter().filter(|column| column.title == BUSY));
    }
    columns
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
        is_hosts: false,
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

const fn hosts(
    title: &'static str,
    width: usize,
    value: fn(&GpuReading) -> Option<String>,
) -> Column {
    let mut column = usual(title, width, value);
    column.is_hosts = true;
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
    use crate::hw::recorded;

    #[test]
    fn working_multiprocessors_stand_for_busy() {
        let titles = |gpus: &[GpuReading]| {
            let columns = columns(gpus).into_iter();
            columns
                .map(|column| column.title)
                .take(2)
                .collect::<Vec<_>>()
        };
        let hopper = GpuReading {
            busy: Some(1.0),
            sm_active: Some(0.5),
            ..GpuReading::default()
        };
        let older = GpuReading {
            busy: Some(1.0),
            ..GpuReading::default()
        };
        assert_eq!(titles(&[hopper.clone(), hopper.clone()]), ["SM %", "GiB"]);
        assert_eq!(titles(&[hopper.clone(), older.clone()]), ["SM %", "busy %"]);
        assert_eq!(titles(&[older]), ["busy %", "GiB"]);
        assert_eq!(titles(&[]), ["busy %", "GiB"]);
        assert_eq!(columns_with_host(&[hopper])[0].title, "busy %");
    }

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
}
