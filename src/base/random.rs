//! Counter-based random numbers: a value depends on (key, index) alone.
//!
//! Nothing here has state, so any rank draws any element, in any order, under any split, and a
//! resumed run needs no saved generator.

/// The odd multipliers and shifts of Stafford's mix 13, as published for SplitMix64.
pub const MULTIPLIERS: [u64; 2] = [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB];
/// The right shifts of the same mixer.
pub const SHIFTS: [u32; 3] = [30, 27, 31];
/// The step between neighbouring counters (2^64 divided by the golden ratio).
pub const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// Scrambles 64 bits with two multiplications; a bijection.
#[inline]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> SHIFTS[0])).wrapping_mul(MULTIPLIERS[0]);
    x = (x ^ (x >> SHIFTS[1])).wrapping_mul(MULTIPLIERS[1]);
    x ^ (x >> SHIFTS[2])
}

/// Derives a stream's key from a seed and what the stream is for.
pub fn key(seed: u64, parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(mix(seed.wrapping_add(INCREMENT)), |key, &part| {
            mix(key ^ mix(part.wrapping_add(INCREMENT)))
        })
}

/// Turns a name into a part of a [`key`] (FNV-1a, 64 bits).
pub fn name_part(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The 64 random bits at `index` of the stream `key`.
#[inline]
pub const fn bits_at(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add(index.wrapping_mul(INCREMENT)))
}

/// A number in [0, 1) with 53 random bits.
#[inline]
pub fn unit_at(key: u64, index: u64) -> f64 {
    (bits_at(key, index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// An index below `n`; the bias of the multiply-shift is below n / 2^64.
pub fn below_at(key: u64, index: u64, n: u64) -> u64 {
    ((u128::from(bits_at(key, index)) * u128::from(n)) >> 64) as u64
}

/// A standard normal number (Box and Muller, 1958).
#[inline]
pub fn normal_at(key: u64, index: u64) -> f64 {
    // 1 - u lies in (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - unit_at(key, 2 * index)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit_at(key, 2 * index + 1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let key = key(1337, &[name_part("h.0.attn.c_attn.weight")]);
        let n = 100_000;
        let draws: Vec<f64> = (0..n).map(|i| normal_at(key, i)).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.015, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn unit_numbers_fill_their_buckets_evenly() {
        let key = key(7, &[1, 2]);
        let mut buckets = [0u32; 16];
        for i in 0..160_000 {
            buckets[(unit_at(key, i) * 16.0) as usize] += 1;
        }
        assert!(
            buckets.iter().all(|&n| (9_600..10_400).contains(&n)),
            "{buckets:?}"
        );
    }

    #[test]
    fn keys_differ_by_order_and_seed() {
        assert_ne!(key(1, &[1, 2]), key(1, &[2, 1]));
        assert_ne!(key(1, &[1]), key(2, &[1]));
    }
}
