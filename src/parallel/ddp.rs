//! Distributed data parallel (Li et al., 2020): gradients are summed bucket by bucket while the backward
//! pass goes on; every rank makes the same update.

use tch::Tensor;

use super::Strategy;
use crate::{
    dist::{CommError, Communicator},
    nn::ParamStore,
};

/// Full copies everywhere.
pub struct Ddp;

impl Strategy for Ddp {
    fn reduces_by_bucket(&self) -> bool {
        true
    }

    fn grads_ready(
        &mut self,
        grads: &Tensor,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        comm.start_all_reduce(grads)
    }

    fn before_update(
        &mut self,
        _: &ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        comm.wait()
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn after_update(&mut self, _: &ParamStore, _: &mut dyn Communicator) -> Result<(), CommError> {
        Ok(())
    }
}
