//! How fast steps come, for an estimate of the remaining time.

use std::collections::VecDeque;

/// Steps the estimate looks back on.
const WINDOW: usize = 64;

/// Wall-clock times of the latest steps.
///
/// Evaluations and checkpoints between two steps count, pauses and restarts do not: [`Pace::interrupt`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pace {
    steps: VecDeque<(u64, f64)>,
}

impl Pace {
    /// Notes that `step` was recorded at `time` (Unix seconds).
    pub fn note(&mut self, step: u64, time: f64) {
        if self.steps.back().is_some_and(|&(last, _)| last >= step) {
            self.interrupt();
        }
        if self.steps.len() == WINDOW {
            self.steps.pop_front();
        }
        self.steps.push_back((step, time));
    }

    /// Forgets all times: what follows does not go on where they ended.
    pub fn interrupt(&mut self) {
        self.steps.clear();
    }

    /// Mean seconds from one step to the next; `None` before two steps were seen.
    pub fn seconds_per_step(&self) -> Option<f64> {
        let (&(first, start), &(last, end)) = (self.steps.front()?, self.steps.back()?);
        let elapsed = end - start;
        (last > first && elapsed >= 0.0).then(|| elapsed / (last - first) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_the_window_only() {
        let mut pace = Pace::default();
        assert_eq!(pace.seconds_per_step(), None);
        pace.note(1, 0.0);
        assert_eq!(pace.seconds_per_step(), None);
        pace.note(2, 100.0);
        for step in 3..200 {
            pace.note(step, 100.0 + step as f64 * 0.5);
        }
        assert_eq!(pace.seconds_per_step(), Some(0.5));
    }

    #[test]
    fn steps_that_come_again_start_anew() {
        let mut pace = Pace::default();
        pace.note(10, 0.0);
        pace.note(11, 1.0);
        pace.note(6, 50.0);
        pace.note(7, 52.0);
        assert_eq!(pace.seconds_per_step(), Some(2.0));
    }
}
