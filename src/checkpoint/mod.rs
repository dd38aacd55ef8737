//! Checkpoints: published whole or not at all, verified before use, independent of the split.
//!
//! The recipe: free space, temporary folder, files with checksums and fsync, the manifest last,
//! fsync of the folder, rename, fsync of the parent. Only then is a checkpoint durable.

mod error;
mod load;
mod manifest;
mod publish;
mod retention;
mod snapshot;
mod tensors;
mod writer;

pub use error::{CheckpointError, Rejection};
pub use load::{Loaded, Newest, newest_valid, open, steps};
pub use manifest::{BestEval, Manifest, RunFacts};
pub use publish::{Published, needed_bytes, publish, remove_leftovers};
pub use retention::superseded;
pub use snapshot::{Contribution, Place, Snapshot, SnapshotFile, assemble, contribute, restore};
pub use writer::{Report, Writer};
