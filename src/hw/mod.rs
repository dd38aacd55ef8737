//! The machine as data: what a plan may count on.

mod device;
mod machine;
mod nvidia;
mod peak;
#[cfg(test)]
pub mod recorded;
mod report;
pub mod sensors;
mod usable;

pub use device::Device;
pub use machine::{Gpu, Link, Machine, Route};
pub use nvidia::{NO_DRIVER, NONE_SHOWN};
pub use peak::{Peak, peak_flops};
pub use report::{Library, WorkerReport};
pub use usable::Unusable;
