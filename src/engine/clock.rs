//! Where a step's time goes.
//!
//! On a CPU the rank's thread holds the clock. On a GPU it launches ahead, so that marks are events on
//! the compute stream, read when the step is known to be done.

use std::time::Instant;

use super::RankDevice;
use crate::{
    event::Phases,
    torch::{
        TorchError,
        stream::{Event, Stream, Timing},
    },
};

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Data,
    Forward,
    Backward,
    Comm,
    /// Waiting for another pipeline stage.
    Bubble,
    Optimizer,
    Other,
}

/// Marks the parts of one step after the other.
pub struct StepClock {
    stream: Option<Stream>,
    began: Instant,
    last: Instant,
    phases: Phases,
    marks: Vec<(Phase, Event)>,
    /// Events to use again: making one is a call into the driver.
    spare: Vec<Event>,
}

/// The marks of one step.
#[derive(Default)]
pub struct StepTiming {
    host: Phases,
    marks: Vec<(Phase, Event)>,
}

impl StepClock {
    /// A clock for a rank on `device`; it runs from now.
    pub fn new(device: &RankDevice) -> Self {
        let now = Instant::now();
        Self {
            stream: device.stream,
            began: now,
            last: now,
            phases: Phases::default(),
            marks: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Starts a step's time anew, so that what came before is nobody's.
    pub fn restart(&mut self) {
        self.began = Instant::now();
        self.last = self.began;
    }

    /// Gives the time since the last mark to `phase`.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn mark(&mut self, phase: Phase) -> Result<(), TorchError> {
        let now = Instant::now();
        *part(&mut self.phases, phase) += (now - self.last).as_secs_f64();
        self.last = now;
        if let Some(stream) = self.stream {
            let event = match self.spare.pop() {
                Some(event) => event,
                None => Event::new(Timing::On)?,
            };
            stream.record(&event)?;
            self.marks.push((phase, event));
        }
        Ok(())
    }

    /// Takes the marks of the step that was just launched.
    pub fn take(&mut self) -> StepTiming {
        StepTiming {
            host: std::mem::take(&mut self.phases),
            marks: std::mem::take(&mut self.marks),
        }
    }

    /// Takes back the marks of a step that has been read.
    pub fn reuse(&mut self, timing: StepTiming) {
        self.spare
            .extend(timing.marks.into_iter().map(|(_, event)| event));
    }

    /// Seconds since the last call (or [`restart`](Self::restart)): the wall time between two finished steps.
    pub fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.began).as_secs_f64();
        self.began = now;
        seconds
    }
}

impl StepTiming {
    /// Blocks the host until the device has passed the last mark.
    ///
    /// # Errors
    /// A device fault of earlier work surfaces here.
    pub fn wait(&self) -> Result<(), TorchError> {
        match self.marks.last() {
            Some((_, last)) => last.synchronize(),
            None => Ok(()),
        }
    }

    /// The parts of a finished step that took `total_s`; what no mark covers is `other`.
    ///
    /// # Errors
    /// The device has not finished the step.
    pub fn phases(&self, total_s: f64) -> Result<Phases, TorchError> {
        let mut phases = self.host;
        if !self.marks.is_empty() {
            // Waiting for data happens on the host; the device's marks cover the rest.
            phases = Phases {
                data: self.host.data,
                ..Phases::default()
            };
            for pair in self.marks.windows(2) {
                let seconds = pair[0].1.seconds_to(&pair[1].1)?;
                if pair[1].0 != Phase::Data {
                    *part(&mut phases, pair[1].0) += seconds;
                }
            }
        }
        phases.other += (total_s - phases.total()).max(0.0);
        Ok(phases)
    }
}

fn part(phases: &mut Phases, phase: Phase) -> &mut f64 {
    match phase {
        Phase::Data => &mut phases.data,
        Phase::Forward => &mut phases.forward,
        Phase::Backward => &mut phases.backward,
        Phase::Comm => &mut phases.comm,
        Phase::Bubble => &mut phases.bubble,
        Phase::Optimizer => &mut phases.optimizer,
        Phase::Other => &mut phases.other,
    }
}
