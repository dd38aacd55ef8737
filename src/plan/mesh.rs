//! The ranks as a grid: pipeline stages by data-parallel replicas by tensor-parallel shards.

use serde::{Deserialize, Serialize};

/// Degrees of the split; the product is the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Pipeline stages.
    pub pp: usize,
    /// Data-parallel replicas.
    pub dp: usize,
    /// Tensor-parallel shards.
    pub tp: usize,
}

/// A rank's place in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coordinates {
    pub stage: usize,
    pub replica: usize,
    pub shard: usize,
}

impl Mesh {
    /// Number of ranks.
    pub fn world(self) -> usize {
        self.pp.saturating_mul(self.dp).saturating_mul(self.tp)
    }

    /// Where a rank stands. Shards, which talk most, are neighbours; stages, which talk least, lie furthest apart.
    pub fn at(self, rank: usize) -> Coordinates {
        Coordinates {
            stage: rank / (self.dp * self.tp),
            replica: rank / self.tp % self.dp,
            shard: rank % self.tp,
        }
    }

    /// The rank at a place.
    pub fn rank(self, at: Coordinates) -> usize {
        (at.stage * self.dp + at.replica) * self.tp + at.shard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_has_a_place_of_its_own() {
        let mesh = Mesh {
            pp: 2,
            dp: 3,
            tp: 4,
        };
        for rank in 0..mesh.world() {
            assert_eq!(mesh.rank(mesh.at(rank)), rank);
        }
        assert_eq!(
            mesh.at(13),
            Coordinates {
                stage: 1,
                replica: 0,
                shard: 1
            }
        );
    }
}
