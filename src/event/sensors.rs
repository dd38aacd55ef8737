//! What the machine's sensors say. Every value is optional: what a machine can't tell is absent, never zero.

use serde::{Deserialize, Serialize};

/// One look at all sensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub host: HostReading,
    /// Visible GPUs in CUDA's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuReading>,
    /// A sampler's first look: all sums of energy begin here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_first: bool,
    /// Why there are no GPUs; not in a run's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_gpus_because: Option<String>,
    /// Cards that can't be used, each with the reason; not in a run's log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What the sampler can't do and what to try, each once; warnings in a run's log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What a run's devices took since the sampler started; in a run's log alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_energy: Option<Energy>,
}

/// Joules that were counted, or power times time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    pub joules: f64,
    /// A part of it is power times time.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_estimate: bool,
}

/// Cores, memory, disk and the processor's energy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReading {
    /// Logical processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<usize>,
    /// Share of all cores' time that was not idle, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_busy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// Bytes that may still be written where runs and their checkpoints lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Watts of the processor packages, over the time since the last look (RAPL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_power_w: Option<f64>,
    /// Joules of the processor packages since the sampler started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_energy_j: Option<f64>,
    /// A counter began anew meanwhile: a part of the joules is power times time.
    #[serde(skip_serializing_if = "is_false")]
    pub package_energy_is_estimate: bool,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuReading {
    pub uuid: String,
    pub name: String,
    /// The driver no longer answers for the card.
    #[serde(skip_serializing_if = "is_false")]
    pub is_lost: bool,
    /// For several looks the card has answered nothing that it answered before.
    #[serde(skip_serializing_if = "is_false")]
    pub is_silent: bool,
    /// It is lost until it is reset.
    #[serde(skip_serializing_if = "is_false")]
    pub needs_reset: bool,
    /// Share of time in which any kernel ran, in [0, 1]; no measure of how well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
    /// Share of time in which a multiprocessor had work, over all of them, in [0, 1]; Hopper and later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_active: Option<f64>,
    /// Share of time in which tensor cores worked, in [0, 1]; Hopper and later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_active: Option<f64>,
    /// Share of the memory's bandwidth that was used, in [0, 1]; Hopper and later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dram_active: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// The limit that is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit_w: Option<f64>,
    /// Joules since the sampler started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_j: Option<f64>,
    /// The card has no energy counter, or it began anew: a part of the joules is power times time.
    #[serde(skip_serializing_if = "is_false")]
    pub energy_is_estimate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<u32>,
    /// Of the memory: HBM cards tell it, GeForce cards don't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_temperature_c: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_clock_mhz: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_clock_max_mhz: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<u32>,
    /// The fastest fan's share of full speed, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_gen: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_width_max: Option<u32>,
    /// What the card sends; over 20 ms on cards before Hopper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_tx_bytes_per_sec: Option<u64>,
    /// What the card receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_rx_bytes_per_sec: Option<u64>,
    /// Packets sent again since the card was reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_replays: Option<u32>,
    /// Over all NVLinks of the card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvlink_tx_bytes_per_sec: Option<u64>,
    /// Over all NVLinks of the card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvlink_rx_bytes_per_sec: Option<u64>,
    /// Memory errors that ECC saw and could not correct, since the driver was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// XID errors since the look before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<u64>,
    /// Why the clocks are low, in words; empty where nothing holds them back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<Vec<String>>,
}

impl GpuReading {
    /// Whether a card that is `busy` for that share of time is at work.
    pub fn is_busy(busy: Option<f64>) -> bool {
        busy.is_some_and(|busy| busy >= 0.5)
    }

    /// Whether the link runs with fewer lanes than it has; an idle link may, so only a busy card's is judged.
    pub fn is_link_narrow(&self) -> bool {
        Self::is_busy(self.busy)
            && self.pcie_width.is_some()
            && self.pcie_width < self.pcie_width_max
    }
}

/// The first part of a UUID, which tells the cards of a machine apart: `GPU-1f0c2a9b`.
pub fn short_uuid(uuid: &str) -> &str {
    let end = uuid
        .match_indices('-')
        .nth(1)
        .map_or(uuid.len(), |(at, _)| at);
    &uuid[..end]
}

impl Reading {
    /// Energy since the sampler started of some GPUs (CUDA's indices), or without any of the processor packages.
    ///
    /// `None` where one of them does not tell: a part is not shown as the whole.
    pub fn energy_of(&self, gpus: &[usize]) -> Option<Energy> {
        if gpus.is_empty() {
            return Some(Energy {
                joules: self.host.package_energy_j?,
                is_estimate: self.host.package_energy_is_estimate,
            });
        }
        gpus.iter().try_fold(Energy::default(), |sum, &index| {
            let gpu = self.gpus.get(index)?;
            Some(Energy {
                joules: sum.joules + gpu.energy_j?,
                is_estimate: sum.is_estimate || gpu.energy_is_estimate,
            })
        })
    }

    /// Puts the GPUs in the order of these UUIDs; a card that is not told is lost.
    pub fn order(&mut self, uuids: &[String]) {
        if uuids.is_empty() || self.gpus.is_empty() {
            return;
        }
        let said = std::mem::take(&mut self.gpus);
        let card = |uuid: &String| {
            let card = said.iter().find(|card| card.uuid == *uuid);
            card.cloned().unwrap_or_else(|| GpuReading {
                uuid: uuid.clone(),
                is_lost: true,
                ..GpuReading::default()
            })
        };
        self.gpus = uuids.iter().map(card).collect();
    }

    /// Watts of what [`Reading::energy_of`] sums.
    pub fn power_of(&self, gpus: &[usize]) -> Option<f64> {
        if gpus.is_empty() {
            return self.host.package_power_w;
        }
        let powers = gpus.iter().map(|&index| self.gpus.get(index)?.power_w);
        powers.sum()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_absent() {
        let text = serde_json::to_string(&Reading::default()).expect("serializable");
        assert_eq!(text, r#"{"host":{}}"#);
        assert_eq!(
            serde_json::from_str::<Reading>(&text).expect("readable"),
            Reading::default()
        );
        assert_eq!(short_uuid("GPU-1f0c2a9b-4a10-5b2c"), "GPU-1f0c2a9b");
    }

    #[test]
    fn what_a_run_takes_is_whole_or_unknown() {
        let gpu = |watts, joules, energy_is_estimate| GpuReading {
            power_w: watts,
            energy_j: joules,
            energy_is_estimate,
            ..GpuReading::default()
        };
        let reading = Reading {
            host: HostReading {
                package_power_w: Some(7.0),
                package_energy_j: Some(70.0),
                ..HostReading::default()
            },
            gpus: vec![
                gpu(Some(100.0), Some(1e3), false),
                gpu(None, None, false),
                gpu(Some(300.0), Some(3e3), true),
            ],
            ..Reading::default()
        };
        let energy = |gpus: &[usize]| {
            let energy = reading.energy_of(gpus)?;
            Some((energy.joules, energy.is_estimate))
        };
        assert_eq!(
            energy(&[0]),
            Some((1e3, false)),
            "the processor's is not the cards'"
        );
        assert_eq!(energy(&[0, 2]), Some((4e3, true)));
        assert_eq!(energy(&[0, 1]), None, "half the truth is none");
        assert_eq!(energy(&[3]), None);
        assert_eq!(energy(&[]), Some((70.0, false)));
        assert_eq!(reading.power_of(&[0, 2]), Some(400.0));
        assert_eq!(reading.power_of(&[0, 1]), None);
        assert_eq!(reading.power_of(&[]), Some(7.0));
    }
}
