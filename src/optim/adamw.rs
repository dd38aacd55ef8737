//! AdamW (Loshchilov and Hutter, 2019) through libtorch's fused kernel.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::{GradStats, Optimizer, cut};
use crate::{
    config::AdamwConfig,
    nn::{FlatRange, ParamStore, UpdatePiece},
    torch::{AdamwScalars, AdamwTensors, NumberOps, TorchError, fused_adamw},
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

impl Views {
    /// One call for all pieces, or one for each where gradients are widened first.
    fn update(
        &self,
        step: &Tensor,
        grads: &GradStats,
        scalars: AdamwScalars,
    ) -> Result<(), TorchError> {
        let all = 0..self.pieces.len();
        let is_short = |piece: &UpdatePiece| piece.grad.kind() != piece.param.kind();
        if !self.pieces.iter().any(is_short) {
            let wide: Vec<&Tensor> = self.pieces.iter().map(|piece| &piece.grad).collect();
            return self.update_range(all, &wide, step, grads, scalars);
        }
        for number in all {
            let piece = &self.pieces[number];
            let wide = piece.grad.f_to_kind(piece.param.kind())?;
            self.update_range(number..number + 1, &[&wide], step, grads, scalars)?;
        }
        Ok(())
    }

    fn update_range(
        &self,
        range: Range<usize>,
        wide: &[&Tensor],
        step: &Tensor,
        grads: &GradStats,
        scalars: AdamwScalars,
    ) -> Result<(), TorchError> {
        let params: Vec<&Tensor> = self.pieces[range.clone()]
            .iter()
            .map(|piece| &piece.param)
            .collect();
        let exp_avgs: Vec<&Tensor> = self.exp_avgs[range.clone()].iter().collect();
        let exp_avg_sqs: Vec<&Tensor> = self.exp_avg_sqs[range].iter().collect();
        let tensors = AdamwTensors {
            params: &params,
            grads: wide,
            exp_avgs: &exp_avgs,
            exp_avg_sqs: &exp_avg_sqs,
            step,
            grad_scale: &grads.divisor,
            found_inf: &grads.found_inf,
        };
        fused_adamw(&tensors, scalars)
    }
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
        let step = Tensor::try_full(&[], step as f64, (Kind::Float, self.device))?;
        for (views, weight_decay) in [
            (&self.decayed, self.config.weight_decay),
            (&self.undecayed, 0.0),
        ] {
            let AdamwConfig { betas, eps, .. } = self.config;
            let scalars = AdamwScalars {
                lr,
                betas,
                weight_decay,
                eps,
            };
            views.update(&step, grads, scalars)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![(STATE[0], &self.exp_avg), (STATE[1], &self.exp_avg_sq)]
    }
}
