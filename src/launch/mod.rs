//! Running the ranks: the run folder, the supervisor, the worker process.

pub mod folder;
