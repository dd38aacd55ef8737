//! What is known of a run: a pure fold of its events.
//!
//! The supervisor writes the fold to `state.json`; every view folds the same events with the same code.

pub mod cards;
pub mod lines;
mod pace;
mod read;
mod sensed;
mod state;
pub mod told;

pub use pace::Pace;
pub use read::{StoreError, catch_up, fold_log, fold_readable, read_state};
pub use sensed::Spent;
pub use state::{
    CheckpointSeen, Ending, EvalPoint, LastStep, Preparation, RunState, STATE_VERSION, SampleText,
    Status,
};
