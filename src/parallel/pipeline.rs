//! A rank's place in the pipeline: where each chunk's input comes from and its output goes.

use super::schedule::{self, Action};
use crate::config::PipelineSchedule;

/// One stage of a pipeline; with one stage there are no others to hand over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipeline {
    pub stage: usize,
    pub n_stages: usize,
    /// Chunks of each stage.
    pub n_chunks: usize,
    pub schedule: PipelineSchedule,
}

impl Pipeline {
    /// A pipeline of one stage.
    pub const ALONE: Self = Self {
        stage: 0,
        n_stages: 1,
        n_chunks: 1,
        schedule: PipelineSchedule::OneForwardOneBackward,
    };

    /// The stage that computes before `chunk`; none before the model's first segment.
    pub fn before(self, chunk: usize) -> Option<usize> {
        let position = chunk * self.n_stages + self.stage;
        position.checked_sub(1).map(|before| before % self.n_stages)
    }

    /// The stage that computes after `chunk`; none after the loss.
    pub fn after(self, chunk: usize) -> Option<usize> {
        let next = chunk * self.n_stages + self.stage + 1;
        (next < self.n_chunks * self.n_stages).then_some(next % self.n_stages)
    }

    /// What this stage does in a step.
    pub fn actions(self, n_micros: usize) -> Vec<Action> {
        match self.schedule {
            PipelineSchedule::Gpipe => schedule::gpipe(n_micros),
            PipelineSchedule::OneForwardOneBackward => {
                schedule::one_forward_one_backward(self.stage, self.n_stages, n_micros)
            }
            PipelineSchedule::Interleaved => {
                schedule::interleaved(self.stage, self.n_stages, self.n_chunks, n_micros)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_each_other_through_the_stages() {
        let stage = |stage| Pipeline {
            stage,
            n_stages: 2,
            n_chunks: 2,
            ..Pipeline::ALONE
        };
        assert_eq!((stage(0).before(0), stage(0).after(0)), (None, Some(1)));
        assert_eq!((stage(1).before(0), stage(1).after(0)), (Some(0), Some(0)));
        assert_eq!((stage(0).before(1), stage(1).after(1)), (Some(1), None));
        assert_eq!(
            (Pipeline::ALONE.before(0), Pipeline::ALONE.after(0)),
            (None, None)
        );
    }
}
