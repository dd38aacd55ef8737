//! Weights on disk, without tensors: checkpoints as files, verified before use.

mod error;
mod manifest;
mod saved;

pub use error::{LoadError, Rejection};
pub use manifest::{BestEval, CHUNK_BYTES, FILE as MANIFEST_FILE, FileSum, Manifest, RunFacts};
pub use saved::{Loaded, Newest, newest_valid, open, steps};
