//! Planted faults: each must be seen, as wrong numbers, as a refusal, or by name, and be told well.

use std::fs;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::{
    splits::{self, Bound, Split},
    training::{RUN, Training, Variables, on_cpu, on_gpus},
};
use crate::support::{Said, Workplace, check};

/// Delays that make a missing wait matter at once.
const DELAYS: [(&str, &str); 6] = [
    ("SIMGPU_POISON", "1"),
    ("SIMGPU_DELAY_US", "3000"),
    ("SIMGPU_DELAY_EACH", "10"),
    ("SIMNCCL_DELAY_US", "4000"),
    ("SIMGPU_SEED", "7"),
    ("SIMNCCL_MISMATCH", "fail"),
];

/// A row whose overlap needs waits of these kinds, and one of the operations that the order checker must name with each.
pub struct Overlap {
    pub row: &'static str,
    kinds: &'static [(&'static str, &'static [&'static str])],
}

const GATHERS: &[&str] = &["all-gather", "reduce-scatter"];
const HAND_OFFS: [(&str, &[&str]); 2] = [
    ("link-ready", &["send", "receive"]),
    ("link-done", &["send", "receive"]),
];

/// Every strategy's own overlap. One card has none but the numbers that come late.
pub static OVERLAPS: [Overlap; 12] = [
    Overlap {
        row: "single",
        kinds: &[("copy", &["on the host"])],
    },
    Overlap {
        row: "ddp",
        kinds: &[
            ("ready", &["all-reduce"]),
            ("done", &["all-reduce"]),
            ("copy", &["on the host"]),
        ],
    },
    Overlap {
        row: "primary",
        kinds: &[
            ("ready", &["reduce", "broadcast"]),
            ("done", &["reduce", "broadcast"]),
        ],
    },
    Overlap {
        row: "zero1",
        kinds: &[("ready", GATHERS), ("done", GATHERS)],
    },
    Overlap {
        row: "zero2",
        kinds: &[("ready", GATHERS), ("done", GATHERS)],
    },
    Overlap {
        row: "zero3",
        kinds: &[("ready", GATHERS), ("done", GATHERS)],
    },
    Overlap {
        row: "tp",
        kinds: &[("ready", &["all-reduce"]), ("done", &["all-reduce"])],
    },
    Overlap {
        row: "tp_sp",
        kinds: &[("ready", GATHERS), ("done", GATHERS)],
    },
    Overlap {
        row: "1f1b",
        kinds: &HAND_OFFS,
    },
    Overlap {
        row: "gpipe",
        kinds: &HAND_OFFS,
    },
    Overlap {
        row: "interleaved",
        kinds: &HAND_OFFS,
    },
    Overlap {
        row: "buckets",
        kinds: &[("ready", &["all-reduce"]), ("done", &["all-reduce"])],
    },
];

/// A run of few steps in which something is planted.
struct Planted {
    place: Workplace,
    said: Said,
}

impl Planted {
    fn run(split: &Split, changes: Value, variables: Variables) -> Result<Self, Failed> {
        let (place, said) = on_gpus(split, changes, variables)?;
        Ok(Self { place, said })
    }

    /// The reason of its end; none where it is complete.
    fn failure(&self) -> Result<Option<String>, Failed> {
        let (outcome, reason) = self.place.wait_for_end(RUN)?;
        Ok((outcome == "failed").then_some(reason))
    }

    /// What the workers printed.
    fn log(&self) -> String {
        fs::read_to_string(self.place.run(RUN).join("worker.log")).unwrap_or_default()
    }

    /// Whether the numbers are those of CPU ranks.
    fn is_right(&self, split: &Split) -> Result<bool, Failed> {
        let expected = on_cpu(split)?;
        let training = Training::of(&self.place, RUN)?;
        Ok(training.is_like(&expected, Bound::Exact).is_ok())
    }
}

/// Each kind of missing wait is named by the checker of order, in the first run in which it is missing.
pub fn named(overlap: &Overlap) -> Result<(), Failed> {
    let split = splits::named(overlap.row).ok_or("no such row")?;
    for (kind, operations) in overlap.kinds {
        let variables = [("SIMGPU_ORDER", "1"), ("SIMGPU_SKIP_WAIT", kind)];
        let planted = Planted::run(
            &split,
            json!({ "restart": { "max": 0, "hang_after_s": 5 } }),
            &variables,
        )?;
        let log = planted.log();
        let named = log.lines().find(|line| line.starts_with("simgpu: order: "));
        let named = named.ok_or_else(|| format!("{kind}: no pair is named: {:?}", planted.said))?;
        let is_told = operations.iter().any(|operation| named.contains(operation));
        check(is_told, format!("{kind}: {named}"))?;
        let reason = planted.failure()?.ok_or("the run must fail")?;
        check(reason.contains("rank "), format!("{kind}: {reason}"))?;
    }
    Ok(())
}

/// Each kind of missing wait shows without the checker: other numbers than those of CPU ranks, or the run refuses to go on.
pub fn felt(overlap: &Overlap) -> Result<(), Failed> {
    let split = splits::named(overlap.row).ok_or("no such row")?;
    for (kind, _) in overlap.kinds {
        let variables = [&DELAYS[..], &[("SIMGPU_SKIP_WAIT", kind)]].concat();
        let planted = Planted::run(
            &split,
            json!({ "restart": { "max": 0, "hang_after_s": 5 } }),
            &variables,
        )?;
        match planted.failure()? {
            Some(reason) => check(reason.contains("rank "), format!("{kind}: {reason}"))?,
            None => check(!planted.is_right(&split)?, format!("{kind}: nothing shows"))?,
        }
    }
    Ok(())
}

/// A run that must fail: its reason and what its workers printed.
fn failed(row: &str, variables: Variables) -> Result<(String, String), Failed> {
    let split = splits::named(row).ok_or("no such row")?;
    let changes = json!({ "restart": { "max": 0, "hang_after_s": 3 } });
    let planted = Planted::run(&split, changes, variables)?;
    let reason = planted.failure()?;
    let reason = reason.ok_or_else(|| format!("{row}: nothing shows: {:?}", planted.said))?;
    check(
        reason.contains("rank ") && reason.contains(" at step "),
        format!("{row}: {reason}"),
    )?;
    Ok((reason, planted.log()))
}

/// A collective that one rank leaves out: NCCL would hang, so the watchdog ends the run; what each side is in is told, by
/// the stand-in in any case.
pub fn left_out() -> Result<(), Failed> {
    for (row, skipped) in [
        ("ddp", "1:2"),
        ("primary", "1:3"),
        ("zero1", "0:3"),
        ("zero2", "1:4"),
        ("zero3", "1:5"),
        ("tp", "1:6"),
        ("tp_sp", "0:7"),
        ("pp2_dp2", "1:1"),
    ] {
        let (reason, log) = failed(row, &[("SIMNCCL_SKIP", skipped)])?;
        check(
            reason.contains("no progress for"),
            format!("{row}: {reason}"),
        )?;
        check(
            log.contains("mismatch"),
            format!("{row}: no rank says what it is in: {log}"),
        )?;
    }
    Ok(())
}

/// Collectives of two communicators that one rank starts in the other order.
pub fn out_of_order() -> Result<(), Failed> {
    for (row, swapped) in [
        ("dp2_tp2", "1:2"),
        ("pp2_dp2_tp2_zero1", "1:2"),
        ("zero1", "1:2"),
    ] {
        let (reason, _) = failed(row, &[("SIMNCCL_SWAP", swapped)])?;
        check(
            reason.contains("no progress for"),
            format!("{row}: {reason}"),
        )?;
    }
    Ok(())
}

/// A byte that changes on its way is refused before training starts, and the pair is named.
pub fn corrupted() -> Result<(), Failed> {
    for row in ["ddp", "1f1b"] {
        let (reason, _) = failed(row, &[("SIMNCCL_CORRUPT", "0:1")])?;
        let words = "what rank 0's GPU sends does not arrive unchanged at rank 1's";
        check(reason.contains(words), format!("{row}: {reason}"))?;
    }
    Ok(())
}

/// A buffer that is freed while NCCL uses it: named by the checker of order.
pub fn freed_early() -> Result<(), Failed> {
    for row in ["ddp", "zero3", "tp_sp", "1f1b"] {
        let (_, log) = failed(row, &[("SIMGPU_ORDER", "1"), ("SIMGPU_FREE_EARLY", "1")])?;
        let named = log.lines().find(|line| line.starts_with("simgpu: order: "));
        let named = named.ok_or_else(|| format!("{row}: no pair is named: {log}"))?;
        check(named.contains("free"), format!("{row}: {named}"))?;
    }
    Ok(())
}
