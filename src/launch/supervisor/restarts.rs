//! How often a crashed worker is started again.

use std::time::Duration;

/// Counts restarts, anew after each checkpoint: a run that makes progress never runs out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    max: u32,
    used: u32,
}

impl Restarts {
    /// Allows `max` restarts until the next checkpoint.
    pub const fn new(max: u32) -> Self {
        Self { max, used: 0 }
    }

    /// A checkpoint is durable: what follows is counted anew.
    pub const fn checkpointed(&mut self) {
        self.used = 0;
    }

    /// Takes one restart, and says after which wait; `None` when none is left.
    ///
    /// The first is immediate, each further one waits twice as long as the one before.
    pub fn take(&mut self) -> Option<Duration> {
        if self.used >= self.max {
            return None;
        }
        self.used += 1;
        Some(match self.used {
            1 => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 2).min(2)),
        })
    }

    /// Restarts since the last checkpoint.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Restarts allowed without a checkpoint.
    pub const fn max(&self) -> u32 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_gives_all_restarts_back() {
        let mut restarts = Restarts::new(2);
        assert_eq!(restarts.take(), Some(Duration::ZERO));
        assert_eq!(restarts.take(), Some(Duration::from_secs(1)));
        assert_eq!(restarts.take(), None);
        restarts.checkpointed();
        assert_eq!(restarts.take(), Some(Duration::ZERO));
    }

    #[test]
    fn waits_are_bounded() {
        let mut restarts = Restarts::new(u32::MAX);
        let longest = (0..100).filter_map(|_| restarts.take()).max();
        assert_eq!(longest, Some(Duration::from_secs(4)));
    }
}
