//! Wall-clock time as events carry it.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};

/// Seconds since the Unix epoch, with the clock's own fraction.
///
/// A clock set before 1970 counts as 0.
pub fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// A time in a zone, as strftime's `format` has it; `None` beyond what calendars tell.
pub fn told(unix_seconds: f64, zone: &TimeZone, format: &str) -> Option<String> {
    let time = Timestamp::from_second(unix_seconds as i64).ok()?;
    let zoned = time.to_zoned_datetime(zone.clone());
    Some(zoned.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_zone() {
        let day = |unix_seconds| told(unix_seconds, &TimeZone::UTC, "%Y-%m-%d %H:%M:%S %Z");
        assert_eq!(day(1e9).as_deref(), Some("2001-09-09 01:46:40 UTC"));
        assert_eq!(day(1e300), None);
    }
}
