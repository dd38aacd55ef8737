//! Collectives over the buffers of a group's ranks.

use tch::Tensor;

use crate::{
    event::Traffic,
    torch::{TorchError, peers::PeerError},
};

pub use crate::torch::peers::Reduction;

/// Why a collective didn't happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Torch(#[from] TorchError),
    #[error(
        "what rank {from}'s GPU sends does not arrive unchanged at rank {to}'s: peer access between the two is broken; set \
         NCCL_P2P_DISABLE=1 to go through the host's memory, or name other devices"
    )]
    Changed { from: usize, to: usize },
}

/// One rank's end of a communicator.
///
/// All ranks of the group start the same operations on buffers of equal type and length in the same
/// order. `start_*` may return at once; the buffer is the communicator's until [`wait`](Self::wait)
/// returns. On a GPU `wait` blocks the compute stream, not the host. Operations act in place, on
/// contiguous buffers that the engine owns: never on what autograd returned or saved.
pub trait Communicator {
    /// The rank's number in the group.
    fn rank(&self) -> usize;

    /// Ranks of the group.
    fn world(&self) -> usize;

    /// Starts to replace `buffer` by the sum (or maximum) over ranks.
    ///
    /// # Errors
    /// See [`CommError`].
    fn start_all_reduce(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError>;

    /// Starts to replace `root`'s buffer by the sum over ranks; the others' become undefined.
    ///
    /// # Errors
    /// See [`CommError`].
    fn start_reduce(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError>;

    /// Starts to replace everybody's buffer by `root`'s.
    ///
    /// # Errors
    /// See [`CommError`].
    fn start_broadcast(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError>;

    /// Starts to replace the rank's part of `buffer` (of equal parts in rank order) by the sum over ranks;
    /// the other parts become undefined.
    ///
    /// # Errors
    /// See [`CommError`].
    fn start_reduce_scatter(&mut self, buffer: &Tensor) -> Result<(), CommError>;

    /// Starts to fill `buffer` with everybody's part of it.
    ///
    /// # Errors
    /// See [`CommError`].
    fn start_all_gather(&mut self, buffer: &Tensor) -> Result<(), CommError>;

    /// Waits for all that was started.
    ///
    /// # Errors
    /// See [`CommError`].
    fn wait(&mut self) -> Result<(), CommError>;

    /// Bytes of the buffers passed in since the last call, by operation.
    fn take_traffic(&mut self) -> Traffic;
}

impl dyn Communicator + '_ {
    /// Performs an all-reduce.
    ///
    /// # Errors
    /// See [`CommError`].
    pub fn all_reduce(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError> {
        self.start_all_reduce(buffer, reduction)?;
        self.wait()
    }

    /// Performs a reduce-scatter.
    ///
    /// # Errors
    /// See [`CommError`].
    pub fn reduce_scatter(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.start_reduce_scatter(buffer)?;
        self.wait()
    }

    /// Performs an all-gather.
    ///
    /// # Errors
    /// See [`CommError`].
    pub fn all_gather(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.start_all_gather(buffer)?;
        self.wait()
    }
}

/// Bytes of a tensor's elements.
pub(super) fn n_bytes(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}
