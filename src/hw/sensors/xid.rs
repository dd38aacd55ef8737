//! Common XID errors in words, after NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors).

const PROGRAM: &str = "if it comes again with other programs too, suspect the card or the driver";
const DRIVER: &str = "reboot; where it returns, install another driver";
const RESET: &str =
    "end the run and reset the card (nvidia-smi -r) or reboot; replace a card where it returns";
const MEMORY: &str =
    "the card goes on, and mends its memory at the next reset; replace it where this returns";

/// Codes that mean the same, what happened, and what to try.
const KNOWN: [(&[u64], &str, &str); 15] = [
    (
        &[13],
        "a kernel failed on the card, often by an address out of range",
        PROGRAM,
    ),
    (
        &[31],
        "a kernel used an address of the card that is not mapped",
        PROGRAM,
    ),
    (
        &[32, 69],
        "the card got commands that it could not read",
        DRIVER,
    ),
    (
        &[38, 119, 120],
        "the card's firmware failed or no longer answers",
        RESET,
    ),
    (
        &[43],
        "the card stopped the work of a program after an error of it",
        PROGRAM,
    ),
    (
        &[45],
        "a program's work was removed from the card, after an error or a kill",
        "look for an XID just before it; alone it needs nothing",
    ),
    (
        &[48, 95, 140],
        "memory of the card has an error that ECC could not correct",
        RESET,
    ),
    (&[61, 62], "the card's own controller halted", RESET),
    (
        &[63],
        "the card put a bad row or page of its memory out of use",
        MEMORY,
    ),
    (&[64], "the card could not put bad memory out of use", RESET),
    (
        &[74],
        "an NVLink has errors",
        "reset the cards, and look at the bridge or the switch (nvidia-smi nvlink -e)",
    ),
    (
        &[79],
        "the card fell off the bus",
        "reboot; where it returns, look at power cables, power supply, seat and temperature",
    ),
    (
        &[92],
        "memory of the card has many errors, which ECC still corrects",
        MEMORY,
    ),
    (
        &[94],
        "ECC could not correct memory that one program used",
        "that program is lost and can start again; reset the card when it is free",
    ),
    (
        &[109],
        "the card did not turn to another program's work in time",
        RESET,
    ),
];

/// What happened and what to try; for an unknown code, where to look.
pub fn meaning(xid: u64) -> (&'static str, &'static str) {
    let known = KNOWN.iter().find(|(codes, ..)| codes.contains(&xid));
    known.map_or(
        (
            "the driver reports an error of the card",
            "look it up in NVIDIA's list of XID errors; the kernel's log (dmesg) says more",
        ),
        |&(_, cause, remedy)| (cause, remedy),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_one_meaning_each() {
        let mut codes: Vec<u64> = KNOWN
            .iter()
            .flat_map(|(codes, ..)| *codes)
            .copied()
            .collect();
        let n = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), n);
        assert!(meaning(79).0.contains("off the bus"));
        assert!(meaning(7).1.contains("NVIDIA's list"));
    }
}
