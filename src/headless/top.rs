//! `top`: the machine's sensors, as a table that is printed again and again, or as JSON lines.

use std::time::Duration;

use super::{
    cli::{SensorsArgs, TopArgs},
    text::{say, table},
};
use crate::{
    base::units,
    event::{GpuReading, HostReading, Reading},
    hw::sensors,
};

/// `capstan top`.
pub fn top(args: &TopArgs) -> anyhow::Result<u8> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut failed = Ok(());
    sensors::watch(Duration::from_secs(args.every_s.max(1)), |reading| {
        failed = show(&reading, args.json);
        left = left.saturating_sub(1);
        left > 0 && failed.is_ok()
    });
    failed?;
    Ok(0)
}

/// The sampler of a run: a reading a line until nobody reads.
pub fn sensors(args: &SensorsArgs) -> u8 {
    sensors::watch(Duration::from_secs(args.every_s.max(1)), |reading| {
        show(&reading, true).is_ok()
    });
    0
}

fn show(reading: &Reading, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(say(&serde_json::to_string(reading)?)?);
    }
    let host = host_row(&reading.host);
    let gpus = reading
        .gpus
        .iter()
        .enumerate()
        .map(|(index, gpu)| gpu_row(index, gpu));
    let rows: Vec<Vec<String>> = std::iter::once(host).chain(gpus).collect();
    for line in table(
        &[
            "DEVICE",
            "BUSY",
            "MEMORY",
            "POWER",
            "TEMP",
            "CLOCK",
            "LIMITED BY",
        ],
        &rows,
    ) {
        say(&line)?;
    }
    Ok(())
}

fn host_row(host: &HostReading) -> Vec<String> {
    vec![
        "host".to_owned(),
        share(host.cpu_busy),
        memory(host.memory_used_bytes, host.memory_total_bytes),
        host.package_power_w
            .map_or_else(unknown, |watts| format!("{watts:.0} W")),
        unknown(),
        unknown(),
        unknown(),
    ]
}

fn gpu_row(index: usize, gpu: &GpuReading) -> Vec<String> {
    if gpu.is_lost {
        let lost = [format!("GPU {index} {}", gpu.name), "lost".to_owned()];
        return lost.into_iter().chain((0..5).map(|_| unknown())).collect();
    }
    let power = match (gpu.power_w, gpu.power_limit_w) {
        (Some(power), Some(limit)) => format!("{power:.0} of {limit:.0} W"),
        (Some(power), None) => format!("{power:.0} W"),
        _ => unknown(),
    };
    let clock = match (gpu.sm_clock_mhz, gpu.sm_clock_max_mhz) {
        (Some(now), Some(most)) => format!("{now} of {most} MHz"),
        (Some(now), None) => format!("{now} MHz"),
        _ => unknown(),
    };
    vec![
        format!("GPU {index} {}", gpu.name),
        share(gpu.busy),
        memory(gpu.memory_used_bytes, gpu.memory_total_bytes),
        power,
        gpu.temperature_c
            .map_or_else(unknown, |degrees| format!("{degrees} °C")),
        clock,
        if gpu.limited_by.is_empty() {
            unknown()
        } else {
            gpu.limited_by.join(", ")
        },
    ]
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(unknown, |share| format!("{:.0} %", 100.0 * share))
}

fn memory(used: Option<u64>, total: Option<u64>) -> String {
    match (used, total) {
        (Some(used), Some(total)) => format!("{} of {}", units::bytes(used), units::bytes(total)),
        _ => unknown(),
    }
}

fn unknown() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_zero() {
        let row = gpu_row(0, &GpuReading::default());
        assert!(row[1..].iter().all(|cell| cell == "-"), "{row:?}");
        let lost = GpuReading {
            is_lost: true,
            ..GpuReading::default()
        };
        assert_eq!(gpu_row(1, &lost)[1], "lost");
    }
}
