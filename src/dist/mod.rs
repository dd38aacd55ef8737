//! Ranks: how they wait for each other, what they tell each other, and how one's fault ends all.

mod comm;
mod host;
mod local;
mod nccl;
mod progress;
mod solo;

pub use comm::{CommError, Communicator};
pub use host::HostGroup;
pub use local::LocalComm;
pub use nccl::NcclComm;
pub use progress::{Progress, RankProgress};
pub use solo::SoloComm;
