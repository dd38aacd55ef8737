//! The global gradient norm and the factor that clipping asks for, both on the device.

use tch::{Device, Kind, Tensor};

use crate::torch::{NumberOps, TorchError};

/// PyTorch's guard against a norm of 0 in `clip_grad_norm_`.
const NORM_EPS: f64 = 1e-6;

/// What the optimizer needs to know about all gradients together; no host synchronisation.
pub struct GradStats {
    /// Euclidean norm before clipping, one number.
    pub norm: Tensor,
    /// Gradients are to be divided by this, one fp32 number of at least 1.
    pub divisor: Tensor,
    /// 1 where the norm is no number, else 0; one fp32 number. The update is given up then.
    pub found_inf: Tensor,
}

impl GradStats {
    /// Gives the update up too where an earlier one was: the host reads a norm when the next update has been launched.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn after(self, earlier: Option<&Tensor>) -> Result<Self, TorchError> {
        let found_inf = match earlier {
            Some(earlier) => self.found_inf.f_maximum(earlier)?,
            None => self.found_inf,
        };
        Ok(Self { found_inf, ..self })
    }
}

/// The sum of squares of several stretches of gradients, one fp64 number: ranks add theirs up.
///
/// # Errors
/// Whatever libtorch throws.
pub fn square_sum(grads: &[Tensor], device: Device) -> Result<Tensor, TorchError> {
    let mut sum = Tensor::f_zeros([1], (Kind::Double, device))?;
    for part in grads {
        let _ = sum.f_add_(&norm(part)?.f_to_kind(Kind::Double)?.f_square()?)?;
    }
    Ok(sum)
}

/// The Euclidean norm of a stretch of gradients, in at least fp32; one number.
///
/// # Errors
/// Whatever libtorch throws.
pub fn norm(grads: &Tensor) -> Result<Tensor, TorchError> {
    Ok(match grads.kind() {
        Kind::BFloat16 => grads.try_norm(2, Kind::Float)?,
        _ => grads.f_norm()?,
    })
}

/// What follows from the global norm.
///
/// # Errors
/// Whatever libtorch throws.
pub fn grad_stats(norm: Tensor, clip: Option<f64>) -> Result<GradStats, TorchError> {
    let divisor = match clip {
        Some(clip) => norm.try_add(NORM_EPS)?.try_div(clip)?.try_clamp_min(1.0)?,
        None => norm.f_ones_like()?,
    };
    let found_inf = norm.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?;
    Ok(GradStats {
        divisor: divisor.f_to_kind(Kind::Float)?,
        norm,
        found_inf,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(grads: &[f32], clip: Option<f64>) -> GradStats {
        grad_stats(Tensor::from_slice(grads).norm(), clip).expect("readable")
    }

    #[test]
    fn squares_of_all_parts_are_added() {
        let parts = [Tensor::from_slice(&[3.0f32]), Tensor::from_slice(&[4.0f32])];
        let sum = square_sum(&parts, Device::Cpu).expect("readable");
        assert!((sum.double_value(&[0]) - 25.0).abs() < 1e-12);
    }

    #[test]
    fn long_gradients_are_divided_to_the_clip() {
        let stats = stats(&[3.0, 4.0], Some(1.0));
        assert!((stats.norm.double_value(&[]) - 5.0).abs() < 1e-6);
        assert!((stats.divisor.double_value(&[]) - 5.0).abs() < 1e-5);
    }

    #[test]
    fn short_gradients_stay() {
        let stats = stats(&[0.3, 0.4], Some(1.0));
        assert_eq!(stats.divisor.double_value(&[]), 1.0);
        assert_eq!(stats.found_inf.double_value(&[]), 0.0);
    }

    #[test]
    fn an_update_after_one_that_was_given_up_is_given_up_too() {
        let found = |stats: &GradStats| stats.found_inf.double_value(&[]);
        let [good, bad, later] =
            [[0.3, 0.4], [f32::NAN, 0.4], [0.3, 0.4]].map(|grads| stats(&grads, None));
        let good = good.after(None).expect("readable");
        let bad = bad.after(Some(&good.found_inf)).expect("readable");
        let later = later.after(Some(&bad.found_inf)).expect("readable");
        assert_eq!([&good, &bad, &later].map(found), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_norm_that_is_no_number_is_found() {
        let stats = stats(&[f32::NAN, 0.4], None);
        assert_eq!(stats.found_inf.double_value(&[]), 1.0);
    }
}
