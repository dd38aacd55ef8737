//! Exit codes of errors, and their words.

use std::io::{self, Write};

use crate::{
    base::text::printable,
    config::ConfigError,
    data::DataError,
    event::Outcome,
    launch::{LaunchError, in_full},
    plan::PlanError,
};

/// The run failed, or the command could not do its work.
pub const FAILED: u8 = 1;
/// Usage or config.
pub const USAGE: u8 = 2;
/// A driver, device or program is missing.
pub const MISSING: u8 = 4;
/// Data is unreadable.
pub const DATA: u8 = 5;
/// A panic.
pub const INTERNAL: u8 = 70;
/// Stopped with a complete checkpoint.
pub const STOPPED: u8 = 75;
/// Killed without one.
pub const KILLED: u8 = 143;

/// A command's own refusal, with the exit code that it leads to.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refusal {
    code: u8,
    message: String,
}

/// An error that ends the program with `code`.
pub fn refusal(code: u8, message: impl Into<String>) -> anyhow::Error {
    let message = message.into();
    Refusal { code, message }.into()
}

/// Says on stderr what went wrong, and returns the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    if is_broken_pipe(error) {
        return 0;
    }
    let text = printable(&in_full(error.as_ref()));
    let mut stderr = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(stderr, "error: {line}");
    }
    code_of(error)
}

/// The code of the first cause that has one.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of_cause).unwrap_or(FAILED)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(refusal) = cause.downcast_ref::<Refusal>() {
        return Some(refusal.code);
    }
    if let Some(error) = cause.downcast_ref::<PlanError>() {
        return Some(error.exit_code());
    }
    if let Some(error) = cause.downcast_ref::<LaunchError>() {
        return Some(error.exit_code());
    }
    if cause.is::<ConfigError>() {
        return Some(USAGE);
    }
    cause.is::<DataError>().then_some(DATA)
}

/// The exit code of an ended run, where its supervisor's own can't be had.
pub const fn code_of_outcome(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Completed => 0,
        Outcome::Stopped => STOPPED,
        Outcome::Failed => FAILED,
        Outcome::Killed => KILLED,
    }
}

/// Whoever read the output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn codes_are_found_under_context() {
        let name = "x".to_owned();
        let bad = LaunchError::BadName { name, problem: "?" };
        let error = Err::<(), _>(bad)
            .context("while starting")
            .expect_err("an error");
        assert_eq!(code_of(&error), USAGE);
        assert_eq!(code_of(&refusal(75, "stopped")), STOPPED);
        assert_eq!(code_of(&anyhow::anyhow!("anything")), FAILED);
    }
}
