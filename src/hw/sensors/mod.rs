//! Looks at the machine's sensors, again and again.
//!
//! Driver calls may stall for seconds, so this runs in a process of its own that nobody waits for.

mod alarms;
mod aside;
mod gpu;
mod host;
mod xid;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

pub use self::alarms::{Alarm, Alarms};
use self::{gpu::Gpus, host::Host};
use crate::event::Reading;

/// Looks at all sensors, and at the disk of `folder`, every `every` until `hear` no longer wants to know.
///
/// The first look comes after one interval, since shares of time need two.
pub fn watch(every: Duration, folder: &Path, mut hear: impl FnMut(Reading) -> bool) {
    let mut host = Host::new(folder);
    Gpus::with(|gpus| {
        let mut next = Instant::now() + every;
        loop {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            // A stalled call skips looks rather than hurrying after them.
            next = Instant::now() + every;
            let reading = Reading {
                host: host.read(),
                gpus: gpus.as_mut().map(Gpus::read).unwrap_or_default(),
            };
            if !hear(reading) {
                return;
            }
        }
    });
}
