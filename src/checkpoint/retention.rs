//! Which checkpoints may go.

/// The steps among `steps` (ascending) that are superseded: all but the newest `keep` and the best.
///
/// At least two are always kept, since the newest may turn out to be damaged.
pub fn superseded(steps: &[u64], keep: usize, best: Option<u64>) -> Vec<u64> {
    let n_old = steps.len().saturating_sub(keep.max(2));
    steps[..n_old]
        .iter()
        .copied()
        .filter(|&step| Some(step) != best)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_best_stay() {
        assert_eq!(superseded(&[1, 2, 3, 4], 2, Some(1)), [2]);
        assert_eq!(superseded(&[1, 2, 3, 4], 2, None), [1, 2]);
        assert_eq!(superseded(&[1, 2, 3], 1, None), [1]);
        assert!(superseded(&[1, 2], 0, None).is_empty());
    }
}
