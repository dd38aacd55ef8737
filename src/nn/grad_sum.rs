//! A parameter's gradient that is made by hand, as a sum of matrix products.

use tch::{Kind, Tensor};

use super::ParamStore;
use crate::torch::TorchError;

/// The sum on its way into the place that the store has for it.
///
/// Rounding is no coarser than that of one product: where gradients are short, the sum is kept in fp32 until it is
/// whole.
pub struct GradSum {
    place: Tensor,
    /// Whether the place holds something of this step.
    is_filled: bool,
    /// The sum, where its place is too short to add to.
    wide: Option<Tensor>,
    /// A product of another type than the place, its memory used again for the next.
    product: Option<Tensor>,
}

impl ParamStore {
    /// Begins the gradient of an entry, which counts as filled from here on; see [`GradSum::finish`].
    ///
    /// # Errors
    /// The device has no room for a group's gradients that are staged.
    pub fn sum_grad(&mut self, entry: usize) -> Result<GradSum, TorchError> {
        let place = self.grad_view(entry)?;
        let is_filled = std::mem::replace(&mut self.filled[entry], true);
        Ok(GradSum::over(place, is_filled))
    }
}

impl GradSum {
    /// A sum that is added to what `place` holds if `is_filled`, and overwrites it else.
    pub fn over(place: Tensor, is_filled: bool) -> Self {
        Self {
            place,
            is_filled,
            wide: None,
            product: None,
        }
    }

    /// Adds `left @ right`, of the parameter's shape as this rank holds it.
    ///
    /// # Errors
    /// Shapes or types that don't fit, or no room.
    pub fn add_product(&mut self, left: &Tensor, right: &Tensor) -> Result<(), TorchError> {
        let is_short = self.place.kind() == Kind::BFloat16;
        if !is_short && left.kind() == self.place.kind() {
            let _ = match std::mem::replace(&mut self.is_filled, true) {
                true => self.place.f_addmm_(left, right)?,
                false => left.f_mm_out(&self.place, right)?,
            };
            return Ok(());
        }
        let product = match self.product.take() {
            Some(product) => left.f_mm_out(&product, right)?,
            None => left.f_mm(right)?,
        };
        match (is_short, &mut self.wide) {
            (false, _) => {
                let is_filled = std::mem::replace(&mut self.is_filled, true);
                put(&mut self.place, is_filled, &product)?;
            }
            (true, Some(wide)) => put(wide, true, &product)?,
            (true, empty) => *empty = Some(product.f_to_kind(Kind::Float)?),
        }
        self.product = Some(product);
        Ok(())
    }

    /// Brings the sum to its place; without it, short gradients are lost.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn finish(mut self) -> Result<(), TorchError> {
        match self.wide.take() {
            Some(wide) => put(&mut self.place, self.is_filled, &wide),
            None => Ok(()),
        }
    }
}

/// Adds to what is there, or takes its place.
fn put(place: &mut Tensor, is_filled: bool, value: &Tensor) -> Result<(), TorchError> {
    match is_filled {
        true => place.f_add_(value).map(|_| ())?,
        false => place.f_copy_(value)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{
        config::Precision,
        nn::{Numbers, Partition, testing::layout},
    };

    const WTE: usize = 0;

    fn store(numbers: Numbers) -> ParamStore {
        ParamStore::new(layout(1), Partition::NONE, numbers, 1, Device::Cpu).expect("room")
    }

    /// `n` pairs `[7, 5]`, `[5, 12]`.
    fn factors(n: i64, kind: Kind) -> Vec<(Tensor, Tensor)> {
        let ramp = |numel: i64, by: f64| {
            let ramp = Tensor::arange(numel, (Kind::Double, Device::Cpu));
            (ramp * by).sin().to_kind(kind)
        };
        let pair = |i: i64| {
            let by = 0.3 + i as f64;
            (ramp(35, by).view([7, 5]), ramp(60, 1.7 * by).view([5, 12]))
        };
        (0..n).map(pair).collect()
    }

    fn summed(store: &mut ParamStore, factors: &[(Tensor, Tensor)]) {
        let _guard = tch::no_grad_guard();
        let mut sum = store.sum_grad(WTE).expect("there");
        for (left, right) in factors {
            sum.add_product(left, right).expect("fits");
        }
        sum.finish().expect("brought");
    }

    fn apart(store: &ParamStore, expected: &Tensor) -> f64 {
        let found = store.named_view(store.grads(), "wte.weight");
        let found = found.expect("there").to_kind(Kind::Double);
        (found - expected).abs().max().double_value(&[])
    }

    fn exact(factors: &[(Tensor, Tensor)]) -> Tensor {
        let wide = |x: &Tensor| x.to_kind(Kind::Double);
        let products = factors.iter().map(|(l, r)| wide(l).mm(&wide(r)));
        products.sum()
    }

    #[test]
    fn a_sum_is_copied_first_and_added_later() {
        let mut store = store(Numbers::of(Precision::Fp64));
        let factors = factors(4, Kind::Double);
        for step in 0..2 {
            store.begin_step();
            summed(&mut store, &factors[..3]);
            summed(&mut store, &factors[3..]);
            let difference = apart(&store, &exact(&factors));
            assert!(difference < 1e-14, "step {step}: {difference:e}");
        }
        assert!(apart(&store, &exact(&factors[..3])) > 1e-2);
    }

    #[test]
    fn gradients_of_whole_passes_add_to_it() {
        let mut store = store(Numbers::of(Precision::Fp64));
        let factors = factors(2, Kind::Double);
        store.begin_step();
        summed(&mut store, &factors);
        let ones = Tensor::ones([7, 12], (Kind::Double, Device::Cpu));
        store.take_grad(WTE, &ones).expect("taken");
        assert!(apart(&store, &(exact(&factors) + 1.0)) < 1e-14);
    }

    /// Of each number: the largest that one rounding to bf16 (8 bits) can be off.
    fn rounding(x: &Tensor) -> f64 {
        x.abs().max().double_value(&[]) / 256.0
    }

    #[test]
    fn short_sums_are_rounded_once() {
        let factors = factors(64, Kind::BFloat16);
        let expected = exact(&factors);
        let each = factors.chunks(1).map(|pair| rounding(&exact(pair)));
        // The products' own roundings, of which as many go one way as the other.
        let of_products = each.fold(0.0, |sum: f64, each| sum.hypot(each));
        for (is_short, allowed) in [
            (false, of_products),
            (true, of_products + rounding(&expected)),
        ] {
            let mut store = store(Numbers::of(Precision::Bf16).with_short_grads(is_short));
            summed(&mut store, &factors);
            let difference = apart(&store, &expected);
            assert!(difference <= allowed, "short: {is_short}, {difference:e}");
        }
    }

    #[test]
    fn a_sum_that_is_rounded_at_each_product_is_worse() {
        let _guard = tch::no_grad_guard();
        let factors = factors(64, Kind::BFloat16);
        let expected = exact(&factors);
        let naive = factors.iter().map(|(left, right)| left.mm(right)).fold(
            Tensor::zeros([7, 12], (Kind::BFloat16, Device::Cpu)),
            |a, b| a + b,
        );
        let naive = (naive.to_kind(Kind::Double) - &expected).abs().max();
        let mut store = store(Numbers::of(Precision::Bf16).with_short_grads(true));
        summed(&mut store, &factors);
        assert!(2.0 * apart(&store, &expected) < naive.double_value(&[]));
    }
}
