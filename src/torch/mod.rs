//! The unsafe floor: everything that reaches libtorch past tch, NCCL, or another rank's memory.
//!
//! Each function makes one raw call, checks its result and returns a safe type.
#![allow(unsafe_code)]

mod autograd;
mod error;
mod fused;
mod host_copy;
mod libraries;
pub mod memory;
pub mod nccl;
pub mod nvrtc;
pub mod peers;
pub mod process;
pub mod raw;
pub mod runtime;
mod scalars;
mod shared;
mod shim;
pub mod staging;
pub mod storage;
pub mod stream;

pub use autograd::vjp;
pub use error::TorchError;
pub use fused::{AdamwScalars, AdamwTensors, fused_adamw};
pub use host_copy::HostCopy;
pub use scalars::{Number, NumberOps};
pub use shared::SharedTensor;
