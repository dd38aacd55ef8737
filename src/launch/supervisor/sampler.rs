//! The process that looks at sensors for a run. Nobody waits for it, and its death changes nothing.

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::SyncSender,
    thread,
};

use super::Input;
use crate::event::Event;

/// Longest line that is listened to, in bytes; eight GPUs take four thousand.
const LONGEST_LINE: usize = 1 << 16;

/// A running sampler; it ends with this.
pub struct Sampler(Child);

impl Sampler {
    /// Starts this program as a sampler whose readings arrive as inputs.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(every_s: u64, inputs: SyncSender<Input>) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["sensors", "--every-s", &every_s.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(said) = child.stdout.take() {
            thread::Builder::new()
                .name("sensors".to_owned())
                .spawn(move || {
                    let lines = BufReader::new(said).lines().map_while(Result::ok);
                    for line in lines.filter(|line| line.len() <= LONGEST_LINE) {
                        let Ok(reading) = serde_json::from_str(&line) else {
                            continue;
                        };
                        if inputs
                            .send(Input::Sensed(Event::Sensors { reading }))
                            .is_err()
                        {
                            return;
                        }
                    }
                })?;
        }
        Ok(Self(child))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // It may be gone already, or hang in the driver: then init will reap it.
        let _ = self.0.kill();
        let _ = self.0.try_wait();
    }
}
