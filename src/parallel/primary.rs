//! The textbook parameter server: gradients go to rank 0, which updates and sends the weights back.

use super::Strategy;
use crate::{
    dist::{CommError, Communicator},
    nn::{FlatRange, ParamStore},
};

/// The rank that updates.
const ROOT: usize = 0;

/// Gather, update, broadcast; nothing overlaps.
pub struct Primary;

impl Strategy for Primary {
    fn before_update(
        &mut self,
        store: &mut ParamStore,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        comm.start_reduce(store.grads(), ROOT)?;
        comm.wait()
    }

    fn updates(&self, rank: usize) -> bool {
        rank == ROOT
    }

    fn after_update(
        &mut self,
        store: &ParamStore,
        part: &FlatRange,
        comm: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        comm.start_broadcast(store.master(), ROOT)?;
        comm.wait()?;
        Ok(store.publish(part)?)
    }
}
