//! Tensors that several threads hold.

use tch::Tensor;

/// A handle that may be handed to other threads, which then share its storage.
///
/// Who may read or write when is for the holders to agree on: lanes write their own ranges between two
/// meetings; peers read while the owner waits.
#[derive(Debug)]
pub struct SharedTensor(Tensor);

// SAFETY: handles are reference-counted atomically; access to the data is synchronised by meetings.
unsafe impl Send for SharedTensor {}
// SAFETY: as above.
unsafe impl Sync for SharedTensor {}

impl SharedTensor {
    /// Takes another handle of the same storage.
    pub fn of(tensor: &Tensor) -> Self {
        Self(tensor.shallow_clone())
    }

    /// The tensor, for a look.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// A handle of the calling thread's own.
    pub fn handle(&self) -> Tensor {
        self.0.shallow_clone()
    }
}
