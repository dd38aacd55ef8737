//! A consistent copy of all ranks' state on the host, independent of the split, and the way back.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::CheckpointError;
use crate::{
    arch::{ParamSpec, Shard},
    nn::{self, Layout, ParamStore},
    optim::Optimizer,
    torch::{HostCopy, TorchError, raw},
    weights::{Loaded, MODEL_FILE, Pretrained},
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

/// A rank's place in the split, as far as a checkpoint cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub stage: usize,
    pub shard: Shard,
    /// Data-parallel rank.
    pub replica: usize,
}

/// What one rank adds to a checkpoint: copies on the host of what no other rank has. Ranks in other processes
/// read it in place.
#[derive(Serialize, Deserialize)]
pub struct Contribution {
    place: Place,
    /// Master weights, then the optimizer's state; `None` where another rank has the same.
    buffers: Vec<Option<HostCopy>>,
}

/// Copies what this rank adds to a checkpoint to the host, with `is_shared` for ranks of other processes to read; the
/// run may go on meanwhile.
///
/// # Errors
/// No room, or a device fault.
pub fn contribute(
    store: &ParamStore,
    optimizer: &dyn Optimizer,
    place: Place,
    is_shared: bool,
) -> Result<Contribution, TorchError> {
    let copy = if is_shared {
        HostCopy::shared
    } else {
        HostCopy::of
    };
    let _guard = tch::no_grad_guard();
    let buffers = [store.master()].into_iter();
    let buffers = buffers.chain(optimizer.state().into_iter().map(|(_, buffer)| buffer));
    let buffers = buffers.map(|buffer| {
        let is_shard = buffer.size()[0] < store.layout().len();
        let is_needed = place.replica == 0 || is_shard;
        is_needed.then(|| copy(buffer)).transpose()
    });
    Ok(Contribution {
        place,
        buffers: buffers.collect::<Result<_, TorchError>>()?,
    })
}

/// Puts the contributions of all ranks together; `layout` says how the ranks of a stage and shard lay out theirs.
///
/// # Errors
/// Contributions of other layouts.
pub fn assemble(
    contributions: &[&Contribution],
    state_names: &[&str],
    layout: impl Fn(usize, Shard) -> Layout,
) -> Result<Snapshot, TorchError> {
    let _guard = tch::no_grad_guard();
    let mut files = [MODEL_FILE, OPTIMIZER_FILE].map(|name| SnapshotFile {
        name,
        tensors: Vec::new(),
    });
    let mut places: Vec<(usize, Shard)> = Vec::new();
    for Contribution { place, .. } in contributions {
        if !places.contains(&(place.stage, place.shard)) {
            places.push((place.stage, place.shard));
        }
    }
    for (stage, shard) in places {
        let layout = layout(stage, shard);
        for buffer in 0..=state_names.len() {
            let parts: Vec<&Tensor> = contributions
                .iter()
                .filter(|other| (other.place.stage, other.place.shard) == (stage, shard))
                .filter_map(|other| other.buffers[buffer].as_ref().map(HostCopy::tensor))
                .collect();
            let whole = match parts[..] {
                [whole] => whole.shallow_clone(),
                _ => nn::join_shards(&layout, &parts)?,
            };
            let (file, prefix) = match buffer.checked_sub(1) {
                None => (0, String::new()),
                Some(number) => (1, format!("{}.", state_names[number])),
            };
            add(&mut files[file].tensors, &prefix, &layout, &whole)?;
        }
    }
    Ok(Snapshot {
        files: files.into(),
    })
}

/// Adds a buffer's parameters under their names; parts of one parameter meet in one tensor.
fn add(
    tensors: &mut Vec<(String, Tensor)>,
    prefix: &str,
    layout: &Layout,
    buffer: &Tensor,
) -> Result<(), TorchError> {
    for spec in layout.specs() {
        let name = format!("{prefix}{}", spec.name);
        let Some((range, shape)) = layout.find(&spec.name) else {
            continue;
        };
        let part = buffer
            .f_narrow(0, range.start, range.end - range.start)?
            .f_view(shape)?;
        let known = tensors.iter().position(|(known, _)| *known == name);
        if !layout.shard().cuts(spec) {
            if known.is_none() {
                tensors.push((name, nn::without_padding(&part, spec)?));
            }
            continue;
        }
        let known = match known {
            Some(known) => known,
            None => {
                let options = (part.kind(), part.device());
                tensors.push((name, Tensor::f_empty(spec.shape.as_slice(), options)?));
                tensors.len() - 1
            }
        };
        nn::paste(&part, &tensors[known].1, spec, layout.shard())?;
    }
    Ok(())
}

/// Fills weights and the given named buffers of optimizer state from a verified checkpoint.
///
/// # Errors
/// A tensor that is missing or of another shape or type.
pub fn restore(
    loaded: &Loaded,
    store: &ParamStore,
    optimizer: &[(&str, &Tensor)],
) -> Result<(), CheckpointError> {
    let model = loaded.tensors(MODEL_FILE)?;
    store.fill_weights(|spec| read(&model, &spec.name, spec))?;
    if !optimizer.is_empty() {
        let state = loaded.tensors(OPTIMIZER_FILE)?;
        for (buffer_name, buffer) in optimizer {
            store.fill(buffer, |spec| {
                read(&state, &format!("{buffer_name}.{}", spec.name), spec)
            })?;
        }
    }
    Ok(())
}

/// Fills the weights from another program's.
///
/// # Errors
/// A device fault, or a value that is no finite number; that shapes and types fit has been seen.
pub fn start_from(pretrained: &Pretrained, store: &ParamStore) -> Result<(), CheckpointError> {
    store.fill_weights(|spec| {
        let unfit =
            |reason: String| CheckpointError::DoesNotFit(format!("{}: {reason}", spec.name));
        let stored = pretrained
            .tensor(&spec.name)
            .ok_or_else(|| unfit("it is missing".to_owned()))?;
        let tensor = super::tensors::to_tensor(&stored.view).map_err(unfit)?;
        let tensor = match stored.is_turned {
            true => turned(&tensor)?,
            false => tensor,
        };
        match nn::is_finite(&tensor)? {
            true => Ok(tensor),
            false => Err(CheckpointError::NotFinite {
                tensor: spec.name.clone(),
            }),
        }
    })
}

/// The matrix with rows for columns.
fn turned(matrix: &Tensor) -> Result<Tensor, TorchError> {
    Ok(matrix.f_transpose(0, 1)?.f_contiguous()?)
}

/// A whole parameter, or what the optimizer holds of it.
fn read(
    file: &safetensors::SafeTensors<'_>,
    name: &str,
    spec: &ParamSpec,
) -> Result<Tensor, CheckpointError> {
    let unfit = |reason: String| CheckpointError::DoesNotFit(format!("{name}: {reason}"));
    let stored = file
        .tensor(name)
        .map_err(|error| unfit(error.to_string()))?;
    let shape: Vec<i64> = stored.shape().iter().map(|&size| size as i64).collect();
    if shape != spec.shape {
        return Err(unfit(format!(
            "its shape is {shape:?}, expected {:?}",
            spec.shape
        )));
    }
    super::tensors::to_tensor(&stored).map_err(unfit)
}

/// The bytes of a snapshot's tensor.
///
/// # Errors
/// Not on the host.
pub fn tensor_bytes(tensor: &Tensor) -> Result<&[u8], TorchError> {
    raw::bytes(tensor)
}
