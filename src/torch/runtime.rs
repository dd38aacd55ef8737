//! Per-thread and per-process settings of libtorch.

use std::path::Path;

use super::{TorchError, shim};

/// Prepares the calling thread for a rank: intra-op width, backward on this thread.
///
/// To be called before the thread's first other libtorch call. Returns the width it really got.
///
/// # Errors
/// Whatever libtorch throws.
pub fn enter_rank_thread(n_threads: usize) -> Result<usize, TorchError> {
    let mut actual = 0;
    // SAFETY: plain numbers; `actual` outlives the call.
    shim::check(unsafe { shim::capstan_enter_rank_thread(n_threads as i32, &raw mut actual) })?;
    Ok(actual.unsigned_abs() as usize)
}

/// Process-wide: only kernels that give the same bits every time, or an error.
///
/// # Errors
/// Whatever libtorch throws.
pub fn set_deterministic(on: bool) -> Result<(), TorchError> {
    // SAFETY: a plain number.
    shim::check(unsafe { shim::capstan_set_deterministic(i32::from(on)) })
}

/// Process-wide: TF32 matrix products for fp32 tensors on NVIDIA GPUs.
///
/// # Errors
/// Whatever libtorch throws.
pub fn allow_tf32(on: bool) -> Result<(), TorchError> {
    // SAFETY: a plain number.
    shim::check(unsafe { shim::capstan_allow_tf32(i32::from(on)) })
}

/// Opens libtorch's CUDA half, which registers itself; to be called before the first other libtorch call.
///
/// # Errors
/// The library or one of its own is missing; the loader's text says which.
pub fn load_cuda(libtorch_lib: Option<&Path>) -> Result<(), TorchError> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    const NAME: &str = "libtorch_cuda.so";
    let candidates = libtorch_lib
        .map(|folder| folder.join(NAME))
        .into_iter()
        .chain([NAME.into()]);
    let mut last = String::new();
    for candidate in candidates {
        // SAFETY: the library's initialisers are libtorch's own and register the CUDA backend.
        match unsafe { Library::open(Some(&candidate), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                // The backend stays registered for the life of the process.
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => {
                last =
                    std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)
            }
        }
    }
    Err(TorchError::new(&last))
}

/// Waits until all work launched on a GPU is done.
///
/// # Errors
/// A device fault of earlier work surfaces here.
pub fn synchronize(device: usize) -> Result<(), TorchError> {
    // SAFETY: a plain number.
    shim::check(unsafe { shim::capstan_synchronize(device as i32) })
}

/// Makes a GPU the calling thread's current one.
///
/// # Errors
/// No CUDA, or no such device.
pub fn set_device(device: usize) -> Result<(), TorchError> {
    // SAFETY: a plain number.
    shim::check(unsafe { shim::capstan_set_device(device as i32) })
}
