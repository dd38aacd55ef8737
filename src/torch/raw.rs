//! The bytes of contiguous CPU tensors as slices.

use std::{ffi::c_int, slice};

use tch::{Device, Kind, Tensor};

use super::TorchError;

/// A Rust type with the layout of a tensor's elements.
pub trait Element: Copy + 'static {
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for f64 {
    const KIND: Kind = Kind::Double;
}

impl Element for i64 {
    const KIND: Kind = Kind::Int64;
}

impl Element for half::bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// The elements of a contiguous CPU tensor.
///
/// # Errors
/// Another type, another device, or strides.
pub fn slice<T: Element>(tensor: &Tensor) -> Result<&[T], TorchError> {
    check::<T>(tensor)?;
    // SAFETY: checked type, device and contiguity; the borrow keeps the tensor alive.
    Ok(unsafe { slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) })
}

/// The elements of a contiguous CPU tensor, for writing past autograd (no version counter moves).
///
/// # Errors
/// Another type, another device, or strides.
pub fn slice_mut<T: Element>(tensor: &mut Tensor) -> Result<&mut [T], TorchError> {
    check::<T>(tensor)?;
    // SAFETY: checked type, device and contiguity; the exclusive borrow is of this handle, and the
    // callers are this program's initialisers and mask makers, which own the storage.
    Ok(unsafe { slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) })
}

/// The bytes of a contiguous CPU tensor, little-endian as this machine is.
///
/// # Errors
/// Another device, or strides.
pub fn bytes(tensor: &Tensor) -> Result<&[u8], TorchError> {
    check_host(tensor)?;
    let n_bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    // SAFETY: checked device and contiguity; the borrow keeps the tensor alive.
    Ok(unsafe { slice::from_raw_parts(tensor.data_ptr().cast(), n_bytes) })
}

/// libtorch's number of a type of elements; tch lists them in libtorch's order.
pub(super) const fn number_of_kind(kind: Kind) -> c_int {
    match kind {
        Kind::Float8e5m2 => 23,
        Kind::Float8e4m3fn => 24,
        Kind::Float8e5m2fnuz => 25,
        Kind::Float8e4m3fnuz => 26,
        in_order => in_order as c_int,
    }
}

/// A device as torch-sys takes it.
pub(super) const fn number_of_device(device: Device) -> c_int {
    match device {
        Device::Cpu => -1,
        Device::Cuda(index) => index as c_int,
        Device::Mps => -2,
        Device::Vulkan => -3,
    }
}

fn check<T: Element>(tensor: &Tensor) -> Result<(), TorchError> {
    if tensor.kind() != T::KIND {
        return Err(TorchError::new(&format!(
            "expected a {:?} tensor, got {:?}",
            T::KIND,
            tensor.kind()
        )));
    }
    check_host(tensor)
}

fn check_host(tensor: &Tensor) -> Result<(), TorchError> {
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(TorchError::new("expected a contiguous CPU tensor"));
    }
    Ok(())
}
