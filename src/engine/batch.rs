//! From host batches to tensors.

use tch::{Device, Tensor};

use crate::{data::HostBatch, torch::TorchError};

/// A batch on a rank's device.
pub struct DeviceBatch {
    /// `[rows, seq_len]`, int64.
    pub inputs: Tensor,
    /// `[rows, seq_len]`, int64; ignored ones are -1.
    pub targets: Tensor,
    /// Global sample index of each row.
    pub samples: Vec<u64>,
}

impl DeviceBatch {
    /// Copies a batch; on a GPU through pinned memory, without waiting.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(batch: &HostBatch, device: Device) -> Result<Self, TorchError> {
        let shape = [batch.rows as i64, batch.seq_len as i64];
        let move_in = |values: &[i64]| -> Result<Tensor, TorchError> {
            let host = Tensor::f_from_slice(values)?.f_view(shape)?;
            Ok(match device {
                Device::Cpu => host,
                device => {
                    host.f_pin_memory(device)?
                        .f_to_device_(device, host.kind(), true, false)?
                }
            })
        };
        Ok(Self {
            inputs: move_in(&batch.inputs)?,
            targets: move_in(&batch.targets)?,
            samples: batch.sample_indices.clone(),
        })
    }
}
