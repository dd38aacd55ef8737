//! capstan trains models over the GPUs of one workstation. `ARCHITECTURE.md` has the map.
//!
//! Folders are floors: a file uses its own floor and lower ones only (`tests/tidy.rs`).

pub mod arch;
pub mod base;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod dist;
pub mod engine;
pub mod event;
pub mod headless;
pub mod hw;
pub mod launch;
pub mod models;
pub mod nn;
pub mod optim;
pub mod parallel;
pub mod plan;
pub mod store;
pub mod torch;
pub mod tui;
pub mod weights;
pub mod worker;
