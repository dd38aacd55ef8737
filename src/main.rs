//! The front: from argv to a command.
//!
//! It compiles the floors that it needs into itself, and none that names libtorch: what is not
//! declared here can't be linked by mistake, so the front starts in a millisecond.
#![allow(
    dead_code,
    unused_imports,
    reason = "the library uses what the front leaves"
)]

mod arch;
mod base;
mod config;
mod data;
mod event;
mod headless;
mod hw;
mod launch;
mod plan;
mod store;
mod weights;

use std::process::ExitCode;

fn main() -> ExitCode {
    headless::main()
}
