//! How tensor parallelism cuts a parameter.

use serde::{Deserialize, Serialize};

use super::ParamSpec;

/// A vocabulary's rows are padded to a multiple of this for each tensor-parallel rank: matrix products of other sizes
/// are slow on a GPU (50 257 rows a quarter slower than 50 304).
const VOCAB_MULTIPLE: i64 = 64;
/// A vocabulary that is not cut is padded from so many rows on: by a sixteenth at most, so that it costs next to nothing
/// where it gains nothing.
const LEAST_PADDED: i64 = 16 * VOCAB_MULTIPLE;

/// How a parameter is cut among tensor-parallel ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// Every rank holds all of it.
    #[default]
    Replicated,
    /// Equal parts along `dim`; of `blocks` equal blocks side by side (fused q, k, v) each is cut for itself.
    Split { dim: usize, blocks: i64 },
    /// Rows of a vocabulary, padded at its end; see [`Shard::vocab_rows`].
    Vocab,
}

/// One tensor-parallel rank's part of every sharded parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub index: usize,
    /// Tensor-parallel ranks.
    pub of: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Rows of a vocabulary that one rank holds, padding included; a small one that is not cut has none.
    pub fn vocab_rows(self, vocab_size: i64) -> i64 {
        let of = self.of as i64;
        if of == 1 && vocab_size < LEAST_PADDED {
            return vocab_size;
        }
        (vocab_size as u64).next_multiple_of((VOCAB_MULTIPLE * of) as u64) as i64 / of
    }

    /// The shape that this rank holds of a parameter.
    pub fn shape(self, spec: &ParamSpec) -> Vec<i64> {
        let mut shape = spec.shape.clone();
        match spec.sharding {
            Sharding::Replicated => {}
            Sharding::Split { dim, .. } => shape[dim] /= self.of as i64,
            Sharding::Vocab => shape[0] = self.vocab_rows(shape[0]),
        }
        shape
    }

    /// Elements that this rank holds of a parameter.
    pub fn numel(self, spec: &ParamSpec) -> i64 {
        self.shape(spec).iter().product()
    }

    /// Whether the rank holds a part only.
    pub fn cuts(self, spec: &ParamSpec) -> bool {
        self.of > 1 && spec.sharding != Sharding::Replicated
    }

    /// Whether the rank holds just what a checkpoint does: all of it, without padding.
    pub fn is_as_stored(self, spec: &ParamSpec) -> bool {
        !self.cuts(spec) && self.shape(spec) == spec.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Init;

    #[test]
    fn shards_have_equal_shapes_and_vocabularies_are_padded() {
        let shard = Shard { index: 1, of: 4 };
        let spec =
            |shape: &[usize], sharding| ParamSpec::new("p", shape, Init::Zeros).sharded(sharding);
        let split = Sharding::Split { dim: 1, blocks: 3 };
        assert_eq!(shard.shape(&spec(&[8, 24], split)), [8, 6]);
        assert_eq!(shard.shape(&spec(&[65, 8], Sharding::Vocab)), [64, 8]);
        assert_eq!(
            shard.shape(&spec(&[50_257, 8], Sharding::Vocab)),
            [12_608, 8]
        );
        for (vocab_size, rows) in [(65, 65), (1_023, 1_023), (1_025, 1_088), (50_257, 50_304)] {
            let vocab = spec(&[vocab_size, 8], Sharding::Vocab);
            assert_eq!(Shard::WHOLE.shape(&vocab), [rows, 8]);
            let is_padded = rows != vocab_size as i64;
            assert_eq!(Shard::WHOLE.is_as_stored(&vocab), !is_padded);
            assert!(!shard.is_as_stored(&vocab));
        }
        assert_eq!(shard.shape(&spec(&[65, 8], Sharding::Replicated)), [65, 8]);
    }
}
