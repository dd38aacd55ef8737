//! All integration tests in one program: linking libtorch for each file would take minutes.
//!
//! A test that needs what this machine lacks counts as ignored and says why in its name.
#![allow(clippy::panic)]

#[path = "suite/absurd.rs"]
mod absurd;
#[path = "suite/answers.rs"]
mod answers;
#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/configs.rs"]
mod configs;
#[path = "suite/conventions.rs"]
mod conventions;
#[path = "suite/equivalence.rs"]
mod equivalence;
#[path = "suite/faults.rs"]
mod faults;
#[path = "suite/gpu.rs"]
mod gpu;
#[path = "suite/gpu_bundle.rs"]
mod gpu_bundle;
#[path = "suite/in_process.rs"]
mod in_process;
#[path = "suite/launching.rs"]
mod launching;
#[path = "suite/logs.rs"]
mod logs;
#[path = "suite/parity.rs"]
mod parity;
#[path = "suite/pretrained.rs"]
mod pretrained;
#[path = "suite/readers.rs"]
mod readers;
#[path = "suite/reference.rs"]
mod reference;
#[path = "suite/refused_weights.rs"]
mod refused_weights;
#[path = "suite/registry.rs"]
mod registry;
#[path = "suite/remedies.rs"]
mod remedies;
#[path = "suite/resume.rs"]
mod resume;
#[path = "suite/screen.rs"]
mod screen;
#[path = "suite/sensors.rs"]
mod sensors;
#[path = "suite/simulated.rs"]
mod simulated;
#[path = "suite/supervisor.rs"]
mod supervisor;
#[path = "suite/support.rs"]
mod support;
#[path = "suite/survival.rs"]
mod survival;
#[path = "suite/terminal.rs"]
mod terminal;
mod tidy;
#[path = "suite/traced.rs"]
mod traced;
#[path = "suite/weights.rs"]
mod weights;
#[path = "suite/workers.rs"]
mod workers;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials: Vec<_> = [
        absurd::trials(),
        answers::trials(),
        cli::trials(),
        configs::trials(),
        equivalence::trials(),
        faults::trials(),
        gpu::trials(),
        gpu_bundle::trials(),
        launching::trials(),
        logs::trials(),
        parity::trials(),
        pretrained::trials(),
        readers::trials(),
        reference::trials(),
        refused_weights::trials(),
        registry::trials(),
        remedies::trials(),
        resume::trials(),
        sensors::trials(),
        simulated::trials(),
        supervisor::trials(),
        survival::trials(),
        terminal::trials(),
        tidy::trials(),
        traced::trials(),
        weights::trials(),
        workers::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let conventions = conventions::trials(&trials);
    let trials = trials.into_iter().chain(conventions).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
