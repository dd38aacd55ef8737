//! Checkpoints: published whole or not at all, verified before use, independent of the split.
//! Reading them needs no tensors: see [`weights`](crate::weights).
//!
//! The recipe: free space, temporary folder, files with checksums and fsync, the manifest last,
//! fsync of the folder, rename, fsync of the parent. Only then is a checkpoint durable.

mod error;
mod publish;
mod retention;
mod snapshot;
mod tensors;
mod writer;

pub use error::CheckpointError;
pub use publish::{Published, needed_bytes, publish, remove_leftovers};
pub use retention::superseded;
pub use snapshot::{
    Contribution, Place, Snapshot, SnapshotFile, assemble, contribute, restore, start_from,
};
pub use writer::{Report, Writer};

pub use crate::weights::{
    BestEval, LoadError, Loaded, Manifest, Newest, Rejection, RunFacts, newest_valid, open, steps,
};
