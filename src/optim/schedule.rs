//! The learning rate as a function of progress.

use std::f64::consts::PI;

use crate::config::ScheduleConfig;

/// The learning rate of step `step` (from 1) of `total`.
///
/// Warm-up rises linearly and reaches `peak` at its last step + 1, as nanoGPT does; a run whose
/// length is in seconds passes an estimate of its steps as `total`.
pub fn lr_at(schedule: &ScheduleConfig, peak: f64, step: u64, total: u64) -> f64 {
    let done = step.saturating_sub(1);
    let warmup = match schedule {
        ScheduleConfig::Constant(constant) => constant.warmup,
        ScheduleConfig::Linear(decay) | ScheduleConfig::Cosine(decay) => decay.warmup,
        ScheduleConfig::Wsd(wsd) => wsd.warmup,
    };
    if done < warmup {
        return peak * (done + 1) as f64 / (warmup + 1) as f64;
    }
    match schedule {
        ScheduleConfig::Constant(_) => peak,
        ScheduleConfig::Linear(decay) => between(peak, decay.min_lr, share(done, warmup, total)),
        ScheduleConfig::Cosine(decay) => {
            let share = 0.5 * (1.0 - (PI * share(done, warmup, total)).cos());
            between(peak, decay.min_lr, share)
        }
        ScheduleConfig::Wsd(wsd) => between(
            peak,
            wsd.min_lr,
            share(done, total.saturating_sub(wsd.decay), total),
        ),
    }
}

/// How far `done` lies between two steps, in [0, 1].
fn share(done: u64, from: u64, to: u64) -> f64 {
    let length = to.saturating_sub(from).max(1);
    (done.saturating_sub(from) as f64 / length as f64).min(1.0)
}

fn between(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConstantConfig, DecayConfig, WsdConfig};

    #[test]
    fn warm_up_rises_to_the_peak() {
        let schedule = ScheduleConfig::Constant(ConstantConfig { warmup: 3 });
        let lrs: Vec<f64> = (1..=5)
            .map(|step| lr_at(&schedule, 1.0, step, 100))
            .collect();
        assert_eq!(lrs, [0.25, 0.5, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn cosine_and_linear_end_at_their_minimum() {
        let decay = DecayConfig {
            warmup: 0,
            min_lr: 0.1,
        };
        for schedule in [ScheduleConfig::Cosine(decay), ScheduleConfig::Linear(decay)] {
            assert_eq!(lr_at(&schedule, 1.0, 1, 10), 1.0);
            assert!((lr_at(&schedule, 1.0, 11, 10) - 0.1).abs() < 1e-12);
            assert!((lr_at(&schedule, 1.0, 6, 10) - 0.55).abs() < 1e-12);
        }
    }

    #[test]
    fn warm_up_stable_decay_holds_then_falls() {
        let schedule = ScheduleConfig::Wsd(WsdConfig {
            warmup: 2,
            decay: 4,
            min_lr: 0.0,
        });
        assert_eq!(lr_at(&schedule, 1.0, 6, 10), 1.0);
        assert_eq!(lr_at(&schedule, 1.0, 9, 10), 0.5);
    }
}
