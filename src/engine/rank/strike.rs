//! Planted faults, where they strike a rank.

use super::Rank;
use crate::{
    arch::Sharding,
    engine::{EngineError, inject::Kind as FaultKind},
    torch::NumberOps,
};

impl Rank {
    /// Does what a planted fault asks for before a step.
    pub(super) fn strike(&mut self, step: u64) -> Result<(), EngineError> {
        let Some(fault) = self.job.inject.filter(|_| self.seat.lane == 0) else {
            return Ok(());
        };
        let store = &self.passes.stepper.store;
        let _guard = tch::no_grad_guard();
        if fault.is_due(self.seat.rank, step, FaultKind::NanGrad) {
            store.master().f_narrow(0, 0, 1)?.try_fill_(f64::NAN)?;
        }
        if fault.is_due(self.seat.rank, step, FaultKind::ShiftedShard) {
            let shard = store.layout().shard();
            let cut = store
                .specs()
                .find(|spec| shard.cuts(spec) && spec.sharding != Sharding::Vocab);
            if let Some(spec) = cut {
                let mut view = store.named_view(store.master(), &spec.name)?;
                view.f_copy_(&view.f_roll([1i64].as_slice(), [0i64].as_slice())?)?;
            }
        }
        fault.strike(self.seat.rank, step)
    }

    /// Does what a planted fault asks for when a step's gradients are complete.
    pub(super) fn strike_grads(&mut self, step: u64) -> Result<(), EngineError> {
        let fault = self.job.inject.filter(|_| self.seat.lane == 0);
        if fault.is_some_and(|fault| fault.is_due(self.seat.rank, step, FaultKind::BrokenGrad)) {
            let grads = self.passes.stepper.store.grads();
            grads.f_narrow(0, 0, 1)?.try_fill_(f64::NAN)?;
        }
        Ok(())
    }
}
