//! One rank: nothing happens between segments.

use tch::Tensor;

use super::Strategy;
use crate::{
    dist::{CommError, Communicator},
    nn::ParamStore,
};

/// The whole job on one device.
pub struct Single;

impl Strategy for Single {
    fn reduces_by_bucket(&self) -> bool {
        false
    }

    fn grads_ready(&mut self, _: &Tensor, _: &mut dyn Communicator) -> Result<(), CommError> {
        Ok(())
    }

    fn before_update(&mut self, _: &ParamStore, _: &mut dyn Communicator) -> Result<(), CommError> {
        Ok(())
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn after_update(&mut self, _: &ParamStore, _: &mut dyn Communicator) -> Result<(), CommError> {
        Ok(())
    }
}
