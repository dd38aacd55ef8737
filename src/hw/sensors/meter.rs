//! A card's energy: its counter's, and power times time where that does not tell.

use std::time::Instant;

use crate::event::Energy;

/// Joules since the first look.
#[derive(Debug, Default)]
pub struct Meter {
    joules: f64,
    /// The counter's latest answer in millijoules, and the joules then.
    counted: Option<(u64, f64)>,
    /// Up to when the joules reach.
    until: Option<Instant>,
    is_known: bool,
    is_estimate: bool,
    /// Since the counter's latest answer the joules are power times time.
    is_bridged: bool,
}

impl Meter {
    /// Takes in a look.
    pub fn advance(&mut self, now: Instant, counter_mj: Option<u64>, power_w: Option<f64>) {
        match (counter_mj, self.counted) {
            (Some(counter), Some((last, joules))) if counter >= last => {
                self.joules = joules + (counter - last) as f64 / 1e3;
                self.until = Some(now);
                self.is_known = true;
                self.is_bridged = false;
            }
            // A first answer, or a driver that was loaded again, whose counter began anew.
            (Some(_), last) => {
                self.is_estimate |= last.is_some();
                self.integrate(now, power_w);
                self.is_estimate |= std::mem::take(&mut self.is_bridged);
                self.is_known = true;
            }
            (None, _) => self.integrate(now, power_w),
        }
        if let Some(counter) = counter_mj {
            self.counted = Some((counter, self.joules));
        }
    }

    fn integrate(&mut self, now: Instant, power_w: Option<f64>) {
        let until = *self.until.get_or_insert(now);
        let passed_s = (now - until).as_secs_f64();
        self.is_known = power_w.is_some() && passed_s > 0.0;
        if let Some(power_w) = power_w.filter(|_| self.is_known) {
            self.joules += power_w * passed_s;
            self.until = Some(now);
            self.is_bridged = true;
        }
    }

    /// Unknown where the latest look told neither the counter nor the power.
    pub fn known(&self) -> Option<Energy> {
        self.is_known.then_some(Energy {
            joules: self.joules,
            is_estimate: self.is_estimate || self.is_bridged,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Looks two seconds apart: counter in joules, power in watts; what is known after each, and whether as an estimate.
    fn told(looks: &[(Option<u64>, Option<f64>)]) -> Vec<Option<(f64, bool)>> {
        let begin = Instant::now();
        let mut meter = Meter::default();
        let looks = (0..).zip(looks).map(|(number, (counter_j, power_w))| {
            let now = begin + Duration::from_secs(2 * number);
            meter.advance(now, counter_j.map(|joules| 1_000 * joules), *power_w);
            let energy = meter.known()?;
            Some((energy.joules, energy.is_estimate))
        });
        looks.collect()
    }

    #[test]
    fn a_counter_is_believed() {
        let looks = [(Some(5), Some(1e6)), (Some(6), None), (Some(8), Some(1e6))];
        let known = [0.0, 1.0, 3.0].map(|joules| Some((joules, false)));
        assert_eq!(told(&looks), known);
    }

    #[test]
    fn without_a_counter_power_is_integrated() {
        let looks = [(None, Some(100.0)), (None, Some(100.0)), (None, Some(50.0))];
        assert_eq!(
            told(&looks),
            [None, Some((200.0, true)), Some((300.0, true))]
        );
        assert_eq!(told(&[(None, None), (None, None)]), [None, None]);
    }

    #[test]
    fn a_look_without_power_is_unknown_and_made_up_for() {
        let looks = [(None, Some(100.0)), (None, None), (None, Some(100.0))];
        assert_eq!(told(&looks), [None, None, Some((400.0, true))]);
    }

    #[test]
    fn a_counter_that_stops_is_bridged_until_it_answers() {
        let looks = [
            (Some(5), Some(100.0)),
            (None, Some(100.0)),
            (None, None),
            (None, Some(100.0)),
        ];
        let known = [
            Some((0.0, false)),
            Some((200.0, true)),
            None,
            Some((600.0, true)),
        ];
        assert_eq!(told(&looks), known);
        let mut looks = looks.to_vec();
        looks.push((Some(705), None));
        assert_eq!(
            told(&looks)[4],
            Some((700.0, false)),
            "the counter knows better"
        );
    }

    #[test]
    fn a_counter_that_falls_marks_the_energy() {
        let looks = [
            (Some(5), Some(50.0)),
            (Some(7), Some(50.0)),
            (Some(1), Some(50.0)),
        ];
        assert_eq!(told(&looks)[2], Some((102.0, true)));
        let looks = [(Some(7), None), (Some(1), None), (Some(3), None)];
        assert_eq!(told(&looks)[2], Some((2.0, true)));
    }
}
