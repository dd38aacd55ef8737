//! AdamW (Loshchilov and Hutter, 2019) through libtorch's fused kernel.

use tch::{Kind, Tensor};

use super::{GradStats, Optimizer, within};
use crate::{
    config::AdamwConfig,
    nn::{FlatRange, ParamStore},
    torch::{AdamwScalars, AdamwTensors, TorchError, fused_adamw},
};

/// Names of the state buffers.
pub const STATE: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// Both moments, and the views that the kernel works on.
pub struct Adamw {
    config: AdamwConfig,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    decayed: Views,
    undecayed: Views,
}

/// Views of parameters, gradients and moments, range by range.
struct Views {
    params: Vec<Tensor>,
    grads: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
}

impl Adamw {
    /// Updates `part` of the store with the two moments in `state`.
    ///
    /// # Errors
    /// `state` is not two moments.
    pub fn new(
        config: AdamwConfig,
        store: &ParamStore,
        state: Vec<Tensor>,
        part: &FlatRange,
    ) -> Result<Self, TorchError> {
        let [exp_avg, exp_avg_sq] = <[Tensor; 2]>::try_from(state).map_err(|state| {
            TorchError::new(&format!("AdamW has two moments, not {}", state.len()))
        })?;
        let (decayed, undecayed) = store.decay_ranges();
        let (decayed, undecayed) = (within(decayed, part), within(undecayed, part));
        let views = |ranges: &[FlatRange]| -> Result<Views, TorchError> {
            Ok(Views {
                params: cut(store.master(), ranges)?,
                grads: cut(store.grads(), ranges)?,
                exp_avgs: cut(&exp_avg, ranges)?,
                exp_avg_sqs: cut(&exp_avg_sq, ranges)?,
            })
        };
        let (decayed, undecayed) = (views(&decayed)?, views(&undecayed)?);
        Ok(Self {
            config,
            exp_avg,
            exp_avg_sq,
            decayed,
            undecayed,
        })
    }
}

impl Optimizer for Adamw {
    fn update(
        &mut self,
        store: &ParamStore,
        step: u64,
        lr: f64,
        grads: &GradStats,
    ) -> Result<(), TorchError> {
        let step = Tensor::f_full([], step as f64, (Kind::Float, store.master().device()))?;
        for (views, weight_decay) in [
            (&self.decayed, self.config.weight_decay),
            (&self.undecayed, 0.0),
        ] {
            let [params, grad_views] =
                [&views.params, &views.grads].map(|tensors| references(tensors));
            let [exp_avgs, exp_avg_sqs] =
                [&views.exp_avgs, &views.exp_avg_sqs].map(|tensors| references(tensors));
            let tensors = AdamwTensors {
                params: &params,
                grads: &grad_views,
                exp_avgs: &exp_avgs,
                exp_avg_sqs: &exp_avg_sqs,
                step: &step,
                grad_scale: &grads.divisor,
                found_inf: &grads.found_inf,
            };
            let AdamwConfig { betas, eps, .. } = self.config;
            fused_adamw(
                &tensors,
                AdamwScalars {
                    lr,
                    betas,
                    weight_decay,
                    eps,
                },
            )?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![(STATE[0], &self.exp_avg), (STATE[1], &self.exp_avg_sq)]
    }
}

fn cut(buffer: &Tensor, ranges: &[FlatRange]) -> Result<Vec<Tensor>, TorchError> {
    ranges
        .iter()
        .map(|range| Ok(buffer.f_narrow(0, range.start, range.end - range.start)?))
        .collect()
}

fn references(tensors: &[Tensor]) -> Vec<&Tensor> {
    tensors.iter().collect()
}
