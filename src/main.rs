//! The front: from argv to a command.

use std::process::ExitCode;

fn main() -> ExitCode {
    capstan::headless::main()
}
