//! From readings to alarms: what a card suffers, in words, with what to try. A pure fold.

use std::collections::HashMap;

use super::xid;
use crate::event::{GpuReading, Reading, short_uuid};

/// What comes and goes by itself is worth a word only when it lasts longer, in seconds,
const LASTING_S: f64 = 5.0;
/// and so many looks in a row have seen it.
const LASTING_LOOKS: u32 = 3;
/// What was said is said again only after it was away for so long, in seconds.
const AWAY_S: f64 = 600.0;
/// The XID that says that a card is lost.
const OFF_THE_BUS: u64 = 79;
/// The XIDs of what ECC could not correct.
const UNCORRECTED: [u64; 4] = [48, 94, 95, 140];
/// So many packets that a card sends again within [`REPLAYS_IN_S`] are worth a word.
const MANY_REPLAYS: u32 = 10;
const REPLAYS_IN_S: f64 = 60.0;

/// Something that is wrong with a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// CUDA's index.
    pub gpu: usize,
    /// The cause and what to try.
    pub text: String,
}

/// What the readings so far have shown, and what of it was said.
#[derive(Debug, Default)]
pub struct Alarms {
    spells: HashMap<(usize, Trouble), Spell>,
    /// Uncorrected memory errors of each card at the look before.
    errors: HashMap<usize, Option<u64>>,
    replays: HashMap<usize, Replays>,
}

/// A card's counter of replays over the last minute or so.
#[derive(Clone, Copy, Debug)]
struct Replays {
    since_s: f64,
    first: u32,
    last: u32,
}

impl Replays {
    const fn is_much(self) -> bool {
        self.last.saturating_sub(self.first) >= MANY_REPLAYS
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    /// By an XID, the driver's word or both.
    Lost,
    Silent,
    Xid(u64),
    MemoryErrors,
    /// In the sensors' words.
    Limited(String),
    NarrowLink,
    Replays,
}

/// Readings with the same trouble in a row.
#[derive(Clone, Copy, Debug)]
struct Spell {
    since_s: f64,
    last_s: f64,
    n_looks: u32,
    is_said: bool,
}

impl Spell {
    const fn begin(now_s: f64) -> Self {
        Self {
            since_s: now_s,
            last_s: now_s,
            n_looks: 0,
            is_said: false,
        }
    }

    fn lasts(&self) -> bool {
        self.n_looks >= LASTING_LOOKS && self.last_s - self.since_s > LASTING_S
    }
}

impl Alarms {
    /// Takes in a reading; `now_s` only ever grows.
    pub fn hear(&mut self, now_s: f64, reading: &Reading) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut present = Vec::new();
        for (gpu, card) in reading.gpus.iter().enumerate() {
            self.count(now_s, gpu, card.pcie_replays);
            for trouble in self.troubles(gpu, card) {
                let key = (gpu, trouble);
                let spell = self.spells.entry(key.clone());
                let spell = spell.or_insert(Spell::begin(now_s));
                spell.last_s = now_s;
                spell.n_looks += 1;
                let is_due = key.1.is_sudden() || spell.lasts();
                if is_due && !spell.is_said {
                    spell.is_said = true;
                    let text = words(gpu, card, &key.1, *spell);
                    alarms.push(Alarm { gpu, text });
                }
                present.push(key);
            }
        }
        self.spells.retain(|key, spell| {
            present.contains(key) || (spell.is_said && now_s - spell.last_s < AWAY_S)
        });
        alarms
    }

    fn count(&mut self, now_s: f64, gpu: usize, replays: Option<u32>) {
        let Some(last) = replays else {
            self.replays.remove(&gpu);
            return;
        };
        let anew = Replays {
            since_s: now_s,
            first: last,
            last,
        };
        let window = self.replays.entry(gpu).or_insert(anew);
        window.last = last;
        if now_s - window.since_s > REPLAYS_IN_S {
            *window = anew;
        }
    }

    fn troubles(&mut self, gpu: usize, card: &GpuReading) -> Vec<Trouble> {
        let xids = card.xids.iter().copied();
        let xids = xids.filter(|&xid| xid != OFF_THE_BUS).map(Trouble::Xid);
        if card.is_lost || card.xids.contains(&OFF_THE_BUS) {
            return xids.chain([Trouble::Lost]).collect();
        }
        let limits = card.limited_by.iter().flatten().cloned();
        let limits = limits.map(Trouble::Limited);
        let mut troubles: Vec<Trouble> = xids.chain(limits).collect();
        let errors = self.errors.insert(gpu, card.ecc_uncorrected).flatten();
        let is_told = card.xids.iter().any(|xid| UNCORRECTED.contains(xid));
        if errors.is_some() && card.ecc_uncorrected > errors && !is_told {
            troubles.push(Trouble::MemoryErrors);
        }
        if card.is_silent {
            troubles.push(Trouble::Silent);
        }
        if card.is_link_narrow() {
            troubles.push(Trouble::NarrowLink);
        }
        if self
            .replays
            .get(&gpu)
            .is_some_and(|window| window.is_much())
        {
            troubles.push(Trouble::Replays);
        }
        troubles
    }
}

impl Trouble {
    const fn is_sudden(&self) -> bool {
        !matches!(self, Self::Limited(_) | Self::NarrowLink)
    }
}

fn words(gpu: usize, card: &GpuReading, trouble: &Trouble, spell: Spell) -> String {
    let (cause, remedy) = match trouble {
        Trouble::Lost if !card.needs_reset => {
            let (cause, remedy) = xid::meaning(OFF_THE_BUS);
            (format!("is lost: {cause}"), remedy)
        }
        Trouble::Lost => (
            "is lost: the driver wants it reset".to_owned(),
            "end the run and reset the card (nvidia-smi -r), or reboot",
        ),
        Trouble::Silent => (
            "does not answer any more".to_owned(),
            "nvidia-smi and the kernel's log (dmesg) say more; where the card is gone, reboot",
        ),
        Trouble::Xid(code) => {
            let (cause, remedy) = xid::meaning(*code);
            (format!("XID {code}: {cause}"), remedy)
        }
        Trouble::MemoryErrors => {
            let (cause, remedy) = xid::meaning(UNCORRECTED[0]);
            (cause.to_owned(), remedy)
        }
        Trouble::Limited(by) => limited(card, by, spell),
        Trouble::NarrowLink => {
            let lanes =
                |width: Option<u32>| width.map_or_else(|| "n/a".to_owned(), |n| format!("x{n}"));
            let (now, most) = (lanes(card.pcie_width), lanes(card.pcie_width_max));
            (
                format!("has a PCIe link of {now} where card and slot can do {most}"),
                "another slot, riser or setting of the board gives it all lanes",
            )
        }
        Trouble::Replays => (
            "sends packets over PCIe again and again".to_owned(),
            "look at the card's seat and riser; a lower PCIe generation in the BIOS may help",
        ),
    };
    let name = short_uuid(&card.uuid);
    format!("GPU {gpu} ({name}) {cause}; {remedy}")
}

/// A limit that lasts, with what the card says of it.
fn limited(card: &GpuReading, by: &str, spell: Spell) -> (String, &'static str) {
    let said = match by {
        "temperature" => card
            .temperature_c
            .map(|celsius| format!(" at {celsius} °C")),
        "power limit" => card.power_limit_w.map(|watts| format!(" of {watts:.0} W")),
        _ => None,
    };
    let remedy = match by {
        "temperature" => {
            "clean or speed up the fans, give it air, or lower its power limit (nvidia-smi -pl)"
        }
        "power limit" => "usual under full load; nvidia-smi -pl raises it where the card allows",
        "power brake" | "hardware slowdown" => "look at the power supply and its cables",
        _ => "nvidia-smi -q -d PERFORMANCE says more",
    };
    (
        format!(
            "is slowed by {by}{} in each of {} looks over {:.0} s",
            said.unwrap_or_default(),
            spell.n_looks,
            spell.last_s - spell.since_s
        ),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::recorded;

    /// The machine's readings again and again, within the time in which nothing is said twice.
    fn alarms(name: &str) -> Vec<(usize, String)> {
        let recorded = recorded::machine(name);
        let mut alarms = Alarms::default();
        let mut now_s = 0.0;
        let mut said = Vec::new();
        for reading in (0..20).flat_map(|_| &recorded.readings) {
            now_s += recorded.every_s;
            said.extend(alarms.hear(now_s, reading));
        }
        said.into_iter()
            .map(|alarm| (alarm.gpu, alarm.text))
            .collect()
    }

    #[test]
    fn each_machine_says_once_what_it_suffers() {
        let said = alarms("geforce-4");
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!((said[0].0, said[1].0), (3, 3));
        assert!(
            said[0].1.contains("slowed by temperature at 83 °C"),
            "{said:?}"
        );
        assert!(
            said[1].1.contains("x4 where card and slot can do x16"),
            "{said:?}"
        );

        let said = alarms("nvlink-8");
        let of: Vec<usize> = said.iter().map(|(gpu, _)| *gpu).collect();
        assert_eq!(of, [5, 2, 6], "{said:?}");
        assert!(
            said[0].1.contains("XID 63: the card put a bad row"),
            "{said:?}"
        );
        assert!(said[1].1.contains("power limit of 700 W"), "{said:?}");

        assert_eq!(alarms("laptop"), [], "now and then is not for long");
        assert_eq!(alarms("no-driver"), []);
    }

    #[test]
    fn a_lost_card_is_said_once() {
        let said = alarms("lost-card");
        assert_eq!(said.len(), 1, "{said:?}");
        let (gpu, text) = &said[0];
        assert!(
            *gpu == 1 && text.contains("is lost: the card fell off the bus; reboot"),
            "{text}"
        );
        let silent = Reading {
            gpus: vec![GpuReading {
                is_lost: true,
                ..GpuReading::default()
            }],
            ..Reading::default()
        };
        let mut alarms = Alarms::default();
        let n: usize = (0..1000)
            .map(|now| alarms.hear(f64::from(now), &silent).len())
            .sum();
        assert_eq!(n, 1, "without an XID too");
    }

    #[test]
    fn a_loss_is_said_once_however_it_is_told() {
        let card = |xids: &[u64], is_lost, needs_reset| Reading {
            gpus: vec![GpuReading {
                xids: xids.to_vec(),
                is_lost,
                needs_reset,
                ..GpuReading::default()
            }],
            ..Reading::default()
        };
        let mut alarms = Alarms::default();
        let looks = [
            card(&[79], false, false),
            card(&[], true, false),
            card(&[], true, true),
        ];
        let looks = (0..).zip(&looks);
        let said: Vec<Alarm> = looks
            .flat_map(|(now, look)| alarms.hear(f64::from(now), look))
            .collect();
        assert!(
            said.len() == 1 && said[0].text.contains("fell off the bus"),
            "{said:?}"
        );
        let said = Alarms::default().hear(0.0, &card(&[], true, true));
        assert!(
            said.len() == 1 && said[0].text.contains("wants it reset"),
            "{said:?}"
        );
    }

    #[test]
    fn a_silent_card_is_said_once() {
        let silent = Reading {
            gpus: vec![GpuReading {
                is_silent: true,
                ..GpuReading::default()
            }],
            ..Reading::default()
        };
        let mut alarms = Alarms::default();
        let said: Vec<Alarm> = (0..9)
            .flat_map(|now| alarms.hear(f64::from(now), &silent))
            .collect();
        assert!(
            said.len() == 1 && said[0].text.contains("does not answer any more"),
            "{said:?}"
        );
    }

    #[test]
    fn what_lasts_was_there_in_every_look() {
        let said_at = |every_s: u32, limits: &[bool]| {
            let mut alarms = Alarms::default();
            let mut looks = (0..).zip(limits);
            looks.find_map(|(number, &is_limited)| {
                let now_s = f64::from(number * every_s);
                let limited_by = is_limited.then(|| vec!["temperature".to_owned()]);
                let card = GpuReading {
                    limited_by,
                    ..GpuReading::default()
                };
                let reading = Reading {
                    gpus: vec![card],
                    ..Reading::default()
                };
                let said = alarms.hear(now_s, &reading).pop()?;
                Some((now_s, said.text))
            })
        };
        let (at, text) = said_at(1, &[true; 9]).expect("said");
        assert!(
            at == 6.0 && text.contains("in each of 7 looks over 6 s"),
            "{at} {text}"
        );
        let (at, _) = said_at(60, &[true; 9]).expect("said");
        assert_eq!(at, 120.0, "two moments are no spell");
        assert_eq!(
            said_at(2, &[true, true, true, false, true, true, true]),
            None
        );
    }

    #[test]
    fn what_returns_after_long_is_said_again() {
        let hot = recorded::machine("geforce-4").readings[0].clone();
        let calm = Reading::default();
        let mut alarms = Alarms::default();
        let mut n_said = |from: u32, reading: &Reading| {
            let times = (from..from + 10).map(f64::from);
            times
                .map(|now_s| alarms.hear(now_s, reading).len())
                .sum::<usize>()
        };
        assert_eq!(n_said(0, &hot), 2);
        assert_eq!(n_said(10, &calm), 0);
        assert_eq!(n_said(20, &hot), 0, "said just before");
        assert_eq!(n_said(1_000, &calm), 0);
        assert_eq!(n_said(2_000, &hot), 2);
    }

    #[test]
    fn counters_that_rise_are_said_and_those_that_stand_are_not() {
        let card = |pcie_replays, ecc_uncorrected| Reading {
            gpus: vec![GpuReading {
                pcie_replays,
                ecc_uncorrected,
                ..GpuReading::default()
            }],
            ..Reading::default()
        };
        let mut alarms = Alarms::default();
        for now in 0..10 {
            assert_eq!(alarms.hear(f64::from(now), &card(Some(7), Some(1))), []);
        }
        let said = alarms.hear(10.0, &card(Some(7), Some(2)));
        assert!(said[0].text.contains("ECC could not correct"), "{said:?}");
        // In bursts, with quiet looks between them.
        let replays = |now: u32| 7 + now / 10 * 4;
        let rising = (11..70)
            .flat_map(|now| alarms.hear(f64::from(now), &card(Some(replays(now)), Some(2))));
        let said: Vec<Alarm> = rising.collect();
        assert!(
            said.len() == 1 && said[0].text.contains("again and again"),
            "{said:?}"
        );
        assert_eq!(alarms.hear(71.0, &card(None, None)), []);
        assert_eq!(
            alarms.hear(72.0, &card(Some(9), Some(9))),
            [],
            "counted from here"
        );
    }
}
