//! Storages whose memory comes and goes.

use std::ptr;

use tch::Tensor;

use super::{TorchError, shim};

/// Points `tensor`'s storage at the memory of `target`, or at none; views of it follow.
///
/// The storage no longer owns its memory afterwards: the caller keeps `target` alive while it is used.
/// No version counter moves.
///
/// # Errors
/// `target` is smaller, of another type or on another device.
pub fn point_at(tensor: &Tensor, target: Option<&Tensor>) -> Result<(), TorchError> {
    if let Some(target) = target {
        let fits = target.numel() >= tensor.numel()
            && target.kind() == tensor.kind()
            && target.device() == tensor.device()
            && target.is_contiguous();
        if !fits {
            return Err(TorchError::new("a storage can't stand on that memory"));
        }
    }
    let data = target.map_or(ptr::null_mut(), Tensor::data_ptr);
    // SAFETY: the tensor is alive; `data` is null or the start of enough memory on the same device,
    // which the caller keeps alive.
    shim::check(unsafe { shim::capstan_point_storage(tensor.as_ptr().cast_mut(), data) })
}
