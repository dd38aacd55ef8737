//! The flat parameter store: all parameters of a rank in a few long buffers, of which parameters are views.

use std::{ops::Range, slice};

use tch::{Device, Kind, Tensor};

use super::{
    Numbers, Partition,
    gathered::Gathered,
    init,
    layout::{FlatRange, Group, Layout, within},
    shard,
    weights::Weights,
};
use crate::{
    arch::ParamSpec,
    torch::{SharedTensor, TorchError, staging},
};

/// One rank's parameters and gradients.
pub struct ParamStore {
    pub(super) layout: Layout,
    pub(super) partition: Partition,
    /// What the optimizer updates: whole, or the rank's shard.
    pub(super) master: Tensor,
    compute: Compute,
    /// Whole, or the rank's shard.
    pub(super) grads: Tensor,
    /// Views of the compute weights that autograd differentiates, one an entry.
    pub(super) leaves: Vec<Tensor>,
    /// Views of `grads`, one an entry, where they are whole.
    pub(super) grad_views: Vec<Tensor>,
    /// A group's whole gradient on its way into the shard, where only the shard is kept.
    pub(super) staged: Vec<Option<Tensor>>,
    /// Whether an entry's gradient holds something of this step, or of this backward pass where it is staged.
    pub(super) filled: Vec<bool>,
    /// Whether a group's part of the shard holds something of this step.
    pub(super) folded: Vec<bool>,
}

/// What the model computes with.
enum Compute {
    /// A whole buffer: the master itself unless the precision is mixed.
    Whole(Tensor),
    Gathered(Gathered),
}

/// One rank's weights, for its other lanes.
#[derive(Debug)]
pub struct SharedWeights {
    master: SharedTensor,
    compute: SharedTensor,
}

/// A stretch of parameters that the optimizer updates in one go.
pub struct UpdatePiece {
    pub param: Tensor,
    pub grad: Tensor,
    /// Where its state lies in the optimizer's buffers.
    pub state: FlatRange,
    /// Whether weight decay applies.
    pub decays: bool,
}

/// The same elements in a whole buffer and in the rank's shard.
pub(super) struct OwnPiece {
    whole: FlatRange,
    shard: FlatRange,
}

impl ParamStore {
    /// Initialises the parameters of `layout` on `device`.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(
        layout: Layout,
        partition: Partition,
        numbers: Numbers,
        seed: u64,
        device: Device,
    ) -> Result<Self, TorchError> {
        let (master_kind, kind) = (numbers.master(), numbers.compute());
        let zeros = |len: i64, kind: Kind| -> Result<Tensor, TorchError> {
            Ok(Tensor::f_zeros([len], (kind, device))?)
        };
        let is_mixed = kind != master_kind;
        let (whole, part) = (layout.len(), layout.part_len());
        let keeps_shard = partition.shards_params() || (is_mixed && partition.shards_state());
        let master = zeros(if keeps_shard { part } else { whole }, master_kind)?;
        let copy = |len: i64| match is_mixed {
            true => zeros(len, kind),
            false => Ok(master.shallow_clone()),
        };
        let compute = if partition.shards_params() {
            Compute::Gathered(Gathered::new(
                &layout,
                partition,
                copy(part)?,
                kind,
                device,
            )?)
        } else {
            Compute::Whole(copy(whole)?)
        };
        let store = Self::with_weights(layout, partition, master, compute, numbers.grads())?;
        store.fill_weights(|spec| init::initial_values(spec, seed))?;
        Ok(store)
    }

    /// A second store over the same weights, with gradients of its own.
    ///
    /// # Errors
    /// No room, or weights of another layout.
    pub fn sharing(layout: Layout, weights: &SharedWeights) -> Result<Self, TorchError> {
        let compute = Compute::Whole(weights.compute.handle());
        let master = weights.master.handle();
        let grads_kind = master.kind();
        Self::with_weights(layout, Partition::NONE, master, compute, grads_kind)
    }

    /// The weights, for [`ParamStore::sharing`]; none where they aren't whole.
    pub fn share(&self) -> Option<SharedWeights> {
        let Compute::Whole(compute) = &self.compute else {
            return None;
        };
        Some(SharedWeights {
            master: SharedTensor::of(&self.master),
            compute: SharedTensor::of(compute),
        })
    }

    fn with_weights(
        layout: Layout,
        partition: Partition,
        master: Tensor,
        compute: Compute,
        grads_kind: Kind,
    ) -> Result<Self, TorchError> {
        let grads_len = match partition.shards_grads() {
            true => layout.part_len(),
            false => layout.len(),
        };
        let grads = Tensor::f_zeros([grads_len], (grads_kind, master.device()))?;
        let leaf = |number: usize| {
            let entry = &layout.entries[number];
            let view = match &compute {
                Compute::Whole(buffer) => view(buffer, &layout, number, 0),
                Compute::Gathered(gathered) => {
                    let start = layout.groups[entry.group].range.start;
                    view(gathered.flat(entry.group), &layout, number, start)
                }
            };
            Ok(view?.f_detach()?.f_set_requires_grad(true)?)
        };
        let leaves = (0..layout.entries.len())
            .map(leaf)
            .collect::<Result<_, TorchError>>()?;
        let grad_views = match partition.shards_grads() {
            true => Vec::new(),
            false => (0..layout.entries.len())
                .map(|number| view(&grads, &layout, number, 0))
                .collect::<Result<_, TorchError>>()?,
        };
        Ok(Self {
            grad_views,
            staged: layout.groups.iter().map(|_| None).collect(),
            filled: vec![false; layout.entries.len()],
            folded: vec![false; layout.groups.len()],
            leaves,
            layout,
            partition,
            master,
            compute,
            grads,
        })
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the rank keeps for itself.
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The whole of the flat buffers.
    pub fn everything(&self) -> FlatRange {
        0..self.layout.len()
    }

    /// Lane `lane`'s part of the flat buffers when `n_lanes` share the update.
    pub fn lane_part(&self, lane: usize, n_lanes: usize) -> FlatRange {
        const ALIGN: i64 = super::layout::ALIGN;
        let border = |lane: usize| self.layout.len() / ALIGN * lane as i64 / n_lanes as i64 * ALIGN;
        border(lane)..border(lane + 1)
    }

    /// The parameters that segment `segment` computes with.
    pub fn weights(&self, segment: usize) -> Weights<'_> {
        Weights::new(self, &self.layout.groups[segment])
    }

    /// The entries that a run of segments uses, each once, with their leaves.
    pub fn leaves_of(&self, segments: Range<usize>) -> (Vec<usize>, Vec<&Tensor>) {
        let mut entries: Vec<usize> = self.layout.groups[segments]
            .iter()
            .flat_map(|group| group.own.iter().chain(&group.borrowed).copied())
            .collect();
        entries.sort_unstable();
        entries.dedup();
        let leaves = entries.iter().map(|&entry| &self.leaves[entry]).collect();
        (entries, leaves)
    }

    /// The weights, as the model computes with them, of parameters that another pipeline stage holds too.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn tied_weights(&self) -> Result<Vec<Tensor>, TorchError> {
        let Some(compute) = self.compute() else {
            return Ok(Vec::new());
        };
        let tied = self.layout.entries.iter().filter(|entry| entry.is_tied);
        tied.map(|entry| Ok(compute.f_narrow(0, entry.offset, entry.numel())?))
            .collect()
    }

    /// All segments.
    pub fn all_segments(&self) -> Range<usize> {
        0..self.layout.groups.len()
    }

    /// Each group's weights as the model computes with them, where they are whole.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn compute_groups(&self) -> Result<Vec<Tensor>, TorchError> {
        let Compute::Whole(compute) = &self.compute else {
            return Ok(Vec::new());
        };
        let groups = self.layout.groups.iter().filter(|group| group.len() > 0);
        groups
            .map(|group| Ok(compute.f_narrow(0, group.range.start, group.len())?))
            .collect()
    }

    /// All gradients that the rank keeps: whole, or its shard.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// All master weights that the rank keeps: whole, or its shard.
    pub fn master(&self) -> &Tensor {
        &self.master
    }

    /// The weights that the model computes with, where they are whole.
    pub fn compute(&self) -> Option<&Tensor> {
        match &self.compute {
            Compute::Whole(compute) => Some(compute),
            Compute::Gathered(_) => None,
        }
    }

    /// Counts a user of a run of segments' weights; returns what is to be all-gathered before they are used.
    ///
    /// # Errors
    /// No room.
    pub fn acquire(&mut self, segments: Range<usize>) -> Result<Vec<Tensor>, TorchError> {
        let _guard = tch::no_grad_guard();
        match &mut self.compute {
            Compute::Whole(_) => Ok(Vec::new()),
            Compute::Gathered(gathered) => {
                gathered.acquire(&self.layout, &self.layout.groups_of(segments))
            }
        }
    }

    /// Gives up a run of segments' weights.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn release(&mut self, segments: Range<usize>) -> Result<(), TorchError> {
        match &mut self.compute {
            Compute::Whole(_) => Ok(()),
            Compute::Gathered(gathered) => gathered.release(&self.layout.groups_of(segments)),
        }
    }

    /// Bytes of weights and gradients.
    pub fn n_bytes(&self) -> u64 {
        let bytes = |buffer: &Tensor| (buffer.numel() * buffer.kind().elt_size_in_bytes()) as u64;
        let copy = match &self.compute {
            Compute::Whole(compute) if compute.data_ptr() == self.master.data_ptr() => 0,
            Compute::Whole(compute) => bytes(compute),
            Compute::Gathered(gathered) => {
                let is_master = gathered.source().data_ptr() == self.master.data_ptr();
                gathered.slot_bytes()
                    + if is_master {
                        0
                    } else {
                        bytes(gathered.source())
                    }
            }
        };
        bytes(&self.master) + bytes(&self.grads) + copy
    }

    /// Elements of each of the optimizer's buffers.
    pub fn state_len(&self) -> i64 {
        match self.partition.shards_state() {
            true => self.layout.part_len(),
            false => self.layout.len(),
        }
    }

    /// What this rank updates of `part` of the flat buffers, each stretch with decay or without.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn update_pieces(&self, part: &FlatRange) -> Result<Vec<UpdatePiece>, TorchError> {
        let ranges = |pick: fn(&Group) -> &FlatRange| {
            let ranges: Vec<FlatRange> = self.layout.groups.iter().map(pick).cloned().collect();
            within(&ranges, part)
        };
        let mut pieces = Vec::new();
        for (ranges, decays) in [
            (ranges(|group| &group.matrices), true),
            (ranges(|group| &group.vectors), false),
        ] {
            for own in self.own_pieces(&ranges) {
                pieces.push(UpdatePiece {
                    param: self.cut(&self.master, &own)?,
                    grad: self.cut(&self.grads, &own)?,
                    state: own.shard,
                    decays,
                });
            }
        }
        Ok(pieces)
    }

    /// The parts of `ranges` that this rank keeps, neighbours merged.
    pub(super) fn own_pieces(&self, ranges: &[FlatRange]) -> Vec<OwnPiece> {
        let mut pieces: Vec<OwnPiece> = Vec::new();
        for group in 0..self.layout.groups.len() {
            let own = self.layout.part_of(group, self.partition.index);
            for whole in within(ranges, &own) {
                let start = self.layout.part_offset(group) + whole.start - own.start;
                let shard = start..start + (whole.end - whole.start);
                match pieces.last_mut() {
                    Some(last) if last.whole.end == whole.start && last.shard.end == start => {
                        (last.whole.end, last.shard.end) = (whole.end, shard.end);
                    }
                    _ => pieces.push(OwnPiece { whole, shard }),
                }
            }
        }
        pieces
    }

    /// A stretch of a buffer that is whole or the rank's shard.
    pub(super) fn cut(&self, buffer: &Tensor, own: &OwnPiece) -> Result<Tensor, TorchError> {
        let range = match self.is_whole(buffer) {
            true => &own.whole,
            false => &own.shard,
        };
        Ok(buffer.f_narrow(0, range.start, range.end - range.start)?)
    }

    fn is_whole(&self, buffer: &Tensor) -> bool {
        buffer.size()[0] == self.layout.len()
    }

    /// Brings this rank's piece of `part` of the compute copy up to the master weights.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn publish(&self, part: &FlatRange) -> Result<(), TorchError> {
        let compute = match &self.compute {
            Compute::Whole(compute) => compute,
            Compute::Gathered(gathered) => gathered.source(),
        };
        if compute.data_ptr() != self.master.data_ptr() {
            let _guard = tch::no_grad_guard();
            for own in self.own_pieces(slice::from_ref(part)) {
                self.cut(compute, &own)?
                    .f_copy_(&self.cut(&self.master, &own)?)?;
            }
        }
        Ok(())
    }

    /// Fills the master weights, and what the model computes with, from whole parameters; asks for each once.
    ///
    /// # Errors
    /// What `values` says, or libtorch.
    pub fn fill_weights<E: From<TorchError>>(
        &self,
        values: impl FnMut(&ParamSpec) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        match &self.compute {
            // Where the master is but a shard, the whole copy is rounded from the same values.
            Compute::Whole(copy) if !self.is_whole(&self.master) => {
                self.fill_all(&[&self.master, copy], values)
            }
            _ => {
                self.fill_all(&[&self.master], values)?;
                Ok(self.publish(&self.everything())?)
            }
        }
    }

    /// Fills a buffer of this layout, whole or a shard, with this rank's parts of whole parameters.
    ///
    /// # Errors
    /// What `values` says, or libtorch.
    pub fn fill<E: From<TorchError>>(
        &self,
        buffer: &Tensor,
        values: impl FnMut(&ParamSpec) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        self.fill_all(&[buffer], values)
    }

    fn fill_all<E: From<TorchError>>(
        &self,
        buffers: &[&Tensor],
        mut values: impl FnMut(&ParamSpec) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let _guard = tch::no_grad_guard();
        for (number, entry) in self.layout.entries.iter().enumerate() {
            let whole = values(&entry.spec)?;
            let part = shard::cut(&whole, &entry.spec, self.layout.shard())?;
            for buffer in buffers {
                self.fill_entry(buffer, number, &part)?;
            }
        }
        Ok(())
    }

    fn fill_entry(&self, buffer: &Tensor, number: usize, part: &Tensor) -> Result<(), TorchError> {
        if self.is_whole(buffer) {
            return staging::copy(part, &view(buffer, &self.layout, number, 0)?);
        }
        let entry = &self.layout.entries[number];
        let flat = part.f_reshape([-1])?;
        for own in self.own_pieces(slice::from_ref(&entry.range())) {
            let values = flat.f_narrow(
                0,
                own.whole.start - entry.offset,
                own.whole.end - own.whole.start,
            )?;
            staging::copy(&values, &self.cut(buffer, &own)?)?;
        }
        Ok(())
    }

    /// Whole parameters in layout order, copies of other stages' among them.
    pub fn specs(&self) -> impl Iterator<Item = &ParamSpec> {
        self.layout.specs()
    }

    /// The part of a whole buffer of this layout that belongs to a parameter, in the shape that this rank holds.
    ///
    /// # Errors
    /// Whatever libtorch throws; an unknown name is one too.
    pub fn named_view(&self, buffer: &Tensor, name: &str) -> Result<Tensor, TorchError> {
        let entry = self
            .layout
            .entry(name)
            .ok_or_else(|| TorchError::new(&format!("no parameter {name}")))?;
        view(buffer, &self.layout, entry, 0)
    }
}

/// An entry's view of a buffer whose first element is number `origin` of the flat buffers.
pub(super) fn view(
    buffer: &Tensor,
    layout: &Layout,
    number: usize,
    origin: i64,
) -> Result<Tensor, TorchError> {
    let entry = &layout.entries[number];
    let flat = buffer.f_narrow(0, entry.offset - origin, entry.numel())?;
    Ok(flat.f_view(entry.shape.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Precision, nn::testing::layout};

    fn store(precision: Precision) -> ParamStore {
        ParamStore::new(
            layout(1),
            Partition::NONE,
            Numbers::of(precision),
            1,
            Device::Cpu,
        )
        .expect("room")
    }

    #[test]
    fn the_compute_copy_follows_the_master() {
        let mut store = store(Precision::Bf16);
        let _ = store.master.fill_(0.5);
        store.publish(&store.everything()).expect("copied");
        assert_eq!(
            store
                .weights(1)
                .get("c_attn.weight")
                .expect("there")
                .double_value(&[0, 0]),
            0.5
        );
    }

    #[test]
    fn each_weight_is_asked_for_once_whatever_is_filled() {
        for (level, precision) in [0, 1, 2, 3]
            .into_iter()
            .flat_map(|level| [(level, Precision::Fp32), (level, Precision::Bf16)])
        {
            let (n_parts, partition) = match level {
                0 => (1, Partition::NONE),
                level => (
                    2,
                    Partition {
                        level,
                        index: 1,
                        of: 2,
                    },
                ),
            };
            let numbers = Numbers::of(precision);
            let store = ParamStore::new(layout(n_parts), partition, numbers, 1, Device::Cpu);
            let store = store.expect("room");
            let mut asked = Vec::new();
            let filled = store.fill_weights(|spec| {
                asked.push(spec.name.clone());
                init::initial_values(spec, 7)
            });
            filled.expect("filled");
            let names: Vec<String> = store.specs().map(|spec| spec.name.clone()).collect();
            assert_eq!(asked, names, "zero {level}, {precision:?}");
            let Some(compute) = store.compute() else {
                continue;
            };
            for spec in store.specs() {
                let rounded = init::initial_values(spec, 7)
                    .expect("room")
                    .to_kind(compute.kind());
                let own = store.named_view(compute, &spec.name).expect("there");
                assert!(
                    own.equal(&rounded),
                    "{}: zero {level}, {precision:?}",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn tied_weights_are_borrowed() {
        let store = store(Precision::Fp32);
        let head = store.layout.groups.len() - 1;
        assert!(store.weights(head).find("wte.weight").is_some());
    }

    #[test]
    fn shards_of_all_ranks_are_the_whole() {
        let whole = store(Precision::Fp32);
        let shards: Vec<ParamStore> = (0..3)
            .map(|index| {
                let partition = Partition {
                    level: 3,
                    index,
                    of: 3,
                };
                ParamStore::new(
                    layout(3),
                    partition,
                    Numbers::of(Precision::Fp32),
                    1,
                    Device::Cpu,
                )
                .expect("room")
            })
            .collect();
        let total = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
        let sum: f64 = shards.iter().map(|store| total(store.master())).sum();
        assert!((sum - total(whole.master())).abs() < 1e-9);
        let updated: i64 = shards
            .iter()
            .flat_map(|store| store.update_pieces(&store.everything()).expect("cut"))
            .map(|piece| piece.param.numel() as i64)
            .sum();
        let pieces = whole.update_pieces(&whole.everything()).expect("cut");
        assert_eq!(
            updated,
            pieces
                .iter()
                .map(|piece| piece.param.numel() as i64)
                .sum::<i64>()
        );
    }
}
