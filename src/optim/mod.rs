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

pub use clip::{GradStats, grad_stats};
pub use schedule::lr_at;

/// What updates the master weights.
pub trait Optimizer {
    /// Updates `store`'s master weights from its gradients; a non-finite norm leaves all untouched.
    ///
    /// `step` counts from 1.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    fn update(
        &mut self,
        store: &ParamStore,
        step: u64,
        lr: f64,
        grads: &GradStats,
    ) -> Result<(), TorchError>;

    /// The state as named flat buffers of the store's layout, for checkpoints.
    fn state(&self) -> Vec<(&'static str, &Tensor)>;
}

/// State buffers of zeros, as many as [`state_names`] has names.
///
/// # Errors
/// The device has no room.
pub fn new_state(config: &OptimizerConfig, store: &ParamStore) -> Result<Vec<Tensor>, TorchError> {
    state_names(config)
        .iter()
        .map(|_| Ok(store.master().f_zeros_like()?))
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
        OptimizerConfig::Sgd(config) => Box::new(sgd::Sgd::new(*config, store, state, part)),
    })
}

/// The parts of `ranges` that lie in `part`.
fn within(ranges: Vec<FlatRange>, part: &FlatRange) -> Vec<FlatRange> {
    let cut = ranges
        .into_iter()
        .map(|range| range.start.max(part.start)..range.end.min(part.end));
    cut.filter(|range| !range.is_empty()).collect()
}

/// The names of an optimizer's state, as [`Optimizer::state`] gives them.
pub fn state_names(config: &OptimizerConfig) -> &'static [&'static str] {
    match config {
        OptimizerConfig::Adamw(_) => &adamw::STATE,
        OptimizerConfig::Sgd(sgd) if sgd.momentum == 0.0 => &[],
        OptimizerConfig::Sgd(_) => &sgd::STATE,
    }
}
