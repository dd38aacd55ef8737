//! What will happen, decided beforehand and with no tensors: every automatic choice filled in, or
//! every reason why not.

mod cards;
mod devices;
mod memory;
mod mesh;
mod models;
mod notes;
mod refusal;
mod resolve;
mod split;
mod stages;
mod types;

pub use memory::{Kept, MemoryPlan};
pub use mesh::{Coordinates, Mesh};
pub use refusal::{PlanError, Refusal, RefusalKind};
pub use resolve::resolve;
pub use types::{
    Communicator, DataSummary, InitSummary, RankPlan, RunPlan, Split, StopPlan, Strategy,
};
