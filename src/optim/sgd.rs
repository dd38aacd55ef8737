//! Stochastic gradient descent with momentum, as PyTorch defines it (no dampening, no Nesterov).

use tch::Tensor;

use super::{GradStats, Optimizer};
use crate::{
    config::SgdConfig,
    nn::{FlatRange, ParamStore},
    torch::TorchError,
};

/// Names of the state buffers.
pub const STATE: [&str; 1] = ["momentum"];

/// The momentum buffer, where there is momentum.
pub struct Sgd {
    config: SgdConfig,
    momentum: Option<Tensor>,
    decayed: Vec<FlatRange>,
}

impl Sgd {
    /// Momentum of zero.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(config: SgdConfig, store: &ParamStore) -> Result<Self, TorchError> {
        let momentum = (config.momentum != 0.0)
            .then(|| store.master().f_zeros_like())
            .transpose()?;
        Ok(Self {
            config,
            momentum,
            decayed: store.decay_ranges().0,
        })
    }
}

impl Optimizer for Sgd {
    fn update(
        &mut self,
        store: &ParamStore,
        _: u64,
        lr: f64,
        grads: &GradStats,
    ) -> Result<(), TorchError> {
        let _guard = tch::no_grad_guard();
        if grads.found_inf.f_double_value(&[])? != 0.0 {
            return Ok(());
        }
        let mut flat = store.grads().shallow_clone();
        let _ = flat.f_div_(&grads.divisor)?;
        if self.config.weight_decay > 0.0 {
            for range in &self.decayed {
                let part =
                    |buffer: &Tensor| buffer.f_narrow(0, range.start, range.end - range.start);
                let decay = part(store.master())?.f_mul_scalar(self.config.weight_decay)?;
                let _ = part(&flat)?.f_add_(&decay)?;
            }
        }
        let direction = match &mut self.momentum {
            Some(momentum) => momentum
                .f_mul_scalar_(self.config.momentum)?
                .f_add_(&flat)?,
            None => flat,
        };
        let _ = store
            .master()
            .shallow_clone()
            .f_add_(&direction.f_mul_scalar(-lr)?)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        self.momentum
            .iter()
            .map(|momentum| (STATE[0], momentum))
            .collect()
    }
}
