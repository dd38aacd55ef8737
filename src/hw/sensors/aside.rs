//! What NVML blocks for: PCIe rates and XID errors, each in a thread of its own that nobody waits for.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Nvml, bitmasks::event::EventTypes, enum_wrappers::device::PcieUtilCounter,
    enums::event::XidError, error::NvmlError, event::EventSet,
};

use crate::{event::short_uuid, hw::nvidia};

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
    pub at: Instant,
    pub tx: Option<u64>,
    pub rx: Option<u64>,
}

/// What is heard of XID errors.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Of the card with this UUID.
    Xid(String, u64),
    /// They are not watched everywhere, and why.
    Deaf(String),
}

/// PCIe rates of the cards whose performance monitor does not tell them, for as long as they are received.
pub fn pcie_rates(uuids: Vec<String>) -> Receiver<PcieRates> {
    let (sender, receiver) = mpsc::channel();
    // Without a thread or an NVML there is nothing to receive: rates are unknown.
    let _ = aside("pcie", move |nvml| {
        nvml.ok()
            .and_then(|nvml| measure_pcie(nvml, &uuids, &sender))
    });
    receiver
}

/// XID errors, for as long as they are received.
pub fn xids(uuids: Vec<String>) -> Receiver<Heard> {
    let (sender, receiver) = mpsc::channel();
    let deaf = sender.clone();
    let thread = aside("xid", move |nvml| match nvml {
        Ok(nvml) => hear_xids(nvml, &uuids, &sender),
        Err(reason) => sender.send(Heard::Deaf(reason)).ok(),
    });
    if let Err(error) = thread {
        let _ = deaf.send(Heard::Deaf(format!("no thread: {error}")));
    }
    receiver
}

/// A thread with an NVML of its own, or the reason why there is none.
fn aside(
    name: &str,
    body: impl FnOnce(Result<&Nvml, String>) -> Option<()> + Send + 'static,
) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || match nvidia::open() {
        Ok(nvml) => body(Ok(&nvml)),
        Err(reason) => body(Err(reason)),
    })?;
    Ok(())
}

fn measure_pcie(nvml: &Nvml, uuids: &[String], sender: &Sender<PcieRates>) -> Option<()> {
    let devices = uuids.iter().filter_map(|uuid| {
        let device = nvidia::device(nvml, uuid).ok()?;
        Some((uuid, device))
    });
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
                uuid: (*uuid).clone(),
                tx: rate(PcieUtilCounter::Send),
                rx: rate(PcieUtilCounter::Receive),
                at: Instant::now(),
            };
            sender.send(rates).ok()?;
        }
        thread::sleep(PCIE_EVERY);
    }
    None
}

/// A thread a card, with a set of its own: a card that is gone no longer says which it is.
fn hear_xids(nvml: &Nvml, uuids: &[String], sender: &Sender<Heard>) -> Option<()> {
    thread::scope(|scope| {
        for uuid in uuids {
            let watched = watch_xids(nvml, uuid);
            match watched {
                Ok(events) => {
                    scope.spawn(move || -> Option<()> {
                        loop {
                            if let Some(xid) = next_xid(&events) {
                                sender.send(Heard::Xid(uuid.clone(), xid)).ok()?;
                            }
                        }
                    });
                }
                Err(error) => {
                    let reason = format!("{}: {error}", short_uuid(uuid));
                    sender.send(Heard::Deaf(reason)).ok()?;
                }
            }
        }
        Some(())
    })
}

fn watch_xids<'nvml>(nvml: &'nvml Nvml, uuid: &str) -> Result<EventSet<'nvml>, String> {
    let told = |error: NvmlError| error.to_string();
    let device = nvidia::device(nvml, uuid).map_err(told)?;
    let events = nvml.create_event_set().map_err(told)?;
    let watched = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
    watched.map_err(|failed| told(failed.error))
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
