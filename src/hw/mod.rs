//! The machine as data: what a plan may count on.

mod device;
mod host;
mod machine;
mod nvidia;
mod peak;

pub use device::Device;
pub use host::{HostLoad, HostSampler};
pub use machine::{Gpu, Machine};
pub use peak::{Peak, peak_flops};
