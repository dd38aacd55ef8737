//! What a run says and what it can be told.
//!
//! [`Event`]s are the single truth about a run: the log is a stream of [`Record`]s, and every view
//! is a fold of them. [`Control`]s go the other way.

mod control;
mod log;
mod record;
mod sensors;

pub use control::{Control, ControlReply, ControlRequest};
pub use log::{LogError, LogReader, LogWriter, is_replaced};
pub use record::{
    EVENT_VERSION, Event, NO_SAMPLE, Outcome, Phases, RESUMED, RankStep, Record, Traffic,
};
pub use sensors::{Energy, GpuReading, HostReading, Reading, short_uuid};
