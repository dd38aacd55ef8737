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

/// What all ranks do together with one buffer each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Everybody gets the sum.
    AllReduce,
    /// `root` gets the sum; the others' buffers become undefined.
    Reduce { root: usize },
    /// Everybody gets `root`'s.
    Broadcast { root: usize },
}

/// The meeting points of a group of rank threads.
#[derive(Debug)]
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
    len: usize,
    kind: Kind,
    memory: Memory,
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

    /// Performs one collective in place; returns when this rank's buffer is complete and nobody reads it any more.
    ///
    /// `buffer` is contiguous, of a floating-point type, and touched by no other thread meanwhile.
    ///
    /// # Errors
    /// A failed rank, a buffer that can't be shared, or ranks that disagree.
    pub fn perform(
        &self,
        rank: usize,
        sequence: u64,
        operation: Operation,
        buffer: &mut Tensor,
    ) -> Result<(), PeerError> {
        let device = buffer.device();
        let memory = match device {
            Device::Cuda(index) => {
                runtime::synchronize(index)?;
                Memory::Device(SharedTensor::of(buffer))
            }
            _ => Memory::Host(PeerBuffer::of(buffer)?),
        };
        let offer = Offer {
            operation,
            sequence,
            len: buffer.numel(),
            kind: buffer.kind(),
            memory,
        };
        let offers = self.published.exchange(rank, offer)?;
        check(sequence, &offers)?;
        match device {
            Device::Cuda(index) => self.on_device(rank, operation, buffer, index, &offers)?,
            _ => self.on_host(rank, operation, &offers),
        }
        self.done.exchange(rank, ())?;
        Ok(())
    }

    fn on_host(&self, rank: usize, operation: Operation, offers: &[Offer]) {
        let buffers: Vec<PeerBuffer> = offers.iter().filter_map(Offer::on_host).collect();
        let len = offers[0].len;
        let share = share(len, rank, self.world);
        // SAFETY: all ranks stand between the two meetings and each touches its own share of the
        // buffers only (a broadcast: reads the root's, writes its own); kinds and lengths are equal.
        unsafe {
            match operation {
                Operation::AllReduce => sum_range(&buffers, &buffers, share),
                Operation::Reduce { root } => sum_range(&buffers, &buffers[root..=root], share),
                Operation::Broadcast { root } if root == rank => {}
                Operation::Broadcast { root } => copy_range(buffers[root], buffers[rank], 0..len),
            }
        }
    }

    /// Ranks that share a GPU: each computes from all buffers, and writes its own when all have read.
    fn on_device(
        &self,
        rank: usize,
        operation: Operation,
        buffer: &mut Tensor,
        device: usize,
        offers: &[Offer],
    ) -> Result<(), PeerError> {
        let tensors: Vec<&Tensor> = offers.iter().filter_map(Offer::on_device).collect();
        let result = match operation {
            Operation::AllReduce => Some(sum(&tensors)?),
            Operation::Reduce { root } if root == rank => Some(sum(&tensors)?),
            Operation::Broadcast { root } if root != rank => {
                Some(tensors[root].f_detach_copy().map_err(TorchError::from)?)
            }
            Operation::Reduce { .. } | Operation::Broadcast { .. } => None,
        };
        runtime::synchronize(device)?;
        self.done.exchange(rank, ())?;
        if let Some(result) = result {
            buffer.f_copy_(&result).map_err(TorchError::from)?;
        }
        Ok(())
    }
}

impl Offer {
    fn on_host(&self) -> Option<PeerBuffer> {
        match self.memory {
            Memory::Host(buffer) => Some(buffer),
            Memory::Device(_) => None,
        }
    }

    fn on_device(&self) -> Option<&Tensor> {
        match &self.memory {
            Memory::Device(tensor) => Some(tensor.tensor()),
            Memory::Host(_) => None,
        }
    }
}

/// Every rank sees all offers, so all find the same disagreement.
fn check(sequence: u64, offers: &[Offer]) -> Result<(), PeerError> {
    let key = |offer: &Offer| {
        (
            offer.operation,
            offer.sequence,
            offer.len,
            offer.kind,
            offer.on_host().is_some(),
        )
    };
    match offers
        .iter()
        .enumerate()
        .find(|(_, offer)| key(offer) != key(&offers[0]))
    {
        None => Ok(()),
        Some((rank, offer)) => Err(PeerError::Mismatch {
            sequence,
            rank,
            this: offer.to_string(),
            first: offers[0].to_string(),
        }),
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce => write!(f, "all-reduce"),
            Self::Reduce { root } => write!(f, "reduce to rank {root}"),
            Self::Broadcast { root } => write!(f, "broadcast from rank {root}"),
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} {:?} (number {})",
            self.operation, self.len, self.kind, self.sequence
        )
    }
}

fn sum(tensors: &[&Tensor]) -> Result<Tensor, TorchError> {
    let mut sum = tensors[0].f_detach_copy()?;
    for tensor in &tensors[1..] {
        let _ = sum.f_add_(tensor)?;
    }
    Ok(sum)
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

/// Replaces `range` in every `target` by the sum over `sources`, added in their order.
///
/// bf16 is summed in fp32 and rounded once.
///
/// # Safety
/// All buffers are alive with equal kind and length; `range` lies inside; no other thread touches
/// `range` of any of them until the caller has synchronised again.
unsafe fn sum_range(sources: &[PeerBuffer], targets: &[PeerBuffer], range: Range<usize>) {
    let Some(first) = sources.first() else { return };
    // SAFETY: passed on to the caller.
    unsafe {
        match first.kind {
            Kind::Double => sum_as::<f64>(sources, targets, range),
            Kind::BFloat16 => sum_bf16(sources, targets, range),
            _ => sum_as::<f32>(sources, targets, range),
        }
    }
}

/// Copies `range` of one buffer into the same range of another.
///
/// # Safety
/// As [`sum_range`]; the two buffers don't overlap.
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

unsafe fn sum_as<T>(sources: &[PeerBuffer], targets: &[PeerBuffer], range: Range<usize>)
where
    T: Copy + Default + std::ops::AddAssign,
{
    let mut sum = [T::default(); BLOCK];
    for start in range.clone().step_by(BLOCK) {
        let len = BLOCK.min(range.end - start);
        let sum = &mut sum[..len];
        for (i, source) in sources.iter().enumerate() {
            // SAFETY: passed on to the caller.
            let part = unsafe { slice::from_raw_parts(source.data.cast::<T>().add(start), len) };
            if i == 0 {
                sum.copy_from_slice(part);
            } else {
                sum.iter_mut().zip(part).for_each(|(sum, &x)| *sum += x);
            }
        }
        for target in targets {
            // SAFETY: passed on to the caller.
            unsafe { slice::from_raw_parts_mut(target.data.cast::<T>().add(start), len) }
                .copy_from_slice(sum);
        }
    }
}

unsafe fn sum_bf16(sources: &[PeerBuffer], targets: &[PeerBuffer], range: Range<usize>) {
    use half::bf16;
    for i in range {
        // SAFETY: passed on to the caller.
        unsafe {
            let sum: f32 = sources
                .iter()
                .map(|source| (*source.data.cast::<bf16>().add(i)).to_f32())
                .sum();
            for target in targets {
                *target.data.cast::<bf16>().add(i) = bf16::from_f32(sum);
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
