//! One line per log interval, for pipes, files and screen readers.

use std::io;

use super::View;
use crate::{
    event::{Event, Record},
    headless::text::say,
    store::{RunState, told},
};

/// Says every kind of preparation once.
#[derive(Default)]
pub struct Lines {
    work: Option<String>,
}

impl View for Lines {
    fn record(&mut self, record: &Record, state: &RunState) -> io::Result<()> {
        match &record.event {
            Event::Step { step, .. } if !is_due(*step, state) => Ok(()),
            Event::Step { .. } => say(&told::step(state)),
            Event::Progress { what, .. } => {
                if self.work.as_ref() != Some(what) {
                    self.work = Some(what.clone());
                    say(&format!("{what} ..."))?;
                }
                Ok(())
            }
            event => told::event(event).iter().try_for_each(|line| say(line)),
        }
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        say(text)
    }
}

fn is_due(step: u64, state: &RunState) -> bool {
    step == 1 || step.is_multiple_of(state.log_every) || Some(step) == state.total_steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_last_step_and_every_interval_are_due() {
        let state = RunState {
            log_every: 10,
            total_steps: Some(25),
            ..RunState::default()
        };
        let due: Vec<u64> = (1..=25).filter(|&step| is_due(step, &state)).collect();
        assert_eq!(due, [1, 10, 20, 25]);
    }
}
