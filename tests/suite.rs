//! All integration tests in one program: linking libtorch for each file would take minutes.
//!
//! A test that needs what this machine lacks counts as ignored and says why in its name.
#![allow(clippy::panic)]

#[path = "suite/equivalence.rs"]
mod equivalence;
#[path = "suite/reference.rs"]
mod reference;
#[path = "suite/support.rs"]
mod support;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [equivalence::trials(), reference::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
