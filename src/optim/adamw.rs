//! AdamW (Loshchilov and Hutter, 2019) through libtorch's fused kernel.

use tch::{Device, Kind, Tensor};

use super::{GradStats, Optimizer, cut};
use crate::{
    config::AdamwConfig,
    nn::{FlatRange, ParamStore, UpdatePiece},
    torch::{AdamwScalars, AdamwTensors, TorchError, fused_adamw},
};

/// Names of the state buffers.
pub const STATE: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// Both moments, and the views that the kernel works on.
pub struct Adamw {
    config: AdamwConfig,
    device: Device,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    decayed: Views,
    undecayed: Views,
}

/// Views of parameters, gradients and moments, piece by piece.
struct Views {
    pieces: Vec<UpdatePiece>,
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
        let (decayed, undecayed) = store
            .update_pieces(part)?
            .into_iter()
            .partition(|piece| piece.decays);
        let views = |pieces: Vec<UpdatePiece>| -> Result<Views, TorchError> {
            let of = |buffer: &Tensor| -> Result<Vec<Tensor>, TorchError> {
                pieces
                    .iter()
                    .map(|piece| cut(buffer, &piece.state))
                    .collect()
            };
            Ok(Views {
                exp_avgs: of(&exp_avg)?,
                exp_avg_sqs: of(&exp_avg_sq)?,
                pieces,
            })
        };
        let (decayed, undecayed) = (views(decayed)?, views(undecayed)?);
        Ok(Self {
            config,
            device: store.master().device(),
            exp_avg,
            exp_avg_sq,
            decayed,
            undecayed,
        })
    }
}

impl Optimizer for Adamw {
    fn update(&mut self, step: u64, lr: f64, grads: &GradStats) -> Result<(), TorchError> {
        let step = Tensor::f_full([], step as f64, (Kind::Float, self.device))?;
        for (views, weight_decay) in [
            (&self.decayed, self.config.weight_decay),
            (&self.undecayed, 0.0),
        ] {
            let params: Vec<&Tensor> = views.pieces.iter().map(|piece| &piece.param).collect();
            let grad_views: Vec<&Tensor> = views.pieces.iter().map(|piece| &piece.grad).collect();
            let exp_avgs: Vec<&Tensor> = views.exp_avgs.iter().collect();
            let exp_avg_sqs: Vec<&Tensor> = views.exp_avg_sqs.iter().collect();
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
