//! What a data-parallel rank keeps of a layout: everything, or its share (ZeRO, Rajbhandari et al., 2020).

/// A rank's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// ZeRO's stage: 0 none, 1 optimizer state, 2 also gradients, 3 also parameters.
    pub level: u8,
    pub index: usize,
    pub of: usize,
}

impl Partition {
    /// The rank keeps everything.
    pub const NONE: Self = Self {
        level: 0,
        index: 0,
        of: 1,
    };

    /// Whether the optimizer's state, and a master copy beside the compute weights, is a shard.
    pub fn shards_state(self) -> bool {
        self.level >= 1
    }

    /// Whether gradients are kept as a shard.
    pub fn shards_grads(self) -> bool {
        self.level >= 2
    }

    /// Whether parameters are kept as a shard.
    pub fn shards_params(self) -> bool {
        self.level >= 3
    }
}
