//! What the sensors said of a run: whether that still holds, and the energy over all sessions.

use serde::{Deserialize, Serialize};

use super::RunState;
use crate::event::Reading;

/// A look tells what is for so many intervals,
const HOLDS_INTERVALS: f64 = 3.0;
/// but at least for so long.
const HOLDS_S: f64 = 10.0;

impl RunState {
    /// The latest look at the sensors, unless it is too old to tell what is at `now` (Unix seconds).
    ///
    /// `every_s` is the time between two looks: one holds for three of it, at least for ten seconds.
    pub fn sensors_at(&self, now: f64, every_s: f64) -> Option<&Reading> {
        let age_s = now - self.sensed?;
        self.sensors.as_ref().filter(|_| age_s <= holds_s(every_s))
    }
}

const fn holds_s(every_s: f64) -> f64 {
    (HOLDS_INTERVALS * every_s).max(HOLDS_S)
}

/// Energy that the run's devices took, and the tokens that were trained on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// Over all sessions, as far as it was measured.
    #[serde(rename = "energy_j", skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// A part of it is power times time.
    #[serde(rename = "energy_is_estimate")]
    pub is_estimate: bool,
    /// There was time in which it was not measured.
    #[serde(rename = "energy_is_partial")]
    pub is_partial: bool,
    /// Targets trained on while it was measured.
    #[serde(rename = "energy_tokens")]
    pub tokens: u64,
    /// Kept with the rest: a state that lags its log is brought up to it from here.
    #[serde(rename = "energy_mark", skip_serializing_if = "Mark::is_unset")]
    mark: Mark,
}

/// Up to where energy was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    /// Of the sampler that looks.
    joules: f64,
    tokens: u64,
    /// Unix seconds of the latest look, before the session's first of its beginning.
    time: Option<f64>,
    /// Between that look and the one before.
    every_s: f64,
    /// The latest look told the energy, and training has not gone on for long without another.
    is_known: bool,
    /// Time before is missing for good.
    has_gap: bool,
    /// Energy of earlier samplers is an estimate.
    was_estimate: bool,
}

impl Mark {
    fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

impl Spent {
    /// A session begins at `time` (Unix seconds) with `tokens` trained; so does its sampler.
    pub(super) fn begin(&mut self, tokens: u64, time: f64) {
        let is_missed = tokens > 0 && !self.mark.is_known;
        self.mark = Mark {
            joules: 0.0,
            tokens,
            time: Some(time),
            every_s: self.mark.every_s,
            is_known: false,
            has_gap: self.mark.has_gap || is_missed,
            was_estimate: self.is_estimate,
        };
    }

    /// Training has come to `tokens` by `time`: without a look for long, that is not measured unless one comes yet.
    pub(super) fn go_on(&mut self, tokens: u64, time: f64) {
        let mark = &mut self.mark;
        let is_late = mark
            .time
            .is_some_and(|look| time - look > holds_s(mark.every_s));
        // Fewer after a restart: their energy is missing too.
        if is_late && tokens != mark.tokens {
            mark.is_known = false;
            self.is_partial = self.joules.is_some();
        }
    }

    /// Takes in a look; what came before a sampler that is not the session's first was not measured.
    pub(super) fn add(
        &mut self,
        reading: &Reading,
        (tokens, time): (u64, f64),
        is_sessions_first: bool,
    ) {
        if reading.is_first && !is_sessions_first {
            self.begin(tokens, time);
            self.mark.has_gap = true;
        }
        if let Some(last) = self.mark.time.replace(time).filter(|last| *last < time) {
            self.mark.every_s = time - last;
        }
        self.mark.is_known = reading.run_energy.is_some();
        if let Some(energy) = reading.run_energy {
            let more = energy.joules - self.mark.joules;
            self.joules = Some((self.joules.unwrap_or(0.0) + more).max(0.0));
            // After a restart steps come again: they are counted once, their energy twice.
            self.tokens = (self.tokens + tokens).saturating_sub(self.mark.tokens);
            self.is_estimate = self.mark.was_estimate || energy.is_estimate;
            self.mark.joules = energy.joules;
            self.mark.tokens = tokens;
        }
        self.is_partial = self.joules.is_some() && (self.mark.has_gap || !self.mark.is_known);
    }

    /// Watt-hours and joules a token; `None` where nothing was measured.
    pub fn words(&self) -> Option<String> {
        let joules = self.joules?;
        let least = if self.is_partial { "at least " } else { "" };
        let about = if self.is_estimate { "≈ " } else { "" };
        let each = match self.tokens {
            0 => String::new(),
            tokens => format!(", {:.2e} J a token", joules / tokens as f64),
        };
        Some(format!("{least}{about}{:.2} Wh{each}", joules / 3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Energy;

    fn look(joules: impl Into<Option<f64>>) -> Reading {
        let energy = |joules| Energy {
            joules,
            is_estimate: false,
        };
        Reading {
            run_energy: joules.into().map(energy),
            ..Reading::default()
        }
    }

    fn first(joules: impl Into<Option<f64>>) -> Reading {
        Reading {
            is_first: true,
            ..look(joules)
        }
    }

    fn told(spent: &Spent) -> (Option<f64>, u64, bool) {
        (spent.joules, spent.tokens, spent.is_partial)
    }

    #[test]
    fn energy_is_added_over_sessions() {
        let mut spent = Spent::default();
        spent.begin(0, 0.0);
        spent.add(&first(10.0), (100, 2.0), true);
        spent.add(&look(30.0), (300, 2.0), false);
        spent.begin(300, 4.0);
        spent.add(&first(5.0), (400, 2.0), true);
        assert_eq!(told(&spent), (Some(35.0), 400, false));
        assert_eq!(spent.words().as_deref(), Some("0.01 Wh, 8.75e-2 J a token"));
    }

    #[test]
    fn tokens_without_measured_energy_do_not_count() {
        let mut spent = Spent::default();
        spent.begin(0, 0.0);
        spent.add(&first(100.0), (1_000, 2.0), true);
        assert_eq!(told(&spent), (Some(100.0), 1_000, false));
        // The sampler died, and another one begins much later.
        spent.add(&first(10.0), (50_000, 2.0), false);
        spent.add(&look(110.0), (51_000, 2.0), false);
        assert_eq!(told(&spent), (Some(210.0), 2_000, true));
        assert!(
            spent
                .words()
                .is_some_and(|words| words.starts_with("at least "))
        );
    }

    #[test]
    fn a_look_that_does_not_tell_is_made_up_for_by_the_next() {
        let mut spent = Spent::default();
        spent.begin(0, 0.0);
        spent.add(&first(100.0), (1_000, 2.0), true);
        spent.add(&look(None), (2_000, 2.0), false);
        assert_eq!(told(&spent), (Some(100.0), 1_000, true));
        spent.add(&look(300.0), (3_000, 2.0), false);
        assert_eq!(told(&spent), (Some(300.0), 3_000, false));
    }

    #[test]
    fn a_session_without_energy_leaves_a_part() {
        let mut spent = Spent::default();
        spent.begin(0, 0.0);
        spent.add(&first(None), (1_000, 2.0), true);
        assert_eq!((told(&spent), spent.words()), ((None, 0, false), None));
        spent.begin(1_000, 4.0);
        spent.add(&first(50.0), (1_500, 2.0), true);
        assert_eq!(told(&spent), (Some(50.0), 500, true));
    }

    #[test]
    fn steps_that_come_again_are_counted_once() {
        let mut spent = Spent::default();
        spent.begin(0, 0.0);
        spent.add(&first(100.0), (1_000, 2.0), true);
        spent.add(&look(200.0), (600, 2.0), false);
        assert_eq!(told(&spent), (Some(200.0), 600, false));
    }

    /// A look every 4 s until 8 s.
    fn looked_at() -> Spent {
        let mut spent = Spent::default();
        spent.begin(0, 0.0);
        spent.add(&first(10.0), (100, 4.0), true);
        spent.add(&look(20.0), (200, 8.0), false);
        spent
    }

    #[test]
    fn training_that_goes_on_without_looks_makes_energy_a_part() {
        let mut spent = looked_at();
        for (tokens, time, is_partial) in
            [(300, 20.0, false), (200, 30.0, false), (150, 20.5, true)]
        {
            spent.go_on(tokens, time);
            assert_eq!(told(&spent), (Some(20.0), 200, is_partial), "{time}");
        }
        let mut late = spent.clone();
        late.add(&look(70.0), (700, 40.0), false);
        assert_eq!(told(&late), (Some(70.0), 700, false), "the same counter");
        spent.begin(400, 50.0);
        spent.add(&first(5.0), (500, 54.0), true);
        assert_eq!(told(&spent), (Some(25.0), 300, true), "missed for good");
    }

    #[test]
    fn a_session_without_looks_leaves_a_part() {
        let mut spent = looked_at();
        spent.begin(200, 10.0);
        spent.go_on(300, 21.0);
        assert_eq!(
            told(&spent),
            (Some(20.0), 200, false),
            "a look may come yet"
        );
        spent.go_on(300, 23.0);
        assert_eq!(told(&spent), (Some(20.0), 200, true));
        let mut never = Spent::default();
        never.begin(0, 0.0);
        never.go_on(100, 100.0);
        assert_eq!(told(&never), (None, 0, false));
    }

    #[test]
    fn a_look_holds_for_three_intervals() {
        let state = RunState {
            sensors: Some(Reading::default()),
            sensed: Some(100.0),
            ..RunState::default()
        };
        for (now, every_s, holds) in [
            (109.0, 2.0, true),
            (111.0, 2.0, false),
            (129.0, 10.0, true),
            (131.0, 10.0, false),
            (90.0, 2.0, true),
        ] {
            assert_eq!(
                state.sensors_at(now, every_s).is_some(),
                holds,
                "{now} {every_s}"
            );
        }
        assert_eq!(RunState::default().sensors_at(0.0, 2.0), None);
    }
}
