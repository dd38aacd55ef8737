//! Ranks: how they wait for each other, what they tell each other, and how one's fault ends all.

mod comm;
mod deferred;
mod groups;
mod host;
mod links;
mod local;
mod nccl;
mod pairs;
mod progress;
mod remote;
mod seating;
mod solo;

pub use comm::{CommError, Communicator, Reduction};
pub use groups::{GroupEnds, Groups, Membership};
pub use host::HostGroup;
pub use links::{Expected, Flow, Links, LocalLinks, NoLinks};
pub use local::LocalComm;
pub use nccl::{LinkEnd, NcclComm, NcclLinks, NcclPairs};
pub use pairs::check_pairs;
pub use progress::{Progress, RankProgress};
pub use remote::{HostComm, HostLinks};
pub use seating::{Seating, Watch};
pub use solo::SoloComm;
