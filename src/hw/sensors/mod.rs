//! Looks at the machine's sensors, again and again.
//!
//! Driver calls may stall for seconds, so GPUs are looked at from threads of their own, and all of this runs in a
//! process of its own that nobody waits for.

mod alarms;
mod aside;
mod driver;
mod gpu;
mod host;
mod meter;
mod rapl;
mod xid;

use std::{
    path::Path,
    time::{Duration, Instant},
};

pub use self::alarms::{Alarm, Alarms};
use self::{driver::Driver, host::Host};
use crate::event::Reading;

/// Most seconds between two looks.
pub const LONGEST_INTERVAL_S: u64 = 3_600;

/// Looks at all sensors, and at the disk of `folder`, every `every` until `hear` no longer wants to know.
///
/// `every` is at most [`LONGEST_INTERVAL_S`]. The first look comes after one interval, since shares of time need two.
pub fn watch(every: Duration, folder: &Path, mut hear: impl FnMut(Reading) -> bool) {
    let mut driver = Driver::start(gpu::look);
    let mut host = Host::new(folder);
    let mut is_first = true;
    let mut next = Instant::now() + every;
    loop {
        host.wait(next);
        // A stalled look skips others rather than hurrying after them.
        next = Instant::now() + every;
        let mut reading = Reading {
            host: host.read(),
            is_first: std::mem::take(&mut is_first),
            ..Reading::default()
        };
        driver.look(every, &mut reading);
        if !hear(reading) {
            return;
        }
    }
}
