//! Initial weights: a function of (seed, parameter name, element index), so of no split and no rank.

use rayon::prelude::*;
use tch::Kind;

use crate::{
    arch::{Init, ParamSpec},
    base::random,
};

/// Elements drawn by one task.
const CHUNK: usize = 1 << 16;

/// The parameter's first values in row-major order, rounded to fp32 so that all precisions start alike.
pub fn initial_values(spec: &ParamSpec, seed: u64) -> Vec<f32> {
    let numel = spec.numel() as usize;
    match spec.init {
        Init::Zeros => vec![0.0; numel],
        Init::Ones => vec![1.0; numel],
        Init::Normal { std } => normal_values(
            numel,
            std,
            random::key(seed, &[random::name_part(&spec.name)]),
        ),
    }
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

/// The element type that holds master weights in a precision.
pub fn master_kind(precision: crate::config::Precision) -> Kind {
    match precision {
        crate::config::Precision::Fp64 => Kind::Double,
        _ => Kind::Float,
    }
}
