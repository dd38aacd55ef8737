//! Where a model is cut: each piece is one graph, or three, and the rank's thread is in charge between them.

use std::ops::Range;

use crate::{arch::Role, config::Recompute};

/// A run of segments as the engine runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// One graph over whole segments; forgotten after the forward pass and made again, if so told.
    Span {
        segments: Range<usize>,
        recompute: bool,
    },
    /// A segment as three graphs: before its core, the core, after it.
    Parts { segment: usize, recompute: Parts },
}

/// Which of a segment's graphs are made again in the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    None,
    Core,
    All,
}

/// What asks for cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// Tensor-parallel ranks meet before and after each core.
    pub around_cores: bool,
    pub recompute: Recompute,
    /// Gradients of at least so many bytes leave together; absent: all of a chunk's.
    pub bucket_bytes: Option<u64>,
    /// Each segment is a run of its own.
    pub by_segment: bool,
}

impl Piece {
    /// The segments of the piece.
    pub fn segments(&self) -> Range<usize> {
        match self {
            Self::Span { segments, .. } => segments.clone(),
            Self::Parts { segment, .. } => *segment..segment + 1,
        }
    }
}

/// Cuts a chunk of segments; `roles` and `bytes` (of gradients) are those of all segments of the stage.
pub fn pieces(chunk: Range<usize>, roles: &[Role], bytes: &[u64], cuts: Cuts) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut end, mut size) = (chunk.end, 0);
    for segment in chunk.clone().rev() {
        let is_layer = matches!(roles[segment], Role::Attention | Role::Mlp);
        let attends = roles[segment] == Role::Attention;
        let parts = match cuts.recompute {
            Recompute::Full if is_layer => Parts::All,
            Recompute::Selective if attends => Parts::Core,
            _ => Parts::None,
        };
        let alone = match parts {
            parts if cuts.around_cores => Some(Piece::Parts {
                segment,
                recompute: parts,
            }),
            Parts::Core => Some(Piece::Parts {
                segment,
                recompute: Parts::Core,
            }),
            Parts::All => Some(Piece::Span {
                segments: segment..segment + 1,
                recompute: true,
            }),
            Parts::None => None,
        };
        let close = |end: usize, pieces: &mut Vec<Piece>, start: usize| {
            if start < end {
                pieces.push(Piece::Span {
                    segments: start..end,
                    recompute: false,
                });
            }
        };
        if let Some(alone) = alone {
            close(end, &mut pieces, segment + 1);
            pieces.push(alone);
            (end, size) = (segment, 0);
            continue;
        }
        size += bytes[segment];
        let is_full = cuts.bucket_bytes.is_some_and(|bucket| size >= bucket);
        if segment == chunk.start || is_full || cuts.by_segment {
            close(end, &mut pieces, segment);
            (end, size) = (segment, 0);
        }
    }
    pieces.reverse();
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 6] = [
        Role::Embedding,
        Role::Attention,
        Role::Mlp,
        Role::Attention,
        Role::Mlp,
        Role::Head,
    ];
    const BYTES: [u64; 6] = [40, 10, 10, 10, 10, 1];
    const WHOLE: Cuts = Cuts {
        around_cores: false,
        recompute: Recompute::None,
        bucket_bytes: None,
        by_segment: false,
    };

    fn cut(cuts: Cuts) -> Vec<Piece> {
        let pieces = pieces(0..6, &ROLES, &BYTES, cuts);
        let covered: Vec<usize> = pieces.iter().flat_map(Piece::segments).collect();
        assert_eq!(covered, [0, 1, 2, 3, 4, 5], "{cuts:?}");
        pieces
    }

    fn span(segments: Range<usize>) -> Piece {
        Piece::Span {
            segments,
            recompute: false,
        }
    }

    #[test]
    fn spans_are_buckets_closed_from_the_back() {
        assert_eq!(cut(WHOLE), [span(0..6)]);
        let with = |bytes| Cuts {
            bucket_bytes: Some(bytes),
            ..WHOLE
        };
        assert_eq!(cut(with(15)), [span(0..1), span(1..3), span(3..6)]);
        assert_eq!(cut(with(1_000)), [span(0..6)]);
        assert_eq!(cut(with(1)).len(), 6);
        let by_segment = Cuts {
            by_segment: true,
            ..WHOLE
        };
        assert_eq!(cut(by_segment), cut(with(1)));
    }

    #[test]
    fn recomputation_cuts_where_it_forgets() {
        let with = |recompute| Cuts { recompute, ..WHOLE };
        let core = |segment| Piece::Parts {
            segment,
            recompute: Parts::Core,
        };
        let selective = [span(0..1), core(1), span(2..3), core(3), span(4..6)];
        assert_eq!(cut(with(Recompute::Selective)), selective);
        let full = cut(with(Recompute::Full));
        let again = |piece: &&Piece| {
            matches!(
                piece,
                Piece::Span {
                    recompute: true,
                    ..
                }
            )
        };
        assert_eq!((full.len(), full.iter().filter(again).count()), (6, 4));
    }

    #[test]
    fn tensor_parallel_ranks_meet_around_every_core() {
        let tensor = Cuts {
            around_cores: true,
            recompute: Recompute::Full,
            ..WHOLE
        };
        let parts = |segment, recompute| Piece::Parts { segment, recompute };
        let pieces = cut(tensor);
        assert_eq!(
            (&pieces[0], &pieces[1]),
            (&parts(0, Parts::None), &parts(1, Parts::All))
        );
        assert_eq!(pieces[5], parts(5, Parts::None));
    }
}
