//! Running a job: the run folder, the supervisor, and how a worker is started.
//!
//! Nothing here names libtorch: the front and the supervisor are one small binary.

pub mod cards;
pub mod control;
pub mod dirs;
mod error;
pub mod folder;
pub mod lock;
pub mod names;
pub mod output;
pub mod runs;
pub mod start;
pub mod supervisor;
pub mod worker_program;

pub use error::{LaunchError, in_full};
pub use folder::RunFolder;
