//! A rank's thread and its device.

use crate::{
    hw,
    torch::{
        TorchError,
        memory::{self, Account, Usage},
        runtime,
        stream::Stream,
    },
};

/// Where a rank's thread computes.
#[derive(Clone, Copy, Debug)]
pub struct RankDevice {
    pub device: tch::Device,
    /// The compute stream, on a GPU.
    pub stream: Option<Stream>,
    /// The thread's CPU tensors.
    account: Account,
}

impl RankDevice {
    /// Prepares the calling thread: intra-op width, current device, a compute stream of its own.
    ///
    /// To be called before the thread's first other libtorch call.
    ///
    /// # Errors
    /// The width isn't granted, or there is no such device.
    pub fn enter(device: hw::Device, n_threads: usize) -> Result<Self, TorchError> {
        let granted = runtime::enter_rank_thread(n_threads)?;
        if granted != n_threads {
            let text = format!("asked libtorch for {n_threads} threads, got {granted}");
            return Err(TorchError::new(&text));
        }
        let account = Account::open();
        match device {
            hw::Device::Cpu => Ok(Self {
                device: tch::Device::Cpu,
                stream: None,
                account,
            }),
            hw::Device::Cuda(index) => {
                runtime::set_device(index)?;
                let stream = Stream::from_pool(index)?;
                stream.make_current()?;
                Ok(Self {
                    device: tch::Device::Cuda(index),
                    stream: Some(stream),
                    account,
                })
            }
        }
    }

    /// What the rank's tensors take: the thread's own on a CPU, the GPU's on a GPU.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn memory(&self) -> Result<Usage, TorchError> {
        match self.device {
            tch::Device::Cuda(index) => memory::of_gpu(index),
            _ => Ok(self.account.usage()),
        }
    }

    /// Whether work is launched ahead of the host.
    pub fn runs_ahead(&self) -> bool {
        self.stream.is_some()
    }
}
