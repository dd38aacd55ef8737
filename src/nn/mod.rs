//! Layers, losses, parameters and their initialisation.

pub mod dropout;
pub mod functional;
mod gathered;
mod gradients;
mod init;
mod layout;
mod params;
mod partition;
mod rotary;
mod shard;
mod weights;

pub use gradients::NotFinite;
pub use layout::{FlatRange, Layout};
pub use params::{ParamStore, SharedWeights, UpdatePiece};
pub use partition::Partition;
pub use rotary::Rotary;
pub use shard::{join_shards, paste};
pub use weights::Weights;
