//! Numbers as people read them: bytes, counts, durations.

use std::time::Duration;

/// Bytes: 2^10.
pub const KIB: u64 = 1 << 10;
/// Bytes: 2^20.
pub const MIB: u64 = 1 << 20;
/// Bytes: 2^30.
pub const GIB: u64 = 1 << 30;

/// Formats a size in binary units (GiB is 2^30), three significant digits.
pub fn bytes(n: u64) -> String {
    match n {
        GIB.. => format!("{:.2} GiB", n as f64 / GIB as f64),
        MIB.. => format!("{:.1} MiB", n as f64 / MIB as f64),
        KIB.. => format!("{:.1} KiB", n as f64 / KIB as f64),
        _ => format!("{n} B"),
    }
}

/// Formats a loss with four decimals; one that has run away with its power of ten.
pub fn loss(value: f64) -> String {
    if value.is_finite() && value.abs() >= 1e5 {
        format!("{value:.3e}")
    } else {
        format!("{value:.4}")
    }
}

/// Formats a count with the field's decimal suffixes (k, M, B, T).
pub fn count(n: f64) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    for (size, suffix) in STEPS {
        if n.abs() >= size {
            let scaled = n / size;
            let digits = if scaled.abs() >= 100.0 {
                0
            } else if scaled.abs() >= 10.0 {
                1
            } else {
                2
            };
            return format!("{scaled:.digits$}{suffix}");
        }
    }
    if n.fract() == 0.0 {
        format!("{n:.0}")
    } else {
        format!("{n:.2}")
    }
}

/// Formats a duration with the two units that matter at its size: `1h 02m`, `3m 07s`, `4.2s`, `12ms`.
pub fn duration(d: Duration) -> String {
    let total = d.as_secs();
    match total {
        86_400.. => format!("{}d {:02}h", total / 86_400, total % 86_400 / 3_600),
        3_600.. => format!("{}h {:02}m", total / 3_600, total % 3_600 / 60),
        60.. => format!("{}m {:02}s", total / 60, total % 60),
        1.. => format!("{:.1}s", d.as_secs_f64()),
        _ => format!("{}ms", d.as_millis()),
    }
}

/// Formats seconds as [`duration`] does; a negative or non-finite value becomes `?`.
pub fn seconds(s: f64) -> String {
    Duration::try_from_secs_f64(s).map_or_else(|_| "?".to_owned(), duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_unit_at_their_powers() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(3 * GIB / 2), "1.50 GiB");
    }

    #[test]
    fn counts_use_decimal_suffixes() {
        assert_eq!(count(999.0), "999");
        assert_eq!(count(124_439_808.0), "124M");
        assert_eq!(count(1_234.0), "1.23k");
    }

    #[test]
    fn durations_keep_two_units() {
        assert_eq!(seconds(0.0125), "12ms");
        assert_eq!(seconds(187.0), "3m 07s");
        assert_eq!(seconds(3_725.0), "1h 02m");
        assert_eq!(seconds(f64::NAN), "?");
    }
}
