//! NVIDIA GPUs through NVML. A call that a card does not support leaves its value out.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, Sender},
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::{device::SampleValue, gpm::GpmMetricId},
    error::NvmlError,
    gpm::{GpmSample, gpm_metrics_get},
    struct_wrappers::device::{MemoryInfo, Utilization},
    structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_MEMORY_TEMP,
};

use super::{
    aside::{self, Heard, PcieRates},
    driver::{Answer, Found, Look},
    meter::Meter,
};
use crate::{
    base::units,
    event::GpuReading,
    hw::{machine, nvidia},
};

/// Some laptops report hundreds of kilowatts: a value beyond so many times the limit is none.
const MOST_POWER_BY_LIMIT: f64 = 3.0;
/// No card takes as much, whatever its limit, which laptops don't tell.
const MOST_POWER_W: f64 = 5e3;
/// PCIe rates older than this are none: their thread hangs in the driver.
const STALE: Duration = Duration::from_secs(10);
/// A card that answers nothing for so many looks is silent.
const SILENT_LOOKS: u32 = 3;

/// Looks at the visible GPUs as often as it is asked; ends at once where there are none.
///
/// Between two looks it keeps what only two looks together tell.
pub fn look(asks: &Receiver<()>, answers: &Sender<Answer>) {
    // Nobody listens any more where the process ends.
    let _ = answer(asks, answers);
}

fn answer(asks: &Receiver<()>, answers: &Sender<Answer>) -> Option<()> {
    let say = |answer| answers.send(answer).ok();
    let none = |reason| {
        Answer::Found(Found {
            no_gpus_because: Some(reason),
            ..Found::default()
        })
    };
    let nvml = match nvidia::open() {
        Ok(nvml) => nvml,
        Err(reason) => return say(none(reason)),
    };
    let (mut gpus, found) = match Gpus::find(&nvml) {
        Ok(found) => found,
        Err(reason) => return say(none(reason)),
    };
    say(Answer::Found(found))?;
    // For the first look to compare with.
    for card in &mut gpus.cards {
        card.read();
    }
    for () in asks {
        let (readings, notes) = gpus.read();
        say(Answer::Looked(Look {
            at: Instant::now(),
            gpus: readings,
            notes,
        }))?;
    }
    None
}

/// Visible GPUs between two looks.
struct Gpus<'nvml> {
    cards: Vec<Card<'nvml>>,
    pcie_rates: Receiver<PcieRates>,
    xids: Receiver<Heard>,
    deaf: Deaf,
}

/// Whether XID errors are watched for every card.
enum Deaf {
    No,
    /// And why.
    Untold(String),
    Told,
}

struct Card<'nvml> {
    uuid: String,
    name: String,
    device: Option<Device<'nvml>>,
    needs_reset: bool,
    energy: Meter,
    /// The latest, where the thread aside measures them.
    pcie: Option<PcieRates>,
    /// The last sample of the performance monitor, which compares two; Hopper and later have it.
    monitored: Option<GpmSample<'nvml>>,
    slow: Slow,
    silence: Silence,
}

/// What a card that lives answers at least in part.
struct Basics {
    memory: Result<MemoryInfo, NvmlError>,
    power_mw: Result<u32, NvmlError>,
    used: Result<Utilization, NvmlError>,
    temperature_c: Result<u32, NvmlError>,
}

/// What changes slowly.
struct Slow {
    limit_w: Rarely<Option<f64>>,
    ecc_uncorrected: Rarely<Option<u64>>,
    link: Rarely<PcieLink>,
    fan: Rarely<Option<f64>>,
    sm_clock_max_mhz: Rarely<Option<u32>>,
    was_busy: bool,
}

#[derive(Clone, Copy, Debug)]
struct PcieLink {
    generation: Option<u32>,
    width: Option<u32>,
    width_max: Option<u32>,
    replays: Option<u32>,
}

/// A value that is asked for now and then.
struct Rarely<T> {
    every: Duration,
    last: Option<(Instant, T)>,
}

/// For how many looks a card has answered nothing.
#[derive(Debug, Default)]
struct Silence {
    has_answered: bool,
    n_looks: u32,
}

/// What the performance monitor says: bytes a second, shares of time.
#[derive(Clone, Copy, Debug, Default)]
struct Monitored {
    pcie_tx_bytes_per_sec: Option<u64>,
    pcie_rx_bytes_per_sec: Option<u64>,
    nvlink_tx_bytes_per_sec: Option<u64>,
    nvlink_rx_bytes_per_sec: Option<u64>,
    sm_active: Option<f64>,
    tensor_active: Option<f64>,
    dram_active: Option<f64>,
}

impl<'nvml> Gpus<'nvml> {
    fn find(nvml: &'nvml Nvml) -> Result<(Self, Found), String> {
        let nvidia::Visible { gpus, left_out } = nvidia::visible_gpus(nvml)?;
        let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let cards: Vec<Card<'_>> = gpus
            .into_iter()
            .map(|gpu| Card::new(nvml, gpu.uuid, gpu.name))
            .collect();
        let found = Found {
            gpus: cards.iter().map(Card::identity).collect(),
            left_out,
            no_gpus_because: cards.is_empty().then(|| nvidia::NONE_SHOWN.to_owned()),
        };
        let gpus = Self {
            cards,
            pcie_rates: aside::pcie_rates(uuids.clone()),
            xids: aside::xids(uuids),
            deaf: Deaf::No,
        };
        Ok((gpus, found))
    }

    /// Looks at all of them; what can't be done is noted once.
    fn read(&mut self) -> (Vec<GpuReading>, Vec<String>) {
        for rates in self.pcie_rates.try_iter() {
            let card = self.cards.iter_mut().find(|card| card.uuid == rates.uuid);
            if let Some(card) = card {
                card.pcie = Some(rates);
            }
        }
        let mut readings: Vec<GpuReading> = self.cards.iter_mut().map(Card::read).collect();
        for heard in self.xids.try_iter() {
            match heard {
                Heard::Xid(uuid, xid) => {
                    let reading = readings.iter_mut().find(|reading| reading.uuid == uuid);
                    if let Some(reading) = reading {
                        reading.xids.push(xid);
                    }
                }
                Heard::Deaf(reason) => self.deaf.hear(reason),
            }
        }
        (readings, self.deaf.tell().into_iter().collect())
    }
}

impl Deaf {
    fn hear(&mut self, reason: String) {
        if matches!(self, Self::No) {
            *self = Self::Untold(reason);
        }
    }

    fn tell(&mut self) -> Option<String> {
        let Self::Untold(reason) = self else {
            return None;
        };
        let note = format!(
            "XID errors are not watched on all cards ({reason}); look for them in the kernel's log (dmesg)"
        );
        *self = Self::Told;
        Some(note)
    }
}

impl<'nvml> Card<'nvml> {
    fn new(nvml: &'nvml Nvml, uuid: String, name: String) -> Self {
        Self {
            device: nvidia::device(nvml, &uuid).ok(),
            uuid,
            name,
            needs_reset: false,
            energy: Meter::default(),
            pcie: None,
            monitored: None,
            slow: Slow::default(),
            silence: Silence::default(),
        }
    }

    fn identity(&self) -> GpuReading {
        GpuReading {
            uuid: self.uuid.clone(),
            name: self.name.clone(),
            ..GpuReading::default()
        }
    }

    fn read(&mut self) -> GpuReading {
        let monitored = self.monitored();
        let answers = self.device.as_ref().map(Basics::ask);
        let is_lost = answers.as_ref().is_none_or(|answers| answers.fail(is_gone));
        self.needs_reset |= answers
            .as_ref()
            .is_some_and(|answers| answers.fail(wants_reset));
        let (Some(device), Some(answers), false) = (self.device.take(), answers, is_lost) else {
            self.monitored = None;
            return GpuReading {
                is_lost: true,
                needs_reset: self.needs_reset,
                ..self.identity()
            };
        };
        let reading = self.values(&device, answers, monitored);
        self.device = Some(device);
        reading
    }

    fn values(&mut self, device: &Device<'_>, answers: Basics, monitored: Monitored) -> GpuReading {
        let now = Instant::now();
        self.silence.hear(answers.is_any());
        if self.silence.n_looks > 0 {
            // What it said before tells nothing of what is.
            self.slow = Slow::default();
        }
        let busy = answers.used.ok().map(|used| percent(used.gpu));
        self.slow.hear(busy);
        let limit_w = self.slow.limit_w.at(now, || {
            let limit = device.enforced_power_limit();
            limit.ok().map(watts)
        });
        let power_w = answers.power_mw.ok().map(watts);
        let power_w = power_w.filter(|&power| is_plausible(power, limit_w));
        let counter_mj = device.total_energy_consumption().ok();
        self.energy.advance(now, counter_mj, power_w);
        let energy = self.energy.known();
        let memory = memory_of(answers.memory);
        let link = self.slow.link.at(now, || PcieLink::of(device));
        GpuReading {
            is_silent: self.silence.is_long(),
            busy,
            sm_active: monitored.sm_active,
            tensor_active: monitored.tensor_active,
            dram_active: monitored.dram_active,
            memory_used_bytes: memory.map(|(used, _)| used),
            memory_total_bytes: memory.map(|(_, total)| total),
            power_w,
            power_limit_w: limit_w,
            energy_j: energy.map(|energy| energy.joules),
            energy_is_estimate: energy.is_some_and(|energy| energy.is_estimate),
            temperature_c: answers.temperature_c.ok(),
            memory_temperature_c: memory_temperature_c(device),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            sm_clock_max_mhz: self
                .slow
                .sm_clock_max_mhz
                .at(now, || device.max_clock_info(Clock::SM).ok()),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            fan: self.slow.fan.at(now, || fastest_fan(device)),
            pcie_gen: link.generation,
            pcie_width: link.width,
            pcie_width_max: link.width_max,
            pcie_replays: link.replays,
            pcie_tx_bytes_per_sec: monitored.pcie_tx_bytes_per_sec,
            pcie_rx_bytes_per_sec: monitored.pcie_rx_bytes_per_sec,
            nvlink_tx_bytes_per_sec: monitored.nvlink_tx_bytes_per_sec,
            nvlink_rx_bytes_per_sec: monitored.nvlink_rx_bytes_per_sec,
            ecc_uncorrected: self.slow.ecc_uncorrected.at(now, || {
                let errors =
                    device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
                errors.ok()
            }),
            limited_by: device.current_throttle_reasons().ok().map(words),
            ..self.identity()
        }
    }

    /// From the performance monitor, else PCIe's rates alone from the thread aside.
    fn monitored(&mut self) -> Monitored {
        let fresh = self.pcie.as_ref().filter(|pcie| pcie.at.elapsed() < STALE);
        let aside = fresh.map(|rates| Monitored {
            pcie_tx_bytes_per_sec: rates.tx,
            pcie_rx_bytes_per_sec: rates.rx,
            ..Monitored::default()
        });
        self.performance().or(aside).unwrap_or_default()
    }

    fn performance(&mut self) -> Option<Monitored> {
        const WANTED: [GpmMetricId; 7] = [
            GpmMetricId::PcieTxPerSec,
            GpmMetricId::PcieRxPerSec,
            GpmMetricId::NvlinkTotalTxPerSec,
            GpmMetricId::NvlinkTotalRxPerSec,
            GpmMetricId::SmUtil,
            GpmMetricId::AnyTensorUtil,
            GpmMetricId::DramBwUtil,
        ];
        let device = self.device.as_ref()?;
        if !device.gpm_support().unwrap_or(false) {
            return None;
        }
        let sample = device.gpm_sample().ok()?;
        let before = self.monitored.replace(sample)?;
        let now = self.monitored.as_ref()?;
        let metrics = gpm_metrics_get(now.nvml(), &before, now, &WANTED).ok()?;
        let value = |index: usize| {
            let value = metrics.get(index)?.as_ref().ok()?.value;
            (value.is_finite() && value >= 0.0).then_some(value)
        };
        // NVML counts MiB a second, and percent.
        let rate = |index| value(index).map(|mib| (mib * units::MIB as f64) as u64);
        let share = |index| value(index).map(|percent| (percent / 100.0).min(1.0));
        Some(Monitored {
            pcie_tx_bytes_per_sec: rate(0),
            pcie_rx_bytes_per_sec: rate(1),
            nvlink_tx_bytes_per_sec: rate(2),
            nvlink_rx_bytes_per_sec: rate(3),
            sm_active: share(4),
            tensor_active: share(5),
            dram_active: share(6),
        })
    }
}

impl Basics {
    fn ask(device: &Device<'_>) -> Self {
        Self {
            memory: device.memory_info(),
            power_mw: device.power_usage(),
            used: device.utilization_rates(),
            temperature_c: device.temperature(TemperatureSensor::Gpu),
        }
    }

    fn failures(&self) -> [Option<&NvmlError>; 4] {
        [
            self.memory.as_ref().err(),
            self.power_mw.as_ref().err(),
            self.used.as_ref().err(),
            self.temperature_c.as_ref().err(),
        ]
    }

    fn fail(&self, kind: fn(&NvmlError) -> bool) -> bool {
        self.failures().into_iter().flatten().any(kind)
    }

    fn is_any(&self) -> bool {
        self.failures().iter().any(Option::is_none)
    }
}

impl Default for Slow {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            limit_w: Rarely::new(seconds(30)),
            ecc_uncorrected: Rarely::new(seconds(30)),
            link: Rarely::new(seconds(10)),
            fan: Rarely::new(seconds(5)),
            sm_clock_max_mhz: Rarely::new(Duration::MAX),
            was_busy: false,
        }
    }
}

impl Slow {
    /// An idle link may be narrow, so it is looked at anew where a card gets busy or idle.
    fn hear(&mut self, busy: Option<f64>) {
        let is_busy = GpuReading::is_busy(busy);
        if is_busy != std::mem::replace(&mut self.was_busy, is_busy) {
            self.link.last = None;
        }
    }
}

impl<T: Clone> Rarely<T> {
    const fn new(every: Duration) -> Self {
        Self { every, last: None }
    }

    fn at(&mut self, now: Instant, ask: impl FnOnce() -> T) -> T {
        match &self.last {
            Some((at, value)) if now.saturating_duration_since(*at) < self.every => value.clone(),
            _ => self.last.insert((now, ask())).1.clone(),
        }
    }
}

impl PcieLink {
    fn of(device: &Device<'_>) -> Self {
        Self {
            generation: device.current_pcie_link_gen().ok(),
            width: device.current_pcie_link_width().ok(),
            width_max: device.max_pcie_link_width().ok(),
            replays: device.pcie_replay_counter().ok(),
        }
    }
}

impl Silence {
    fn hear(&mut self, answers: bool) {
        self.has_answered |= answers;
        self.n_looks = if answers || !self.has_answered {
            0
        } else {
            self.n_looks.saturating_add(1)
        };
    }

    const fn is_long(&self) -> bool {
        self.n_looks >= SILENT_LOOKS
    }
}

/// Used and total bytes; a card that shares the host's memory has none of its own to tell.
fn memory_of(memory: Result<MemoryInfo, NvmlError>) -> Option<(u64, u64)> {
    match memory {
        Ok(memory) => Some((memory.used, memory.total)),
        Err(NvmlError::NotSupported) => machine::memory(),
        Err(_) => None,
    }
}

/// Of cards that don't count their fans, the first.
fn fastest_fan(device: &Device<'_>) -> Option<f64> {
    let n_fans = device.num_fans().unwrap_or(1);
    let speeds = (0..n_fans).filter_map(|fan| device.fan_speed(fan).ok());
    speeds.max().map(percent)
}

/// Whether the driver has given the card up.
const fn is_gone(failure: &NvmlError) -> bool {
    matches!(failure, NvmlError::GpuLost) || wants_reset(failure)
}

const fn wants_reset(failure: &NvmlError) -> bool {
    matches!(failure, NvmlError::ResetRequired)
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
    use super::*;

    #[test]
    fn a_card_that_answered_and_no_longer_does_is_silent_after_a_while() {
        let mut silence = Silence::default();
        let mut heard = |answers: &[bool]| {
            answers.iter().for_each(|&answers| silence.hear(answers));
            silence.is_long()
        };
        assert!(!heard(&[false; 10]), "it never told anything");
        assert!(!heard(&[true, false, false]));
        assert!(heard(&[false]));
        assert!(!heard(&[true]));
    }

    #[test]
    fn what_changes_slowly_is_asked_for_now_and_then() {
        let begin = Instant::now();
        let mut asked = 0;
        let mut rarely = Rarely::new(Duration::from_secs(10));
        let mut at = |seconds| {
            rarely.at(begin + Duration::from_secs(seconds), || {
                asked += 1;
                asked
            })
        };
        assert_eq!([0, 2, 9, 10, 12].map(&mut at), [1, 1, 1, 2, 2]);
        let mut slow = Slow::default();
        let width = |slow: &mut Slow, busy, width| {
            slow.hear(Some(busy));
            let link = slow.link.at(begin, || PcieLink {
                generation: None,
                width: Some(width),
                width_max: None,
                replays: None,
            });
            link.width
        };
        assert_eq!(width(&mut slow, 0.0, 4), Some(4));
        assert_eq!(
            width(&mut slow, 1.0, 16),
            Some(16),
            "no idle link is judged"
        );
        assert_eq!(width(&mut slow, 1.0, 8), Some(16));
    }

    #[test]
    fn a_card_that_shares_the_hosts_memory_shows_that() {
        let (used, total) = memory_of(Err(NvmlError::NotSupported)).expect("a host");
        assert!(used > 0 && used <= total);
        assert_eq!(memory_of(Err(NvmlError::Unknown)), None);
    }

    #[test]
    fn that_xids_are_not_watched_is_said_once() {
        let mut deaf = Deaf::No;
        assert_eq!(deaf.tell(), None);
        for reason in ["GPU-1: Not Supported", "GPU-2: Not Supported"] {
            deaf.hear(reason.to_owned());
        }
        let note = deaf.tell().expect("a note");
        assert!(note.contains("GPU-1: Not Supported"), "{note}");
        deaf.hear("again".to_owned());
        assert_eq!(deaf.tell(), None);
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
