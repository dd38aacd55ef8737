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
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for index in 0..count {
        match card(nvml, index, &driver) {
            Ok(card) => found.push(card),
            Err(reason) => left_out.push(format!("card {index} of nvidia-smi: {reason}")),
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let gpus: Vec<Gpu> = found.into_iter().map(|(_, gpu)| gpu).collect();
    let Ok(list) = env::var("CUDA_VISIBLE_DEVICES") else {
        return Ok(Visible { gpus, left_out });
    };
    let chosen = select(&gpus, &list);
    match chosen.is_empty() && !gpus.is_empty() {
        true => Err(format!(
            "CUDA_VISIBLE_DEVICES is \"{list}\", which names none of {} GPU(s)",
            gpus.len()
        )),
        false => Ok(Visible {
            gpus: chosen,
            left_out,
        }),
    }
}

/// A card and its place on the bus, or why it can't be used.
fn card(nvml: &Nvml, index: u32, driver: &str) -> Result<(String, Gpu), String> {
    let silent = |error: NvmlError| format!("it does not answer ({error})");
    let device = nvml.device_by_index(index).map_err(silent)?;
    if device.mig_mode().is_ok_and(|mode| mode.current != 0) {
        return Err("it is cut into MIG parts, which are not supported".to_owned());
    }
    let bus = device.pci_info().map_err(silent)?.bus_id;
    Ok((bus, describe(&device, driver).map_err(silent)?))
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
fn select(gpus: &[Gpu], list: &str) -> Vec<Gpu> {
    list.split(',')
        .map(|entry| {
            let entry = entry.trim();
            match entry.parse::<usize>() {
                Ok(index) => gpus.get(index),
                Err(_) => gpus
                    .iter()
                    .find(|gpu| !entry.is_empty() && gpu.uuid.starts_with(entry)),
            }
        })
        .map_while(|gpu| gpu.cloned())
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

    #[test]
    fn visible_devices_choose_and_order() {
        let gpus = [gpu("GPU-aa"), gpu("GPU-bb"), gpu("GPU-cc")];
        let chosen = |list| {
            select(&gpus, list)
                .into_iter()
                .map(|gpu| gpu.uuid)
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen("2,0"), ["GPU-cc", "GPU-aa"]);
        assert_eq!(chosen("GPU-b"), ["GPU-bb"]);
        assert_eq!(chosen("0,-1,2"), ["GPU-aa"]);
        assert!(chosen("").is_empty());
    }
}
