//! A random order of 0..n that needs no table: a pure function of (key, position).

use crate::base::random;

const ROUNDS: u64 = 6;

/// The element at `position` of a pseudo-random permutation of `0..n`.
///
/// A Feistel network over the smallest even number of bits that holds `n`; results outside `0..n`
/// are sent through again (cycle walking, at most four passes on average).
///
/// `position` must lie below `n`.
pub fn element_at(key: u64, position: u64, n: u64) -> u64 {
    debug_assert!(position < n);
    let half_bits = (u64::BITS - n.saturating_sub(1).leading_zeros())
        .div_ceil(2)
        .max(1);
    let mut x = position;
    loop {
        x = feistel(key, x, half_bits);
        if x < n {
            return x;
        }
    }
}

fn feistel(key: u64, x: u64, half_bits: u32) -> u64 {
    let mask = (1u64 << half_bits) - 1;
    let (mut left, mut right) = (x >> half_bits, x & mask);
    for round in 0..ROUNDS {
        let scrambled = random::bits_at(key, (right << 3) | round) & mask;
        (left, right) = (right, left ^ scrambled);
    }
    (left << half_bits) | right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_comes_once() {
        for n in [1, 2, 3, 5, 64, 65, 1_000, 4_097] {
            let mut seen: Vec<u64> = (0..n).map(|i| element_at(99, i, n)).collect();
            seen.sort_unstable();
            assert!(
                seen.iter().enumerate().all(|(i, &x)| x == i as u64),
                "n = {n}"
            );
        }
    }

    #[test]
    fn another_key_gives_another_order() {
        let order = |key| {
            (0..100)
                .map(|i| element_at(key, i, 100))
                .collect::<Vec<_>>()
        };
        assert_ne!(order(1), order(2));
    }
}
