//! NVIDIA GPUs through NVML. A call that a card does not support leaves its value out.

use std::{
    collections::HashMap,
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::{device::SampleValue, gpm::GpmMetricId},
    error::NvmlError,
    gpm::{GpmSample, gpm_metrics_get},
    structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_MEMORY_TEMP,
};

use super::aside::{self, PcieRates};
use crate::{base::units, event::GpuReading, hw::nvidia};

/// Some laptops report hundreds of kilowatts: a value beyond so many times the limit is none.
const MOST_POWER_BY_LIMIT: f64 = 3.0;
/// No card takes as much, whatever its limit, which laptops don't tell.
const MOST_POWER_W: f64 = 5e3;
/// PCIe rates older than this are none: their thread hangs in the driver.
const STALE: Duration = Duration::from_secs(10);

/// Visible GPUs between two looks.
pub struct Gpus<'nvml> {
    cards: Vec<Card<'nvml>>,
    pcie_rates: Receiver<PcieRates>,
    xids: Receiver<(String, u64)>,
}

struct Card<'nvml> {
    uuid: String,
    name: String,
    device: Option<Device<'nvml>>,
    needs_reset: bool,
    energy: Energy,
    /// The latest, where the thread aside measures them.
    pcie: Option<(Instant, PcieRates)>,
    /// The last sample of the performance monitor, which compares two; Hopper and later have it.
    monitored: Option<GpmSample<'nvml>>,
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    pcie_tx_bytes_per_sec: Option<u64>,
    pcie_rx_bytes_per_sec: Option<u64>,
    nvlink_tx_bytes_per_sec: Option<u64>,
    nvlink_rx_bytes_per_sec: Option<u64>,
}

/// Joules since the start: from the card's counter, else power times time.
#[derive(Debug, Default)]
struct Energy {
    joules: f64,
    last_counter_mj: Option<u64>,
    last_look: Option<Instant>,
    is_estimate: bool,
}

impl<'nvml> Gpus<'nvml> {
    /// Runs `body` with the visible GPUs, or with none where there is no driver.
    pub fn with(body: impl FnOnce(&mut Option<Gpus<'_>>)) {
        let nvml = nvidia::open().ok();
        body(&mut nvml.as_ref().and_then(Gpus::find));
    }

    fn find(nvml: &'nvml Nvml) -> Option<Self> {
        let gpus = nvidia::visible_gpus(nvml).ok()?.gpus;
        let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let card = |gpu: crate::hw::Gpu| Card {
            device: nvml.device_by_uuid(gpu.uuid.as_str()).ok(),
            uuid: gpu.uuid,
            name: gpu.name,
            needs_reset: false,
            energy: Energy::default(),
            pcie: None,
            monitored: None,
        };
        Some(Self {
            cards: gpus.into_iter().map(card).collect(),
            pcie_rates: aside::pcie_rates(uuids.clone()),
            xids: aside::xids(uuids),
        })
    }

    /// Looks at all of them.
    pub fn read(&mut self) -> Vec<GpuReading> {
        for rates in self.pcie_rates.try_iter() {
            let card = self.cards.iter_mut().find(|card| card.uuid == rates.uuid);
            if let Some(card) = card {
                card.pcie = Some((Instant::now(), rates));
            }
        }
        let mut readings: Vec<GpuReading> = self.cards.iter_mut().map(Card::read).collect();
        for (uuid, xid) in self.xids.try_iter() {
            let reading = readings.iter_mut().find(|reading| reading.uuid == uuid);
            if let Some(reading) = reading {
                reading.xids.push(xid);
            }
        }
        readings
    }
}

impl Card<'_> {
    fn read(&mut self) -> GpuReading {
        let identity = GpuReading {
            uuid: self.uuid.clone(),
            name: self.name.clone(),
            ..GpuReading::default()
        };
        let rates = self.rates();
        let Some(device) = &self.device else {
            return lost(identity, self.needs_reset);
        };
        let memory = device.memory_info();
        let power = device.power_usage();
        if is_gone(&memory) || is_gone(&power) {
            self.needs_reset = wants_reset(&memory) || wants_reset(&power);
            self.monitored = None;
            self.device = None;
            return lost(identity, self.needs_reset);
        }
        let memory = memory.ok();
        let limit_w = device.enforced_power_limit().ok().map(watts);
        let power_w = power.ok().map(watts);
        let power_w = power_w.filter(|&power| is_plausible(power, limit_w));
        self.energy.advance(
            Instant::now(),
            device.total_energy_consumption().ok(),
            power_w,
        );
        let used = device.utilization_rates();
        GpuReading {
            busy: used.ok().map(|used| percent(used.gpu)),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            power_w,
            power_limit_w: limit_w,
            energy_j: self.energy.known(),
            energy_is_estimate: self.energy.is_estimate,
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            memory_temperature_c: memory_temperature_c(device),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            fan: device.fan_speed(0).ok().map(percent),
            pcie_gen: device.current_pcie_link_gen().ok(),
            pcie_width: device.current_pcie_link_width().ok(),
            pcie_width_max: device.max_pcie_link_width().ok(),
            pcie_tx_bytes_per_sec: rates.pcie_tx_bytes_per_sec,
            pcie_rx_bytes_per_sec: rates.pcie_rx_bytes_per_sec,
            pcie_replays: device.pcie_replay_counter().ok(),
            nvlink_tx_bytes_per_sec: rates.nvlink_tx_bytes_per_sec,
            nvlink_rx_bytes_per_sec: rates.nvlink_rx_bytes_per_sec,
            ecc_uncorrected: device
                .total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
                .ok(),
            limited_by: device.current_throttle_reasons().ok().map(words),
            ..identity
        }
    }

    /// From the performance monitor, else PCIe's alone from the thread aside.
    fn rates(&mut self) -> Rates {
        let fresh = self.pcie.as_ref().filter(|(at, _)| at.elapsed() < STALE);
        let aside = fresh.map(|(_, rates)| Rates {
            pcie_tx_bytes_per_sec: rates.tx,
            pcie_rx_bytes_per_sec: rates.rx,
            ..Rates::default()
        });
        self.monitored_rates().or(aside).unwrap_or_default()
    }

    fn monitored_rates(&mut self) -> Option<Rates> {
        const WANTED: [GpmMetricId; 4] = [
            GpmMetricId::PcieTxPerSec,
            GpmMetricId::PcieRxPerSec,
            GpmMetricId::NvlinkTotalTxPerSec,
            GpmMetricId::NvlinkTotalRxPerSec,
        ];
        let device = self.device.as_ref()?;
        if !device.gpm_support().unwrap_or(false) {
            return None;
        }
        let sample = device.gpm_sample().ok()?;
        let before = self.monitored.replace(sample)?;
        let now = self.monitored.as_ref()?;
        let metrics = gpm_metrics_get(now.nvml(), &before, now, &WANTED).ok()?;
        // NVML counts MiB a second.
        let rate = |index: usize| {
            let metric = metrics.get(index)?.as_ref().ok()?;
            let is_rate = metric.value.is_finite() && metric.value >= 0.0;
            is_rate.then_some((metric.value * units::MIB as f64) as u64)
        };
        Some(Rates {
            pcie_tx_bytes_per_sec: rate(0),
            pcie_rx_bytes_per_sec: rate(1),
            nvlink_tx_bytes_per_sec: rate(2),
            nvlink_rx_bytes_per_sec: rate(3),
        })
    }
}

fn lost(identity: GpuReading, needs_reset: bool) -> GpuReading {
    GpuReading {
        is_lost: true,
        needs_reset,
        ..identity
    }
}

/// Whether the driver has given the card up.
fn is_gone<T>(answer: &Result<T, NvmlError>) -> bool {
    matches!(answer, Err(NvmlError::GpuLost)) || wants_reset(answer)
}

fn wants_reset<T>(answer: &Result<T, NvmlError>) -> bool {
    matches!(answer, Err(NvmlError::ResetRequired))
}

fn is_plausible(power_w: f64, limit_w: Option<f64>) -> bool {
    power_w <= limit_w.map_or(MOST_POWER_W, |limit| MOST_POWER_BY_LIMIT * limit)
}

/// A field that the wrapper has no call for; 0 is no temperature of a running card.
fn memory_temperature_c(device: &Device<'_>) -> Option<u32> {
    let fields = device.field_values_for(&[FieldId(NVML_FI_DEV_MEMORY_TEMP)]);
    let sample = fields.ok()?.pop()?.ok()?;
    match sample.value.ok()? {
        SampleValue::U32(celsius) => Some(celsius).filter(|&celsius| celsius > 0),
        _ => None,
    }
}

impl Energy {
    fn advance(&mut self, now: Instant, counter_mj: Option<u64>, power_w: Option<f64>) {
        let passed = self.last_look.replace(now).map(|last| now - last);
        match (counter_mj, self.last_counter_mj) {
            (Some(now), Some(last)) if now >= last => self.joules += (now - last) as f64 / 1e3,
            // The first look, a driver that was loaded again, or a look that failed.
            (Some(_), _) | (None, Some(_)) => {}
            (None, None) => {
                if let (Some(power), Some(passed)) = (power_w, passed) {
                    self.is_estimate = true;
                    self.joules += power * passed.as_secs_f64();
                }
            }
        }
        self.last_counter_mj = counter_mj.or(self.last_counter_mj);
    }

    fn known(&self) -> Option<f64> {
        (self.is_estimate || self.last_counter_mj.is_some()).then_some(self.joules)
    }
}

fn percent(percent: u32) -> f64 {
    f64::from(percent) / 100.0
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
    // The driver may set the general bit beside the particular ones.
    let particular =
        ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    let reasons = match reasons.intersects(particular) {
        true => reasons - ThrottleReasons::HW_SLOWDOWN,
        false => reasons,
    };
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn energy_is_counted_or_estimated() {
        let mut counted = Energy::default();
        assert_eq!(counted.known(), None);
        let now = Instant::now();
        for counter in [Some(5_000), Some(6_000), None, Some(7_500), Some(100)] {
            counted.advance(now, counter, Some(1e6));
        }
        assert_eq!(
            (counted.known(), counted.is_estimate),
            (Some(2.5), false),
            "a reloaded driver adds nothing"
        );

        let mut estimated = Energy::default();
        estimated.advance(now, None, Some(100.0));
        assert_eq!(estimated.known(), None);
        estimated.advance(now + Duration::from_secs(2), None, Some(100.0));
        assert!(estimated.is_estimate);
        assert_eq!(estimated.known(), Some(200.0));
    }

    #[test]
    fn power_beyond_belief_is_none() {
        assert!(is_plausible(450.0, Some(450.0)) && is_plausible(120.0, None));
        assert!(!is_plausible(1_351.0, Some(450.0)));
        assert!(!is_plausible(593_000.0, None), "a laptop tells no limit");
    }

    #[test]
    fn reasons_are_words() {
        assert!(words(ThrottleReasons::GPU_IDLE).is_empty());
        let hot = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(words(hot), ["temperature"]);
        assert_eq!(
            words(hot | ThrottleReasons::SW_POWER_CAP),
            ["power limit", "temperature"]
        );
        assert_eq!(words(ThrottleReasons::HW_SLOWDOWN), ["hardware slowdown"]);
    }
}
