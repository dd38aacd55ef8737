//! Numbers that the host reads later, so that it need not wait for the device.

use tch::{Device, Kind, Tensor};

use super::RankDevice;
use crate::torch::{
    TorchError,
    stream::{Event, Timing},
};

/// A loss on its way to the host, behind the work that makes it; or, where a rank has none, the end of that work.
pub struct LateLoss {
    loss: Option<Tensor>,
    /// Absent where the work was done at once.
    arrived: Option<Event>,
}

impl LateLoss {
    /// Starts the copy of a loss, in fp64, behind all that was launched on the rank's device.
    ///
    /// # Errors
    /// Whatever libtorch throws.
    pub fn send(loss: Option<&Tensor>, device: &RankDevice) -> Result<Self, TorchError> {
        let to_host = |loss: &Tensor| loss.f_to_device_(Device::Cpu, Kind::Double, true, false);
        let loss = loss.map(to_host).transpose()?;
        let arrived = match device.stream {
            Some(stream) => {
                let event = Event::new(Timing::Off)?;
                stream.record(&event)?;
                Some(event)
            }
            None => None,
        };
        Ok(Self { loss, arrived })
    }

    /// The same, without the loss where another rank reports it.
    pub fn of_reporter(self, is_reporter: bool) -> Self {
        Self {
            loss: self.loss.filter(|_| is_reporter),
            ..self
        }
    }

    /// Waits until it has arrived.
    ///
    /// # Errors
    /// A device fault of earlier work surfaces here.
    pub fn read(&self) -> Result<Option<f64>, TorchError> {
        if let Some(arrived) = &self.arrived {
            arrived.synchronize()?;
        }
        let loss = self.loss.as_ref();
        Ok(loss.map(|loss| loss.f_double_value(&[])).transpose()?)
    }
}
