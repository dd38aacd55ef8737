//! All integration tests in one program: linking libtorch once a file would take minutes.

use std::process::ExitCode;

#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/supervisor.rs"]
mod supervisor;
#[path = "suite/support.rs"]
mod support;

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = Vec::new();
    trials.extend(cli::trials());
    trials.extend(supervisor::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}
