//! The first fault of a worker, shared by all its ranks.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};

use super::brief::Brief;

/// Faults that are met in a way of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    #[default]
    Other,
    /// A loss or a gradient norm is NaN or infinity.
    NotFinite,
    /// A GPU has no memory left for a tensor.
    OutOfMemory,
}

impl FaultKind {
    /// Whether nothing is known of the fault but its words.
    pub fn is_other(&self) -> bool {
        *self == Self::Other
    }
}

/// What went wrong, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub rank: usize,
    /// The step that was under way.
    pub step: u64,
    /// What the rank was doing.
    pub operation: String,
    pub cause: Brief,
    pub kind: FaultKind,
    /// Whether starting again from a checkpoint may help.
    pub retry: bool,
}

/// Holds the first fault; later ones are consequences and are dropped.
#[derive(Debug, Default)]
pub struct FaultCell {
    poisoned: AtomicBool,
    first: Mutex<Option<Fault>>,
}

impl FaultCell {
    /// Records a fault, unless there is one already. Ranks that wait for each other notice within 20 ms.
    pub fn poison(&self, fault: Fault) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(fault);
        self.poisoned.store(true, Ordering::Release);
    }

    /// Whether any rank has failed.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// The first fault.
    pub fn first(&self) -> Option<Fault> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
