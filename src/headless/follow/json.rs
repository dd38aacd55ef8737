//! The events themselves, one object a line.

use std::io::{self, Write};

use super::View;
use crate::{event::Record, store::RunState};

/// The view of a run as its records.
pub struct Json;

impl View for Json {
    fn record(&mut self, record: &Record, _: &RunState) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, record)?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }

    /// Stdout is for programs.
    fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(io::stderr().lock(), "{text}")
    }
}
