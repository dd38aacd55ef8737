//! Which tokens a sample is: pure functions of (seed, epoch, index).

use super::error::DataError;
use crate::{
    base::{permute, random},
    config::WindowsConfig,
};

/// Inputs `start..start + n_valid`, targets one further on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Position of the first input.
    pub start: u64,
    /// Targets that count; what is missing to `seq_len` is padding.
    pub n_valid: usize,
}

/// Neighbouring windows that together hold every target of a token stream once.
///
/// Window w has the targets `w * seq_len + 1 ..= (w + 1) * seq_len`; the last one may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    n_targets: u64,
    seq_len: u64,
}

impl Grid {
    fn new(n_tokens: u64, seq_len: usize) -> Result<Self, DataError> {
        check_enough(n_tokens, seq_len, 2)?;
        Ok(Self {
            n_targets: n_tokens - 1,
            seq_len: seq_len as u64,
        })
    }

    fn len(self) -> u64 {
        self.n_targets.div_ceil(self.seq_len)
    }

    fn window(self, w: u64) -> Window {
        let start = w * self.seq_len;
        Window {
            start,
            n_valid: (self.n_targets - start).min(self.seq_len) as usize,
        }
    }
}

/// The order in which training reads its windows, without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowOrder {
    kind: WindowsConfig,
    seed: u64,
    n_tokens: u64,
    grid: Grid,
    /// Key of the random starts.
    random_key: u64,
}

impl WindowOrder {
    /// The order over `n_tokens` tokens.
    ///
    /// # Errors
    /// Too few tokens: `disjoint` needs 2, `random` `seq_len + 1`; or `seq_len` is 0.
    pub fn new(
        kind: WindowsConfig,
        seed: u64,
        n_tokens: u64,
        seq_len: usize,
    ) -> Result<Self, DataError> {
        if kind == WindowsConfig::Random {
            check_enough(n_tokens, seq_len, seq_len as u64 + 1)?;
        }
        Ok(Self {
            kind,
            seed,
            n_tokens,
            grid: Grid::new(n_tokens, seq_len)?,
            random_key: random::key(seed, &[random::name_part("data.random")]),
        })
    }

    /// The window of a sample, counted from the run's first one over all ranks.
    ///
    /// `disjoint`: each epoch is another permutation of all windows. `random`: starts are drawn
    /// with replacement from `0..n_tokens - seq_len`, as nanoGPT does.
    pub fn window(&self, global_sample_index: u64) -> Window {
        match self.kind {
            WindowsConfig::Disjoint => {
                let epoch = self.epoch(global_sample_index);
                let key = random::key(self.seed, &[random::name_part("data.order"), epoch]);
                let n = self.n_windows();
                let w = permute::element_at(key, global_sample_index % n, n);
                self.grid.window(w)
            }
            WindowsConfig::Random => {
                let n_starts = self.n_tokens - self.grid.seq_len;
                Window {
                    start: random::below_at(self.random_key, global_sample_index, n_starts),
                    n_valid: self.seq_len(),
                }
            }
        }
    }

    /// The epoch that a sample belongs to; for `random`, as if it had epochs of the same size.
    pub fn epoch(&self, global_sample_index: u64) -> u64 {
        global_sample_index / self.n_windows()
    }

    /// Windows of an epoch.
    pub fn n_windows(&self) -> u64 {
        self.grid.len()
    }

    /// Tokens of the stream that the order is over.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Tokens of a window.
    pub fn seq_len(&self) -> usize {
        self.grid.seq_len as usize
    }

    /// Valid targets of the `n` samples from `first` on.
    pub(super) fn n_valid(&self, first: u64, n: usize) -> u64 {
        let is_even = self.grid.n_targets.is_multiple_of(self.grid.seq_len);
        if is_even || self.kind == WindowsConfig::Random {
            return n as u64 * self.grid.seq_len;
        }
        (first..first + n as u64)
            .map(|index| self.window(index).n_valid as u64)
            .sum()
    }
}

/// The fixed windows of an evaluation, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalWindows {
    grid: Grid,
    n: u64,
}

impl EvalWindows {
    /// Every window: each target of the split once.
    ///
    /// # Errors
    /// Fewer than 2 tokens, or `seq_len` is 0.
    pub fn all(n_tokens: u64, seq_len: usize) -> Result<Self, DataError> {
        let grid = Grid::new(n_tokens, seq_len)?;
        Ok(Self {
            grid,
            n: grid.len(),
        })
    }

    /// At most `n` windows, at least one, evenly spaced over the split.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn spaced(n_tokens: u64, seq_len: usize, n: u64) -> Result<Self, DataError> {
        let grid = Grid::new(n_tokens, seq_len)?;
        Ok(Self {
            grid,
            n: n.clamp(1, grid.len()),
        })
    }

    /// Number of windows.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Never: there is always a window.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Window `i`, which must lie below [`len`](Self::len).
    pub fn window(&self, i: u64) -> Window {
        debug_assert!(i < self.n);
        let w = u128::from(i) * u128::from(self.grid.len()) / u128::from(self.n);
        self.grid.window(w as u64)
    }

    /// Tokens of a window.
    pub fn seq_len(&self) -> usize {
        self.grid.seq_len as usize
    }

    /// Valid targets of all windows together.
    pub fn n_valid(&self) -> u64 {
        if self.n == self.grid.len() {
            return self.grid.n_targets;
        }
        (0..self.n).map(|i| self.window(i).n_valid as u64).sum()
    }

    /// The windows of rank `dp_rank` of `dp`: contiguous, of sizes that differ by one at most.
    pub fn share(&self, dp_rank: usize, dp: usize) -> std::ops::Range<u64> {
        let bound = |rank: usize| (u128::from(self.n) * rank as u128 / dp.max(1) as u128) as u64;
        bound(dp_rank)..bound(dp_rank + 1)
    }
}

fn check_enough(n_tokens: u64, seq_len: usize, needed: u64) -> Result<(), DataError> {
    if seq_len == 0 || n_tokens < needed {
        return Err(DataError::TooShort {
            n_tokens,
            seq_len,
            needed,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disjoint(seed: u64, n_tokens: u64, seq_len: usize) -> WindowOrder {
        WindowOrder::new(WindowsConfig::Disjoint, seed, n_tokens, seq_len).expect("enough")
    }

    /// How often each target of the stream is trained by the given windows.
    fn visits(windows: impl Iterator<Item = Window>, n_tokens: u64) -> Vec<u32> {
        let mut visits = vec![0; n_tokens as usize];
        for window in windows {
            for target in 0..window.n_valid {
                visits[window.start as usize + 1 + target] += 1;
            }
        }
        visits
    }

    fn once_each(n_tokens: u64) -> Vec<u32> {
        let mut expected = vec![1; n_tokens as usize];
        expected[0] = 0; // The first token is no target: nothing stands before it.
        expected
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn each_epoch_trains_each_target_once(
            seed: u64, n_tokens in 2u64..3_000, seq_len in 1usize..130, epoch in 0u64..5,
        ) {
            let order = disjoint(seed, n_tokens, seq_len);
            let n = order.n_windows();
            let windows = (epoch * n..(epoch + 1) * n).map(|index| order.window(index));
            prop_assert_eq!(visits(windows, n_tokens), once_each(n_tokens));
        }

        #[test]
        fn random_windows_lie_within_the_tokens(
            seed: u64, extra in 1u64..50, seq_len in 1usize..200, index: u64,
        ) {
            let n_tokens = seq_len as u64 + extra;
            let order = WindowOrder::new(WindowsConfig::Random, seed, n_tokens, seq_len).expect("enough");
            let window = order.window(index);
            prop_assert_eq!(window.n_valid, seq_len);
            prop_assert!(window.start + (seq_len as u64) < n_tokens);
        }

        #[test]
        fn evaluation_covers_each_target_once_over_its_ranks(
            n_tokens in 2u64..3_000, seq_len in 1usize..130, dp in 1usize..9,
        ) {
            let all = EvalWindows::all(n_tokens, seq_len).expect("enough");
            let windows = (0..dp).flat_map(|rank| all.share(rank, dp)).map(|i| all.window(i));
            prop_assert_eq!(visits(windows, n_tokens), once_each(n_tokens));
            prop_assert_eq!(all.n_valid(), n_tokens - 1);
        }

        #[test]
        fn spaced_windows_differ_and_keep_their_order(
            n_tokens in 2u64..3_000, seq_len in 1usize..130, n in 0u64..40,
        ) {
            let spaced = EvalWindows::spaced(n_tokens, seq_len, n).expect("enough");
            let starts: Vec<u64> = (0..spaced.len()).map(|i| spaced.window(i).start).collect();
            prop_assert!(starts.is_sorted_by(|a, b| a < b));
            prop_assert!(visits((0..spaced.len()).map(|i| spaced.window(i)), n_tokens).iter().all(|&n| n < 2));
        }
    }

    #[test]
    fn an_order_that_forgets_the_last_window_is_noticed() {
        let order = disjoint(1, 100, 8);
        let windows = (0..order.n_windows() - 1).map(|index| order.window(index));
        assert_ne!(visits(windows, 100), once_each(100));
    }

    #[test]
    fn epochs_and_seeds_have_their_own_orders() {
        let starts = |order: WindowOrder, epoch: u64| -> Vec<u64> {
            let n = order.n_windows();
            (epoch * n..(epoch + 1) * n)
                .map(|index| order.window(index).start)
                .collect()
        };
        let order = disjoint(1, 1_000, 10);
        assert_eq!(starts(order, 0), starts(disjoint(1, 1_000, 10), 0));
        assert_ne!(starts(order, 0), starts(order, 1));
        assert_ne!(starts(order, 0), starts(disjoint(2, 1_000, 10), 0));
    }

    #[test]
    fn every_random_start_comes_up() {
        let order = WindowOrder::new(WindowsConfig::Random, 3, 12, 8).expect("enough");
        let mut starts: Vec<u64> = (0..200).map(|index| order.window(index).start).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, [0, 1, 2, 3]);
    }

    #[test]
    fn too_few_tokens_are_refused_at_the_exact_bound() {
        let new = |kind, n_tokens, seq_len| WindowOrder::new(kind, 1, n_tokens, seq_len);
        for (kind, needed) in [(WindowsConfig::Disjoint, 2), (WindowsConfig::Random, 9)] {
            new(kind, needed, 8).expect("enough");
            let refused = new(kind, needed - 1, 8).expect_err("too few");
            assert!(matches!(refused, DataError::TooShort { .. }), "{refused}");
        }
        new(WindowsConfig::Disjoint, 100, 0).expect_err("no window");
        EvalWindows::all(1, 8).expect_err("no target");
        EvalWindows::spaced(1, 8, 1).expect_err("no target");
    }

    #[test]
    fn periodic_evaluation_is_spread_over_the_split() {
        let spaced = EvalWindows::spaced(1_001, 10, 4).expect("enough");
        let starts: Vec<u64> = (0..4).map(|i| spaced.window(i).start).collect();
        assert_eq!(starts, [0, 250, 500, 750]);
        assert_eq!(spaced.n_valid(), 40);
    }
}
