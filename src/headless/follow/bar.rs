//! A progress bar on a terminal, with everything else above it.

use std::{io, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::View;
use crate::{
    event::{Event, Record},
    store::{RunState, told},
};

/// A message that is too long is cut, never wrapped.
const MEASURED: &str = "{bar:20} {wide_msg}";
const UNMEASURED: &str = "{spinner} {wide_msg}";
/// A sign of life between rare events.
const TICK: Duration = Duration::from_millis(500);

/// The view of a run on a terminal.
pub struct Bar {
    bar: ProgressBar,
    measured: bool,
}

impl Bar {
    /// Draws on stdout, as a spinner until the number of steps is known.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        let mut view = Self {
            bar,
            measured: true,
        };
        view.measure(None);
        view.bar.enable_steady_tick(TICK);
        view
    }

    fn measure(&mut self, length: Option<u64>) {
        if let Some(length) = length {
            self.bar.set_length(length);
        }
        if self.measured != length.is_some() {
            self.measured = length.is_some();
            let template = if self.measured { MEASURED } else { UNMEASURED };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar
                    .set_style(style.progress_chars("=> ").tick_chars("|/-\\ "));
            }
        }
    }

    fn show(&mut self, position: u64, length: Option<u64>, message: String) {
        self.measure(length);
        self.bar.set_position(position);
        self.bar.set_message(message);
    }
}

impl View for Bar {
    fn record(&mut self, record: &Record, state: &RunState) -> io::Result<()> {
        if let Some(line) = told::event(&record.event) {
            self.bar.println(line);
        }
        match &record.event {
            Event::Ended { .. } => {}
            Event::Progress { .. } => {
                if let Some(work) = &state.preparation {
                    self.show(work.done, work.total, told::work(work));
                }
            }
            _ if state.last.is_some() => {
                self.show(state.step, state.total_steps, told::briefly(state))
            }
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        if self.bar.is_finished() {
            return crate::headless::text::say(text);
        }
        self.bar.println(text);
        Ok(())
    }

    fn close(&mut self) {
        self.bar.finish_and_clear();
    }
}
