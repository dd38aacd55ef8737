//! Weights that exist whole only while a segment computes with them (ZeRO's third stage).
//!
//! A group's leaves are views of one storage, which is pointed at a slot while the group is gathered.
//! What autograd saved holds the storage, not the bytes: the forward pass gives them up, the backward
//! pass finds them gathered again. Slots are written past autograd's version counters, as NCCL does.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::{Partition, layout::Layout};
use crate::torch::{TorchError, storage::Movable};

/// The gathered groups of one rank.
pub struct Gathered {
    groups: Vec<Gatherable>,
    /// Slots that nobody uses, by their length.
    free: HashMap<i64, Vec<Tensor>>,
    /// This rank's shard in the type that the model computes with.
    source: Tensor,
    partition: Partition,
}

struct Gatherable {
    /// Stands on a slot while it is gathered.
    flat: Movable,
    users: usize,
}

impl Gathered {
    /// Nothing is gathered yet; `source` is the rank's shard.
    pub fn new(
        layout: &Layout,
        partition: Partition,
        source: Tensor,
        kind: Kind,
        device: Device,
    ) -> Result<Self, TorchError> {
        let groups = layout.groups.iter().map(|group| {
            Ok(Gatherable {
                flat: Movable::new(group.len(), kind, device)?,
                users: 0,
            })
        });
        Ok(Self {
            groups: groups.collect::<Result<_, TorchError>>()?,
            free: HashMap::new(),
            source,
            partition,
        })
    }

    /// The tensor that a group's leaves are views of.
    pub fn flat(&self, group: usize) -> &Tensor {
        self.groups[group].flat.tensor()
    }

    /// The rank's shard.
    pub fn source(&self) -> &Tensor {
        &self.source
    }

    /// Counts a user of each group; returns the slots that are to be all-gathered first, with this rank's
    /// part in its place.
    pub fn acquire(
        &mut self,
        layout: &Layout,
        groups: &[usize],
    ) -> Result<Vec<Tensor>, TorchError> {
        let mut incomplete = Vec::new();
        for &group in groups {
            let len = layout.groups[group].len();
            let part_len = len / self.partition.of as i64;
            let this = &mut self.groups[group];
            this.users += 1;
            if this.flat.ground().is_some() || len == 0 {
                continue;
            }
            let slot = match self.free.get_mut(&len).and_then(Vec::pop) {
                Some(slot) => slot,
                None => {
                    let flat = this.flat.tensor();
                    Tensor::f_zeros([len], (flat.kind(), flat.device()))?
                }
            };
            slot.f_narrow(0, part_len * self.partition.index as i64, part_len)?
                .f_copy_(
                    &self
                        .source
                        .f_narrow(0, layout.part_offset(group), part_len)?,
                )?;
            incomplete.push(slot.shallow_clone());
            this.flat.stand_on(slot)?;
        }
        Ok(incomplete)
    }

    /// Gives up the groups that nobody uses any more.
    pub fn release(&mut self, groups: &[usize]) -> Result<(), TorchError> {
        for &group in groups {
            let this = &mut self.groups[group];
            this.users = this.users.saturating_sub(1);
            if this.users > 0 {
                continue;
            }
            if let Some(slot) = this.flat.lift()? {
                self.free.entry(slot.size()[0]).or_default().push(slot);
            }
        }
        Ok(())
    }

    /// Bytes of all slots.
    pub fn slot_bytes(&self) -> u64 {
        let used = self.groups.iter().filter_map(|group| group.flat.ground());
        let slots = self.free.values().flatten().chain(used);
        slots
            .map(|slot| (slot.numel() * slot.kind().elt_size_in_bytes()) as u64)
            .sum()
    }
}
