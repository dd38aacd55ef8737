//! The part of a model that one pipeline stage holds.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::SegmentSpec;

/// Segments of one stage: one chunk, or several under an interleaved schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSpec {
    /// Chunk by chunk.
    pub segments: Vec<SegmentSpec>,
    /// The same segments as numbers in the model's own list.
    pub numbers: Vec<usize>,
    /// Each chunk as a range of `segments`.
    pub chunks: Vec<Range<usize>>,
    /// Parameters that another stage holds too; both sum their gradients.
    pub tied: Vec<String>,
    /// Those of `tied` that another stage owns: here they are copies.
    pub copies: Vec<String>,
}

impl StageSpec {
    /// All segments in one stage.
    pub fn whole(segments: Vec<SegmentSpec>) -> Self {
        let all = 0..segments.len();
        Self {
            numbers: all.clone().collect(),
            chunks: vec![all],
            segments,
            tied: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// Stage `stage` of a model whose stages hold `chunks` (by stage, ranges of segments).
    ///
    /// A parameter that a segment borrows from another stage becomes its own copy.
    pub fn of(model: &[SegmentSpec], chunks: &[Vec<Range<usize>>], stage: usize) -> Self {
        let holds =
            |stage: usize, number: usize| chunks[stage].iter().any(|chunk| chunk.contains(&number));
        let mut own = Self::whole(Vec::new());
        own.chunks.clear();
        for chunk in &chunks[stage] {
            let first = own.segments.len();
            own.segments.extend(model[chunk.clone()].iter().cloned());
            own.numbers.extend(chunk.clone());
            own.chunks.push(first..own.segments.len());
        }
        for (borrower, segment) in model.iter().enumerate() {
            for name in &segment.borrows {
                let owner = model
                    .iter()
                    .position(|other| other.params.iter().any(|param| param.name == *name));
                let Some(owner) = owner else { continue };
                match (holds(stage, owner), holds(stage, borrower)) {
                    (true, false) => own.tied.push(name.clone()),
                    (false, true) => own.copy(borrower, name, &model[owner]),
                    _ => {}
                }
            }
        }
        own
    }

    fn copy(&mut self, borrower: usize, name: &str, owner: &SegmentSpec) {
        let param = owner.params.iter().find(|param| param.name == name);
        let place = self.numbers.iter().position(|&number| number == borrower);
        if let (Some(param), Some(place)) = (param, place) {
            let segment = &mut self.segments[place];
            segment.params.push(param.clone());
            segment.borrows.retain(|borrowed| borrowed != name);
            self.tied.push(name.to_owned());
            self.copies.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{ModelShape, gpt::GptShape};

    #[test]
    fn a_tied_head_in_another_stage_holds_a_copy() {
        let model = ModelShape::Gpt(GptShape {
            n_layer: 2,
            n_head: 2,
            d_model: 8,
            seq_len: 4,
            vocab_size: 5,
            bias: true,
            dropout: 0.0,
        })
        .segments();
        let one = |chunk: Range<usize>| std::iter::once(chunk).collect::<Vec<_>>();
        let chunks = [one(0..3), one(3..6)];
        let [first, last] = [0, 1].map(|stage| StageSpec::of(&model, &chunks, stage));
        assert_eq!(
            (first.tied.as_slice(), first.copies.len()),
            (&["wte.weight".to_owned()][..], 0)
        );
        assert_eq!((&last.tied, &last.copies), (&first.tied, &first.tied));
        assert_eq!(last.numbers, [3, 4, 5]);
        assert!(last.segments[2].borrows.is_empty());
        let together = StageSpec::of(&model, &[one(0..6)], 0);
        assert_eq!(together, StageSpec::whole(model));
    }
}
