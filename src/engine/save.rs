//! Checkpoints from rank 0: when there is space, in the background, reported as events.

use std::{
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::EngineError;
use crate::{
    base::{fs, units},
    checkpoint::{self, Manifest, Report, Snapshot, Writer},
    dist::Progress,
    event::{Control, Event, NO_SAMPLE},
};

/// How often a paused run looks for space.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// Rank 0's way to durable checkpoints.
pub struct Saver {
    folder: std::path::PathBuf,
    writer: Writer,
    /// Steps with a save that began, the newest last.
    last_step: Option<u64>,
    last_failed: Option<String>,
}

impl Saver {
    /// Saves below `folder`, which exists.
    pub fn new(folder: &Path, keep: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            writer: Writer::new(folder, keep),
            last_step: None,
            last_failed: None,
        }
    }

    /// Whether a save of this step has begun.
    pub fn has_saved(&self, step: u64) -> bool {
        self.last_step == Some(step)
    }

    /// Why the last save failed, where it did.
    pub fn failure(&self) -> Option<&str> {
        self.last_failed.as_deref()
    }

    /// Waits until `n_bytes` more can be written, paused and saying so; a stop ends the wait.
    ///
    /// A pause that is ordered meanwhile outlasts the lack of space, until the order to continue.
    ///
    /// Returns whether there is space.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn wait_for_space(
        &mut self,
        n_bytes: u64,
        step: u64,
        progress: &Progress,
        controls: &Receiver<Control>,
        emit: &dyn Fn(Event),
    ) -> Result<bool, EngineError> {
        let needed = checkpoint::needed_bytes(n_bytes);
        let free =
            || fs::free_bytes(&self.folder).map_err(checkpoint::CheckpointError::io(&self.folder));
        if free()? >= needed {
            return Ok(true);
        }
        let text = format!(
            "no space for a checkpoint: {} needed, {} free at {}; the run is paused until there is, or until it is stopped",
            units::bytes(needed),
            units::bytes(free()?),
            self.folder.display()
        );
        emit(Event::Warning {
            text,
            rank: Some(0),
        });
        emit(Event::Paused { step });
        progress.set_idle(true);
        let refuse_sample = || {
            let text = format!("{NO_SAMPLE}the run waits for space");
            emit(Event::Warning { text, rank: None });
        };
        let has_space = hold(controls, SPACE_CHECK, &refuse_sample, || {
            Ok(free()? >= needed)
        })?;
        progress.set_idle(false);
        if has_space {
            emit(Event::Continued { step });
        }
        Ok(has_space)
    }

    /// Starts to write a snapshot.
    pub fn start(&mut self, snapshot: Snapshot, manifest: Manifest) {
        self.last_step = Some(manifest.step);
        self.writer.start(snapshot, manifest);
    }

    /// Waits for the save under way.
    pub fn finish(&mut self, emit: &dyn Fn(Event)) {
        self.writer.wait();
        self.report(emit);
    }

    /// Tells how the saves went that ended meanwhile. A failed one is a warning: the last good one is still there.
    pub fn report(&mut self, emit: &dyn Fn(Event)) {
        for Report {
            step,
            best,
            seconds,
            deleted,
            result,
        } in self.writer.reports()
        {
            match result {
                Ok(published) => {
                    self.last_failed = None;
                    let path = published.path.display().to_string();
                    emit(Event::Checkpoint {
                        step,
                        path,
                        bytes: published.bytes,
                        seconds,
                        best,
                        deleted,
                    });
                }
                Err(error) => {
                    let text = format!(
                        "the checkpoint of step {step} failed, those before it are untouched: {error}"
                    );
                    self.last_failed = Some(error.to_string());
                    emit(Event::Warning {
                        text,
                        rank: Some(0),
                    });
                }
            }
        }
    }
}

/// Waits until `is_over` and no pause is ordered; false where a stop is.
fn hold(
    controls: &Receiver<Control>,
    look_every: Duration,
    refuse_sample: &dyn Fn(),
    mut is_over: impl FnMut() -> Result<bool, EngineError>,
) -> Result<bool, EngineError> {
    let mut is_paused = false;
    loop {
        match controls.recv_timeout(look_every) {
            Ok(Control::Stop | Control::Kill) | Err(RecvTimeoutError::Disconnected) => {
                return Ok(false);
            }
            Ok(Control::Pause) => is_paused = true,
            Ok(Control::Continue) => is_paused = false,
            // The save that waits here is the one asked for.
            Ok(Control::Checkpoint) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Control::Sample) => refuse_sample(),
        }
        if is_over()? && !is_paused {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Holds under `orders`; space comes at the second look, and the user continues at the fourth.
    fn held(orders: &[Control]) -> (bool, u32) {
        let (sender, controls) = channel();
        for &order in orders {
            sender.send(order).expect("open");
        }
        let mut looks = 0;
        let has_space = hold(&controls, Duration::from_millis(1), &|| {}, || {
            looks += 1;
            if looks == 4 {
                sender.send(Control::Continue).expect("open");
            }
            Ok(looks >= 2)
        });
        (has_space.expect("no error"), looks)
    }

    #[test]
    fn a_pause_outlasts_the_lack_of_space() {
        assert_eq!(held(&[]), (true, 2));
        assert_eq!(held(&[Control::Checkpoint]), (true, 2));
        assert_eq!(held(&[Control::Pause]), (true, 5));
        assert_eq!(held(&[Control::Pause, Control::Continue]), (true, 2));
        assert_eq!(held(&[Control::Pause, Control::Stop]), (false, 1));
    }
}
