//! `top`: the machine's sensors, as a table that is printed again and again, or as JSON lines.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use rustix::process::Pid;
use serde_json::{Value, json};

use super::{
    cli::{SensorsArgs, TopArgs},
    text::{say, say_json, table},
};
use crate::{
    base::{
        clock::{self, unix_seconds},
        parent::end_with_parent,
        units,
    },
    event::{GpuReading, HostReading, Reading, short_uuid},
    hw::sensors::{self, Alarm, Alarms},
    store::cards::{Column, columns_with_host},
};

/// `capstan top`.
pub fn top(runs_dir: &Path, args: &TopArgs) -> anyhow::Result<u8> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut failed = Ok(());
    let (begin, mut alarms) = (Instant::now(), Alarms::default());
    let every = Duration::from_secs(args.every_s);
    sensors::watch(every, runs_dir, |reading| {
        let heard = alarms.hear(begin.elapsed().as_secs_f64(), &reading);
        failed = show(&reading, &heard, args.json);
        left = left.saturating_sub(1);
        left > 0 && failed.is_ok()
    });
    failed?;
    Ok(0)
}

/// The sampler of a run: a reading a line, until nobody reads or its parent ends.
pub fn sensors(args: &SensorsArgs) -> u8 {
    let parent = args.parent.and_then(Pid::from_raw);
    if end_with_parent(parent).is_err() {
        return 0;
    }
    let every = Duration::from_secs(args.every_s);
    sensors::watch(every, &args.disk, |reading| {
        serde_json::to_string(&reading).is_ok_and(|line| say(&line).is_ok())
    });
    0
}

fn show(reading: &Reading, alarms: &[Alarm], json: bool) -> anyhow::Result<()> {
    if json {
        let mut fields = json!({ "time": unix_seconds() });
        let reading = serde_json::to_value(reading)?;
        if let (Value::Object(fields), Value::Object(reading)) = (&mut fields, reading) {
            fields.extend(reading);
        }
        return Ok(say_json(fields)?);
    }
    let time = clock::told(unix_seconds(), &TimeZone::system(), "%H:%M:%S");
    say(&time.unwrap_or_default())?;
    for line in told(reading) {
        say(&line)?;
    }
    let alarms = alarms.iter().map(|alarm| &alarm.text);
    for text in alarms.chain(&reading.notes) {
        say(&format!("! {text}"))?;
    }
    Ok(())
}

/// The host and the GPUs in a table.
fn told(reading: &Reading) -> Vec<String> {
    let columns = columns_with_host(&reading.gpus);
    let titles = columns.iter().map(|column| column.title);
    let heading: Vec<&str> = ["DEVICE", "UUID"].into_iter().chain(titles).collect();
    let host = host_row(&reading.host, &columns);
    let gpu_row = |(index, gpu): (usize, &GpuReading)| {
        let mut row = vec![
            format!("GPU {index} {}", gpu.name),
            short_uuid(&gpu.uuid).to_owned(),
        ];
        row.extend(columns.iter().map(|column| column.cell(gpu)));
        if gpu.is_lost {
            row[2] = "LOST".to_owned();
        }
        row
    };
    let gpus = reading.gpus.iter().enumerate().map(gpu_row);
    let mut lines = table(
        &heading,
        &std::iter::once(host).chain(gpus).collect::<Vec<_>>(),
    );
    let free = reading.host.disk_free_bytes.map(units::bytes);
    lines.extend(free.map(|free| format!("disk of the runs: {free} free")));
    let no_gpus = reading.no_gpus_because.iter();
    lines.extend(no_gpus.map(|reason| format!("no GPUs: {reason}")));
    let left_out = reading.left_out.iter();
    lines.extend(left_out.map(|left_out| format!("not shown: {left_out}")));
    lines
}

/// The host's values, in the columns of the GPUs'; most are of no host.
fn host_row(host: &HostReading, columns: &[&Column]) -> Vec<String> {
    let as_gpu = GpuReading {
        busy: host.cpu_busy,
        memory_used_bytes: host.memory_used_bytes,
        memory_total_bytes: host.memory_total_bytes,
        power_w: host.package_power_w,
        ..GpuReading::default()
    };
    let cells = columns.iter().map(|column| match column.is_hosts {
        true => column.cell(&as_gpu),
        false => "-".to_owned(),
    });
    let names = ["host".to_owned(), "-".to_owned()];
    names.into_iter().chain(cells).collect()
}

#[cfg(test)]
mod tests {
    use insta::{assert_snapshot, with_settings};

    use super::*;
    use crate::hw::recorded;

    #[test]
    fn every_machine_has_its_table() {
        for name in recorded::ALL {
            let readings = recorded::machine(name).readings;
            let last = readings.last().expect("a reading");
            with_settings!({ snapshot_path => "../../tests/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
                assert_snapshot!(format!("top-{name}"), told(last).join("\n"));
            });
        }
    }

    #[test]
    fn what_is_not_known_is_no_zero() {
        let reading = Reading {
            gpus: vec![GpuReading {
                is_lost: true,
                ..GpuReading::default()
            }],
            ..Reading::default()
        };
        for line in &told(&reading)[1..] {
            assert!(
                !line
                    .split_whitespace()
                    .skip(2)
                    .any(|word| word.starts_with('0')),
                "{line}"
            );
        }
    }
}
