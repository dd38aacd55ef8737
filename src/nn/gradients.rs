//! What comes back from the backward pass: whole, or staged on its way into a rank's shard.

use std::{ops::Range, slice};

use tch::Tensor;

use super::{
    ParamStore,
    layout::{FlatRange, Group},
    params::view,
};
use crate::torch::TorchError;

/// Where a value that is no number was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    pub tensor: String,
    /// The number of its segment on this stage.
    pub segment: usize,
}

impl ParamStore {
    /// Forgets the last step's gradients; nothing is zeroed.
    pub fn begin_step(&mut self) {
        self.filled.fill(false);
        self.folded.fill(false);
    }

    /// Takes a gradient: the first for an entry is copied, later ones are added.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn take_grad(&mut self, entry: usize, grad: &Tensor) -> Result<(), TorchError> {
        let is_later = std::mem::replace(&mut self.filled[entry], true);
        let mut view = self.grad_view(entry)?;
        if is_later {
            let _ = view.f_add_(grad)?;
        } else {
            view.f_copy_(grad)?;
        }
        Ok(())
    }

    /// An entry's place in the whole gradients, or in its group's staged ones.
    pub(super) fn grad_view(&mut self, number: usize) -> Result<Tensor, TorchError> {
        if let Some(view) = self.grad_views.get(number) {
            return Ok(view.shallow_clone());
        }
        let group = self.layout.entries[number].group;
        let Group { range, .. } = &self.layout.groups[group];
        let staged = match &mut self.staged[group] {
            Some(staged) => staged,
            empty => empty.insert(Tensor::f_zeros(
                [range.end - range.start],
                (self.grads.kind(), self.grads.device()),
            )?),
        };
        view(staged, &self.layout, number, range.start)
    }

    /// Zeroes the gradients of a run of segments that no backward pass of this step reached.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn zero_unfilled(&mut self, segments: Range<usize>) -> Result<(), TorchError> {
        let own: Vec<usize> = self.layout.groups[segments]
            .iter()
            .flat_map(|group| group.own.iter().copied())
            .collect();
        for entry in own {
            if !std::mem::replace(&mut self.filled[entry], true) {
                let _ = self.grad_view(entry)?.f_zero_()?;
            }
        }
        Ok(())
    }

    /// The whole gradients of a run of segments, one a group where groups are cut into parts, else in one.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn grads_of(&self, segments: Range<usize>) -> Result<Vec<Tensor>, TorchError> {
        let groups = &self.layout.groups[segments.clone()];
        if self.partition.shards_grads() {
            let staged = segments.filter_map(|group| self.staged[group].as_ref());
            return Ok(staged.map(Tensor::shallow_clone).collect());
        }
        let cut = |range: FlatRange| {
            Ok(self
                .grads
                .f_narrow(0, range.start, range.end - range.start)?)
        };
        if self.partition.shards_state() {
            let filled = groups.iter().filter(|group| group.len() > 0);
            return filled.map(|group| cut(group.range.clone())).collect();
        }
        match (groups.first(), groups.last()) {
            (Some(first), Some(last)) => Ok(vec![cut(first.range.start..last.range.end)?]),
            _ => Ok(Vec::new()),
        }
    }

    /// Moves a run of segments' summed parts from the staged gradients to the shard; they end there.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn fold_staged(&mut self, segments: Range<usize>) -> Result<(), TorchError> {
        for group in segments {
            let Some(staged) = self.staged[group].take() else {
                continue;
            };
            let own = self.layout.part_of(group, self.partition.index);
            let len = own.end - own.start;
            let start = own.start - self.layout.groups[group].range.start;
            let part = staged.f_narrow(0, start, len)?;
            let mut shard = self
                .grads
                .f_narrow(0, self.layout.part_offset(group), len)?;
            if std::mem::replace(&mut self.folded[group], true) {
                let _ = shard.f_add_(&part)?;
            } else {
                shard.f_copy_(&part)?;
            }
            for &entry in &self.layout.groups[group].own {
                self.filled[entry] = false;
            }
        }
        Ok(())
    }

    /// The whole gradients of parameters that another pipeline stage holds too.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn tied_grads(&self) -> Result<Vec<Tensor>, TorchError> {
        let tied = self.layout.entries.iter().filter(|entry| entry.is_tied);
        tied.map(|entry| Ok(self.grads.f_narrow(0, entry.offset, entry.numel())?))
            .collect()
    }

    /// The gradients, as far as this rank keeps them, of parameters that every tensor-parallel rank holds.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn replicated_grads(&self) -> Result<Vec<Tensor>, TorchError> {
        self.own_pieces(&self.layout.replicated())
            .iter()
            .map(|own| self.cut(&self.grads, own))
            .collect()
    }

    /// The gradients that this rank answers for in the global norm.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn counted_grads(&self) -> Result<Vec<Tensor>, TorchError> {
        self.own_pieces(&self.layout.counted())
            .iter()
            .map(|own| self.cut(&self.grads, own))
            .collect()
    }

    /// The parameters of which this rank's gradients hold NaN or infinity, in the model's order.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn bad_grads(&self) -> Result<Vec<NotFinite>, TorchError> {
        self.bad(&self.grads)
    }

    /// The parameters that hold NaN or infinity themselves, in the model's order.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn bad_weights(&self) -> Result<Vec<NotFinite>, TorchError> {
        self.bad(&self.master)
    }

    fn bad(&self, buffer: &Tensor) -> Result<Vec<NotFinite>, TorchError> {
        let mut found = Vec::new();
        for entry in &self.layout.entries {
            for own in self.own_pieces(slice::from_ref(&entry.range())) {
                if !super::is_finite(&self.cut(buffer, &own)?)? {
                    found.push(NotFinite {
                        tensor: entry.spec.name.clone(),
                        segment: entry.group,
                    });
                    break;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::{
        config::Precision,
        nn::{Numbers, Partition, testing::layout},
    };

    fn store() -> ParamStore {
        ParamStore::new(
            layout(1),
            Partition::NONE,
            Numbers::of(Precision::Fp32),
            1,
            Device::Cpu,
        )
        .expect("room")
    }

    #[test]
    fn first_gradients_are_copied_and_later_ones_added() {
        let mut store = store();
        let ones = Tensor::ones([7, 12], (Kind::Float, Device::Cpu));
        for step in 0..2 {
            store.begin_step();
            store.take_grad(0, &ones).expect("taken");
            store.take_grad(0, &ones).expect("taken");
            store
                .zero_unfilled(0..store.layout.groups.len())
                .expect("zeroed");
            assert_eq!(
                store.grads().sum(Kind::Float).double_value(&[]),
                2.0 * 84.0,
                "step {step}"
            );
        }
    }

    #[test]
    fn short_gradients_are_added_without_a_wide_copy_and_with_its_bits() {
        let mut store = store();
        let short = (Tensor::arange(84, (Kind::Float, Device::Cpu)) * 0.37).sin() * 3.0;
        let short = short.to_kind(Kind::BFloat16).view([7, 12]);
        let first = (Tensor::arange(84, (Kind::Float, Device::Cpu)) * 0.11)
            .cos()
            .view([7, 12]);
        store.begin_step();
        store.take_grad(0, &first).expect("taken");
        store.take_grad(0, &short).expect("taken");
        let expected = &first + short.to_kind(Kind::Float);
        assert!(store.grad_view(0).expect("there").equal(&expected));
    }

    #[test]
    fn bad_gradients_are_named() {
        let mut store = store();
        assert_eq!(store.bad_grads().expect("readable"), []);
        let bad = [1, 3].map(|number| {
            let _ = store.grad_view(number).expect("there").fill_(f64::NAN);
            let entry = &store.layout.entries[number];
            NotFinite {
                tensor: entry.spec.name.clone(),
                segment: entry.group,
            }
        });
        assert_eq!(store.bad_grads().expect("readable"), bad);
        assert_eq!(store.bad_weights().expect("readable"), []);
    }
}
