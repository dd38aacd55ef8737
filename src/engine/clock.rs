//! Where a step's time goes.
//!
//! A step begins where the one before it ended, and ends with its last mark: no time between two steps is lost or
//! counted twice. On a CPU the rank's thread holds the clock. On a GPU the thread launches ahead, so its own time says
//! nothing of a step's; there marks are events on the compute stream, read when the step is known to be done.

use std::{rc::Rc, sync::Arc, time::Instant};

use super::RankDevice;
use crate::{
    dist::Progress,
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
    source: Source,
    /// Where the step under way began.
    begin: Moment,
    marks: Vec<(Phase, Moment)>,
    /// Hears of each mark.
    progress: Arc<Progress>,
}

/// Who tells the time.
enum Source {
    Host,
    Device {
        stream: Stream,
        /// Events to use again: making one is a call into the driver.
        spare: Vec<Event>,
    },
    /// A clock set by hand, in seconds.
    #[cfg(test)]
    Hand(Rc<std::cell::Cell<f64>>),
}

impl Source {
    fn now(&mut self) -> Result<Moment, TorchError> {
        match self {
            Self::Host => Ok(Moment::Host(Instant::now())),
            Self::Device { stream, spare } => {
                let event = match spare.pop() {
                    Some(event) => event,
                    None => Event::new(Timing::On)?,
                };
                stream.record(&event)?;
                Ok(Moment::Device(Rc::new(event)))
            }
            #[cfg(test)]
            Self::Hand(clock) => Ok(Moment::Hand(clock.get())),
        }
    }

    fn reuse(&mut self, moment: Moment) {
        if let (Self::Device { spare, .. }, Moment::Device(event)) = (self, moment) {
            // The next step may begin with it; then it comes back with that step.
            spare.extend(Rc::into_inner(event));
        }
    }
}

/// A moment of a step.
#[derive(Clone)]
enum Moment {
    Host(Instant),
    Device(Rc<Event>),
    #[cfg(test)]
    Hand(f64),
}

impl Moment {
    fn seconds_to(&self, later: &Self) -> Result<f64, TorchError> {
        match (self, later) {
            (Self::Host(from), Self::Host(to)) => Ok((*to - *from).as_secs_f64()),
            (Self::Device(from), Self::Device(to)) => from.seconds_to(to),
            #[cfg(test)]
            (Self::Hand(from), Self::Hand(to)) => Ok(to - from),
            _ => Err(TorchError::new("moments of two clocks")),
        }
    }
}

/// The marks of one step.
pub struct StepTiming {
    begin: Moment,
    marks: Vec<(Phase, Moment)>,
}

impl StepClock {
    /// A clock for a rank on `device`, whose marks are progress; the first step begins now.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn new(device: &RankDevice, progress: Arc<Progress>) -> Result<Self, TorchError> {
        let source = match device.stream {
            Some(stream) => Source::Device {
                stream,
                spare: Vec::new(),
            },
            None => Source::Host,
        };
        Self::of(source, progress)
    }

    fn of(mut source: Source, progress: Arc<Progress>) -> Result<Self, TorchError> {
        Ok(Self {
            begin: source.now()?,
            source,
            marks: Vec::new(),
            progress,
        })
    }

    /// Lets the next step begin now, so that what came before is no step's.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn restart(&mut self) -> Result<(), TorchError> {
        self.begin = self.source.now()?;
        self.marks.clear();
        Ok(())
    }

    /// Gives the time since the last mark to `phase`.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn mark(&mut self, phase: Phase) -> Result<(), TorchError> {
        self.marks.push((phase, self.source.now()?));
        self.progress.advance();
        Ok(())
    }

    /// Takes the marks of the step that was just launched; the next begins where it ended.
    pub fn take(&mut self) -> StepTiming {
        let marks = std::mem::take(&mut self.marks);
        let end = marks.last().map_or(&self.begin, |(_, end)| end).clone();
        StepTiming {
            begin: std::mem::replace(&mut self.begin, end),
            marks,
        }
    }

    /// Takes back the marks of a step that has been read.
    pub fn reuse(&mut self, timing: StepTiming) {
        self.source.reuse(timing.begin);
        for (_, moment) in timing.marks {
            self.source.reuse(moment);
        }
    }
}

impl StepTiming {
    /// Blocks the host until the device has passed the last mark.
    ///
    /// # Errors
    /// A device fault of earlier work surfaces here.
    pub fn wait(&self) -> Result<(), TorchError> {
        match self.marks.last() {
            Some((_, Moment::Device(last))) => last.synchronize(),
            _ => Ok(()),
        }
    }

    /// The parts of a finished step; together they are the step's time.
    ///
    /// # Errors
    /// The device has not finished the step.
    pub fn phases(&self) -> Result<Phases, TorchError> {
        let mut phases = Phases::default();
        let mut last = &self.begin;
        for (phase, moment) in &self.marks {
            *part(&mut phases, *phase) += last.seconds_to(moment)?;
            last = moment;
        }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A step clock, and the hand that moves it.
    fn by_hand() -> (StepClock, impl Fn(f64)) {
        let time = Rc::new(Cell::new(100.0));
        let clock = StepClock::of(Source::Hand(Rc::clone(&time)), Arc::default());
        let clock = clock.expect("a clock");
        (clock, move |seconds| time.set(time.get() + seconds))
    }

    /// Marks a step with 1 s for data, 2 s forward and 4 s backward.
    fn step(clock: &mut StepClock, pass: &impl Fn(f64)) -> StepTiming {
        for (phase, seconds) in [
            (Phase::Data, 1.0),
            (Phase::Forward, 2.0),
            (Phase::Backward, 4.0),
        ] {
            pass(seconds);
            clock.mark(phase).expect("marked");
        }
        clock.take()
    }

    #[test]
    fn steps_follow_each_other_without_a_gap() {
        let (mut clock, pass) = by_hand();
        let first = step(&mut clock, &pass);
        // What happens between two steps is the next one's.
        pass(8.0);
        clock.mark(Phase::Other).expect("marked");
        let second = step(&mut clock, &pass);
        let (first, second) = (
            first.phases().expect("done"),
            second.phases().expect("done"),
        );
        assert_eq!((first.data, first.forward, first.backward), (1.0, 2.0, 4.0));
        assert_eq!(
            (first.total(), second.total(), second.other),
            (7.0, 15.0, 8.0)
        );
    }

    #[test]
    fn what_lies_before_a_restart_is_no_step_s() {
        let (mut clock, pass) = by_hand();
        let before = step(&mut clock, &pass);
        pass(1_000.0);
        // An evaluation marks, too.
        clock.mark(Phase::Comm).expect("marked");
        clock.restart().expect("restarted");
        let after = step(&mut clock, &pass);
        for timing in [before, after] {
            assert_eq!(timing.phases().expect("done").total(), 7.0);
        }
    }

    #[test]
    fn a_step_is_as_long_as_it_took_whenever_it_is_read() {
        let (mut clock, pass) = by_hand();
        // As on a device: the host reads a step while the next ones are under way, the last when all is done.
        let steps: Vec<StepTiming> = (0..3).map(|_| step(&mut clock, &pass)).collect();
        pass(1_000.0);
        for timing in steps {
            assert_eq!(timing.phases().expect("done").total(), 7.0);
            clock.reuse(timing);
        }
    }
}
