//! Per-thread and per-process settings of libtorch.

use super::{
    TorchError,
    libraries::{self, Places, Visibility},
    nvrtc, shim,
};
use crate::config::Attention;

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

/// Process-wide: which kernels of attention libtorch may choose from.
///
/// # Errors
/// Whatever libtorch throws.
pub fn choose_attention(attention: Attention) -> Result<(), TorchError> {
    let (cudnn, fused) = match attention {
        Attention::Auto => (1, 1),
        Attention::Flash => (0, 1),
        Attention::Math => (0, 0),
    };
    // SAFETY: plain numbers.
    shim::check(unsafe { shim::capstan_choose_attention(cudnn, fused) })
}

/// Opens libtorch's CUDA half, which registers itself, and the compiler that cuDNN needs; to be called before the first
/// other libtorch call of the process.
///
/// # Errors
/// The library or one of its own is missing; the loader's text says which. Or libtorch was used before in a way that
/// made it look for CUDA: it looks once.
pub fn load_cuda() -> Result<(), TorchError> {
    let places = Places::find();
    let library = libraries::open(&places.cuda(), Visibility::Process)?;
    // The backend stays registered for the life of the process.
    std::mem::forget(library);
    nvrtc::preload(&places);
    let mut is_known = 0;
    // SAFETY: the number outlives the call.
    shim::check(unsafe { shim::capstan_knows_cuda(&raw mut is_known) })?;
    match is_known {
        0 => Err(TorchError::new(TOO_LATE)),
        _ => Ok(()),
    }
}

const TOO_LATE: &str = "libtorch had looked for CUDA before its CUDA half was loaded, and looks once: this process can use \
                        no GPU; it has to load CUDA before it does anything else with libtorch";

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
