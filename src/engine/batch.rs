//! From host batches to tensors.

use tch::{Device, Tensor};

use crate::{
    data::HostBatch,
    nn::MaskKeys,
    torch::{TorchError, staging},
};

/// A batch on a rank's device.
pub struct DeviceBatch {
    /// `[rows, seq_len]`, int64.
    pub inputs: Tensor,
    /// `[rows, seq_len]`, int64; ignored ones are -1.
    pub targets: Tensor,
    /// What the rows' dropout masks are drawn from; absent where nothing is dropped.
    pub mask_keys: Option<MaskKeys>,
}

impl DeviceBatch {
    /// Brings a batch to a device: to a GPU in one copy out of pinned memory, for which the host does not wait.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(
        batch: &HostBatch,
        mask_keys: Option<MaskKeys>,
        device: Device,
    ) -> Result<Self, TorchError> {
        let shape = [batch.rows as i64, batch.seq_len as i64];
        if device == Device::Cpu {
            let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_view(shape);
            return Ok(Self {
                inputs: tensor(&batch.inputs)?,
                targets: tensor(&batch.targets)?,
                mask_keys,
            });
        }
        let mut all = batch.inputs.clone();
        all.extend_from_slice(&batch.targets);
        all.extend(mask_keys.iter().flat_map(MaskKeys::as_integers));
        let all = staging::integers(&all, device)?;
        let n = shape[0] * shape[1];
        let part = |number: i64| all.f_narrow(0, number * n, n)?.f_view(shape);
        let (inputs, targets) = (part(0)?, part(1)?);
        let keys = all.f_narrow(0, 2 * n, all.size()[0] - 2 * n)?;
        Ok(Self {
            inputs,
            targets,
            mask_keys: mask_keys.map(|mask_keys| mask_keys.with_copy(keys)),
        })
    }
}
