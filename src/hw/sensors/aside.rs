//! What NVML blocks for: PCIe rates and XID errors, each in a thread of its own that nobody waits for.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use nvml_wrapper::{
    Device, Nvml, bitmasks::event::EventTypes, enum_wrappers::device::PcieUtilCounter,
    enums::event::XidError, error::NvmlError, event::EventSet,
};

use crate::hw::nvidia;

/// Between two measurements of PCIe rates, each of which takes 20 ms a direction and card.
const PCIE_EVERY: Duration = Duration::from_secs(2);
/// How long a wait for an XID lasts before it begins anew.
const XID_WAIT_MS: u32 = 10_000;
/// After an answer that would come again at once.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// NVML's number for an XID that it can't tell.
const UNKNOWN_XID: u64 = 999;

/// What a card sends and receives, in bytes a second, measured over 20 ms.
#[derive(Clone, Debug)]
pub struct PcieRates {
    pub uuid: String,
    pub tx: Option<u64>,
    pub rx: Option<u64>,
}

/// PCIe rates of the cards whose performance monitor does not tell them, for as long as they are received.
pub fn pcie_rates(uuids: Vec<String>) -> Receiver<PcieRates> {
    let (sender, receiver) = mpsc::channel();
    aside("pcie", move |nvml| measure_pcie(nvml, &uuids, &sender));
    receiver
}

/// XID errors with the card's UUID, for as long as they are received.
pub fn xids(uuids: Vec<String>) -> Receiver<(String, u64)> {
    let (sender, receiver) = mpsc::channel();
    aside("xid", move |nvml| hear_xids(nvml, &uuids, &sender));
    receiver
}

/// A thread with an NVML of its own; without either there is nothing to receive.
fn aside(name: &str, body: impl FnOnce(&Nvml) -> Option<()> + Send + 'static) {
    let thread = thread::Builder::new().name(name.to_owned());
    let _ = thread.spawn(move || nvidia::open().ok().and_then(|nvml| body(&nvml)));
}

fn measure_pcie(nvml: &Nvml, uuids: &[String], sender: &Sender<PcieRates>) -> Option<()> {
    let devices = devices(nvml, uuids);
    let devices: Vec<_> = devices
        .filter(|(_, device)| !device.gpm_support().unwrap_or(false))
        .collect();
    while !devices.is_empty() {
        for (uuid, device) in &devices {
            // NVML counts kilobytes.
            let rate = |counter| {
                device
                    .pcie_throughput(counter)
                    .ok()
                    .map(|kb| u64::from(kb) * 1000)
            };
            let rates = PcieRates {
                uuid: uuid.clone(),
                tx: rate(PcieUtilCounter::Send),
                rx: rate(PcieUtilCounter::Receive),
            };
            sender.send(rates).ok()?;
        }
        thread::sleep(PCIE_EVERY);
    }
    None
}

/// A thread a card, with a set of its own: a card that is gone no longer says which it is.
fn hear_xids(nvml: &Nvml, uuids: &[String], sender: &Sender<(String, u64)>) -> Option<()> {
    thread::scope(|scope| {
        for (uuid, device) in devices(nvml, uuids) {
            scope.spawn(move || -> Option<()> {
                let events = nvml.create_event_set().ok()?;
                let wanted = EventTypes::CRITICAL_XID_ERROR;
                let events = device.register_events(wanted, events).ok()?;
                loop {
                    if let Some(xid) = next_xid(&events) {
                        sender.send((uuid.clone(), xid)).ok()?;
                    }
                }
            });
        }
    });
    None
}

/// The next XID of a card's events, unless the wait is over before.
fn next_xid(events: &EventSet<'_>) -> Option<u64> {
    match events.wait(XID_WAIT_MS) {
        Ok(event) => match event.event_data? {
            XidError::Value(xid) => Some(xid),
            XidError::Unknown => Some(UNKNOWN_XID),
        },
        Err(NvmlError::Timeout) => None,
        Err(_) => {
            thread::sleep(AFTER_ERROR);
            None
        }
    }
}

fn devices<'nvml>(
    nvml: &'nvml Nvml,
    uuids: &[String],
) -> impl Iterator<Item = (String, Device<'nvml>)> {
    uuids.iter().filter_map(|uuid| {
        let device = nvml.device_by_uuid(uuid.as_str()).ok()?;
        Some((uuid.clone(), device))
    })
}
