//! Batches on the host: the token ids of windows, row by row.

use super::{
    error::DataError,
    token_file::TokenFile,
    windows::{EvalWindows, Window, WindowOrder},
};

/// The target of padding; losses skip it.
pub const IGNORED_TARGET: i64 = -1;

/// The input ids and targets of one forward pass, row-major `[rows, seq_len]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostBatch {
    /// Padding has id 0.
    pub inputs: Vec<i64>,
    /// Padding has [`IGNORED_TARGET`].
    pub targets: Vec<i64>,
    /// The sample of each row: its global sample index in training, its window in evaluation.
    pub sample_indices: Vec<u64>,
    /// Targets that are no padding.
    pub n_valid: u64,
    pub rows: usize,
    pub seq_len: usize,
}

impl HostBatch {
    /// Reads `samples` in training order.
    ///
    /// # Errors
    /// An id lies outside the vocabulary.
    pub fn of_samples(
        tokens: &TokenFile,
        order: &WindowOrder,
        samples: std::ops::Range<u64>,
    ) -> Result<Self, DataError> {
        Self::read(tokens, order.seq_len(), samples, |index| {
            order.window(index)
        })
    }

    /// Reads the windows `range` of an evaluation.
    ///
    /// # Errors
    /// An id lies outside the vocabulary.
    pub fn of_eval(
        tokens: &TokenFile,
        windows: &EvalWindows,
        range: std::ops::Range<u64>,
    ) -> Result<Self, DataError> {
        Self::read(tokens, windows.seq_len(), range, |i| windows.window(i))
    }

    fn read(
        tokens: &TokenFile,
        seq_len: usize,
        samples: std::ops::Range<u64>,
        window: impl Fn(u64) -> Window,
    ) -> Result<Self, DataError> {
        let rows = samples.clone().count();
        let mut batch = Self {
            inputs: Vec::with_capacity(rows * seq_len),
            targets: Vec::with_capacity(rows * seq_len),
            sample_indices: Vec::with_capacity(rows),
            n_valid: 0,
            rows,
            seq_len,
        };
        for index in samples {
            batch.push(tokens, index, window(index))?;
        }
        Ok(batch)
    }

    fn push(&mut self, tokens: &TokenFile, index: u64, window: Window) -> Result<(), DataError> {
        self.sample_indices.push(index);
        self.n_valid += window.n_valid as u64;
        let end = self.sample_indices.len() * self.seq_len;
        tokens.append_to(&mut self.inputs, window.start, window.n_valid)?;
        self.inputs.resize(end, 0);
        tokens.append_to(&mut self.targets, window.start + 1, window.n_valid)?;
        self.targets.resize(end, IGNORED_TARGET);
        Ok(())
    }
}

/// A rank's part of every step's batch.
///
/// Step s (from 0) has the samples `s * global_batch .. (s + 1) * global_batch`; data-parallel rank r
/// has the r-th `local_batch` of them, cut into passes of `micro_batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Sequences of a step over all ranks.
    pub global_batch: usize,
    /// Sequences of a step of one rank.
    pub local_batch: usize,
    /// Sequences of a forward pass.
    pub micro_batch: usize,
    pub dp_rank: usize,
}

impl BatchPlan {
    /// Checks that the parts make up the whole.
    ///
    /// # Errors
    /// A part is 0 or doesn't divide the next, or the rank lies outside the batch.
    pub fn check(&self) -> Result<(), DataError> {
        let divides =
            |part: usize, whole: usize| part > 0 && whole > 0 && whole.is_multiple_of(part);
        let fits = divides(self.local_batch, self.global_batch)
            && divides(self.micro_batch, self.local_batch)
            && self.dp_rank < self.global_batch / self.local_batch;
        if fits {
            return Ok(());
        }
        Err(DataError::Batch {
            global: self.global_batch,
            local: self.local_batch,
            micro: self.micro_batch,
            dp_rank: self.dp_rank,
        })
    }

    /// First sample of a step, over all ranks.
    pub fn first_sample(&self, step: u64) -> u64 {
        step * self.global_batch as u64
    }

    /// This rank's passes of a step, as ranges of global sample indices.
    pub fn micros(&self, step: u64) -> impl Iterator<Item = std::ops::Range<u64>> + use<> {
        let micro = self.micro_batch as u64;
        let first = self.first_sample(step) + (self.dp_rank * self.local_batch) as u64;
        let n_micros = (self.local_batch / self.micro_batch) as u64;
        (0..n_micros).map(move |m| first + m * micro..first + (m + 1) * micro)
    }
}

/// What one rank trains on in one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBatch {
    /// Counted from 0.
    pub step: u64,
    /// One batch a forward pass, `local_batch / micro_batch` of them.
    pub micros: Vec<HostBatch>,
    /// Valid targets of the whole global batch, over all ranks: what the summed loss is divided by.
    pub global_valid: u64,
}

impl StepBatch {
    /// Reads a step of `plan`, which must have passed [`BatchPlan::check`].
    ///
    /// # Errors
    /// An id lies outside the vocabulary.
    pub fn read(
        tokens: &TokenFile,
        order: &WindowOrder,
        plan: &BatchPlan,
        step: u64,
    ) -> Result<Self, DataError> {
        let micros = plan.micros(step);
        let read = micros.map(|samples| HostBatch::of_samples(tokens, order, samples));
        Ok(Self {
            step,
            micros: read.collect::<Result<_, _>>()?,
            global_valid: order.n_valid(plan.first_sample(step), plan.global_batch),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{config::WindowsConfig, data::token_file::TokenWidth};

    /// Tokens 0, 1, 2, ...: an id says where it came from.
    pub fn counting_tokens(n: u16) -> TokenFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        let bytes: Vec<u8> = (0..n).flat_map(u16::to_le_bytes).collect();
        std::fs::write(file.path(), bytes).expect("written");
        TokenFile::open(file.path(), TokenWidth::U16, u64::from(n)).expect("opened")
    }

    fn order(kind: WindowsConfig, tokens: &TokenFile, seq_len: usize) -> WindowOrder {
        WindowOrder::new(kind, 5, tokens.len(), seq_len).expect("enough")
    }

    fn rank(dp: usize, local_batch: usize, micro_batch: usize, dp_rank: usize) -> BatchPlan {
        let plan = BatchPlan {
            global_batch: dp * local_batch,
            local_batch,
            micro_batch,
            dp_rank,
        };
        plan.check().expect("divides");
        plan
    }

    fn joined(batches: impl IntoIterator<Item = HostBatch>) -> HostBatch {
        let mut all = HostBatch::default();
        for batch in batches {
            all.inputs.extend(batch.inputs);
            all.targets.extend(batch.targets);
            all.sample_indices.extend(batch.sample_indices);
            all.n_valid += batch.n_valid;
            all.rows += batch.rows;
            all.seq_len = batch.seq_len;
        }
        all
    }

    #[test]
    fn the_last_window_is_padded() {
        let tokens = counting_tokens(6);
        let windows = EvalWindows::all(6, 4).expect("enough");
        let batch = HostBatch::of_eval(&tokens, &windows, 0..2).expect("read");
        assert_eq!(batch.inputs, [0, 1, 2, 3, 4, 0, 0, 0]);
        assert_eq!(batch.targets, [1, 2, 3, 4, 5, -1, -1, -1]);
        assert_eq!((batch.n_valid, batch.rows, batch.seq_len), (5, 2, 4));
    }

    #[test]
    fn parts_that_do_not_make_up_the_whole_are_refused() {
        let good = rank(2, 4, 2, 1);
        for bad in [
            BatchPlan { dp_rank: 2, ..good },
            BatchPlan {
                micro_batch: 3,
                ..good
            },
            BatchPlan {
                micro_batch: 0,
                ..good
            },
            BatchPlan {
                local_batch: 3,
                ..good
            },
            BatchPlan {
                local_batch: 0,
                ..good
            },
            BatchPlan {
                global_batch: 0,
                ..good
            },
        ] {
            let refused = bad.check().expect_err("does not divide");
            assert!(matches!(refused, DataError::Batch { .. }), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn ranks_together_read_what_one_rank_reads(
            n_tokens in 140u16..1_000, seq_len in 1usize..130, dp in 1usize..5,
            micros in 1usize..4, micro in 1usize..4, step in 0u64..40, is_random: bool,
        ) {
            let tokens = counting_tokens(n_tokens);
            let kind = if is_random { WindowsConfig::Random } else { WindowsConfig::Disjoint };
            let order = order(kind, &tokens, seq_len);
            let local = micros * micro;
            let whole = rank(1, dp * local, dp * local, 0);
            let alone = StepBatch::read(&tokens, &order, &whole, step).expect("read");
            let parts: Vec<StepBatch> = (0..dp)
                .map(|r| StepBatch::read(&tokens, &order, &rank(dp, local, micro, r), step))
                .collect::<Result<_, _>>().expect("read");
            prop_assert!(parts.iter().all(|part| part.global_valid == alone.global_valid));
            prop_assert!(parts.iter().all(|part| part.micros.len() == micros));
            let together = joined(parts.into_iter().flat_map(|part| part.micros));
            prop_assert_eq!(together.n_valid, alone.global_valid);
            prop_assert_eq!(&together, &alone.micros[0]);
        }

        #[test]
        fn an_epoch_cut_anywhere_trains_each_target_once(
            n_tokens in 2u16..800, seq_len in 1usize..60, dp in 1usize..5, local in 1usize..4,
            cut in 0u64..50,
        ) {
            let tokens = counting_tokens(n_tokens);
            let order = order(WindowsConfig::Disjoint, &tokens, seq_len);
            let n_steps = order.n_windows().div_ceil((dp * local) as u64);
            // Up to the cut `dp` ranks train, from it on a single one.
            let steps = (0..n_steps).flat_map(|step| {
                let (dp, local) = if step < cut { (dp, local) } else { (1, dp * local) };
                (0..dp).map(move |r| (step, rank(dp, local, local, r)))
            });
            let mut trained: Vec<i64> = Vec::new();
            for (step, plan) in steps {
                let batch = StepBatch::read(&tokens, &order, &plan, step).expect("read").micros.remove(0);
                let in_epoch = batch.sample_indices.iter().map(|&index| order.epoch(index) == 0);
                for (row, _) in in_epoch.enumerate().filter(|(_, is_in)| *is_in) {
                    trained.extend(&batch.targets[row * seq_len..(row + 1) * seq_len]);
                }
            }
            trained.retain(|&target| target != IGNORED_TARGET);
            trained.sort_unstable();
            prop_assert!(trained.into_iter().eq(1..i64::from(n_tokens)));
        }
    }
}
