//! NVIDIA GPUs through NVML. A call that a card does not support leaves its value out.

use std::{collections::HashMap, time::Instant};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor},
    error::NvmlError,
};

use crate::{event::GpuReading, hw::nvidia};

/// Some laptops report hundreds of kilowatts: a value beyond so many times the limit is none.
const MOST_POWER_BY_LIMIT: f64 = 3.0;

/// Visible GPUs between two looks.
pub struct Gpus<'nvml> {
    cards: Vec<Card<'nvml>>,
}

struct Card<'nvml> {
    uuid: String,
    name: String,
    device: Option<Device<'nvml>>,
    energy: Energy,
}

/// Joules since the start: from the card's counter, else power times time.
#[derive(Debug, Default)]
struct Energy {
    joules: f64,
    last_counter_mj: Option<u64>,
    last_look: Option<Instant>,
    is_estimate: bool,
}

impl Gpus<'_> {
    /// Runs `body` with the visible GPUs, or with none where there is no driver.
    pub fn with(body: impl FnOnce(&mut Option<Gpus<'_>>)) {
        let gpus = nvidia::visible_gpus().unwrap_or_default();
        let nvml = match gpus.is_empty() {
            true => None,
            false => Nvml::init().ok(),
        };
        let mut found = nvml.as_ref().map(|nvml| Gpus {
            cards: gpus
                .into_iter()
                .map(|gpu| Card {
                    device: nvml.device_by_uuid(gpu.uuid.as_str()).ok(),
                    uuid: gpu.uuid,
                    name: gpu.name,
                    energy: Energy::default(),
                })
                .collect(),
        });
        body(&mut found);
    }

    /// Looks at all of them.
    pub fn read(&mut self) -> Vec<GpuReading> {
        self.cards.iter_mut().map(Card::read).collect()
    }
}

impl Card<'_> {
    fn read(&mut self) -> GpuReading {
        let identity = GpuReading {
            uuid: self.uuid.clone(),
            name: self.name.clone(),
            ..GpuReading::default()
        };
        let Some(device) = &self.device else {
            return GpuReading {
                is_lost: true,
                ..identity
            };
        };
        let memory = device.memory_info();
        if matches!(memory, Err(NvmlError::GpuLost)) {
            self.device = None;
            return GpuReading {
                is_lost: true,
                ..identity
            };
        }
        let memory = memory.ok();
        let limit_w = device.enforced_power_limit().ok().map(watts);
        let power_w = device.power_usage().ok().map(watts);
        let power_w = power_w
            .filter(|power| limit_w.is_none_or(|limit| *power <= MOST_POWER_BY_LIMIT * limit));
        self.energy
            .advance(device.total_energy_consumption().ok(), power_w);
        GpuReading {
            busy: device
                .utilization_rates()
                .ok()
                .map(|rates| f64::from(rates.gpu) / 100.0),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            power_w,
            power_limit_w: limit_w,
            energy_j: self.energy.known(),
            energy_is_estimate: self.energy.is_estimate,
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            fan: device
                .fan_speed(0)
                .ok()
                .map(|percent| f64::from(percent) / 100.0),
            pcie_gen: device.current_pcie_link_gen().ok(),
            pcie_width: device.current_pcie_link_width().ok(),
            pcie_width_max: device.max_pcie_link_width().ok(),
            limited_by: device
                .current_throttle_reasons()
                .map(words)
                .unwrap_or_default(),
            ..identity
        }
    }
}

impl Energy {
    fn advance(&mut self, counter_mj: Option<u64>, power_w: Option<f64>) {
        let passed = self
            .last_look
            .replace(Instant::now())
            .map(|last| last.elapsed());
        match (counter_mj, self.last_counter_mj) {
            (Some(now), Some(last)) if now >= last => self.joules += (now - last) as f64 / 1e3,
            // The first look, or a driver that was loaded again.
            (Some(_), _) => {}
            (None, _) => {
                if let (Some(power), Some(passed)) = (power_w, passed) {
                    self.is_estimate = true;
                    self.joules += power * passed.as_secs_f64();
                }
            }
        }
        self.last_counter_mj = counter_mj;
    }

    fn known(&self) -> Option<f64> {
        (self.is_estimate || self.last_counter_mj.is_some()).then_some(self.joules)
    }
}

fn watts(milliwatts: u32) -> f64 {
    f64::from(milliwatts) / 1e3
}

/// Reasons that slow a busy card; idleness and settings of the user are none.
fn words(reasons: ThrottleReasons) -> Vec<String> {
    let named: HashMap<&str, ThrottleReasons> = HashMap::from([
        ("power limit", ThrottleReasons::SW_POWER_CAP),
        (
            "temperature",
            ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN,
        ),
        ("power brake", ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
        ("hardware slowdown", ThrottleReasons::HW_SLOWDOWN),
        ("sync boost", ThrottleReasons::SYNC_BOOST),
    ]);
    let mut words: Vec<String> = named
        .into_iter()
        .filter(|(_, bits)| reasons.intersects(*bits))
        .map(|(word, _)| word.to_owned())
        .collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_counted_or_estimated() {
        let mut counted = Energy::default();
        assert_eq!(counted.known(), None);
        for counter in [5_000, 7_500, 100] {
            counted.advance(Some(counter), Some(1e6));
        }
        assert_eq!(
            (counted.known(), counted.is_estimate),
            (Some(2.5), false),
            "a reloaded driver adds nothing"
        );

        let mut estimated = Energy::default();
        estimated.advance(None, Some(100.0));
        assert_eq!(estimated.known(), None);
        estimated.advance(None, Some(100.0));
        assert!(estimated.is_estimate && estimated.known().is_some_and(|joules| joules >= 0.0));
    }

    #[test]
    fn reasons_are_words() {
        assert!(words(ThrottleReasons::GPU_IDLE).is_empty());
        let hot = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(words(hot), ["power limit", "temperature"]);
    }
}
