//! What a forward pass leaves for its backward pass.

use std::ops::Range;

use tch::Tensor;

use super::{batch::DeviceBatch, parts::PartsPass};

/// One micro-batch's way through a chunk.
pub struct Tape {
    pub(super) batch: DeviceBatch,
    pub(super) passes: Vec<Pass>,
}

/// One piece's graph, or what it can be made from again.
pub(super) enum Pass {
    Span(SpanPass),
    Parts(PartsPass),
}

/// One graph over whole segments.
pub(super) struct SpanPass {
    pub segments: Range<usize>,
    pub input: Tensor,
    /// Absent: to be computed again from the input.
    pub output: Option<Tensor>,
}

impl Tape {
    pub(super) fn new(batch: DeviceBatch) -> Self {
        Self {
            batch,
            passes: Vec::new(),
        }
    }

    /// Rows and positions of the micro-batch.
    pub(super) fn extent(&self) -> (i64, i64) {
        let size = self.batch.inputs.size();
        (size[0], size[1])
    }
}

impl Pass {
    pub(super) fn segments(&self) -> Range<usize> {
        match self {
            Self::Span(pass) => pass.segments.clone(),
            Self::Parts(pass) => pass.segment..pass.segment + 1,
        }
    }
}
