//! Ranks: how they wait for each other, what they tell each other, and how one's fault ends all.

mod comm;
mod groups;
mod host;
mod links;
mod local;
mod nccl;
mod progress;
mod solo;

pub use comm::{CommError, Communicator, Reduction};
pub use groups::{Groups, LocalGroups, Membership};
pub use host::HostGroup;
pub use links::{Expected, Flow, Links, LocalLinks, NoLinks};
pub use local::LocalComm;
pub use nccl::{LinkEnd, NcclComm, NcclLinks};
pub use progress::{Progress, RankProgress};
pub use solo::SoloComm;
