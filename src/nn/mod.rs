//! Layers, losses, parameters and their initialisation.

mod dropout;
pub mod functional;
mod gathered;
mod grad_sum;
mod gradients;
mod init;
mod layout;
mod numbers;
mod params;
mod partition;
mod rotary;
mod shard;
mod weights;

pub use dropout::{MaskKeys, MaskPlaces, Part};
pub use grad_sum::GradSum;
pub use gradients::NotFinite;
pub use layout::{FlatRange, Layout};
pub use numbers::{Numbers, is_finite};
pub use params::{ParamStore, SharedWeights, UpdatePiece};
pub use partition::Partition;
pub use rotary::Rotary;
pub use shard::{join_shards, paste, without_padding};
pub use weights::Weights;

/// A small model for this floor's tests and those of the optimizers.
#[cfg(test)]
pub(crate) mod testing {
    use super::Layout;
    use crate::arch::{ModelShape, Shard, StageSpec, gpt::GptShape};

    /// Two layers of width 12 over seven tokens.
    pub fn stage() -> StageSpec {
        StageSpec::whole(
            ModelShape::Gpt(GptShape {
                n_layer: 2,
                n_head: 2,
                d_model: 12,
                seq_len: 5,
                vocab_size: 7,
                bias: true,
                dropout: 0.0,
            })
            .segments(),
        )
    }

    /// Its layout on one rank, groups in `n_parts` parts.
    pub fn layout(n_parts: usize) -> Layout {
        Layout::new(&stage(), Shard::WHOLE, n_parts)
    }
}
