//! Small parts that every floor uses: units, counter-based randomness, files, clocks.

pub mod brief;
pub mod clock;
pub mod fault;
pub mod fs;
pub mod hub;
pub mod mailbox;
pub mod mmap;
pub mod nonfinite;
pub mod own;
pub mod parent;
pub mod permute;
pub mod random;
pub mod read;
pub mod rendezvous;
pub mod text;
pub mod units;
