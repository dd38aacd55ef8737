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

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::{
        config::Precision,
        nn::{Numbers, Partition, testing::layout},
    };

    /// Copies of the weights and of all state.
    fn standing(store: &ParamStore, optimizer: &dyn Optimizer) -> Vec<Tensor> {
        let state = optimizer.state().into_iter().map(|(_, state)| state.copy());
        state.chain([store.master().copy()]).collect()
    }

    #[test]
    fn after_an_update_that_was_given_up_the_next_one_changes_nothing() {
        for config in [
            r#"{"adamw":{"lr":0.1}}"#,
            r#"{"sgd":{"lr":0.1,"momentum":0.9}}"#,
        ] {
            let config: OptimizerConfig = serde_json::from_str(config).expect("well-formed");
            let numbers = Numbers::of(Precision::Fp32);
            let store = ParamStore::new(layout(1), Partition::NONE, numbers, 1, Device::Cpu);
            let store = store.expect("room");
            let state = new_state(&config, &store).expect("room");
            let mut optimizer = build(&config, &store, state, &store.everything()).expect("built");
            let mut found_inf: Option<Tensor> = None;
            let mut update = |grad: f64, step: u64| {
                let _ = store.grads().shallow_clone().fill_(grad);
                let norm = norm(store.grads()).expect("a norm");
                let stats = grad_stats(norm, Some(1.0)).expect("readable");
                let stats = stats.after(found_inf.as_ref()).expect("readable");
                let before = standing(&store, optimizer.as_ref());
                optimizer.update(step, 0.1, &stats).expect("updated");
                let after = standing(&store, optimizer.as_ref());
                found_inf = Some(stats.found_inf);
                before
                    .iter()
                    .zip(&after)
                    .all(|(before, after)| before.equal(after))
            };
            assert!(!update(0.5, 1), "{config:?}: a good step");
            assert!(update(f64::NAN, 2), "{config:?}: the bad one");
            assert!(
                update(0.5, 3),
                "{config:?}: launched before the host has read the bad one"
            );
            assert_eq!(store.master().isnan().sum(Kind::Int64).int64_value(&[]), 0);
        }
    }
}
