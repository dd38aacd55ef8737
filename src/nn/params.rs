//! The flat parameter store: all parameters of a rank in a few long buffers.
//!
//! Segments lie one after the other, so that a bucket of gradients is a range; within a segment
//! matrices come before vectors, so that weight decay is a range too. Parameters are views.

use std::{collections::HashMap, ops::Range};

use tch::{Device, Kind, Tensor};

use super::init;
use crate::{
    arch::{ParamSpec, SegmentSpec},
    config::Precision,
    torch::{SharedTensor, TorchError},
};

/// Views start on a cache line of this many elements (128 bytes in fp32).
const ALIGN: i64 = 32;

/// A range of elements in the flat buffers.
pub type FlatRange = Range<i64>;

/// Where a value that is no number was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    pub tensor: String,
}

/// One rank's parameters and gradients.
pub struct ParamStore {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    segments: Vec<SegmentLayout>,
    /// What the optimizer updates.
    master: Tensor,
    /// What the model computes with; the master itself unless the precision is mixed.
    compute: Tensor,
    grads: Tensor,
    /// Views of `compute` that autograd differentiates, one an entry.
    leaves: Vec<Tensor>,
    grad_views: Vec<Tensor>,
    /// Whether an entry's gradient holds something of this step.
    filled: Vec<bool>,
}

/// One rank's weights, for its other lanes.
#[derive(Debug)]
pub struct SharedWeights {
    master: SharedTensor,
    compute: SharedTensor,
}

struct Entry {
    spec: ParamSpec,
    offset: i64,
}

/// Where a segment's parameters lie, and which entries it uses.
struct SegmentLayout {
    matrices: FlatRange,
    vectors: FlatRange,
    own: Vec<usize>,
    borrowed: Vec<usize>,
}

impl ParamStore {
    /// Lays out and initialises the parameters of `segments` on `device`.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(
        segments: &[SegmentSpec],
        precision: Precision,
        seed: u64,
        device: Device,
    ) -> Result<Self, TorchError> {
        let len = lay_out(segments).2;
        let master = Tensor::f_zeros([len], (init::master_kind(precision), device))?;
        let compute = match precision {
            Precision::Bf16 => Tensor::f_zeros([len], (Kind::BFloat16, device))?,
            Precision::Fp32 | Precision::Tf32 | Precision::Fp64 => master.shallow_clone(),
        };
        let mut store = Self::with_weights(segments, master, compute)?;
        for entry in 0..store.entries.len() {
            let values = init::initial_values(&store.entries[entry].spec, seed);
            let view = store.view(&store.master, entry)?;
            store.fill(view, &Tensor::from_slice(&values))?;
        }
        store.publish(0..len)?;
        Ok(store)
    }

    /// A second store over the same weights, with gradients of its own.
    ///
    /// # Errors
    /// No room, or weights of other segments.
    pub fn sharing(segments: &[SegmentSpec], weights: &SharedWeights) -> Result<Self, TorchError> {
        Self::with_weights(segments, weights.master.handle(), weights.compute.handle())
    }

    /// The weights, for [`ParamStore::sharing`].
    pub fn share(&self) -> SharedWeights {
        SharedWeights {
            master: SharedTensor::of(&self.master),
            compute: SharedTensor::of(&self.compute),
        }
    }

    fn with_weights(
        segments: &[SegmentSpec],
        master: Tensor,
        compute: Tensor,
    ) -> Result<Self, TorchError> {
        let (entries, layouts, len) = lay_out(segments);
        let index: HashMap<String, usize> = entries
            .iter()
            .enumerate()
            .map(|(i, entry)| (entry.spec.name.clone(), i))
            .collect();
        let segments = resolve_borrows(segments, layouts, &index)?;
        let grads = Tensor::f_zeros([len], (master.kind(), master.device()))?;
        let mut store = Self {
            filled: vec![false; entries.len()],
            entries,
            index,
            segments,
            master,
            compute,
            grads,
            leaves: Vec::new(),
            grad_views: Vec::new(),
        };
        for entry in 0..store.entries.len() {
            let leaf = store
                .view(&store.compute, entry)?
                .f_detach()?
                .f_set_requires_grad(true)?;
            store.leaves.push(leaf);
            store.grad_views.push(store.view(&store.grads, entry)?);
        }
        Ok(store)
    }

    /// Lane `lane`'s part of the flat buffers when `n_lanes` share the update.
    pub fn part(&self, lane: usize, n_lanes: usize) -> FlatRange {
        let border = |lane: usize| self.flat_len() / ALIGN * lane as i64 / n_lanes as i64 * ALIGN;
        border(lane)..border(lane + 1)
    }

    /// The parameters that segment `segment` computes with.
    pub fn weights(&self, segment: usize) -> Weights<'_> {
        Weights {
            store: self,
            segment: &self.segments[segment],
        }
    }

    /// The entries that a span of segments uses, each once, with their leaves.
    pub fn leaves_of(&self, segments: Range<usize>) -> (Vec<usize>, Vec<&Tensor>) {
        let mut entries: Vec<usize> = self.segments[segments]
            .iter()
            .flat_map(|s| s.own.iter().chain(&s.borrowed).copied())
            .collect();
        entries.sort_unstable();
        entries.dedup();
        let leaves = entries.iter().map(|&entry| &self.leaves[entry]).collect();
        (entries, leaves)
    }

    /// Forgets the last step's gradients; nothing is zeroed.
    pub fn begin_step(&mut self) {
        self.filled.fill(false);
    }

    /// Takes a gradient: the step's first for an entry is copied, later ones are added.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn take_grad(&mut self, entry: usize, grad: &Tensor) -> Result<(), TorchError> {
        let view = &mut self.grad_views[entry];
        if std::mem::replace(&mut self.filled[entry], true) {
            let _ = view.f_add_(&grad.f_to_kind(view.kind())?)?;
        } else {
            view.f_copy_(grad)?;
        }
        Ok(())
    }

    /// Zeroes the gradients of a run of segments that no backward pass of this step reached.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn zero_unfilled(&mut self, segments: Range<usize>) -> Result<(), TorchError> {
        for &entry in self.segments[segments]
            .iter()
            .flat_map(|segment| &segment.own)
        {
            if !std::mem::replace(&mut self.filled[entry], true) {
                let _ = self.grad_views[entry].f_zero_()?;
            }
        }
        Ok(())
    }

    /// The flat gradients of a run of segments.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn grads_of(&self, segments: Range<usize>) -> Result<Tensor, TorchError> {
        let start = self.segments[segments.start].matrices.start;
        let end = self.segments[segments.end - 1].vectors.end;
        Ok(self.grads.f_narrow(0, start, end - start)?)
    }

    /// All gradients.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// All master weights.
    pub fn master(&self) -> &Tensor {
        &self.master
    }

    /// Bytes of weights and gradients.
    pub fn n_bytes(&self) -> u64 {
        let bytes = |buffer: &Tensor| (buffer.numel() * buffer.kind().elt_size_in_bytes()) as u64;
        let is_shared = self.compute.kind() == self.master.kind();
        bytes(&self.master) + bytes(&self.grads) + if is_shared { 0 } else { bytes(&self.compute) }
    }

    /// Elements in each flat buffer, padding included.
    pub fn flat_len(&self) -> i64 {
        self.master.size()[0]
    }

    /// The ranges that weight decay applies to, and those that it doesn't, a pair a segment.
    pub fn decay_ranges(&self) -> (Vec<FlatRange>, Vec<FlatRange>) {
        let ranges = |pick: fn(&SegmentLayout) -> &FlatRange| {
            self.segments
                .iter()
                .map(pick)
                .filter(|range| !range.is_empty())
                .cloned()
                .collect()
        };
        (
            ranges(|segment| &segment.matrices),
            ranges(|segment| &segment.vectors),
        )
    }

    /// Brings a part of the compute copy up to the master weights.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn publish(&mut self, part: FlatRange) -> Result<(), TorchError> {
        if self.compute.kind() != self.master.kind() {
            let _guard = tch::no_grad_guard();
            let cut = |buffer: &Tensor| buffer.f_narrow(0, part.start, part.end - part.start);
            cut(&self.compute)?.f_copy_(&cut(&self.master)?)?;
        }
        Ok(())
    }

    /// Names and shapes in layout order.
    pub fn specs(&self) -> impl Iterator<Item = &ParamSpec> {
        self.entries.iter().map(|entry| &entry.spec)
    }

    /// The part of a flat buffer of this layout that belongs to a parameter, in its shape.
    ///
    /// # Errors
    /// Whatever libtorch throws; an unknown name is one too.
    pub fn named_view(&self, buffer: &Tensor, name: &str) -> Result<Tensor, TorchError> {
        let entry = self
            .index
            .get(name)
            .ok_or_else(|| TorchError::new(&format!("no parameter {name}")))?;
        self.view(buffer, *entry)
    }

    /// The first parameter whose gradient holds NaN or infinity.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn first_bad_grad(&self) -> Result<Option<NotFinite>, TorchError> {
        self.first_bad(&self.grads)
    }

    /// The first parameter that holds NaN or infinity itself.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn first_bad_weight(&self) -> Result<Option<NotFinite>, TorchError> {
        self.first_bad(&self.master)
    }

    fn first_bad(&self, buffer: &Tensor) -> Result<Option<NotFinite>, TorchError> {
        for (index, entry) in self.entries.iter().enumerate() {
            if self
                .view(buffer, index)?
                .f_isfinite()?
                .f_all()?
                .f_int64_value(&[])?
                == 0
            {
                return Ok(Some(NotFinite {
                    tensor: entry.spec.name.clone(),
                }));
            }
        }
        Ok(None)
    }

    fn view(&self, buffer: &Tensor, entry: usize) -> Result<Tensor, TorchError> {
        let entry = &self.entries[entry];
        let flat = buffer.f_narrow(0, entry.offset, entry.spec.numel() as i64)?;
        Ok(flat.f_view(entry.spec.shape.as_slice())?)
    }

    fn fill(&self, mut view: Tensor, values: &Tensor) -> Result<(), TorchError> {
        let _guard = tch::no_grad_guard();
        Ok(view.f_copy_(&values.f_view(view.size().as_slice())?)?)
    }
}

/// One segment's parameters by name.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    store: &'a ParamStore,
    segment: &'a SegmentLayout,
}

impl<'a> Weights<'a> {
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
        let matches = |entry: &usize| {
            let rest = self.store.entries[*entry].spec.name.strip_suffix(suffix);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let entry = self
            .segment
            .own
            .iter()
            .chain(&self.segment.borrowed)
            .copied()
            .find(|entry| matches(entry));
        entry.map(|entry| &self.store.leaves[entry])
    }
}

/// Places every parameter; returns them with each segment's ranges and the buffers' length.
fn lay_out(segments: &[SegmentSpec]) -> (Vec<Entry>, Vec<SegmentLayout>, i64) {
    let mut entries = Vec::new();
    let mut offset = 0;
    let mut place = |params: Vec<&ParamSpec>| {
        let (first, start) = (entries.len(), offset);
        for spec in params {
            entries.push(Entry {
                spec: spec.clone(),
                offset,
            });
            offset += (spec.numel() as i64 + ALIGN - 1) / ALIGN * ALIGN;
        }
        (first..entries.len(), start..offset)
    };
    let layouts = segments
        .iter()
        .map(|segment| {
            let (matrices, vectors): (Vec<_>, Vec<_>) =
                segment.params.iter().partition(|spec| spec.decays());
            let (matrix_entries, matrices) = place(matrices);
            let (vector_entries, vectors) = place(vectors);
            let own = matrix_entries.chain(vector_entries).collect();
            SegmentLayout {
                matrices,
                vectors,
                own,
                borrowed: Vec::new(),
            }
        })
        .collect();
    (entries, layouts, offset)
}

fn resolve_borrows(
    segments: &[SegmentSpec],
    layouts: Vec<SegmentLayout>,
    index: &HashMap<String, usize>,
) -> Result<Vec<SegmentLayout>, TorchError> {
    let resolve = |name: &String| {
        index
            .get(name)
            .copied()
            .ok_or_else(|| TorchError::new(&format!("no segment owns {name}")))
    };
    segments
        .iter()
        .zip(layouts)
        .map(|(spec, layout)| {
            let borrowed = spec.borrows.iter().map(resolve).collect::<Result<_, _>>()?;
            Ok(SegmentLayout { borrowed, ..layout })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{ModelShape, gpt::GptShape};

    fn store(precision: Precision) -> ParamStore {
        let shape = GptShape {
            n_layer: 2,
            n_head: 2,
            d_model: 12,
            seq_len: 5,
            vocab_size: 7,
            bias: true,
            dropout: 0.0,
        };
        ParamStore::new(
            &ModelShape::Gpt(shape).segments(),
            precision,
            1,
            Device::Cpu,
        )
        .expect("room")
    }

    #[test]
    fn views_are_aligned_disjoint_and_complete() {
        let store = store(Precision::Fp32);
        let mut end = 0;
        for entry in &store.entries {
            assert!(
                entry.offset % ALIGN == 0 && entry.offset >= end,
                "{}",
                entry.spec.name
            );
            end = entry.offset + entry.spec.numel() as i64;
        }
        assert!(end <= store.flat_len());
        let (decay, rest) = store.decay_ranges();
        let covered: i64 = decay
            .iter()
            .chain(&rest)
            .map(|range| range.end - range.start)
            .sum();
        assert_eq!(covered, store.flat_len());
    }

    #[test]
    fn first_gradients_are_copied_and_later_ones_added() {
        let mut store = store(Precision::Fp32);
        let ones = Tensor::ones([7, 12], (Kind::Float, Device::Cpu));
        for step in 0..2 {
            store.begin_step();
            store.take_grad(0, &ones).expect("taken");
            store.take_grad(0, &ones).expect("taken");
            store
                .zero_unfilled(0..store.segments.len())
                .expect("zeroed");
            assert_eq!(
                store.grads().sum(Kind::Float).double_value(&[]),
                2.0 * 84.0,
                "step {step}"
            );
        }
    }

    #[test]
    fn the_compute_copy_follows_the_master() {
        let mut store = store(Precision::Bf16);
        let _ = store.master.fill_(0.5);
        let all = store.part(0, 1);
        store.publish(all).expect("copied");
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
    fn tied_weights_are_one_entry() {
        let store = store(Precision::Fp32);
        let head = store.segments.len() - 1;
        assert!(store.weights(head).find("wte.weight").is_some());
        assert_eq!(
            store
                .specs()
                .filter(|spec| spec.name == "wte.weight")
                .count(),
            1
        );
    }

    #[test]
    fn the_first_bad_gradient_is_named() {
        let mut store = store(Precision::Fp32);
        assert_eq!(store.first_bad_grad().expect("readable"), None);
        let _ = store.grad_views[3].fill_(f64::NAN);
        let name = store.entries[3].spec.name.clone();
        assert_eq!(
            store.first_bad_grad().expect("readable"),
            Some(NotFinite { tensor: name })
        );
    }
}
