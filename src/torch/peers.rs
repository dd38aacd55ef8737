//! Collectives of threads in one process: CPU ranks, or several ranks on one GPU.
//!
//! Ranks read each other's memory between two meetings. Sums are added in rank order, so every rank
//! gets the same bits, whatever arrives first.

use std::{fmt, ops::Range, slice, sync::Arc};

use tch::{Device, Kind, Tensor};

use super::{SharedTensor, TorchError, runtime};
use crate::base::{
    fault::FaultCell,
    rendezvous::{Poisoned, Rendezvous},
};

/// Why a collective of peers didn't happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// The ranks disagree about what comes next: a bug in a strategy, caught before memory is touched.
    #[error("collective {sequence}: rank {rank} is in {this}, rank 0 in {first}")]
    Mismatch {
        sequence: u64,
        rank: usize,
        this: String,
        first: String,
    },
}

/// How values of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Max,
}

/// What all ranks do together with one buffer each. Parts of a buffer are equal and in rank order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Everybody gets the sum, or the maximum.
    AllReduce { reduction: Reduction },
    /// `root` gets the sum; the others' buffers become undefined.
    Reduce { root: usize },
    /// Everybody gets `root`'s.
    Broadcast { root: usize },
    /// Everybody gets the sum of its part; the other parts become undefined.
    ReduceScatter,
    /// Everybody gets everybody's part.
    AllGather,
}

/// The meeting points of a group of rank threads.
pub struct PeerGroup {
    world: usize,
    published: Rendezvous<Offer>,
    done: Rendezvous<()>,
}

/// What a rank is about to do, published before any memory is touched.
#[derive(Debug)]
struct Offer {
    operation: Operation,
    sequence: u64,
    buffers: Vec<Memory>,
}

#[derive(Debug)]
enum Memory {
    Host(PeerBuffer),
    /// Another rank's CUDA tensor, read between two meetings only.
    Device(SharedTensor),
}

impl PeerGroup {
    /// A group of `world` rank threads that share `fault`.
    pub fn new(world: usize, fault: &Arc<FaultCell>) -> Self {
        Self {
            world,
            published: Rendezvous::new(world, Arc::clone(fault)),
            done: Rendezvous::new(world, Arc::clone(fault)),
        }
    }

    /// Performs one collective on each of several buffers in place; returns when this rank's are complete
    /// and nobody reads them any more.
    ///
    /// Buffers are contiguous, of a floating-point type, don't overlap, and are touched by no other thread
    /// meanwhile.
    ///
    /// # Errors
    /// A failed rank, a buffer that can't be shared, or ranks that disagree.
    pub fn perform(
        &self,
        rank: usize,
        sequence: u64,
        operation: Operation,
        buffers: &[&Tensor],
    ) -> Result<(), PeerError> {
        let device = buffers
            .first()
            .map_or(Device::Cpu, |buffer| buffer.device());
        if let Device::Cuda(index) = device {
            runtime::synchronize(index)?;
        }
        let offer = Offer {
            operation,
            sequence,
            buffers: buffers
                .iter()
                .map(|buffer| Memory::of(buffer))
                .collect::<Result<_, _>>()?,
        };
        let offers = self.published.exchange(rank, offer)?;
        check(sequence, &offers, self.world)?;
        match device {
            Device::Cuda(index) => self.on_device(rank, operation, buffers, index, &offers)?,
            _ => {
                (0..buffers.len()).for_each(|number| self.on_host(rank, operation, &offers, number))
            }
        }
        self.done.exchange(rank, ())?;
        Ok(())
    }

    fn on_host(&self, rank: usize, operation: Operation, offers: &[Offer], number: usize) {
        let buffers: Vec<PeerBuffer> = offers
            .iter()
            .filter_map(|offer| offer.on_host(number))
            .collect();
        let len = buffers[0].len;
        let share = share(len, rank, self.world);
        let sums = match operation {
            Operation::Reduce { root } => &buffers[root..=root],
            _ => &buffers[..],
        };
        // SAFETY: all ranks stand between the two meetings. Each writes elements that no other touches:
        // a share of all buffers, or elements of its own buffer that the others don't read. Kinds and
        // lengths are equal.
        unsafe { apply(operation, rank, &buffers, buffers[rank], (sums, share)) }
    }

    /// Ranks that share a GPU: each computes from all buffers, and writes its own when all have read.
    fn on_device(
        &self,
        rank: usize,
        operation: Operation,
        buffers: &[&Tensor],
        device: usize,
        offers: &[Offer],
    ) -> Result<(), PeerError> {
        let mut results = Vec::new();
        for (number, buffer) in buffers.iter().enumerate() {
            let all: Vec<&Tensor> = offers
                .iter()
                .filter_map(|offer| offer.on_device(number))
                .collect();
            let part_len = (buffer.numel() / self.world) as i64;
            let part = |tensor: &Tensor, of: usize| {
                tensor
                    .f_view([-1])?
                    .f_narrow(0, part_len * of as i64, part_len)
            };
            match operation {
                Operation::AllReduce { reduction } => {
                    results.push((buffer.shallow_clone(), reduce(&all, reduction)?))
                }
                Operation::Reduce { root } if root == rank => {
                    results.push((buffer.shallow_clone(), reduce(&all, Reduction::Sum)?));
                }
                Operation::Broadcast { root } if root != rank => {
                    let copy = all[root].f_detach_copy().map_err(TorchError::from)?;
                    results.push((buffer.shallow_clone(), copy));
                }
                Operation::Reduce { .. } | Operation::Broadcast { .. } => {}
                Operation::ReduceScatter => {
                    let parts: Result<Vec<Tensor>, _> =
                        all.iter().map(|tensor| part(tensor, rank)).collect();
                    let parts = parts.map_err(TorchError::from)?;
                    let sum = reduce(&parts.iter().collect::<Vec<_>>(), Reduction::Sum)?;
                    results.push((part(buffer, rank).map_err(TorchError::from)?, sum));
                }
                Operation::AllGather => {
                    for other in (0..self.world).filter(|&other| other != rank) {
                        let copy = part(all[other], other).and_then(|part| part.f_detach_copy());
                        let target = part(buffer, other).map_err(TorchError::from)?;
                        results.push((target, copy.map_err(TorchError::from)?));
                    }
                }
            }
        }
        runtime::synchronize(device)?;
        self.done.exchange(rank, ())?;
        for (mut target, result) in results {
            target.f_copy_(&result).map_err(TorchError::from)?;
        }
        Ok(())
    }
}

/// Performs a rank's part of a collective, in its buffer, on copies of everybody's.
///
/// # Errors
/// A buffer that can't be cut into equal parts, or is no contiguous CPU tensor of a floating-point type.
pub fn perform_on_copies(
    rank: usize,
    operation: Operation,
    copies: &[Tensor],
    buffer: &Tensor,
) -> Result<(), TorchError> {
    let own = PeerBuffer::of(buffer)?;
    let copies: Vec<PeerBuffer> = copies
        .iter()
        .map(PeerBuffer::of)
        .collect::<Result<_, _>>()?;
    let (len, world) = (own.len, copies.len());
    if operation.has_parts() && !len.is_multiple_of(world) {
        let text = format!("{operation} of {len} can't be cut into {world} parts");
        return Err(TorchError::new(&text));
    }
    let alike = |copy: &PeerBuffer| (copy.len, copy.kind) == (len, own.kind);
    if !copies.iter().all(alike) {
        return Err(TorchError::new("copies of another length or type"));
    }
    let range = match operation {
        Operation::Reduce { root } if root != rank => 0..0,
        _ => 0..len,
    };
    // SAFETY: the copies are this thread's alone, as the buffer is until the operation is done; kinds and
    // lengths are equal.
    unsafe { apply(operation, rank, &copies, own, (&[own], range)) };
    Ok(())
}

/// A rank's part of a collective over everybody's buffers, `sources`; where all get a sum, or one does, it goes into
/// `range` of each of `sums`, else into `own`.
///
/// # Safety
/// As [`reduce_range`] for all of them; no two buffers overlap but a source with `own` or one of `sums` that is the same.
unsafe fn apply(
    operation: Operation,
    rank: usize,
    sources: &[PeerBuffer],
    own: PeerBuffer,
    (sums, range): (&[PeerBuffer], Range<usize>),
) {
    let (len, world) = (own.len, sources.len());
    let part = |rank: usize| len / world * rank..len / world * (rank + 1);
    // SAFETY: passed on to the caller.
    unsafe {
        match operation {
            Operation::AllReduce { reduction } => reduce_range(sources, sums, range, reduction),
            Operation::Reduce { .. } => reduce_range(sources, sums, range, Reduction::Sum),
            Operation::Broadcast { root } if root == rank => {}
            Operation::Broadcast { root } => copy_range(sources[root], own, 0..len),
            Operation::ReduceScatter => reduce_range(sources, &[own], part(rank), Reduction::Sum),
            Operation::AllGather => (0..world)
                .filter(|&other| other != rank)
                .for_each(|other| copy_range(sources[other], own, part(other))),
        }
    }
}

impl Operation {
    const fn has_parts(self) -> bool {
        matches!(self, Self::ReduceScatter | Self::AllGather)
    }
}

impl Memory {
    fn of(tensor: &Tensor) -> Result<Self, TorchError> {
        Ok(match tensor.device() {
            Device::Cuda(_) => Self::Device(SharedTensor::of(tensor)),
            _ => Self::Host(PeerBuffer::of(tensor)?),
        })
    }

    fn len_and_kind(&self) -> (usize, Kind) {
        match self {
            Self::Host(buffer) => (buffer.len, buffer.kind),
            Self::Device(tensor) => (tensor.tensor().numel(), tensor.tensor().kind()),
        }
    }
}

impl Offer {
    fn on_host(&self, number: usize) -> Option<PeerBuffer> {
        match self.buffers[number] {
            Memory::Host(buffer) => Some(buffer),
            Memory::Device(_) => None,
        }
    }

    fn on_device(&self, number: usize) -> Option<&Tensor> {
        match &self.buffers[number] {
            Memory::Device(tensor) => Some(tensor.tensor()),
            Memory::Host(_) => None,
        }
    }

    fn total_len(&self) -> usize {
        self.buffers
            .iter()
            .map(|buffer| buffer.len_and_kind().0)
            .sum()
    }
}

/// Every rank sees all offers, so all find the same disagreement.
fn check(sequence: u64, offers: &[Offer], world: usize) -> Result<(), PeerError> {
    let agree = |offer: &Offer| {
        let first = &offers[0];
        let buffers = offer.buffers.iter().map(Memory::len_and_kind);
        (offer.operation, offer.sequence) == (first.operation, first.sequence)
            && buffers.eq(first.buffers.iter().map(Memory::len_and_kind))
    };
    if let Some((rank, offer)) = offers.iter().enumerate().find(|(_, offer)| !agree(offer)) {
        return Err(PeerError::Mismatch {
            sequence,
            rank,
            this: offer.to_string(),
            first: offers[0].to_string(),
        });
    }
    let has_parts = offers[0].operation.has_parts();
    let is_even = |buffer: &Memory| buffer.len_and_kind().0.is_multiple_of(world);
    if has_parts && !offers[0].buffers.iter().all(is_even) {
        let text = format!("{} can't be cut into {world} parts", offers[0]);
        return Err(TorchError::new(&text).into());
    }
    Ok(())
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce {
                reduction: Reduction::Sum,
            } => write!(f, "all-reduce"),
            Self::AllReduce {
                reduction: Reduction::Max,
            } => write!(f, "all-reduce for the maximum"),
            Self::Reduce { root } => write!(f, "reduce to rank {root}"),
            Self::Broadcast { root } => write!(f, "broadcast from rank {root}"),
            Self::ReduceScatter => write!(f, "reduce-scatter"),
            Self::AllGather => write!(f, "all-gather"),
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.buffers.first().map(|buffer| buffer.len_and_kind().1);
        let (len, sequence) = (self.total_len(), self.sequence);
        write!(
            f,
            "{} of {len} {:?} (number {sequence})",
            self.operation,
            kind.unwrap_or(Kind::Float)
        )
    }
}

fn reduce(tensors: &[&Tensor], reduction: Reduction) -> Result<Tensor, TorchError> {
    let mut result = tensors[0].f_detach_copy()?;
    for tensor in &tensors[1..] {
        result = match reduction {
            Reduction::Sum => result.f_add_(tensor)?,
            Reduction::Max => result.f_maximum(tensor)?,
        };
    }
    Ok(result)
}

/// The part of `0..len` that a rank adds up: equal parts on cache-line borders.
fn share(len: usize, rank: usize, world: usize) -> Range<usize> {
    const GRANULE: usize = 32;
    let border = |rank: usize| (len.div_ceil(GRANULE) * rank / world * GRANULE).min(len);
    border(rank)..border(rank + 1)
}

/// A contiguous CPU buffer of one rank, as the other ranks' threads see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PeerBuffer {
    data: *mut u8,
    len: usize,
    kind: Kind,
}

// SAFETY: the pointer is only dereferenced by the functions below, whose callers synchronise.
unsafe impl Send for PeerBuffer {}
// SAFETY: as above.
unsafe impl Sync for PeerBuffer {}

impl PeerBuffer {
    /// Publishes a tensor's memory.
    ///
    /// # Errors
    /// Not a contiguous CPU tensor of a floating-point type that can be summed.
    fn of(tensor: &Tensor) -> Result<Self, TorchError> {
        if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
            return Err(TorchError::new(
                "a shared buffer must be a contiguous CPU tensor",
            ));
        }
        let kind = tensor.kind();
        if !matches!(kind, Kind::Float | Kind::Double | Kind::BFloat16) {
            return Err(TorchError::new(&format!(
                "a shared buffer can't be {kind:?}"
            )));
        }
        Ok(Self {
            data: tensor.data_ptr().cast(),
            len: tensor.numel(),
            kind,
        })
    }
}

/// Replaces `range` in every `target` by the sum (or maximum) over `sources`, taken in their order.
///
/// bf16 is summed in fp32 and rounded once.
///
/// # Safety
/// All buffers are alive with equal kind and length; `range` lies inside; no other thread touches
/// `range` of any of them until the caller has synchronised again.
unsafe fn reduce_range(
    sources: &[PeerBuffer],
    targets: &[PeerBuffer],
    range: Range<usize>,
    reduction: Reduction,
) {
    let Some(first) = sources.first() else { return };
    // SAFETY: passed on to the caller.
    unsafe {
        match (first.kind, reduction) {
            (Kind::Double, Reduction::Sum) => {
                reduce_as::<f64>(sources, targets, range, |a, b| *a += b)
            }
            (Kind::Double, Reduction::Max) => {
                reduce_as::<f64>(sources, targets, range, |a, b| *a = a.max(b))
            }
            (Kind::BFloat16, _) => reduce_bf16(sources, targets, range, reduction),
            (_, Reduction::Sum) => reduce_as::<f32>(sources, targets, range, |a, b| *a += b),
            (_, Reduction::Max) => reduce_as::<f32>(sources, targets, range, |a, b| *a = a.max(b)),
        }
    }
}

/// Copies `range` of one buffer into the same range of another.
///
/// # Safety
/// As [`reduce_range`]; the two buffers don't overlap.
unsafe fn copy_range(source: PeerBuffer, target: PeerBuffer, range: Range<usize>) {
    let size = source.kind.elt_size_in_bytes();
    let (offset, n_bytes) = (range.start * size, range.len() * size);
    // SAFETY: passed on to the caller.
    unsafe {
        std::ptr::copy_nonoverlapping(source.data.add(offset), target.data.add(offset), n_bytes)
    };
}

/// Elements that a block of the sum keeps in the first-level cache.
const BLOCK: usize = 2_048;

unsafe fn reduce_as<T: Copy + Default>(
    sources: &[PeerBuffer],
    targets: &[PeerBuffer],
    range: Range<usize>,
    combine: impl Fn(&mut T, T),
) {
    let mut result = [T::default(); BLOCK];
    for start in range.clone().step_by(BLOCK) {
        let len = BLOCK.min(range.end - start);
        let result = &mut result[..len];
        for (i, source) in sources.iter().enumerate() {
            // SAFETY: passed on to the caller.
            let part = unsafe { slice::from_raw_parts(source.data.cast::<T>().add(start), len) };
            if i == 0 {
                result.copy_from_slice(part);
            } else {
                result
                    .iter_mut()
                    .zip(part)
                    .for_each(|(result, &x)| combine(result, x));
            }
        }
        for target in targets {
            // SAFETY: passed on to the caller.
            unsafe { slice::from_raw_parts_mut(target.data.cast::<T>().add(start), len) }
                .copy_from_slice(result);
        }
    }
}

unsafe fn reduce_bf16(
    sources: &[PeerBuffer],
    targets: &[PeerBuffer],
    range: Range<usize>,
    reduction: Reduction,
) {
    use half::bf16;
    for i in range {
        // SAFETY: passed on to the caller.
        unsafe {
            let values = sources
                .iter()
                .map(|source| (*source.data.cast::<bf16>().add(i)).to_f32());
            let result = match reduction {
                Reduction::Sum => values.sum(),
                Reduction::Max => values.fold(f32::NEG_INFINITY, f32::max),
            };
            for target in targets {
                *target.data.cast::<bf16>().add(i) = bf16::from_f32(result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for len in [0, 1, 31, 32, 33, 1_000] {
            for world in 1..=8 {
                let shares: Vec<_> = (0..world).map(|rank| share(len, rank, world)).collect();
                assert_eq!(
                    shares.iter().map(ExactSizeIterator::len).sum::<usize>(),
                    len
                );
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
    }
}
