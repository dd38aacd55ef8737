//! Wall-clock time as events carry it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch, with the clock's own fraction.
///
/// A clock set before 1970 counts as 0.
pub fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
