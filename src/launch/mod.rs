//! Running the ranks: the run folder, the supervisor, the worker process.
//!
//! Nothing here but the worker's own part names libtorch: the front and the supervisor are one small binary.

pub mod control;
pub mod dirs;
mod error;
pub mod folder;
pub mod lock;
pub mod names;
pub mod start;
pub mod supervisor;
pub mod worker;
pub mod worker_program;

pub use error::{LaunchError, in_full};
pub use folder::RunFolder;
