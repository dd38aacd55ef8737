//! One segment's view of a rank's parameters.

use tch::Tensor;

use super::{ParamStore, layout::Group};
use crate::{arch::Shard, torch::TorchError};

/// One segment's parameters by name.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    store: &'a ParamStore,
    group: &'a Group,
}

impl<'a> Weights<'a> {
    pub(super) fn new(store: &'a ParamStore, group: &'a Group) -> Self {
        Self { store, group }
    }

    /// The parameter whose name ends in `.suffix` or is `suffix`.
    ///
    /// # Errors
    /// The segment neither owns nor borrows it: a mistake in the model's file.
    pub fn get(&self, suffix: &str) -> Result<&'a Tensor, TorchError> {
        self.find(suffix)
            .ok_or_else(|| TorchError::new(&format!("the segment has no parameter {suffix}")))
    }

    /// As [`Self::get`], where the parameter is optional.
    pub fn find(&self, suffix: &str) -> Option<&'a Tensor> {
        let entry = self.entry(suffix)?;
        Some(&self.store.leaves[entry])
    }

    /// The number, in the store, of the parameter that [`Self::find`] gives.
    pub fn entry(&self, suffix: &str) -> Option<usize> {
        let matches = |entry: &usize| {
            let rest = self.store.layout.entries[*entry]
                .spec
                .name
                .strip_suffix(suffix);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.group
            .own
            .iter()
            .chain(&self.group.borrowed)
            .copied()
            .find(|entry| matches(entry))
    }

    /// Which part of sharded parameters this rank holds.
    pub fn shard(&self) -> Shard {
        self.store.layout.shard()
    }
}
