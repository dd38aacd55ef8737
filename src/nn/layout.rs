//! Where each parameter of a rank lies in the flat buffers. No tensors.
//!
//! Each segment is a group: matrices before vectors, so that weight decay is a range. Groups lie one
//! after the other, so that a bucket of gradients is a range too. ZeRO cuts every group into equal
//! parts; a rank's parts, one after the other, are its shard.

use std::{collections::HashMap, ops::Range};

use crate::arch::{ParamSpec, Shard, StageSpec};

/// Views start on a cache line of this many elements (128 bytes in fp32).
pub(super) const ALIGN: i64 = 32;

/// A range of elements in the flat buffers.
pub type FlatRange = Range<i64>;

/// The layout of one rank's flat buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    pub(super) entries: Vec<Entry>,
    pub(super) groups: Vec<Group>,
    index: HashMap<String, usize>,
    shard: Shard,
    /// Parts that every group is cut into.
    n_parts: usize,
    len: i64,
}

/// One parameter as the rank holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub spec: ParamSpec,
    /// Of this rank's part.
    pub shape: Vec<i64>,
    pub offset: i64,
    pub group: usize,
    /// Another pipeline stage holds it too.
    pub is_tied: bool,
    /// Another pipeline stage owns it.
    pub is_copy: bool,
}

/// A segment's parameters, and which entries it computes with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// Padding included.
    pub range: FlatRange,
    pub matrices: FlatRange,
    pub vectors: FlatRange,
    pub own: Vec<usize>,
    pub borrowed: Vec<usize>,
}

impl Entry {
    pub(super) fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Where it lies in a whole buffer.
    pub(super) fn range(&self) -> FlatRange {
        self.offset..self.offset + self.numel()
    }
}

impl Group {
    pub(super) fn len(&self) -> i64 {
        self.range.end - self.range.start
    }
}

impl Layout {
    /// Lays out a stage's parameters as tensor-parallel rank `shard` holds them, each group in `n_parts` equal parts.
    pub fn new(stage: &StageSpec, shard: Shard, n_parts: usize) -> Self {
        let granule = ALIGN * n_parts as i64;
        let mut layout = Self {
            entries: Vec::new(),
            groups: Vec::new(),
            index: HashMap::new(),
            shard,
            n_parts,
            len: 0,
        };
        for segment in &stage.segments {
            let start = layout.len;
            let first = layout.entries.len();
            let matrices = layout.place(stage, segment.params.iter().filter(|spec| spec.decays()));
            let vectors = layout.place(stage, segment.params.iter().filter(|spec| !spec.decays()));
            layout.len = start + (layout.len - start + granule - 1) / granule * granule;
            layout.groups.push(Group {
                range: start..layout.len,
                matrices,
                vectors,
                own: (first..layout.entries.len()).collect(),
                borrowed: Vec::new(),
            });
        }
        layout.index = (0..layout.entries.len())
            .map(|entry| (layout.entries[entry].spec.name.clone(), entry))
            .collect();
        for (group, segment) in layout.groups.iter_mut().zip(&stage.segments) {
            let known = segment
                .borrows
                .iter()
                .filter_map(|name| layout.index.get(name));
            group.borrowed = known.copied().collect();
        }
        layout
    }

    fn place<'a>(
        &mut self,
        stage: &StageSpec,
        specs: impl Iterator<Item = &'a ParamSpec>,
    ) -> FlatRange {
        let start = self.len;
        for spec in specs {
            let entry = Entry {
                shape: self.shard.shape(spec),
                offset: self.len,
                group: self.groups.len(),
                is_tied: stage.tied.contains(&spec.name),
                is_copy: stage.copies.contains(&spec.name),
                spec: spec.clone(),
            };
            self.len += (entry.numel() + ALIGN - 1) / ALIGN * ALIGN;
            self.entries.push(entry);
        }
        start..self.len
    }

    /// Which part of sharded parameters this is.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Elements of a whole buffer, padding included.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of a rank's ZeRO shard.
    pub fn part_len(&self) -> i64 {
        self.len / self.n_parts as i64
    }

    /// Whole parameters in layout order.
    pub fn specs(&self) -> impl Iterator<Item = &ParamSpec> {
        self.entries.iter().map(|entry| &entry.spec)
    }

    /// A parameter by name: where it lies, and the shape that this rank holds.
    pub fn find(&self, name: &str) -> Option<(FlatRange, &[i64])> {
        let entry = &self.entries[*self.index.get(name)?];
        Some((entry.range(), &entry.shape))
    }

    pub(super) fn entry(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Part `part` of a group in a whole buffer.
    pub(super) fn part_of(&self, group: usize, part: usize) -> FlatRange {
        let Group { range, .. } = &self.groups[group];
        let len = (range.end - range.start) / self.n_parts as i64;
        let start = range.start + len * part as i64;
        start..start + len
    }

    /// Where a group's part begins in a shard.
    pub(super) fn part_offset(&self, group: usize) -> i64 {
        self.groups[group].range.start / self.n_parts as i64
    }

    /// The groups that a run of segments computes with.
    pub(super) fn groups_of(&self, segments: Range<usize>) -> Vec<usize> {
        let borrowed = self.groups[segments.clone()]
            .iter()
            .flat_map(|group| &group.borrowed)
            .map(|&entry| self.entries[entry].group);
        let mut groups: Vec<usize> = segments.clone().chain(borrowed).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Ranges that count in the global norm: copies never do, and parameters that every tensor-parallel rank
    /// holds count on the first alone.
    pub(super) fn counted(&self) -> Vec<FlatRange> {
        let is_first = self.shard.index == 0;
        self.ranges(|entry| !entry.is_copy && (is_first || self.shard.cuts(&entry.spec)))
    }

    /// Ranges of parameters that every tensor-parallel rank holds.
    pub(super) fn replicated(&self) -> Vec<FlatRange> {
        self.ranges(|entry| !self.shard.cuts(&entry.spec))
    }

    /// The ranges of some entries with the padding behind them, neighbours merged.
    fn ranges(&self, picks: impl Fn(&Entry) -> bool) -> Vec<FlatRange> {
        let mut ranges: Vec<FlatRange> = Vec::new();
        for (number, entry) in self.entries.iter().enumerate() {
            if !picks(entry) {
                continue;
            }
            let next = self.entries.get(number + 1);
            let end = next.map_or(self.len, |next| next.offset);
            match ranges.last_mut() {
                Some(last) if last.end == entry.offset => last.end = end,
                _ => ranges.push(entry.offset..end),
            }
        }
        ranges
    }
}

/// The parts of `ranges` that lie in `part`.
pub(super) fn within(ranges: &[FlatRange], part: &FlatRange) -> Vec<FlatRange> {
    let cut = ranges
        .iter()
        .map(|range| range.start.max(part.start)..range.end.min(part.end));
    cut.filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::stage;

    #[test]
    fn entries_are_aligned_disjoint_and_complete() {
        for (shard, n_parts) in [(Shard::WHOLE, 1), (Shard { index: 1, of: 2 }, 3)] {
            let layout = Layout::new(&stage(), shard, n_parts);
            let mut end = 0;
            for entry in &layout.entries {
                assert!(
                    entry.offset % ALIGN == 0 && entry.offset >= end,
                    "{entry:?}"
                );
                end = entry.offset + entry.numel();
            }
            assert!(end <= layout.len());
            for group in 0..layout.groups.len() {
                let parts = (0..n_parts).map(|part| layout.part_of(group, part));
                let total: i64 = parts.map(|part| part.end - part.start).sum();
                assert_eq!(total, layout.groups[group].len());
            }
            assert_eq!(layout.part_len() * n_parts as i64, layout.len());
        }
    }

    #[test]
    fn tied_weights_are_one_entry() {
        let layout = Layout::new(&stage(), Shard::WHOLE, 1);
        let head = layout.groups.last().expect("a head");
        assert_eq!(head.borrowed, [layout.entry("wte.weight").expect("there")]);
        assert_eq!(layout.groups_of(5..6), [0, 5]);
    }

    #[test]
    fn replicated_parameters_count_once() {
        let whole = Layout::new(&stage(), Shard::WHOLE, 1);
        assert_eq!(whole.counted(), std::slice::from_ref(&(0..whole.len())));
        let second = Layout::new(&stage(), Shard { index: 1, of: 2 }, 1);
        let counted: i64 = second
            .counted()
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        let sharded = second
            .entries
            .iter()
            .filter(|entry| second.shard.cuts(&entry.spec));
        let expected: i64 = sharded
            .map(|entry| (entry.numel() + ALIGN - 1) / ALIGN * ALIGN)
            .sum();
        assert_eq!(counted, expected);
    }
}
