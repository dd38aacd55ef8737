//! Layers, losses, parameters and their initialisation.

pub mod dropout;
pub mod functional;
mod gathered;
mod init;
mod layout;
mod params;
mod partition;
mod shard;

pub use layout::{FlatRange, Layout};
pub use params::{NotFinite, ParamStore, SharedWeights, UpdatePiece, Weights};
pub use partition::Partition;
pub use shard::{join_shards, paste};
