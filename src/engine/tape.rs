//! What a forward pass leaves for its backward pass.

use std::ops::Range;

use tch::Tensor;

use super::{batch::DeviceBatch, head::HeadPass, parts::PartsPass};

/// The step that a micro-batch belongs to.
#[derive(Clone, Copy, Debug)]
pub struct OfStep {
    /// From 1; dropout masks depend on it.
    pub number: u64,
    /// What the summed loss is divided by: valid targets of the whole global batch.
    pub divisor: u64,
}

/// One micro-batch's way through a chunk.
pub struct Tape {
    pub(super) batch: DeviceBatch,
    pub(super) step: OfStep,
    pub(super) passes: Vec<Pass>,
}

/// One piece's graph, or what it can be made from again.
pub(super) enum Pass {
    Span(SpanPass),
    Parts(PartsPass),
    Head(HeadPass),
}

/// One graph over whole segments.
pub(super) struct SpanPass {
    pub segments: Range<usize>,
    pub input: Tensor,
    /// Absent: to be computed again from the input. Of a span that ends in the head what goes into the head's core.
    pub output: Option<Tensor>,
    /// The output's gradient where the span ends in the head, whose loss gave it.
    pub head_grad: Option<Tensor>,
}

impl Tape {
    /// A way that begins.
    pub(super) fn new(batch: DeviceBatch, step: OfStep) -> Self {
        Self {
            batch,
            step,
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
            Self::Head(pass) => pass.segment..pass.segment + 1,
        }
    }
}
