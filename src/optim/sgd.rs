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
        let master = store.master();
        // Whether the norm is finite stays on the device: reading it would make the host wait for each step.
        // After a bad one every factor is neutral, also to the gradients, which then tell where it came from.
        let is_bad = grads.found_inf.f_gt(0.0)?;
        let factor = |value: f64, neutral: f64| {
            Tensor::f_full([], value, (master.kind(), master.device()))?
                .f_masked_fill(&is_bad, neutral)
        };
        let cut = |buffer: &Tensor, range: &FlatRange| {
            buffer.f_narrow(0, range.start, range.end - range.start)
        };
        let mut flat = cut(store.grads(), &self.part)?;
        let _ = flat.f_div_(&grads.divisor.f_masked_fill(&is_bad, 1.0)?)?;
        if self.config.weight_decay > 0.0 {
            let weight_decay = factor(self.config.weight_decay, 0.0)?;
            for range in &self.decayed {
                let decay = cut(master, range)?.f_mul(&weight_decay)?;
                let _ = cut(store.grads(), range)?.f_add_(&decay)?;
            }
        }
        // Not by a factor: 0 times NaN is NaN.
        let flat = flat.f_where_self(&is_bad.f_logical_not()?, &factor(0.0, 0.0)?)?;
        let direction = match &self.momentum {
            Some(momentum) => cut(momentum, &self.part)?
                .f_mul_(&factor(self.config.momentum, 1.0)?)?
                .f_add_(&flat)?,
            None => flat,
        };
        let _ = cut(master, &self.part)?.f_add_(&direction.f_mul(&factor(-lr, 0.0)?)?)?;
        Ok(())
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
        arch::{ModelShape, gpt::GptShape},
        config::Precision,
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
        let shape = GptShape {
            n_layer: 1,
            n_head: 2,
            d_model: 12,
            seq_len: 5,
            vocab_size: 7,
            bias: true,
            dropout: 0.0,
        };
        let segments = ModelShape::Gpt(shape).segments();
        ParamStore::new(&segments, precision, 1, Device::Cpu).expect("room")
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
        let sgd = Sgd::new(CONFIG, &store, state, &part);
        (store, sgd)
    }

    fn update(store: &ParamStore, sgd: &mut Sgd) {
        let stats = grad_stats(store.grads(), CONFIG.clip).expect("a norm");
        sgd.update(store, 1, LR, &stats).expect("updated");
    }

    fn is_same(a: &Tensor, b: &Tensor) -> bool {
        a.ne_tensor(b).sum(Kind::Int64).int64_value(&[]) == 0
    }

    #[test]
    fn a_finite_step_has_the_bits_of_the_plain_formula() {
        for precision in [Precision::Fp32, Precision::Fp64] {
            let (store, mut sgd) = ready(precision);
            let (mut master, mut momentum) = (store.master().copy(), sgd.state()[0].1.copy());
            let stats = grad_stats(store.grads(), CONFIG.clip).expect("a norm");
            let flat = store.grads() / &stats.divisor;
            for range in store.decay_ranges().0 {
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
