//! Optimizers over the flat store, clipping, learning-rate schedules.

mod adamw;
mod clip;
mod schedule;
mod sgd;

use tch::Tensor;

use crate::{
    config::OptimizerConfig,
    nn::{FlatRange, ParamStore},
    torch::TorchError,
};

pub use clip::{GradStats, grad_stats, norm, square_sum};
pub use schedule::lr_at;

/// What updates the master weights.
pub trait Optimizer {
    /// Updates the store's master weights from its gradients; a non-finite norm leaves all untouched.
    ///
    /// `step` counts from 1.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn update(&mut self, step: u64, lr: f64, grads: &GradStats) -> Result<(), TorchError>;

    /// The state as named flat buffers of the store's layout, whole or the rank's shard, for checkpoints.
    fn state(&self) -> Vec<(&'static str, &Tensor)>;
}

/// State buffers of zeros, as many as [`state_names`] has names.
///
/// # Errors
/// The device has no room.
pub fn new_state(config: &OptimizerConfig, store: &ParamStore) -> Result<Vec<Tensor>, TorchError> {
    state_names(config)
        .iter()
        .map(|_| {
            let options = (store.master().kind(), store.master().device());
            Ok(Tensor::f_zeros([store.state_len()], options)?)
        })
        .collect()
}

/// Makes the optimizer of a run over `part` of the flat buffers; `state` is that of the whole.
///
/// # Errors
/// State of another optimizer.
pub fn build(
    config: &OptimizerConfig,
    store: &ParamStore,
    state: Vec<Tensor>,
    part: &FlatRange,
) -> Result<Box<dyn Optimizer>, TorchError> {
    Ok(match config {
        OptimizerConfig::Adamw(config) => Box::new(adamw::Adamw::new(*config, store, state, part)?),
        OptimizerConfig::Sgd(config) => Box::new(sgd::Sgd::new(*config, store, state, part)?),
    })
}

fn cut(buffer: &Tensor, range: &FlatRange) -> Result<Tensor, TorchError> {
    Ok(buffer.f_narrow(0, range.start, range.end - range.start)?)
}

/// The names of an optimizer's state, as [`Optimizer::state`] gives them.
pub fn state_names(config: &OptimizerConfig) -> &'static [&'static str] {
    match config {
        OptimizerConfig::Adamw(_) => &adamw::STATE,
        OptimizerConfig::Sgd(sgd) if sgd.momentum == 0.0 => &[],
        OptimizerConfig::Sgd(_) => &sgd::STATE,
    }
}
