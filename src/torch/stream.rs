//! CUDA streams and events through libtorch's device-generic interfaces.

use std::{ffi::c_void, ptr};

use super::{TorchError, shim};

/// A stream from libtorch's pool; it lives as long as the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    device: usize,
    id: i64,
}

impl Stream {
    /// Takes the next stream of a GPU's pool.
    ///
    /// # Errors
    /// No CUDA, or no such device.
    pub fn from_pool(device: usize) -> Result<Self, TorchError> {
        let mut id = 0;
        // SAFETY: `id` outlives the call.
        shim::check(unsafe { shim::capstan_stream_from_pool(device as i32, &raw mut id) })?;
        Ok(Self { device, id })
    }

    /// The calling thread's current stream on a GPU.
    ///
    /// # Errors
    /// No CUDA, or no such device.
    pub fn current(device: usize) -> Result<Self, TorchError> {
        let mut id = 0;
        // SAFETY: `id` outlives the call.
        shim::check(unsafe { shim::capstan_stream_current(device as i32, &raw mut id) })?;
        Ok(Self { device, id })
    }

    /// Makes this the calling thread's current stream: later libtorch calls launch on it.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn make_current(self) -> Result<(), TorchError> {
        // SAFETY: plain numbers that name a pool stream.
        shim::check(unsafe { shim::capstan_stream_make_current(self.device as i32, self.id) })
    }

    /// The `cudaStream_t`.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn handle(self) -> Result<*mut c_void, TorchError> {
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        shim::check(unsafe {
            shim::capstan_stream_handle(self.device as i32, self.id, &raw mut handle)
        })?;
        Ok(handle)
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn record(self, event: &Event) -> Result<(), TorchError> {
        // SAFETY: the event is alive and used by one thread at a time.
        shim::check(unsafe { shim::capstan_event_record(event.0, self.device as i32, self.id) })
    }

    /// Lets later work of this stream wait for the event; the host goes on.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn wait_for(self, event: &Event) -> Result<(), TorchError> {
        // SAFETY: the event is alive and used by one thread at a time.
        shim::check(unsafe { shim::capstan_event_block(event.0, self.device as i32, self.id) })
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event(*mut c_void);

// SAFETY: a CUDA event may be used from any thread, one at a time; the type is not `Sync`.
unsafe impl Send for Event {}

/// Whether an event can tell time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    Off,
    On,
}

impl Event {
    /// Makes an event that nothing has recorded.
    ///
    /// # Errors
    /// No CUDA.
    pub fn new(timing: Timing) -> Result<Self, TorchError> {
        let mut event = ptr::null_mut();
        // SAFETY: `event` outlives the call.
        shim::check(unsafe {
            shim::capstan_event_new(i32::from(timing == Timing::On), &raw mut event)
        })?;
        Ok(Self(event))
    }

    /// Blocks the host until the event has happened.
    ///
    /// # Errors
    /// A device fault of earlier work surfaces here.
    pub fn synchronize(&self) -> Result<(), TorchError> {
        // SAFETY: the event is alive.
        shim::check(unsafe { shim::capstan_event_synchronize(self.0) })
    }

    /// Seconds from this event to a later one; both must have happened, with timing on.
    ///
    /// # Errors
    /// An event that has not happened, or has no timing.
    pub fn seconds_to(&self, later: &Self) -> Result<f64, TorchError> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive.
        shim::check(unsafe {
            shim::capstan_event_elapsed(self.0, later.0, &raw mut milliseconds)
        })?;
        Ok(milliseconds / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { shim::capstan_event_free(self.0) };
    }
}
