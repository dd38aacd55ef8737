//! Cutting a model into pipeline stages of equal cost.

use std::ops::Range;

/// Cuts costs into `n` runs of at least one each, so that the largest sum is as small as it can be.
///
/// `n` is at most the number of costs.
pub fn balance(costs: &[f64], n: usize) -> Vec<Range<usize>> {
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(costs.iter().scan(0.0, |sum, cost| {
            *sum += cost;
            Some(*sum)
        }))
        .collect();
    // best[k][end]: the smallest largest sum of `costs[..end]` in k + 1 runs, and where the last begins.
    let mut best: Vec<Vec<(f64, usize)>> = vec![sums.iter().map(|&sum| (sum, 0)).collect()];
    for k in 1..n {
        let before = &best[k - 1];
        let row = (0..=costs.len()).map(|end| {
            (k..end)
                .map(|start| (before[start].0.max(sums[end] - sums[start]), start))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap_or((f64::INFINITY, end))
        });
        best.push(row.collect());
    }
    let mut end = costs.len();
    let mut runs: Vec<Range<usize>> = (0..n)
        .rev()
        .map(|k| {
            let start = best[k][end].1;
            let run = start..end;
            end = start;
            run
        })
        .collect();
    runs.reverse();
    runs
}

/// The chunks of each stage: chunk k of stage s is run `k * n_stages + s`.
pub fn deal(runs: &[Range<usize>], n_stages: usize) -> Vec<Vec<Range<usize>>> {
    (0..n_stages)
        .map(|stage| runs.iter().skip(stage).step_by(n_stages).cloned().collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_heavy_head_gets_a_stage_of_its_own() {
        assert_eq!(balance(&[0.0, 1.0, 1.0, 1.0, 1.0, 4.0], 2), [0..5, 5..6]);
        assert_eq!(balance(&[1.0; 6], 3), [0..2, 2..4, 4..6]);
        assert_eq!(balance(&[0.0, 0.0, 5.0], 3), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn chunks_are_dealt_in_turn() {
        let runs = [0..1, 1..2, 2..3, 3..4];
        assert_eq!(deal(&runs, 2), [vec![0..1, 2..3], vec![1..2, 3..4]]);
    }

    proptest! {
        #[test]
        fn runs_cover_everything_and_no_border_could_lie_better(
            costs in prop::collection::vec(0.0..10.0f64, 3..8),
        ) {
            let runs = balance(&costs, 3);
            prop_assert_eq!(runs[0].start, 0);
            prop_assert_eq!(runs[2].end, costs.len());
            prop_assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()));
            let worst = |a: usize, b: usize| {
                [&costs[..a], &costs[a..b], &costs[b..]].map(|run| run.iter().sum::<f64>()).into_iter().fold(0.0, f64::max)
            };
            let found = worst(runs[0].end, runs[1].end);
            for a in 1..costs.len() - 1 {
                for b in a + 1..costs.len() {
                    prop_assert!(found <= worst(a, b) + 1e-9);
                }
            }
        }
    }
}
