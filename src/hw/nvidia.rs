//! The NVIDIA GPUs that CUDA will see, asked of NVML (no CUDA context is made).

use std::{env, path::Path};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel},
    error::NvmlError,
};

use super::{Gpu, Link, Route, machine::memory_bytes};

/// Names NVML's library where the loader does not find it, or a stand-in.
const LIBRARY_VARIABLE: &str = "CAPSTAN_NVML";
/// Where the driver puts its control node; without it NVML need not be loaded.
const CONTROL_NODE: &str = "/dev/nvidiactl";
/// WSL has no control node, but this one.
const WSL_NODE: &str = "/dev/dxg";

/// The usual reason why there are no GPUs.
pub const NO_DRIVER: &str = "no NVIDIA driver is loaded";
/// The reason where the driver names no other.
pub const NONE_SHOWN: &str = "the driver shows none that can be used";

/// NVML, or why there is none.
pub fn open() -> Result<Nvml, String> {
    let library = env::var_os(LIBRARY_VARIABLE);
    if library.is_none() && !Path::new(CONTROL_NODE).exists() && !Path::new(WSL_NODE).exists() {
        return Err(NO_DRIVER.to_owned());
    }
    let mut builder = Nvml::builder();
    if let Some(library) = &library {
        builder.lib_path(library);
    }
    builder.init().map_err(|error| format!("NVML: {error}"))
}

/// What the driver shows.
pub struct Visible {
    /// In CUDA's order, by PCI bus.
    pub gpus: Vec<Gpu>,
    /// Cards that can't be used, each with the reason.
    pub left_out: Vec<String>,
}

/// Visible GPUs, or why there are none.
pub fn visible_gpus(nvml: &Nvml) -> Result<Visible, String> {
    let driver = nvml
        .sys_driver_version()
        .unwrap_or_else(|_| "unknown".to_owned());
    let count = nvml
        .device_count()
        .map_err(|error| format!("NVML: {error}"))?;
    let cards = in_cuda_order((0..count).map(|index| card(nvml, index, &driver)).collect());
    let list = env::var("CUDA_VISIBLE_DEVICES").ok();
    let chosen = list
        .as_deref()
        .map_or_else(|| cards.iter().collect(), |list| select(&cards, list));
    let gpus: Vec<Gpu> = chosen
        .iter()
        .filter_map(|card| card.gpu.clone().ok())
        .collect();
    if let Some(list) = list.filter(|_| gpus.is_empty()) {
        let usable = cards.iter().filter(|card| card.gpu.is_ok()).count();
        if usable > 0 {
            return Err(format!(
                "CUDA_VISIBLE_DEVICES is \"{list}\", which names none of {usable} GPU(s)"
            ));
        }
    }
    let left_out = cards
        .into_iter()
        .filter_map(|card| card.gpu.err())
        .collect();
    Ok(Visible { gpus, left_out })
}

/// One of the driver's cards.
struct Card {
    /// Where it tells.
    bus: Option<String>,
    /// Where it tells.
    uuid: Option<String>,
    /// Or why it can't be used.
    gpu: Result<Gpu, String>,
}

fn card(nvml: &Nvml, index: u32, driver: &str) -> Card {
    let silent = |error: NvmlError| format!("it does not answer ({error})");
    let device = nvml.device_by_index(index).map_err(silent);
    let bus = device.as_ref().map_err(Clone::clone).and_then(|device| {
        let pci = device.pci_info().map_err(silent)?;
        Ok(pci.bus_id)
    });
    let uuid = device.as_ref().ok().and_then(|device| device.uuid().ok());
    let gpu = device.and_then(|device| {
        if device.mig_mode().is_ok_and(|mode| mode.current != 0) {
            return Err("it is cut into MIG parts, which are not supported".to_owned());
        }
        bus.clone()?;
        describe(&device, driver).map_err(silent)
    });
    Card {
        bus: bus.ok(),
        uuid,
        gpu: gpu.map_err(|reason| format!("card {index} of nvidia-smi: {reason}")),
    }
}

/// By PCI bus, as CUDA counts; a card that does not tell its place keeps to the one before it in NVML's order.
fn in_cuda_order(mut cards: Vec<Card>) -> Vec<Card> {
    let mut last = String::new();
    for card in &mut cards {
        last.clone_from(card.bus.get_or_insert(last.clone()));
    }
    cards.sort_by(|a, b| a.bus.cmp(&b.bus));
    cards
}

/// The card with a UUID.
pub fn device<'nvml>(nvml: &'nvml Nvml, uuid: &str) -> Result<Device<'nvml>, NvmlError> {
    nvml.device_by_uuid(uuid).or_else(|error| {
        let indices = 0..nvml.device_count()?;
        let mut devices = indices.filter_map(|index| nvml.device_by_index(index).ok());
        let device = devices.find(|device| device.uuid().is_ok_and(|found| found == uuid));
        device.ok_or(error)
    })
}

/// How each two of the GPUs are linked.
pub fn links(nvml: &Nvml, gpus: &[Gpu]) -> Vec<Link> {
    let device = |index: usize| self::device(nvml, &gpus[index].uuid).ok();
    let pairs = (0..gpus.len()).flat_map(|a| (a + 1..gpus.len()).map(move |b| [a, b]));
    pairs
        .filter_map(|[a, b]| {
            let (one, other) = (device(a)?, device(b)?);
            Some(Link {
                gpus: [a, b],
                peer_access: offers(&one, &other, P2pCapabilitiesIndex::Read),
                route: route(&one, other),
            })
        })
        .collect()
}

fn route(one: &Device<'_>, other: Device<'_>) -> Option<Route> {
    if offers(one, &other, P2pCapabilitiesIndex::NvLink) == Some(true) {
        return Some(Route::Nvlink);
    }
    Some(match one.topology_common_ancestor(other).ok()? {
        TopologyLevel::Internal => Route::SameBoard,
        TopologyLevel::Single | TopologyLevel::Multiple => Route::PcieSwitch,
        TopologyLevel::HostBridge => Route::HostBridge,
        TopologyLevel::Node => Route::HostBridges,
        TopologyLevel::System => Route::AcrossSockets,
    })
}

fn offers(one: &Device<'_>, other: &Device<'_>, what: P2pCapabilitiesIndex) -> Option<bool> {
    match one.p2p_status(other, what).ok()? {
        P2pStatus::Unknown => None,
        status => Some(status == P2pStatus::Ok),
    }
}

fn describe(device: &Device<'_>, driver: &str) -> Result<Gpu, NvmlError> {
    let capability = device.cuda_compute_capability()?;
    let (memory_bytes, used_bytes) = match device.memory_info() {
        // A GPU that shares the host's memory has none of its own to tell.
        Err(NvmlError::NotSupported) => (memory_bytes(), None),
        memory => memory.map(|memory| (memory.total, Some(memory.used)))?,
    };
    Ok(Gpu {
        uuid: device.uuid()?,
        name: device.name()?,
        memory_bytes,
        used_bytes,
        compute_capability: [
            capability.major.unsigned_abs(),
            capability.minor.unsigned_abs(),
        ],
        driver: driver.to_owned(),
        nvml_index: device.index().ok().map(|index| index as usize),
    })
}

/// Applies `CUDA_VISIBLE_DEVICES`: indices or UUID prefixes; the first invalid entry ends the list, as in CUDA.
///
/// Indices count all cards, also those that can't be used: whoever granted one meant the card at that place.
fn select<'a>(cards: &'a [Card], list: &str) -> Vec<&'a Card> {
    let named = |entry: &str| match entry.parse::<usize>() {
        Ok(index) => cards.get(index),
        Err(_) => cards.iter().find(|card| {
            let uuid = card.uuid.as_ref();
            !entry.is_empty() && uuid.is_some_and(|uuid| uuid.starts_with(entry))
        }),
    };
    list.split(',')
        .map_while(|entry| named(entry.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str) -> Gpu {
        Gpu {
            uuid: uuid.to_owned(),
            name: "GPU".to_owned(),
            memory_bytes: 1,
            used_bytes: None,
            compute_capability: [9, 0],
            driver: "580".to_owned(),
            nvml_index: None,
        }
    }

    fn card(uuid: &str, bus: &str) -> Card {
        Card {
            bus: Some(bus.to_owned()),
            uuid: Some(uuid.to_owned()),
            gpu: Ok(gpu(uuid)),
        }
    }

    fn chosen(cards: &[Card], list: &str) -> Vec<String> {
        let chosen = select(cards, list).into_iter();
        chosen
            .filter_map(|card| Some(card.gpu.clone().ok()?.uuid))
            .collect()
    }

    #[test]
    fn visible_devices_choose_and_order() {
        let cards = ["GPU-aa", "GPU-bb", "GPU-cc"].map(|uuid| card(uuid, uuid));
        for (list, uuids) in [
            ("2,0", &["GPU-cc", "GPU-aa"][..]),
            ("GPU-b", &["GPU-bb"]),
            ("0,-1,2", &["GPU-aa"]),
            ("", &[]),
        ] {
            assert_eq!(chosen(&cards, list), uuids, "{list}");
        }
    }

    #[test]
    fn cards_that_cannot_be_used_are_counted() {
        let left_out = |uuid: Option<&str>, bus: Option<&str>| Card {
            bus: bus.map(str::to_owned),
            uuid: uuid.map(str::to_owned),
            gpu: Err("it is cut into MIG parts".to_owned()),
        };
        let cards = in_cuda_order(vec![
            card("GPU-dd", "4"),
            left_out(Some("GPU-aa"), Some("1")),
            left_out(None, None),
            card("GPU-cc", "3"),
        ]);
        for (list, uuids) in [
            ("2", &["GPU-cc"][..]),
            ("0,1,3", &["GPU-dd"]),
            ("GPU-a,2", &["GPU-cc"]),
            ("0", &[]),
        ] {
            assert_eq!(chosen(&cards, list), uuids, "{list}");
        }
    }
}
