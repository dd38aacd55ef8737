//! Element types of what a rank keeps.

use tch::{Kind, Tensor};

use crate::{config::Precision, torch::TorchError};

/// A precision, and whether gradients are kept in the type that the model computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    precision: Precision,
    short_grads: bool,
}

impl Numbers {
    /// Gradients in the master's type.
    pub fn of(precision: Precision) -> Self {
        Self {
            precision,
            short_grads: false,
        }
    }

    /// Gradients in the model's own type, if `short`: where nothing is accumulated, nothing is lost but the sum
    /// over ranks.
    #[must_use]
    pub fn with_short_grads(self, short: bool) -> Self {
        Self {
            short_grads: short,
            ..self
        }
    }

    /// Of master weights and optimizer state.
    pub fn master(self) -> Kind {
        match self.precision {
            Precision::Fp64 => Kind::Double,
            Precision::Fp32 | Precision::Tf32 | Precision::Bf16 => Kind::Float,
        }
    }

    /// Of weights and activations.
    pub fn compute(self) -> Kind {
        match self.precision {
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp32 | Precision::Tf32 | Precision::Fp64 => self.master(),
        }
    }

    /// Of gradients.
    pub fn grads(self) -> Kind {
        match self.short_grads {
            true => self.compute(),
            false => self.master(),
        }
    }
}

/// Whether every element is a finite number; waits for the device.
///
/// # Errors
/// Whatever libtorch throws.
pub fn is_finite(tensor: &Tensor) -> Result<bool, TorchError> {
    Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}
