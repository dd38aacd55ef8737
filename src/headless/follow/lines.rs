//! One line per log interval, for pipes, files and screen readers.

use std::io;

use super::View;
use crate::{
    event::{Event, Record},
    headless::text::say,
    store::{RunState, lines::SaidWork, told},
};

/// Says every kind of preparation once.
#[derive(Default)]
pub struct Lines {
    said: SaidWork,
}

impl View for Lines {
    fn record(&mut self, record: &Record, state: &RunState) -> io::Result<()> {
        match &record.event {
            event if self.said.has(event) => Ok(()),
            Event::Progress { what, .. } => say(&format!("{what} ...")),
            Event::Step { step, .. } if !state.is_due(*step) => Ok(()),
            Event::Step { .. } => say(&told::step(state)),
            event => told::event(event).iter().try_for_each(|line| say(line)),
        }
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        say(text)
    }
}
