//! Stochastic gradient descent with momentum, as PyTorch defines it (no dampening, no Nesterov).

use tch::Tensor;

use super::{GradStats, Optimizer, cut};
use crate::{
    config::SgdConfig,
    nn::{FlatRange, ParamStore, UpdatePiece},
    torch::TorchError,
};

/// Names of the state buffers.
pub const STATE: [&str; 1] = ["momentum"];

/// The momentum buffer, where there is momentum.
pub struct Sgd {
    config: SgdConfig,
    momentum: Option<Tensor>,
    pieces: Vec<UpdatePiece>,
}

impl Sgd {
    /// Updates `part` of the store with the momentum in `state`, where there is one.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn new(
        config: SgdConfig,
        store: &ParamStore,
        state: Vec<Tensor>,
        part: &FlatRange,
    ) -> Result<Self, TorchError> {
        Ok(Self {
            config,
            momentum: state.into_iter().next(),
            pieces: store.update_pieces(part)?,
        })
    }

    /// Where the norm is no number, every change is zero; the host is not asked.
    fn update_piece(
        &self,
        piece: &UpdatePiece,
        lr: f64,
        grads: &GradStats,
    ) -> Result<(), TorchError> {
        let is_bad = grads.found_inf.f_ne(0.0)?;
        let mut direction = piece.grad.f_div(&grads.divisor)?;
        if piece.decays && self.config.weight_decay > 0.0 {
            direction = direction.f_add(&piece.param.f_mul_scalar(self.config.weight_decay)?)?;
        }
        if let Some(momentum) = &self.momentum {
            let mut momentum = cut(momentum, &piece.state)?;
            let moved = momentum
                .f_mul_scalar(self.config.momentum)?
                .f_add(&direction)?;
            momentum.f_copy_(&momentum.f_where_self(&is_bad, &moved)?)?;
            direction = moved;
        }
        let change = direction.f_mul_scalar(-lr)?.f_masked_fill(&is_bad, 0.0)?;
        let _ = piece.param.shallow_clone().f_add_(&change)?;
        Ok(())
    }
}

impl Optimizer for Sgd {
    fn update(&mut self, _: u64, lr: f64, grads: &GradStats) -> Result<(), TorchError> {
        let _guard = tch::no_grad_guard();
        self.pieces
            .iter()
            .try_for_each(|piece| self.update_piece(piece, lr, grads))
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        self.momentum
            .iter()
            .map(|momentum| (STATE[0], momentum))
            .collect()
    }
}
