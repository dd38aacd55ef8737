//! A consistent copy of a rank's state on the host, and the way back.

use tch::{Device, Tensor};

use super::{CheckpointError, load::Loaded};
use crate::{
    nn::ParamStore,
    optim::Optimizer,
    torch::{TorchError, raw},
};

/// Weights and optimizer state as they stood between two steps; on the host, owned by nobody else.
pub struct Snapshot {
    pub files: Vec<SnapshotFile>,
}

/// One safetensors file to be.
pub struct SnapshotFile {
    pub name: &'static str,
    pub tensors: Vec<(String, Tensor)>,
}

/// Weights under their checkpoint names.
pub const MODEL_FILE: &str = "model.safetensors";
/// Optimizer state under `buffer.NAME`.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

// The tensors are copies on the host that only the writing thread reads.
impl Snapshot {
    /// Bytes of all tensors.
    pub fn n_bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        self.files
            .iter()
            .flat_map(|file| &file.tensors)
            .map(|(_, tensor)| bytes(tensor))
            .sum()
    }
}

/// Copies master weights and optimizer state to the host; the run may go on meanwhile.
///
/// # Errors
/// No room, or a device fault.
pub fn take(store: &ParamStore, optimizer: &dyn Optimizer) -> Result<Snapshot, TorchError> {
    let _guard = tch::no_grad_guard();
    let mut model = Vec::new();
    let mut state = Vec::new();
    let master = host_copy(store.master())?;
    for spec in store.specs() {
        model.push((spec.name.clone(), store.named_view(&master, &spec.name)?));
    }
    for (buffer_name, buffer) in optimizer.state() {
        let buffer = host_copy(buffer)?;
        for spec in store.specs() {
            state.push((
                format!("{buffer_name}.{}", spec.name),
                store.named_view(&buffer, &spec.name)?,
            ));
        }
    }
    let files = vec![
        SnapshotFile {
            name: MODEL_FILE,
            tensors: model,
        },
        SnapshotFile {
            name: OPTIMIZER_FILE,
            tensors: state,
        },
    ];
    Ok(Snapshot { files })
}

/// Fills weights and the given named buffers of optimizer state from a verified checkpoint.
///
/// # Errors
/// A tensor that is missing or of another shape or type.
pub fn restore(
    loaded: &Loaded,
    store: &mut ParamStore,
    optimizer: &[(&str, &Tensor)],
) -> Result<(), CheckpointError> {
    let _guard = tch::no_grad_guard();
    let names: Vec<String> = store.specs().map(|spec| spec.name.clone()).collect();
    let model = loaded.tensors(MODEL_FILE)?;
    for name in &names {
        fill(store.named_view(store.master(), name)?, &model, name)?;
    }
    if !optimizer.is_empty() {
        let state = loaded.tensors(OPTIMIZER_FILE)?;
        for (buffer_name, buffer) in optimizer {
            for name in &names {
                fill(
                    store.named_view(buffer, name)?,
                    &state,
                    &format!("{buffer_name}.{name}"),
                )?;
            }
        }
    }
    Ok(store.publish(store.part(0, 1))?)
}

fn host_copy(buffer: &Tensor) -> Result<Tensor, TorchError> {
    Ok(match buffer.device() {
        Device::Cpu => buffer.f_detach_copy()?,
        _ => buffer.f_to_device(Device::Cpu)?,
    })
}

fn fill(
    mut view: Tensor,
    file: &safetensors::SafeTensors<'_>,
    name: &str,
) -> Result<(), CheckpointError> {
    let unfit = |reason: String| CheckpointError::DoesNotFit(format!("{name}: {reason}"));
    let stored = file
        .tensor(name)
        .map_err(|error| unfit(error.to_string()))?;
    let shape: Vec<i64> = stored.shape().iter().map(|&size| size as i64).collect();
    if shape != view.size() {
        return Err(unfit(format!(
            "its shape is {shape:?}, expected {:?}",
            view.size()
        )));
    }
    let values = super::tensors::to_tensor(&stored).map_err(unfit)?;
    view.f_copy_(&values).map_err(TorchError::from)?;
    Ok(())
}

/// The bytes of a snapshot's tensor.
///
/// # Errors
/// Not on the host.
pub fn tensor_bytes(tensor: &Tensor) -> Result<&[u8], TorchError> {
    raw::bytes(tensor)
}
