//! The ranks at work: loop, step, evaluation, meters, guards.
//!
//! [`run`] starts a thread for each rank and watches over them. Events are its only output.

mod batch;
mod clock;
mod device;
mod error;
mod evaluate;
mod generate;
mod guard;
mod head;
mod inject;
mod late;
mod parts;
mod passes;
mod rank;
mod run;
mod save;
mod seat;
mod step;
mod tape;

pub use clock::StepClock;
pub use device::RankDevice;
pub use error::EngineError;
pub use evaluate::{Evaluated, Turn, evaluate};
pub use generate::generate;
pub use inject::Injection;
pub use passes::Passes;
pub use run::{Ending, HubSocket, Job, run};
pub use seat::Finish;
pub use step::Stepper;
