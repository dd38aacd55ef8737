//! Operators that take a number besides a tensor, as errors and never as panics.
//!
//! tch makes such a number an object whose destructor looks for an error of libtorch's and unwraps what it finds. Where
//! the operator itself has failed, that is the operator's own error, and the thread panics instead of returning it. So
//! tch's functions with a number are disallowed (`clippy.toml`), and these stand in for those that are needed.

use std::{ffi::CStr, ptr};

use tch::{Device, Kind, Tensor};
use torch_sys::{C_scalar, C_tensor, c_generated as operators};

use super::{TorchError, raw};

/// A number as an operator takes it: libtorch computes integers with integers, and rounds others to the tensor's type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Int(i64),
    Float(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// libtorch's form of a number, freed without a look at pending errors.
struct Scalar(*mut C_scalar);

impl Scalar {
    fn new(number: Number) -> Result<Self, TorchError> {
        // SAFETY: plain numbers; the result is a new object, or null with the error pending.
        let scalar = unsafe {
            match number {
                Number::Int(value) => torch_sys::ats_int(value),
                Number::Float(value) => torch_sys::ats_float(value),
            }
        };
        take_error()?;
        Ok(Self(scalar))
    }
}

impl Drop for Scalar {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { torch_sys::ats_free(self.0) }
    }
}

/// The error that the thread's last call through torch-sys left, if it left one.
fn take_error() -> Result<(), TorchError> {
    // SAFETY: the string, where there is one, is the caller's: read once, then freed as C made it.
    unsafe {
        let text = torch_sys::get_and_reset_last_err();
        if text.is_null() {
            return Ok(());
        }
        let error = TorchError::new(&CStr::from_ptr(text).to_string_lossy());
        libc::free(text.cast());
        Err(error)
    }
}

/// Calls an operator that stores one new handle.
fn call(operator: impl FnOnce(*mut *mut C_tensor)) -> Result<Tensor, TorchError> {
    let mut result = ptr::null_mut();
    operator(&raw mut result);
    take_error()?;
    // SAFETY: without an error the operator has stored a handle that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(result) })
}

fn handle(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// A tensor, a number, a new tensor.
macro_rules! tensor_with_number {
    ($($name:ident => $operator:ident)*) => {$(
        fn $name(&self, number: impl Into<Number>) -> Result<Tensor, TorchError> {
            let number = Scalar::new(number.into())?;
            // SAFETY: both objects outlive the call.
            call(|result| unsafe { operators::$operator(result, handle(self), number.0) })
        }
    )*};
}

/// A tensor and a number; the tensor is changed in place.
macro_rules! tensor_by_number {
    ($($name:ident => $operator:ident)*) => {$(
        fn $name(&mut self, number: impl Into<Number>) -> Result<(), TorchError> {
            let number = Scalar::new(number.into())?;
            // SAFETY: both objects outlive the call; the borrow of this handle is exclusive.
            call(|result| unsafe { operators::$operator(result, handle(self), number.0) }).map(drop)
        }
    )*};
}

/// tch's operators with a number, under `try_` and libtorch's name. Each fails with what libtorch throws.
pub trait NumberOps: Sized {
    /// The sum with a number.
    ///
    /// # Errors
    /// Whatever libtorch throws, as everywhere in this trait.
    fn try_add(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// The difference from a number.
    fn try_sub(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// The product with a number.
    fn try_mul(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// The quotient by a number.
    fn try_div(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// Whether each element is less than a number.
    fn try_lt(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// Whether each element is at least a number.
    fn try_ge(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// Whether each element equals a number.
    fn try_eq(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// Whether each element differs from a number.
    fn try_ne(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// The greater of each element and a number.
    fn try_clamp_min(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// A tensor of this shape, type and device, full of a number.
    fn try_full_like(&self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// A copy with a number wherever `mask` is true.
    fn try_masked_fill(&self, mask: &Self, number: impl Into<Number>) -> Result<Self, TorchError>;
    /// The norm of order `p` over all elements, computed and returned in `kind`.
    fn try_norm(&self, p: impl Into<Number>, kind: Kind) -> Result<Self, TorchError>;
    /// Writes each integer, shifted right by `n` bits with copies of its sign, to `out`.
    fn try_shift_right_out(&self, n: i64, out: &mut Self) -> Result<(), TorchError>;
    /// Sets all elements to a number.
    fn try_fill_(&mut self, number: impl Into<Number>) -> Result<(), TorchError>;
    /// Adds a number to all elements.
    fn try_add_(&mut self, number: impl Into<Number>) -> Result<(), TorchError>;
    /// Multiplies all elements by a number; integers wrap.
    fn try_mul_(&mut self, number: impl Into<Number>) -> Result<(), TorchError>;
    /// Keeps the bits that are set in a number too.
    fn try_bitwise_and_(&mut self, number: impl Into<Number>) -> Result<(), TorchError>;
    /// Flips the bits that are set in a number.
    fn try_bitwise_xor_(&mut self, number: impl Into<Number>) -> Result<(), TorchError>;
    /// A tensor full of a number.
    fn try_full(
        shape: &[i64],
        number: impl Into<Number>,
        options: (Kind, Device),
    ) -> Result<Self, TorchError>;
    /// The integers from `start` up to `end`, without `end`.
    fn try_arange(start: i64, end: i64, options: (Kind, Device)) -> Result<Self, TorchError>;
}

impl NumberOps for Tensor {
    tensor_with_number! {
        try_add => atg_add_scalar
        try_sub => atg_sub_scalar
        try_mul => atg_mul_scalar
        try_div => atg_div_scalar
        try_lt => atg_lt
        try_ge => atg_ge
        try_eq => atg_eq
        try_ne => atg_ne
        try_clamp_min => atg_clamp_min
        try_full_like => atg_full_like
    }

    tensor_by_number! {
        try_fill_ => atg_fill_
        try_add_ => atg_add_scalar_
        try_mul_ => atg_mul_scalar_
        try_bitwise_and_ => atg_bitwise_and_
        try_bitwise_xor_ => atg_bitwise_xor_
    }

    fn try_masked_fill(&self, mask: &Self, number: impl Into<Number>) -> Result<Self, TorchError> {
        let number = Scalar::new(number.into())?;
        // SAFETY: all objects outlive the call.
        call(|result| unsafe {
            operators::atg_masked_fill(result, handle(self), handle(mask), number.0);
        })
    }

    fn try_norm(&self, p: impl Into<Number>, kind: Kind) -> Result<Self, TorchError> {
        let p = Scalar::new(p.into())?;
        // SAFETY: both objects outlive the call.
        call(|result| unsafe {
            operators::atg_norm_scalaropt_dtype(
                result,
                handle(self),
                p.0,
                raw::number_of_kind(kind),
            );
        })
    }

    fn try_shift_right_out(&self, n: i64, out: &mut Self) -> Result<(), TorchError> {
        let n = Scalar::new(n.into())?;
        // SAFETY: all objects outlive the call; the borrow of `out`'s handle is exclusive.
        call(|result| unsafe {
            operators::atg_bitwise_right_shift_tensor_scalar_out(
                result,
                handle(out),
                handle(self),
                n.0,
            );
        })
        .map(drop)
    }

    fn try_full(
        shape: &[i64],
        number: impl Into<Number>,
        (kind, device): (Kind, Device),
    ) -> Result<Self, TorchError> {
        let number = Scalar::new(number.into())?;
        let (sizes, n_sizes) = (shape.as_ptr(), shape.len() as i32);
        // SAFETY: the shape and the number outlive the call.
        call(|result| unsafe {
            operators::atg_full(
                result,
                sizes,
                n_sizes,
                number.0,
                raw::number_of_kind(kind),
                raw::number_of_device(device),
            );
        })
    }

    fn try_arange(
        start: i64,
        end: i64,
        (kind, device): (Kind, Device),
    ) -> Result<Self, TorchError> {
        let (start, end) = (Scalar::new(start.into())?, Scalar::new(end.into())?);
        // SAFETY: both numbers outlive the call.
        call(|result| unsafe {
            operators::atg_arange_start(
                result,
                start.0,
                end.0,
                raw::number_of_kind(kind),
                raw::number_of_device(device),
            );
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// A tensor whose shape no other agrees with.
    fn five() -> Tensor {
        Tensor::try_arange(0, 5, FLOATS).expect("room")
    }

    #[test]
    fn each_operator_does_what_its_name_says() {
        let x = five();
        let values = |result: Result<Tensor, TorchError>| -> Vec<f64> {
            let wide = result.expect("computed").to_kind(Kind::Double);
            Vec::try_from(wide.view([-1])).expect("readable")
        };
        assert_eq!(values(x.try_add(0.5)), [0.5, 1.5, 2.5, 3.5, 4.5]);
        assert_eq!(values(x.try_sub(1)), [-1.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(values(x.try_mul(3)), [0.0, 3.0, 6.0, 9.0, 12.0]);
        assert_eq!(values(x.try_div(2.0)), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(values(x.try_lt(2)), [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(values(x.try_ge(2)), [0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(values(x.try_ne(2)), [1.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(values(x.try_clamp_min(2.5)), [2.5, 2.5, 2.5, 3.0, 4.0]);
        assert_eq!(values(x.try_full_like(7)), [7.0; 5]);
        let is_low = x.try_lt(2).expect("compared");
        assert_eq!(
            values(x.try_masked_fill(&is_low, -1.0)),
            [-1.0, -1.0, 2.0, 3.0, 4.0]
        );
        assert_eq!(values(x.try_norm(1, Kind::Double)), [10.0]);
        assert_eq!(values(Tensor::try_full(&[2], 0.25, FLOATS)), [0.25; 2]);
        let mut x = Tensor::try_arange(-2, 2, (Kind::Int64, Device::Cpu)).expect("room");
        let mut shifted = x.empty_like();
        x.try_shift_right_out(1, &mut shifted).expect("shifted");
        assert_eq!(values(Ok(shifted)), [-1.0, -1.0, 0.0, 0.0]);
        x.try_mul_(3).expect("multiplied");
        x.try_add_(1).expect("added");
        assert_eq!(values(Ok(x.shallow_clone())), [-5.0, -2.0, 1.0, 4.0]);
        x.try_bitwise_and_(6).expect("cut");
        x.try_bitwise_xor_(1).expect("flipped");
        assert_eq!(values(Ok(x.shallow_clone())), [3.0, 7.0, 1.0, 5.0]);
        x.try_fill_(9).expect("filled");
        assert_eq!(values(Ok(x)), [9.0; 4]);
    }

    #[test]
    fn types_keep_their_number() {
        for kind in [
            Kind::Uint8,
            Kind::Int,
            Kind::Int64,
            Kind::Half,
            Kind::Float,
            Kind::Double,
            Kind::Bool,
            Kind::BFloat16,
            Kind::Float8e4m3fn,
        ] {
            let one = Tensor::try_full(&[1], 1.0, (kind, Device::Cpu)).expect("room");
            assert_eq!(one.kind(), kind);
        }
    }

    #[test]
    fn a_failing_operator_is_an_error_of_one_line_and_the_thread_goes_on() {
        let x = five();
        let other_shape = Tensor::zeros([3], (Kind::Bool, Device::Cpu));
        let huge = [1i64 << 44];
        let no_gpu = Tensor::try_full(&[1], 1.0, (Kind::Float, Device::Cuda(0)));
        for failed in [
            x.try_masked_fill(&other_shape, 0.0),
            Tensor::try_full(&huge, 0.0, FLOATS),
            x.to_kind(Kind::Bool).try_norm(2, Kind::Bool),
            no_gpu,
        ] {
            let error = failed.expect_err("it can't be computed");
            assert!(!error.message.contains('\n'), "{error}");
            assert!(!error.message.is_empty());
        }
        assert!(x.f_add(&x).is_ok(), "no error is left behind");
    }

    #[test]
    fn tch_s_own_form_still_panics() {
        let x = five();
        let other_shape = Tensor::zeros([3], (Kind::Bool, Device::Cpu));
        #[expect(
            clippy::disallowed_methods,
            reason = "the trap that this file is about"
        )]
        let sprung = std::panic::catch_unwind(|| x.f_masked_fill(&other_shape, 0.0).is_ok());
        assert!(
            sprung.is_err(),
            "this file and its list in clippy.toml can go"
        );
    }
}
