//! The GPUs' thread as seen from outside: a driver that hangs makes values unknown and holds nobody up.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::event::{GpuReading, Reading};

/// So long the first look waits for a driver that starts cold.
const FIRST_ANSWER_IN: Duration = Duration::from_secs(5);
/// So long a further look waits at most, or half an interval.
const ANSWER_IN: Duration = Duration::from_secs(1);
/// An answer tells what is for three intervals, at least for so long.
const HOLDS: Duration = Duration::from_secs(5);
/// A driver that has not answered for three intervals, and for so long, is said to hang.
const HANGS: Duration = Duration::from_secs(10);

/// What the thread says.
pub enum Answer {
    /// At first and once.
    Found(Found),
    /// To each ask.
    Looked(Look),
}

/// What the driver shows.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// No more than who they are.
    pub gpus: Vec<GpuReading>,
    pub left_out: Vec<String>,
    pub no_gpus_because: Option<String>,
}

/// One look at all GPUs.
pub struct Look {
    /// When it was over.
    pub at: Instant,
    pub gpus: Vec<GpuReading>,
    /// What can't be done and what to try.
    pub notes: Vec<String>,
}

/// The thread, and its answers so far.
pub struct Driver {
    asks: Sender<()>,
    answers: Receiver<Answer>,
    /// Since when an answer is missing.
    asked: Option<Instant>,
    found: Option<Found>,
    latest: Option<Look>,
    is_first: bool,
    hanging_is_said: bool,
}

impl Driver {
    /// Starts the thread: `body` says what it found and then answers each ask with a look, as long as there are asks.
    pub fn start(body: impl FnOnce(&Receiver<()>, &Sender<Answer>) + Send + 'static) -> Self {
        let (asks, asked) = mpsc::channel();
        let (sender, answers) = mpsc::channel();
        let thread = thread::Builder::new().name("gpus".to_owned());
        let thread = thread.spawn(move || body(&asked, &sender));
        Self {
            asks,
            answers,
            asked: thread.is_ok().then(Instant::now),
            found: thread.err().map(no_thread),
            latest: None,
            is_first: true,
            hanging_is_said: false,
        }
    }

    /// Adds to a reading what the GPUs say, waiting only a moment for it; looks come `every` so long.
    pub fn look(&mut self, every: Duration, reading: &mut Reading) {
        let begin = Instant::now();
        let patience = match std::mem::take(&mut self.is_first) {
            true => FIRST_ANSWER_IN,
            false => {
                // An answer that came late is no answer to the next ask.
                self.hear_until(begin);
                ANSWER_IN.min(every / 2)
            }
        };
        self.ask();
        self.hear_until(begin + patience);
        let silent = self.asked.map_or(Duration::ZERO, |asked| asked.elapsed());
        self.tell(every, silent, reading);
        if silent > HANGS.max(3 * every) {
            if !self.hanging_is_said {
                reading.notes.push(format!(
                    "the NVIDIA driver has not answered for {} s, so the GPUs' values are unknown; nvidia-smi and the \
                     kernel's log (dmesg) say more, and a reboot ends it",
                    silent.as_secs()
                ));
            }
            self.hanging_is_said = true;
        }
    }

    fn ask(&mut self) {
        let has_gpus = self
            .found
            .as_ref()
            .is_some_and(|found| !found.gpus.is_empty());
        if has_gpus && self.asked.is_none() {
            self.asked = Some(Instant::now());
            // Where the thread has died, no answer comes, as if it hung.
            let _ = self.asks.send(());
        }
    }

    fn hear_until(&mut self, until: Instant) {
        while self.asked.is_some() {
            let left = until.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(answer) => self.hear(answer),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn hear(&mut self, answer: Answer) {
        self.asked = None;
        match answer {
            Answer::Found(found) => {
                self.found = Some(found);
                self.ask();
            }
            Answer::Looked(mut look) => {
                self.hanging_is_said = false;
                // What of the look before nobody was told yet.
                if let Some(before) = self.latest.take() {
                    for (gpu, before) in look.gpus.iter_mut().zip(before.gpus) {
                        gpu.xids.splice(..0, before.xids);
                    }
                    look.notes.splice(..0, before.notes);
                }
                self.latest = Some(look);
            }
        }
    }

    fn tell(&mut self, every: Duration, silent: Duration, reading: &mut Reading) {
        let Some(found) = &self.found else {
            let seconds = silent.as_secs();
            reading.no_gpus_because = Some(format!(
                "the NVIDIA driver has not answered for {seconds} s"
            ));
            return;
        };
        reading.left_out.clone_from(&found.left_out);
        reading.no_gpus_because.clone_from(&found.no_gpus_because);
        let holds = HOLDS.max(3 * every);
        match self
            .latest
            .as_mut()
            .filter(|look| look.at.elapsed() <= holds)
        {
            Some(look) => {
                reading.gpus.clone_from(&look.gpus);
                reading.notes.append(&mut look.notes);
                look.gpus.iter_mut().for_each(|gpu| gpu.xids.clear());
            }
            None => reading.gpus.clone_from(&found.gpus),
        }
    }
}

fn no_thread(error: io::Error) -> Found {
    Found {
        no_gpus_because: Some(format!("NVML: no thread: {error}")),
        ..Found::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(busy: Option<f64>, xids: &[u64]) -> GpuReading {
        GpuReading {
            uuid: "GPU-1".to_owned(),
            busy,
            xids: xids.to_vec(),
            ..GpuReading::default()
        }
    }

    fn found() -> Answer {
        Answer::Found(Found {
            gpus: vec![card(None, &[])],
            ..Found::default()
        })
    }

    fn looked(xids: &[u64]) -> Answer {
        Answer::Looked(Look {
            at: Instant::now(),
            gpus: vec![card(Some(0.5), xids)],
            notes: vec![format!("{xids:?}")],
        })
    }

    fn look(driver: &mut Driver, every: Duration) -> Reading {
        let mut reading = Reading::default();
        driver.look(every, &mut reading);
        reading
    }

    /// Lets time pass for a driver that is told of it rather than waited for.
    fn age(driver: &mut Driver, by: Duration) {
        let earlier = |at: Instant| {
            at.checked_sub(by)
                .expect("the machine has been up for longer")
        };
        driver.asked = driver.asked.map(earlier);
        if let Some(look) = &mut driver.latest {
            look.at = earlier(look.at);
        }
    }

    #[test]
    fn a_driver_that_answers_is_told_as_it_is() {
        let mut driver = Driver::start(|asks, answers| {
            answers.send(found()).expect("heard");
            for () in asks {
                answers.send(looked(&[13])).expect("heard");
            }
        });
        for _ in 0..2 {
            let reading = look(&mut driver, Duration::from_secs(2));
            assert_eq!(reading.gpus, [card(Some(0.5), &[13])]);
            assert_eq!(reading.notes, ["[13]"]);
        }
    }

    #[test]
    fn a_driver_that_hangs_makes_values_unknown_and_is_said_once() {
        let (go_on, hanging) = mpsc::channel::<()>();
        let mut driver = Driver::start(move |asks, answers| {
            answers.send(found()).expect("heard");
            asks.recv().expect("asked");
            answers.send(looked(&[])).expect("heard");
            hanging.recv().expect("told");
            asks.recv().expect("asked");
            answers.send(looked(&[])).expect("heard");
        });
        let every = Duration::from_millis(20);
        assert_eq!(look(&mut driver, every).gpus, [card(Some(0.5), &[])]);
        let still = look(&mut driver, every);
        assert_eq!(still.gpus, [card(Some(0.5), &[])], "it holds a while");
        age(&mut driver, HOLDS);
        let unknown = look(&mut driver, every);
        assert_eq!(unknown.gpus, [card(None, &[])]);
        assert!(unknown.notes.is_empty());
        age(&mut driver, HANGS);
        let said = look(&mut driver, every).notes;
        assert!(
            said.len() == 1 && said[0].contains("has not answered"),
            "{said:?}"
        );
        assert!(look(&mut driver, every).notes.is_empty());
        go_on.send(()).expect("heard");
        while look(&mut driver, every).gpus != [card(Some(0.5), &[])] {}
    }

    #[test]
    fn a_driver_that_does_not_even_start_is_the_reason_for_no_gpus() {
        let (never, hanging) = mpsc::channel::<()>();
        let mut driver = Driver::start(move |_, _| {
            let _ = hanging.recv();
        });
        age(&mut driver, HANGS);
        let mut reading = Reading::default();
        driver.tell(Duration::from_secs(1), HANGS, &mut reading);
        let reason = reading.no_gpus_because.unwrap_or_default();
        assert_eq!(reason, "the NVIDIA driver has not answered for 10 s");
        drop(never);
    }

    #[test]
    fn no_xid_is_lost_between_two_looks() {
        let (asks, _asked) = mpsc::channel();
        let (sender, answers) = mpsc::channel();
        let mut driver = Driver {
            asks,
            answers,
            asked: Some(Instant::now()),
            found: None,
            latest: None,
            is_first: true,
            hanging_is_said: false,
        };
        for answer in [found(), looked(&[31]), looked(&[43])] {
            driver.hear(answer);
        }
        let mut reading = Reading::default();
        driver.tell(Duration::from_secs(1), Duration::ZERO, &mut reading);
        assert_eq!(reading.gpus[0].xids, [31, 43]);
        let mut reading = Reading::default();
        driver.tell(Duration::from_secs(1), Duration::ZERO, &mut reading);
        assert_eq!(reading.gpus[0].xids, [] as [u64; 0], "told once");
        drop(sender);
    }
}
