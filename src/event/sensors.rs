//! What the machine's sensors say. Every value is optional: what a machine can't tell is absent, never zero.

use serde::{Deserialize, Serialize};

/// One look at all sensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub host: HostReading,
    /// Visible GPUs in CUDA's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuReading>,
}

/// Cores, memory, disk and the processor's energy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReading {
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
    /// It is lost until it is reset.
    #[serde(skip_serializing_if = "is_false")]
    pub needs_reset: bool,
    /// Share of time in which any kernel ran, in [0, 1]; no measure of how well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
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
    /// The card has no energy counter: the joules are power times time.
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
    /// Share of full speed, in [0, 1].
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
    /// Whether the link runs with fewer lanes than it has; an idle link may, so only a busy card's is judged.
    pub fn is_link_narrow(&self) -> bool {
        let is_busy = self.busy.is_some_and(|busy| busy >= 0.5);
        is_busy && self.pcie_width.is_some() && self.pcie_width < self.pcie_width_max
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
    /// Joules since the look `before`, of all that tell them; `None` where nothing does.
    pub fn energy_since(&self, before: &Self) -> Option<f64> {
        let gpus = self.gpus.iter().map(|gpu| {
            let earlier = before.gpus.iter().find(|earlier| earlier.uuid == gpu.uuid);
            (gpu.energy_j, earlier.and_then(|earlier| earlier.energy_j))
        });
        let host = (self.host.package_energy_j, before.host.package_energy_j);
        gpus.chain([host])
            .filter_map(|(now, earlier)| Some((now? - earlier.unwrap_or(0.0)).max(0.0)))
            .reduce(|a, b| a + b)
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
        let nothing = Reading::default();
        assert_eq!(nothing.energy_since(&nothing), None);
        assert_eq!(short_uuid("GPU-1f0c2a9b-4a10-5b2c"), "GPU-1f0c2a9b");
    }
}
