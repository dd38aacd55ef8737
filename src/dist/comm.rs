//! Collectives over the flat buffers of all ranks.

use tch::Tensor;

use crate::torch::{TorchError, peers::PeerError};

/// Why a collective didn't happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// One rank's end of a communicator.
///
/// All ranks start the same operations on buffers of equal type and length in the same order.
/// `start_*` may return at once; the buffer is the communicator's until [`wait`](Self::wait)
/// returns. On a GPU `wait` blocks the compute stream, not the host. Operations act in place, on
/// buffers that the engine owns: never on what autograd returned or saved.
pub trait Communicator {
    fn rank(&self) -> usize;

    fn world(&self) -> usize;

    /// Starts to replace `buffer` by the sum over ranks.
    ///
    /// # Errors
    /// See [`CommError`].
    fn start_all_reduce(&mut self, buffer: &Tensor) -> Result<(), CommError>;

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

    /// Waits for all that was started.
    ///
    /// # Errors
    /// See [`CommError`].
    fn wait(&mut self) -> Result<(), CommError>;
}
