//! Stochastic gradient descent with momentum, as PyTorch defines it (no dampening, no Nesterov).

use tch::Tensor;

use super::{GradStats, Optimizer, cut};
use crate::{
    config::SgdConfig,
    nn::{FlatRange, ParamStore, UpdatePiece},
    torch::{NumberOps, TorchError},
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
        let is_bad = grads.found_inf.try_ne(0.0)?;
        let mut direction = piece
            .grad
            .f_to_kind(piece.param.kind())?
            .f_div(&grads.divisor)?;
        if piece.decays && self.config.weight_decay > 0.0 {
            direction = direction.f_add(&piece.param.try_mul(self.config.weight_decay)?)?;
        }
        if let Some(momentum) = &self.momentum {
            let mut momentum = cut(momentum, &piece.state)?;
            let moved = momentum.try_mul(self.config.momentum)?.f_add(&direction)?;
            momentum.f_copy_(&momentum.f_where_self(&is_bad, &moved)?)?;
            direction = moved;
        }
        let change = direction.try_mul(-lr)?.try_masked_fill(&is_bad, 0.0)?;
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

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::{
        config::Precision,
        nn::{Numbers, Partition, testing::layout},
        optim::grad_stats,
    };

    const CONFIG: SgdConfig = SgdConfig {
        lr: 0.3,
        momentum: 0.9,
        weight_decay: 0.01,
        clip: Some(1.0),
    };
    const LR: f64 = 0.3;

    fn store(precision: Precision) -> ParamStore {
        ParamStore::new(
            layout(1),
            Partition::NONE,
            Numbers::of(precision),
            1,
            Device::Cpu,
        )
        .expect("room")
    }

    fn waves(store: &ParamStore, scale: f64) -> Tensor {
        let len = store.master().size1().expect("flat");
        (Tensor::arange(len, (store.master().kind(), Device::Cpu)) * scale).sin()
    }

    /// A store with gradients, an optimizer with momentum.
    fn ready(precision: Precision) -> (ParamStore, Sgd) {
        let store = store(precision);
        store.grads().shallow_clone().copy_(&waves(&store, 0.7));
        let part = 0..store.master().size1().expect("flat");
        let state = vec![waves(&store, 0.3)];
        let sgd = Sgd::new(CONFIG, &store, state, &part).expect("views");
        (store, sgd)
    }

    fn update(store: &ParamStore, sgd: &mut Sgd) {
        let stats = grad_stats(store.grads().norm(), CONFIG.clip).expect("a norm");
        sgd.update(1, LR, &stats).expect("updated");
    }

    fn is_same(a: &Tensor, b: &Tensor) -> bool {
        a.ne_tensor(b).sum(Kind::Int64).int64_value(&[]) == 0
    }

    #[test]
    fn a_finite_step_has_the_bits_of_the_plain_formula() {
        for precision in [Precision::Fp32, Precision::Fp64] {
            let (store, mut sgd) = ready(precision);
            let (mut master, mut momentum) = (store.master().copy(), sgd.state()[0].1.copy());
            let stats = grad_stats(store.grads().norm(), CONFIG.clip).expect("a norm");
            let flat = store.grads() / &stats.divisor;
            let pieces = store.update_pieces(&store.everything()).expect("views");
            for piece in pieces.iter().filter(|piece| piece.decays) {
                let range = &piece.state;
                let cut = |buffer: &Tensor| buffer.narrow(0, range.start, range.end - range.start);
                let _ = cut(&flat).g_add_(&(cut(&master) * CONFIG.weight_decay));
            }
            let _ = momentum.g_mul_scalar_(CONFIG.momentum).g_add_(&flat);
            let _ = master.g_add_(&momentum.g_mul_scalar(-LR));
            update(&store, &mut sgd);
            assert!(is_same(store.master(), &master), "{precision:?}");
            assert!(is_same(sgd.state()[0].1, &momentum), "{precision:?}");
        }
    }

    #[test]
    fn a_norm_that_is_no_number_leaves_all_untouched() {
        let (store, mut sgd) = ready(Precision::Fp32);
        let _ = store.grads().narrow(0, 40, 1).fill_(f64::NAN);
        let before = (store.master().copy(), sgd.state()[0].1.copy());
        update(&store, &mut sgd);
        assert!(is_same(store.master(), &before.0));
        assert!(is_same(sgd.state()[0].1, &before.1));
        let n_bad = store.grads().isnan().sum(Kind::Int64).int64_value(&[]);
        assert_eq!(n_bad, 1, "the gradients still say where it came from");
    }
}
