//! Layers, losses, parameters and their initialisation.

pub mod dropout;
pub mod functional;
mod init;
mod params;

pub use params::{FlatRange, NotFinite, ParamStore, SharedWeights, Weights};
