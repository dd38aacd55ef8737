//! The process that looks at sensors for a run. Nobody waits for it, and its death costs no more than its values.

use std::{
    env,
    io::{self, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{self, Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use super::{
    Input,
    wire::{Line, LineCutter},
};
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
/// Before a sampler that died is started again; after the last it is given up.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];
/// A sampler that lived for so long did not die of what killed those before.
const LONG_LIFE: Duration = Duration::from_secs(600);
/// A sampler that says nothing for five intervals, and at least for so long, hangs.
const SILENT: Duration = Duration::from_secs(15);

/// Looks at sensors until it is dropped.
pub struct Sampler(Arc<Mutex<Life>>);

enum Life {
    Between,
    Running(Child),
    Over,
}

/// How a sampler is started, and how long it is borne with.
struct Care<C> {
    command: C,
    silent: Duration,
    pauses: Vec<Duration>,
}

impl Sampler {
    /// Keeps a sampler running, this very program, whose readings arrive as inputs, with alarms about the plan's GPUs.
    ///
    /// # Errors
    /// This program can't be named, or there is no thread.
    pub fn spawn(
        every_s: u64,
        folder: &RunFolder,
        plan: &RunPlan,
        inputs: SyncSender<Input>,
    ) -> io::Result<Self> {
        let program = env::current_exe()?;
        let root = folder.root().to_owned();
        let care = Care {
            command: move || command(&program, every_s, &root),
            silent: SILENT.max(Duration::from_secs(every_s.saturating_mul(5))),
            pauses: PAUSES.to_vec(),
        };
        Self::keep(care, plan, move |event| {
            inputs.send(Input::Sensed(event)).is_ok()
        })
    }

    fn keep(
        mut care: Care<impl FnMut() -> Command + Send + 'static>,
        plan: &RunPlan,
        mut say: impl FnMut(Event) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let life = Arc::new(Mutex::new(Life::Between));
        let mut listener = Listener {
            devices: plan.ranks.iter().map(|rank| rank.device).collect(),
            gpus: plan.gpus(),
            uuids: plan.gpu_uuids.clone(),
            begin: Instant::now(),
            alarms: Alarms::default(),
        };
        let kept = Arc::clone(&life);
        // To the kernel a sampler's parent is this thread, which lives as long as any sampler.
        thread::Builder::new()
            .name("sensors".to_owned())
            .spawn(move || care.keep(&kept, &mut listener, &mut say))?;
        Ok(Self(life))
    }
}

fn command(program: &Path, every_s: u64, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["sensors", "--every-s", &every_s.to_string()])
        .args(["--parent", &process::id().to_string(), "--disk"])
        .arg(folder);
    command
}

impl<C: FnMut() -> Command> Care<C> {
    /// One sampler after the other, until nobody wants it or there is no point.
    fn keep(
        &mut self,
        life: &Mutex<Life>,
        listener: &mut Listener,
        say: &mut impl FnMut(Event) -> bool,
    ) {
        let mut pauses = self.pauses.clone().into_iter();
        let mut is_said = false;
        loop {
            let begin = Instant::now();
            let Some(death) = self.live(life, listener, say) else {
                return;
            };
            if begin.elapsed() > LONG_LIFE {
                pauses = self.pauses.clone().into_iter();
            }
            let pause = pauses.next();
            let what = match pause {
                Some(_) => "it is started again, and until then values are unknown",
                None => {
                    "it died too often and is given up; resume the run to start it again, or look with capstan top"
                }
            };
            let text = format!("the process that looks at sensors {death}; {what}");
            let is_wanted = pause.is_some() && is_said || say(Event::Warning { text, rank: None });
            is_said = true;
            let (Some(pause), true) = (pause, is_wanted) else {
                return;
            };
            thread::sleep(pause);
        }
    }

    /// One sampler's life and how it ended; `None` where nobody wants another.
    fn live(
        &mut self,
        life: &Mutex<Life>,
        listener: &mut Listener,
        say: &mut impl FnMut(Event) -> bool,
    ) -> Option<String> {
        let said = match self.start(life)? {
            Ok(said) => said,
            Err(error) => return Some(format!("can't be started ({error})")),
        };
        let end = listener.listen(said, say);
        let child = std::mem::replace(&mut *lock(life), Life::Between);
        let Life::Running(mut child) = child else {
            *lock(life) = Life::Over;
            return None;
        };
        let _ = child.kill();
        match end {
            End::Unwanted => None,
            End::Silent => {
                let _ = child.try_wait();
                let seconds = self.silent.as_secs();
                Some(format!("said nothing for {seconds} s and was killed"))
            }
            End::Closed => Some(match child.wait() {
                Ok(status) => format!("died ({status})"),
                Err(error) => format!("died ({error})"),
            }),
        }
    }

    fn start(&mut self, life: &Mutex<Life>) -> Option<io::Result<UnixStream>> {
        let mut life = lock(life);
        if matches!(*life, Life::Over) {
            return None;
        }
        let started = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_read_timeout(Some(self.silent))?;
            let mut command = (self.command)();
            let command = command
                .stdin(Stdio::null())
                .stdout(OwnedFd::from(theirs))
                .stderr(Stdio::null());
            Ok((ours, command.spawn()?))
        });
        Some(started.map(|(ours, child)| {
            *life = Life::Running(child);
            ours
        }))
    }
}

/// Why nothing more is heard of a sampler.
enum End {
    Closed,
    Silent,
    /// Nobody wants to know.
    Unwanted,
}

/// Turns what samplers say into events.
struct Listener {
    /// Of the ranks.
    devices: Vec<Device>,
    /// Of the ranks, each once.
    gpus: Vec<usize>,
    /// Of the cards that the plan counts, in its order.
    uuids: Vec<String>,
    begin: Instant,
    alarms: Alarms,
}

impl Listener {
    fn listen(&mut self, mut said: UnixStream, say: &mut impl FnMut(Event) -> bool) -> End {
        let mut lines = LineCutter::new(LONGEST_LINE);
        let mut part = [0; 4096];
        loop {
            let n = match said.read(&mut part) {
                Ok(0) => return End::Closed,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return End::Silent,
                Err(_) => return End::Closed,
            };
            for line in lines.cut(&part[..n]) {
                let Line::Whole(line) = line else { continue };
                let Ok(reading) = serde_json::from_slice(&line) else {
                    continue;
                };
                let now_s = self.begin.elapsed().as_secs_f64();
                if !self.events(reading, now_s).into_iter().all(&mut *say) {
                    return End::Unwanted;
                }
            }
        }
    }

    /// The reading, and warnings about GPUs that a rank has.
    fn events(&mut self, mut reading: Reading, now_s: f64) -> Vec<Event> {
        reading.order(&self.uuids);
        let alarms = self.alarms.hear(now_s, &reading);
        let warning = |Alarm { gpu, text }| {
            let mut devices = self.devices.iter();
            let rank = devices.position(|device| *device == Device::Cuda(gpu))?;
            Some(Event::Warning {
                text,
                rank: Some(rank),
            })
        };
        // What other cards take, and what is wrong with them, is none of the run's.
        let warnings = alarms.into_iter().filter_map(warning);
        let notes = std::mem::take(&mut reading.notes).into_iter();
        let notes = notes
            .filter(|_| !self.gpus.is_empty())
            .map(|text| Event::Warning { text, rank: None });
        reading.run_energy = reading.energy_of(&self.gpus);
        reading.no_gpus_because = None;
        reading.left_out.clear();
        std::iter::once(Event::Sensors { reading })
            .chain(warnings)
            .chain(notes)
            .collect()
    }
}

fn lock(life: &Mutex<Life>) -> std::sync::MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Life::Running(mut child) = std::mem::replace(&mut *lock(&self.0), Life::Over) {
            // It may be gone already, or hang in the driver: then init will reap it.
            let _ = child.kill();
            let _ = child.try_wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{
        config,
        event::Record,
        hw::recorded,
        plan::{self, DataSummary},
        store::RunState,
    };

    fn listener(devices: &[Device]) -> Listener {
        let gpus = devices.iter().filter_map(|device| match device {
            Device::Cuda(index) => Some(*index),
            Device::Cpu => None,
        });
        Listener {
            gpus: gpus.collect(),
            uuids: Vec::new(),
            devices: devices.to_vec(),
            begin: Instant::now(),
            alarms: Alarms::default(),
        }
    }

    #[test]
    fn alarms_are_warnings_of_the_rank_that_has_the_card() {
        let recorded = recorded::machine("lost-card");
        let of = |devices: &[Device]| {
            let mut listener = listener(devices);
            let readings = recorded.readings.iter().cloned();
            let events = readings.flat_map(|reading| listener.events(reading, 0.0));
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
    fn readings_are_matched_with_ranks_by_uuid() {
        let recorded = recorded::machine("geforce-4");
        let mut listener = listener(&[Device::Cuda(0), Device::Cuda(2)]);
        listener.uuids = recorded
            .machine
            .gpus
            .iter()
            .map(|gpu| gpu.uuid.clone())
            .collect();
        let mut said = recorded.readings[0].clone();
        // A sampler that was started after the first card had stopped answering.
        let first = said.gpus.remove(0);
        let events = listener.events(said.clone(), 0.0);
        let Event::Sensors { reading } = &events[0] else {
            unreachable!("the reading comes first")
        };
        assert_eq!(reading.gpus[1..], said.gpus);
        assert!(reading.gpus[0].is_lost && reading.gpus[0].uuid == first.uuid);
        assert_eq!(
            reading.run_energy, None,
            "what the lost card took is unknown"
        );
        let ranks = events[1..].iter().map(|event| match event {
            Event::Warning { rank, .. } => *rank,
            _ => None,
        });
        assert_eq!(ranks.collect::<Vec<_>>(), [Some(0)]);
        // Nothing is known of any: the driver has not answered yet.
        said.gpus.clear();
        assert_eq!(listener.events(said, 1.0).len(), 1);
    }

    #[test]
    fn notes_are_warnings_of_runs_on_gpus() {
        let noted = Reading {
            notes: vec!["the driver hangs".to_owned()],
            no_gpus_because: Some("so".to_owned()),
            ..Reading::default()
        };
        let events = listener(&[Device::Cuda(0)]).events(noted.clone(), 0.0);
        let warning = Event::Warning {
            text: "the driver hangs".to_owned(),
            rank: None,
        };
        let reading = Reading::default();
        assert_eq!(
            events,
            [
                Event::Sensors {
                    reading: reading.clone()
                },
                warning
            ]
        );
        let events = listener(&[Device::Cpu]).events(noted, 0.0);
        assert_eq!(events, [Event::Sensors { reading }]);
    }

    /// The energy of a run on these devices of a machine, and whether it is a part.
    fn spent(name: &str, devices: &[Device]) -> (Option<f64>, bool) {
        let mut listener = listener(devices);
        let mut state = RunState::default();
        let readings = recorded::machine(name).readings.into_iter();
        let events = readings.flat_map(|reading| listener.events(reading, 0.0));
        for (seq, event) in (0..).zip(events) {
            state.apply(&Record {
                seq,
                time: 0.0,
                event,
            });
        }
        (state.energy.joules, state.energy.is_partial)
    }

    #[test]
    fn energy_is_that_of_the_runs_devices() {
        let cuda = |n: usize| (0..n).map(Device::Cuda).collect::<Vec<_>>();
        let watts = 338.0 + 331.0 + 335.0 + 308.0;
        assert_eq!(spent("geforce-4", &cuda(4)), (Some(10.0 * watts), false));
        assert_eq!(
            spent("geforce-4", &cuda(1)),
            (Some(10.0 * 338.0), false),
            "others' energy is not the run's"
        );
        assert_eq!(
            spent("geforce-4", &[Device::Cpu]),
            (Some(10.0 * 62.0), false)
        );
        assert_eq!(
            spent("nvlink-8", &cuda(8)),
            (Some(10.0 * (8.0 * 655.0 + 5.0 * 28.0)), false)
        );
        assert_eq!(spent("laptop", &cuda(1)), (None, false));
        let (joules, is_partial) = spent("lost-card", &cuda(2));
        assert!(is_partial, "what the lost card took is unknown: {joules:?}");
        assert_eq!(spent("lost-card", &[Device::Cpu]), (None, false));
    }

    fn plan() -> RunPlan {
        let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hello.json");
        let config = config::load_file(&hello, &[], None).expect("a good config");
        let data = DataSummary {
            train_tokens: 1_000_000,
            val_tokens: 100_000,
            vocab_size: 256,
            fingerprint: "f".to_owned(),
            files: Vec::new(),
        };
        let machine = recorded::machine("no-driver").machine;
        plan::resolve(&config.config, &machine, &data).expect("a plan")
    }

    /// What is heard of samplers that are shell scripts, until none is started any more.
    fn heard(script: &'static str, silent: Duration, pauses: usize) -> Vec<Event> {
        let (sender, events) = mpsc::channel();
        let care = Care {
            command: move || {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            },
            silent,
            pauses: vec![Duration::ZERO; pauses],
        };
        let say = move |event| sender.send(event).is_ok();
        let sampler = Sampler::keep(care, &plan(), say).expect("a thread");
        let events = events.into_iter().collect();
        drop(sampler);
        events
    }

    fn split(events: &[Event]) -> (usize, Vec<&str>) {
        let mut texts = Vec::new();
        for event in events {
            if let Event::Warning { text, .. } = event {
                texts.push(text.as_str());
            }
        }
        (events.len() - texts.len(), texts)
    }

    #[test]
    fn a_sampler_that_dies_is_started_again_and_said_once() {
        let script = r#"echo '{"host":{}}'; echo garbage; exit 3"#;
        let events = heard(script, Duration::from_secs(60), 3);
        let (n_readings, texts) = split(&events);
        assert_eq!((n_readings, texts.len()), (4, 2), "{texts:?}");
        assert!(
            texts[0].contains("died (exit status: 3); it is started again"),
            "{texts:?}"
        );
        assert!(texts[1].contains("given up"), "{texts:?}");
    }

    #[test]
    fn a_sampler_that_hangs_is_killed_and_said() {
        let script = r#"echo '{"host":{}}'; exec sleep 1000"#;
        let events = heard(script, Duration::from_millis(300), 0);
        let (_, texts) = split(&events);
        assert!(
            texts.len() == 1 && texts[0].contains("said nothing for 0 s"),
            "{texts:?}"
        );
    }

    #[test]
    fn a_sampler_that_is_dropped_ends() {
        let (sender, events) = mpsc::channel();
        let care = Care {
            command: || {
                let mut command = Command::new("sh");
                command.args(["-c", r#"echo '{"host":{}}'; exec sleep 1000"#]);
                command
            },
            silent: Duration::from_secs(600),
            pauses: vec![Duration::ZERO; 9],
        };
        let say = move |event| sender.send(event).is_ok();
        let sampler = Sampler::keep(care, &plan(), say).expect("a thread");
        events.recv().expect("a reading");
        drop(sampler);
        assert_eq!(
            events.into_iter().count(),
            0,
            "neither a death nor another life"
        );
    }

    #[test]
    fn sixteen_cards_fit_a_line() {
        for reading in recorded::with_gpus("nvlink-8", 16).readings {
            let line = serde_json::to_string(&reading).expect("serializable");
            assert!(line.len() <= LONGEST_LINE / 4, "{}", line.len());
        }
    }
}
