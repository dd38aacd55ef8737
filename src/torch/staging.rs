//! Copies between host and device through pinned memory, at the full speed of the bus.
//!
//! Out of or into other host memory a GPU copies through a small buffer of the driver's, at a fraction of that speed, and
//! the host waits for each copy.

use std::ptr;

use tch::{Device, Kind, Tensor};

use super::{
    TorchError, raw, shim,
    stream::{Event, Stream, Timing},
};

/// Bytes of one of the two buffers that a long copy goes through.
const CHUNK_BYTES: i64 = 32 << 20;

/// Integers on a GPU, in one copy behind what was launched before; the host does not wait.
///
/// # Errors
/// No room, here or there.
pub fn integers(values: &[i64], device: Device) -> Result<Tensor, TorchError> {
    let mut host = pinned(values.len() as i64, Kind::Int64)?;
    raw::slice_mut::<i64>(&mut host)?.copy_from_slice(values);
    // The pinned memory is not handed out again before the copy is done: its allocator sees to that.
    Ok(host.f_to_device_(device, Kind::Int64, true, false)?)
}

/// Copies a tensor into another of as many elements, wherever both lie, converting on the side of `from`.
///
/// Returns when `from` may be changed; where `to` is on a GPU, what is launched later sees the copy.
///
/// # Errors
/// Tensors of different sizes, no room for the buffers, or a device fault.
pub fn copy(from: &Tensor, to: &Tensor) -> Result<(), TorchError> {
    let _guard = tch::no_grad_guard();
    match (from.device(), to.device()) {
        (Device::Cuda(gpu), Device::Cpu) => through_host(from, to, gpu, Way::Down),
        (Device::Cpu, Device::Cuda(gpu)) => through_host(from, to, gpu, Way::Up),
        _ => Ok(to
            .shallow_clone()
            .f_copy_(&from.f_reshape(to.size().as_slice())?)?),
    }
}

/// From a GPU, or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

/// One of two buffers: while the GPU copies to or from it, the host does with the other.
struct Buffer {
    pinned: Tensor,
    /// The GPU is done with it.
    done: Event,
    /// Where its elements go, once they are in it.
    to: Option<Tensor>,
}

impl Buffer {
    fn new(len: i64, kind: Kind) -> Result<Self, TorchError> {
        Ok(Self {
            pinned: pinned(len, kind)?,
            done: Event::new(Timing::Off)?,
            to: None,
        })
    }

    /// Waits for the copy that was started with it, and empties it.
    fn settle(&mut self) -> Result<(), TorchError> {
        if let Some(mut to) = self.to.take() {
            self.done.synchronize()?;
            if to.device() == Device::Cpu {
                to.f_copy_(&self.pinned.f_narrow(0, 0, to.size()[0])?)?;
            }
        }
        Ok(())
    }
}

fn through_host(from: &Tensor, to: &Tensor, gpu: usize, way: Way) -> Result<(), TorchError> {
    let kind = to.kind();
    let from = from.f_to_kind(kind)?.f_reshape([-1])?;
    let to = to.f_view([-1])?;
    let (len, stream) = (from.size()[0], Stream::current(gpu)?);
    let step = (CHUNK_BYTES / kind.elt_size_in_bytes() as i64).min(len.max(1));
    let mut buffers = [Buffer::new(step, kind)?, Buffer::new(step, kind)?];
    let mut done = 0;
    while done < len {
        let n = step.min(len - done);
        let (from, to) = (from.f_narrow(0, done, n)?, to.f_narrow(0, done, n)?);
        let [buffer, _] = &mut buffers;
        buffer.settle()?;
        let mut part = buffer.pinned.f_narrow(0, 0, n)?;
        match way {
            Way::Down => start_copy(&from, &part)?,
            Way::Up => {
                part.f_copy_(&from)?;
                start_copy(&part, &to)?;
            }
        }
        stream.record(&buffer.done)?;
        buffer.to = Some(to);
        buffers.swap(0, 1);
        done += n;
    }
    buffers.iter_mut().try_for_each(Buffer::settle)
}

fn pinned(len: i64, kind: Kind) -> Result<Tensor, TorchError> {
    let mut result = ptr::null_mut();
    // SAFETY: `result` outlives the call.
    shim::check(unsafe { shim::capstan_pinned(len, raw::number_of_kind(kind), &raw mut result) })?;
    // SAFETY: without an error the shim has stored a new handle that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(result) })
}

fn start_copy(from: &Tensor, to: &Tensor) -> Result<(), TorchError> {
    let (to, from) = (to.as_ptr().cast_mut(), from.as_ptr().cast_mut());
    // SAFETY: both tensors outlive the call; the device's stream and the pinned memory's allocator keep the memory.
    shim::check(unsafe { shim::capstan_start_copy(to, from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_host_alone_it_is_a_plain_copy() {
        let from = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        let to = Tensor::zeros([6], (Kind::BFloat16, Device::Cpu));
        copy(&from, &to).expect("copied");
        assert!(to.equal(&from.view([6]).to_kind(Kind::BFloat16)));
        let other_size = Tensor::zeros([5], (Kind::Float, Device::Cpu));
        assert!(copy(&from, &other_size).is_err());
    }
}
