//! What the worker says of libtorch and of the libraries that only GPUs need.

use serde::{Deserialize, Serialize};

/// The worker's part of `capstan doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The version of the libtorch that the worker was built with.
    pub libtorch: String,
    /// Threads that a process may use here.
    pub threads: usize,
    /// GPUs that CUDA counts.
    pub cuda_devices: usize,
    pub cuda: Library,
    /// CUDA sees GPUs, and libtorch has cuDNN for them.
    pub has_cudnn: bool,
    pub nccl: Library,
    /// CUDA's compiler, which cuDNN's attention needs; it is good once it has compiled a kernel.
    pub nvrtc: Library,
}

/// Whether a library could be opened and used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Library {
    /// It could; this is its version, or what else is worth a word.
    Good(String),
    /// It could not; this is why.
    Bad(String),
}

impl<E: std::fmt::Display> From<Result<String, E>> for Library {
    fn from(tried: Result<String, E>) -> Self {
        match tried {
            Ok(found) => Self::Good(found),
            Err(error) => Self::Bad(error.to_string()),
        }
    }
}
