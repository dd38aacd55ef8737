//! Hand-offs between pipeline stages.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::{CommError, Progress, comm::n_bytes};
use crate::{
    base::{fault::FaultCell, mailbox::Mailbox},
    torch::{SharedTensor, TorchError, peers::PeerError, runtime},
};

/// What is handed over: each flow between two stages has an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Outputs, to the stage that computes on.
    Activation,
    /// Gradients, back to the stage that the output came from.
    Gradient,
}

/// The tensor that a receiver expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub shape: Vec<i64>,
    pub kind: Kind,
    pub device: Device,
}

/// One stage's ends. What was sent first on a flow between two stages is received first.
pub trait Links {
    /// Hands a tensor over, which nobody writes any more; waits at most for what was sent before on the same flow.
    ///
    /// # Errors
    /// See [`CommError`].
    fn send(&mut self, flow: Flow, to: usize, tensor: &Tensor) -> Result<(), CommError>;

    /// Takes the next tensor; on a GPU the compute stream waits for it, else the thread.
    ///
    /// # Errors
    /// See [`CommError`]; a tensor other than expected is one.
    fn recv(&mut self, flow: Flow, from: usize, expected: &Expected) -> Result<Tensor, CommError>;

    /// Bytes sent since the last call.
    fn take_sent_bytes(&mut self) -> u64;
}

/// The links of a pipeline of one stage.
pub struct NoLinks;

impl Links for NoLinks {
    fn send(&mut self, _: Flow, to: usize, _: &Tensor) -> Result<(), CommError> {
        Err(TorchError::new(&format!("there is no stage {to}")).into())
    }

    fn recv(&mut self, _: Flow, from: usize, _: &Expected) -> Result<Tensor, CommError> {
        Err(TorchError::new(&format!("there is no stage {from}")).into())
    }

    fn take_sent_bytes(&mut self) -> u64 {
        0
    }
}

/// The links of threads of one process: tensors change hands, their bytes stay.
pub struct LocalLinks {
    stage: usize,
    n_stages: usize,
    boxes: Arc<[Mailbox<SharedTensor>]>,
    progress: Arc<Progress>,
    sent_bytes: u64,
}

impl LocalLinks {
    /// Makes the ends of all stages.
    pub fn ends(fault: &Arc<FaultCell>, progress: &[Arc<Progress>]) -> Vec<Self> {
        let n_stages = progress.len();
        let boxes: Arc<[_]> = (0..2 * n_stages * n_stages)
            .map(|_| Mailbox::new(fault))
            .collect();
        progress
            .iter()
            .enumerate()
            .map(|(stage, progress)| Self {
                stage,
                n_stages,
                boxes: Arc::clone(&boxes),
                progress: Arc::clone(progress),
                sent_bytes: 0,
            })
            .collect()
    }

    fn mailbox(&self, flow: Flow, from: usize, to: usize) -> &Mailbox<SharedTensor> {
        let flow = usize::from(flow == Flow::Gradient);
        &self.boxes[(flow * self.n_stages + from) * self.n_stages + to]
    }
}

impl Links for LocalLinks {
    fn send(&mut self, flow: Flow, to: usize, tensor: &Tensor) -> Result<(), CommError> {
        if let Device::Cuda(index) = tensor.device() {
            // The receiver's stream may start at once.
            runtime::synchronize(index)?;
        }
        self.sent_bytes += n_bytes(tensor);
        self.mailbox(flow, self.stage, to)
            .send(SharedTensor::of(tensor));
        Ok(())
    }

    fn recv(&mut self, flow: Flow, from: usize, expected: &Expected) -> Result<Tensor, CommError> {
        self.progress.enter_collective();
        let received = self.mailbox(flow, from, self.stage).recv();
        let tensor = received.map_err(PeerError::from)?.handle();
        self.progress.leave_collective();
        let tensor = match expected.device {
            // The sender's allocator may hand the memory out again as soon as both handles are gone.
            Device::Cuda(index) => {
                let own = tensor.f_detach_copy().map_err(TorchError::from)?;
                runtime::synchronize(index)?;
                own
            }
            _ => tensor,
        };
        let found = (tensor.size(), tensor.kind());
        if found != (expected.shape.clone(), expected.kind) {
            let text = format!("stage {from} handed over {found:?}, expected {expected:?}");
            return Err(TorchError::new(&text).into());
        }
        Ok(tensor)
    }

    fn take_sent_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }
}
