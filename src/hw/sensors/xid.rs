//! Common XID errors in words, after NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors).

/// What happened, and what to try.
pub struct Meaning {
    pub cause: &'static str,
    pub remedy: &'static str,
}

const PROGRAM: &str = "if it comes again with other programs too, suspect the card or the driver";
const RESET: &str =
    "end the run and reset the card (nvidia-smi -r) or reboot; replace a card where it returns";
const MEMORY: &str =
    "the card goes on, and mends its memory at the next reset; replace it where this returns";
const DRIVER: &str = "reboot; where it returns, install another driver";

/// Codes that mean the same, with their meaning.
const KNOWN: [(&[u64], Meaning); 14] = [
    (
        &[13],
        Meaning {
            cause: "a kernel failed on the card, often by an address out of range",
            remedy: PROGRAM,
        },
    ),
    (
        &[31],
        Meaning {
            cause: "a kernel used an address of the card that is not mapped",
            remedy: PROGRAM,
        },
    ),
    (
        &[32, 38, 69],
        Meaning {
            cause: "the card got commands that it could not read",
            remedy: DRIVER,
        },
    ),
    (
        &[43],
        Meaning {
            cause: "the card stopped the work of a program after an error of it",
            remedy: PROGRAM,
        },
    ),
    (
        &[45],
        Meaning {
            cause: "a program's work was removed from the card, after an error or a kill",
            remedy: "look for an XID just before it; alone it needs nothing",
        },
    ),
    (
        &[48, 95, 140],
        Meaning {
            cause: "memory of the card has an error that ECC could not correct",
            remedy: RESET,
        },
    ),
    (
        &[61, 62],
        Meaning {
            cause: "the card's own controller halted",
            remedy: RESET,
        },
    ),
    (
        &[63],
        Meaning {
            cause: "the card put a bad row or page of its memory out of use",
            remedy: MEMORY,
        },
    ),
    (
        &[64],
        Meaning {
            cause: "the card could not put bad memory out of use",
            remedy: RESET,
        },
    ),
    (
        &[74],
        Meaning {
            cause: "an NVLink has errors",
            remedy: "reset the cards, and look at the bridge or the switch (nvidia-smi nvlink -e)",
        },
    ),
    (
        &[79],
        Meaning {
            cause: "the card fell off the bus",
            remedy: "reboot; where it returns, look at power cables, power supply, seat and temperature",
        },
    ),
    (
        &[92],
        Meaning {
            cause: "memory of the card has many errors, which ECC still corrects",
            remedy: MEMORY,
        },
    ),
    (
        &[94],
        Meaning {
            cause: "ECC could not correct memory that one program used",
            remedy: "that program is lost and can start again; reset the card when it is free",
        },
    ),
    (
        &[109, 119, 120, 121],
        Meaning {
            cause: "the card's firmware or its link to the host no longer answers in time",
            remedy: RESET,
        },
    ),
];

/// What a code means; an unknown one has NVIDIA's list as its remedy.
pub fn meaning(xid: u64) -> &'static Meaning {
    const UNKNOWN: Meaning = Meaning {
        cause: "the driver reports an error of the card",
        remedy: "look it up in NVIDIA's list of XID errors; the kernel's log (dmesg) says more",
    };
    let known = KNOWN.iter().find(|(codes, _)| codes.contains(&xid));
    known.map_or(&UNKNOWN, |(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_one_meaning_each() {
        let mut codes: Vec<u64> = KNOWN
            .iter()
            .flat_map(|(codes, _)| *codes)
            .copied()
            .collect();
        let n = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), n);
        assert!(meaning(79).cause.contains("off the bus"));
        assert!(meaning(7).remedy.contains("NVIDIA's list"));
    }
}
