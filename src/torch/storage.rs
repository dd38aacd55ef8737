//! Storages whose memory comes and goes.

use std::ptr;

use tch::{Device, Kind, Tensor};

use super::{TorchError, shim};

/// A flat tensor that stands on the memory of another, or on none; views of it follow.
///
/// What autograd saved holds the storage, not the memory. No version counter moves.
#[derive(Debug)]
pub struct Movable {
    tensor: Tensor,
    ground: Option<Tensor>,
}

impl Movable {
    /// A tensor that stands on no memory.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn new(len: i64, kind: Kind, device: Device) -> Result<Self, TorchError> {
        let tensor = Tensor::f_empty([len], (kind, device))?;
        let mut this = Self {
            tensor,
            ground: None,
        };
        this.point_at(ptr::null_mut())?;
        Ok(this)
    }

    /// The tensor, to take views of.
    pub const fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// What it stands on.
    pub const fn ground(&self) -> Option<&Tensor> {
        self.ground.as_ref()
    }

    /// Lets it stand on the memory of `ground`, which it keeps until it is lifted.
    ///
    /// # Errors
    /// `ground` is smaller, of another type or on another device.
    pub fn stand_on(&mut self, ground: Tensor) -> Result<(), TorchError> {
        let fits = ground.numel() >= self.tensor.numel()
            && ground.kind() == self.tensor.kind()
            && ground.device() == self.tensor.device()
            && ground.is_contiguous();
        if !fits {
            return Err(TorchError::new("a storage can't stand on that memory"));
        }
        self.point_at(ground.data_ptr())?;
        self.ground = Some(ground);
        Ok(())
    }

    /// Takes the ground away.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn lift(&mut self) -> Result<Option<Tensor>, TorchError> {
        self.point_at(ptr::null_mut())?;
        Ok(self.ground.take())
    }

    fn point_at(&mut self, data: *mut std::ffi::c_void) -> Result<(), TorchError> {
        // SAFETY: the tensor is alive; `data` is null or the start of enough memory on the same device,
        // which `ground` keeps alive.
        shim::check(unsafe { shim::capstan_point_storage(self.tensor.as_ptr().cast_mut(), data) })
    }
}

impl Drop for Movable {
    fn drop(&mut self) {
        // Views may live on; they find no memory rather than another's.
        let _ = self.lift();
    }
}
