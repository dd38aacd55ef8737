//! The process that looks at sensors for a run. Nobody waits for it, and its death changes nothing.

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::SyncSender,
    thread,
    time::Instant,
};

use super::Input;
use crate::{
    event::{Event, Reading},
    hw::{
        Device,
        sensors::{Alarm, Alarms},
    },
    launch::RunFolder,
    plan::RunPlan,
};

/// Longest line that is listened to, in bytes; sixteen GPUs take ten thousand.
const LONGEST_LINE: usize = 1 << 16;

/// A running sampler; it ends with this.
pub struct Sampler(Child);

impl Sampler {
    /// Starts this program as a sampler whose readings arrive as inputs, with alarms about the plan's GPUs.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(
        every_s: u64,
        folder: &RunFolder,
        plan: &RunPlan,
        inputs: SyncSender<Input>,
    ) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["sensors", "--every-s", &every_s.to_string(), "--disk"])
            .arg(folder.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let devices: Vec<Device> = plan.ranks.iter().map(|rank| rank.device).collect();
        if let Some(said) = child.stdout.take() {
            thread::Builder::new()
                .name("sensors".to_owned())
                .spawn(move || {
                    let begin = Instant::now();
                    let mut alarms = Alarms::default();
                    let lines = BufReader::new(said).lines().map_while(Result::ok);
                    for line in lines.filter(|line| line.len() <= LONGEST_LINE) {
                        let Ok(reading) = serde_json::from_str(&line) else {
                            continue;
                        };
                        let now_s = begin.elapsed().as_secs_f64();
                        for event in events(reading, &mut alarms, now_s, &devices) {
                            if inputs.send(Input::Sensed(event)).is_err() {
                                return;
                            }
                        }
                    }
                })?;
        }
        Ok(Self(child))
    }
}

/// The reading, and warnings about GPUs that a rank has.
fn events(mut reading: Reading, alarms: &mut Alarms, now_s: f64, devices: &[Device]) -> Vec<Event> {
    let warning = |Alarm { gpu, text }| {
        let rank = devices
            .iter()
            .position(|device| *device == Device::Cuda(gpu))?;
        Some(Event::Warning {
            text,
            rank: Some(rank),
        })
    };
    let warnings: Vec<Event> = alarms
        .hear(now_s, &reading)
        .into_iter()
        .filter_map(warning)
        .collect();
    // What other cards take is none of the run's.
    for (index, gpu) in reading.gpus.iter_mut().enumerate() {
        if !devices.contains(&Device::Cuda(index)) {
            gpu.energy_j = None;
        }
    }
    std::iter::once(Event::Sensors { reading })
        .chain(warnings)
        .collect()
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // It may be gone already, or hang in the driver: then init will reap it.
        let _ = self.0.kill();
        let _ = self.0.try_wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::recorded;

    #[test]
    fn alarms_are_warnings_of_the_rank_that_has_the_card() {
        let recorded = recorded::machine("lost-card");
        let of = |devices: &[Device]| {
            let mut alarms = Alarms::default();
            let readings = recorded.readings.iter().cloned();
            let events = readings.flat_map(|reading| events(reading, &mut alarms, 0.0, devices));
            let warnings = events.filter_map(|event| match event {
                Event::Warning { rank, .. } => Some(rank),
                _ => None,
            });
            warnings.collect::<Vec<_>>()
        };
        assert_eq!(of(&[Device::Cuda(1), Device::Cuda(0)]), [Some(0)]);
        assert_eq!(
            of(&[Device::Cuda(0)]),
            [],
            "the run has nothing on that card"
        );
        assert_eq!(of(&[Device::Cpu]), []);
    }

    #[test]
    fn sixteen_cards_fit_a_line() {
        for reading in recorded::with_gpus("nvlink-8", 16).readings {
            let line = serde_json::to_string(&reading).expect("serializable");
            assert!(line.len() <= LONGEST_LINE / 4, "{}", line.len());
        }
    }
}
