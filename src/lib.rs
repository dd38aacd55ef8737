//! capstan trains models over the GPUs of one workstation. `ARCHITECTURE.md` has the map.
//!
//! Folders are floors: a file uses its own floor and lower ones only (`tests/tidy.rs`).

pub mod arch;
pub mod base;
pub mod config;
pub mod data;
pub mod event;
pub mod headless;
pub mod hw;
pub mod launch;
pub mod plan;
pub mod store;
