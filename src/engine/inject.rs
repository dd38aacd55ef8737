//! Planted faults, so that tests can show what capstan does about real ones.

use std::{str::FromStr, time::Duration};

use super::EngineError;
use crate::torch::TorchError;

/// A fault that rank `rank` meets in step `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    pub rank: usize,
    pub step: u64,
    pub kind: Kind,
}

/// The kinds of planted faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A C++ exception in libtorch.
    Exception,
    /// A Rust panic.
    Panic,
    /// The rank never comes back.
    Hang,
    /// The process dies by a signal.
    Abort,
    /// Not a number in this rank's weights.
    NanGrad,
    /// Not a number in this rank's gradients of one step, once they are complete; the weights stay.
    BrokenGrad,
    /// Losses are averaged per micro-batch: the classic mistake with uneven counts.
    MeanOfMeans,
    /// Tensor-parallel ranks do not add up the gradients of their cores' inputs.
    MissingReduction,
    /// A later pipeline stage takes the targets of the next micro-batch.
    WrongMicroBatch,
    /// One sharded parameter of this rank is off by one row.
    ShiftedShard,
}

impl FromStr for Injection {
    type Err = String;

    /// Reads `rank:step:kind`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [rank, step, kind] = parts[..] else {
            return Err(format!("{text}: expected rank:step:kind"));
        };
        let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
        let kind = match kind {
            "exception" => Kind::Exception,
            "panic" => Kind::Panic,
            "hang" => Kind::Hang,
            "abort" => Kind::Abort,
            "nan-grad" => Kind::NanGrad,
            "broken-grad" => Kind::BrokenGrad,
            "mean-of-means" => Kind::MeanOfMeans,
            "missing-reduction" => Kind::MissingReduction,
            "wrong-micro-batch" => Kind::WrongMicroBatch,
            "shifted-shard" => Kind::ShiftedShard,
            _ => return Err(format!("{kind} is no kind of fault")),
        };
        Ok(Self {
            rank: number(rank)? as usize,
            step: number(step)?,
            kind,
        })
    }
}

impl Injection {
    /// Whether the fault is due.
    pub fn is_due(&self, rank: usize, step: u64, kind: Kind) -> bool {
        self.kind == kind && self.rank == rank && self.step == step
    }

    /// Does what the kind says, if it strikes a rank as a whole and is due.
    ///
    /// # Errors
    /// libtorch's own, for [`Kind::Exception`].
    #[expect(clippy::panic, reason = "a planted panic is what one kind asks for")]
    pub fn strike(&self, rank: usize, step: u64) -> Result<(), EngineError> {
        if !self.is_due(rank, step, self.kind) {
            return Ok(());
        }
        match self.kind {
            Kind::Exception => {
                let (a, b) = (
                    tch::Tensor::from_slice(&[1.0f32; 2]),
                    tch::Tensor::from_slice(&[1.0f32; 3]),
                );
                a.f_add(&b)
                    .map(|_| ())
                    .map_err(|error| TorchError::from(error).into())
            }
            Kind::Panic => panic!("a planted panic"),
            Kind::Hang => loop {
                std::thread::sleep(Duration::from_secs(3_600));
            },
            Kind::Abort => std::process::abort(),
            Kind::NanGrad
            | Kind::BrokenGrad
            | Kind::MeanOfMeans
            | Kind::MissingReduction
            | Kind::WrongMicroBatch
            | Kind::ShiftedShard => Ok(()),
        }
    }
}
