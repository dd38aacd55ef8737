//! How much memory a rank's tensors take.

use std::ffi::c_void;

use super::{TorchError, shim};

/// Bytes of tensors, at this moment and at most so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub live_bytes: u64,
    pub peak_bytes: u64,
}

/// Counts CPU tensors from now on, process-wide; to be called before ranks start.
///
/// # Errors
/// Whatever libtorch throws.
pub fn count_cpu_tensors() -> Result<(), TorchError> {
    // SAFETY: installs an allocator that lives as long as the process.
    shim::check(unsafe { shim::capstan_count_cpu_memory() })
}

/// The CPU tensors that one thread allocated, whoever frees them.
#[derive(Clone, Copy, Debug)]
pub struct Account(*mut c_void);

// SAFETY: the account's numbers are atomic and live as long as the process.
unsafe impl Send for Account {}

impl Account {
    /// Opens an account for what the calling thread allocates from now on.
    pub fn open() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { shim::capstan_open_account() })
    }

    /// Reads it; all zero unless [`count_cpu_tensors`] was called.
    pub fn usage(self) -> Usage {
        let (mut live, mut peak) = (0, 0);
        // SAFETY: the account lives as long as the process; both numbers outlive the call.
        unsafe { shim::capstan_read_account(self.0, &raw mut live, &raw mut peak) };
        Usage {
            live_bytes: live.max(0).unsigned_abs(),
            peak_bytes: peak.max(0).unsigned_abs(),
        }
    }
}

/// How often the caching allocator of a GPU has had no memory for a tensor, after it had freed what it could.
///
/// # Errors
/// No CUDA, or no such device.
pub fn refusals_of_gpu(device: usize) -> Result<u64, TorchError> {
    let mut refusals = 0;
    // SAFETY: the number outlives the call.
    shim::check(unsafe { shim::capstan_memory_refusals(device as i32, &raw mut refusals) })?;
    Ok(refusals.unsigned_abs())
}

/// Asks the caching allocator of a GPU; all ranks of the process on that GPU count together.
///
/// # Errors
/// No CUDA, or no such device.
pub fn of_gpu(device: usize) -> Result<Usage, TorchError> {
    let (mut allocated, mut reserved, mut peak) = (0, 0, 0);
    // SAFETY: the three numbers outlive the call.
    shim::check(unsafe {
        shim::capstan_memory_stats(
            device as i32,
            &raw mut allocated,
            &raw mut reserved,
            &raw mut peak,
        )
    })?;
    Ok(Usage {
        live_bytes: allocated.unsigned_abs(),
        peak_bytes: peak.unsigned_abs(),
    })
}
