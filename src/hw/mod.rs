//! The machine as data: what a plan may count on.

mod device;
mod machine;
mod nvidia;
mod peak;
pub mod sensors;

pub use device::Device;
pub use machine::{Gpu, Machine};
pub use peak::{Peak, peak_flops};
