//! Initial weights: a function of (seed, parameter name, element index), so of no split and no rank.

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::{
    arch::{Init, ParamSpec},
    base::random,
    torch::TorchError,
};

/// Elements drawn by one task.
const CHUNK: usize = 1 << 16;

/// The whole parameter's first values on the host, rounded to fp32 so that all precisions start alike.
///
/// # Errors
/// No room.
pub fn initial_values(spec: &ParamSpec, seed: u64) -> Result<Tensor, TorchError> {
    let options = (Kind::Float, Device::Cpu);
    Ok(match spec.init {
        Init::Zeros => Tensor::f_zeros(spec.shape.as_slice(), options)?,
        Init::Ones => Tensor::f_ones(spec.shape.as_slice(), options)?,
        Init::Normal { std } => {
            let key = random::key(seed, &[random::name_part(&spec.name)]);
            let values = normal_values(spec.numel() as usize, std, key);
            Tensor::f_from_slice(&values)?.f_view(spec.shape.as_slice())?
        }
    })
}

fn normal_values(numel: usize, std: f64, key: u64) -> Vec<f32> {
    let mut values = vec![0.0; numel];
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(chunk, values)| {
            let first = (chunk * CHUNK) as u64;
            for (index, value) in (first..).zip(values) {
                *value = (std * random::normal_at(key, index)) as f32;
            }
        });
    values
}
