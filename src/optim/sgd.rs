//! Stochastic gradient descent with momentum, as PyTorch defines it (no dampening, no Nesterov).

use tch::Tensor;

use super::{GradStats, Optimizer, within};
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
    part: FlatRange,
}

impl Sgd {
    /// Updates `part` of the store with the momentum in `state`, where there is one.
    pub fn new(
        config: SgdConfig,
        store: &ParamStore,
        state: Vec<Tensor>,
        part: &FlatRange,
    ) -> Self {
        let decayed = within(store.decay_ranges().0, part);
        Self {
            config,
            momentum: state.into_iter().next(),
            decayed,
            part: part.clone(),
        }
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
        let cut = |buffer: &Tensor, range: &FlatRange| {
            buffer.f_narrow(0, range.start, range.end - range.start)
        };
        let mut flat = cut(store.grads(), &self.part)?;
        let _ = flat.f_div_(&grads.divisor)?;
        if self.config.weight_decay > 0.0 {
            for range in &self.decayed {
                let decay = cut(store.master(), range)?.f_mul_scalar(self.config.weight_decay)?;
                let _ = cut(store.grads(), range)?.f_add_(&decay)?;
            }
        }
        let direction = match &self.momentum {
            Some(momentum) => cut(momentum, &self.part)?
                .f_mul_scalar_(self.config.momentum)?
                .f_add_(&flat)?,
            None => flat,
        };
        let _ = cut(store.master(), &self.part)?.f_add_(&direction.f_mul_scalar(-lr)?)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        self.momentum
            .iter()
            .map(|momentum| (STATE[0], momentum))
            .collect()
    }
}
