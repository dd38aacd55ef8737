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

/// Waits around sends and receives that the check of pairs before the first step needs; a fault there hides the schedule's.
const OF_PAIRS: &str = "8";

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

    /// The pair of launches that the checker of order names first.
    fn pair(&self) -> Result<String, String> {
        let log = self.log();
        let named = log.lines().find(|line| line.starts_with("simgpu: order: "));
        named
            .map(str::to_owned)
            .ok_or_else(|| format!("no pair is named: {:?}", self.said))
    }

    /// Whether the numbers are those of CPU ranks.
    fn is_right(&self, split: &Split) -> Result<bool, Failed> {
        let expected = on_cpu(split)?;
        let training = Training::of(&self.place, RUN)?;
        Ok(training.is_like(&expected, Bound::Exact).is_ok())
    }
}

impl Overlap {
    /// Trains the row without the waits of a kind, those of the check of pairs aside.
    fn without(&self, kind: &str, variables: Variables) -> Result<(Split, Planted), Failed> {
        let split = splits::named(self.row).ok_or("no such row")?;
        let kept = if kind.starts_with("link") {
            OF_PAIRS
        } else {
            "0"
        };
        let planted = [("SIMGPU_SKIP_WAIT", kind), ("SIMGPU_SKIP_WAIT_AFTER", kept)];
        let changes = json!({ "restart": { "max": 0, "hang_after_s": 30 } });
        let run = Planted::run(&split, changes, &[variables, &planted].concat())?;
        Ok((split, run))
    }
}

/// What a run that failed in a step must say: who, when and where.
fn is_told(reason: &str) -> bool {
    let parts = ["rank ", " failed at step ", " in "];
    parts.iter().all(|part| reason.contains(part)) && !reason.contains(" in setting up")
}

/// Each kind of missing wait is named by the checker of order as soon as it is missing, and fails the rank.
pub fn named(overlap: &Overlap) -> Result<(), Failed> {
    for (kind, operations) in overlap.kinds {
        let (_, planted) = overlap.without(kind, &[("SIMGPU_ORDER", "1")])?;
        let named = planted
            .pair()
            .map_err(|failed| format!("{kind}: {failed}"))?;
        let is_meant = operations.iter().any(|operation| named.contains(operation));
        check(is_meant, format!("{kind}: {named}"))?;
        let reason = planted.failure()?.ok_or("the run must fail")?;
        check(is_told(&reason), format!("{kind}: {reason}"))?;
    }
    Ok(())
}

/// Each kind of missing wait shows without the checker: other numbers than those of CPU ranks, or a rank fails.
pub fn felt(overlap: &Overlap) -> Result<(), Failed> {
    for (kind, _) in overlap.kinds {
        let (split, planted) = overlap.without(kind, &DELAYS)?;
        match planted.failure()? {
            Some(reason) => check(is_told(&reason), format!("{kind}: {reason}"))?,
            None => check(!planted.is_right(&split)?, format!("{kind}: nothing shows"))?,
        }
    }
    Ok(())
}

/// A run that must fail: its reason, and the run itself.
fn failed(row: &str, variables: Variables) -> Result<(String, Planted), Failed> {
    let split = splits::named(row).ok_or("no such row")?;
    let changes = json!({ "restart": { "max": 0, "hang_after_s": 5 } });
    let planted = Planted::run(&split, changes, variables)?;
    let reason = planted.failure()?;
    let reason = reason.ok_or_else(|| format!("{row}: nothing shows: {:?}", planted.said))?;
    Ok((reason, planted))
}

/// A collective that one rank leaves out: NCCL would hang, so the watchdog ends the run; the stand-in says which each rank
/// is in, where the rank comes to another before it waits for the others.
pub fn left_out() -> Result<(), Failed> {
    for (row, skipped, meets_another) in [
        ("ddp", "1:2", true),
        ("primary", "1:1", true),
        ("zero1", "0:3", true),
        ("zero2", "1:4", true),
        ("zero3", "1:5", true),
        ("tp", "1:6", true),
        ("tp_sp", "0:7", true),
        ("pp2_dp2", "1:0", false),
    ] {
        let (reason, planted) = failed(row, &[("SIMNCCL_SKIP", skipped)])?;
        check(
            is_told(&reason) && reason.contains("no progress for"),
            format!("{row}: {reason}"),
        )?;
        let log = planted.log();
        let told = log
            .lines()
            .find(|line| line.starts_with("simnccl: mismatch"));
        let names_both =
            |line: &str| line.contains("rank 0 is in ") || line.contains("rank 1 is in ");
        check(
            told.is_some_and(names_both) == meets_another,
            format!("{row}: {told:?}"),
        )?;
    }
    Ok(())
}

/// Collectives of two communicators that one rank starts in the other order wait for each other in a ring, which is told.
pub fn out_of_order() -> Result<(), Failed> {
    for row in ["zero1", "zero3", "tp_sp", "dp2_tp2"] {
        let (reason, planted) = failed(row, &[("SIMNCCL_SWAP", "1:2")])?;
        let log = planted.log();
        let told = log
            .lines()
            .find(|line| line.starts_with("simnccl: out of order: rank "));
        check(
            is_told(&reason) && told.is_some_and(|line| line.contains("waits for rank ")),
            format!("{row}: {reason}: {told:?}"),
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

/// A buffer that is freed while NCCL uses it is named by the checker of order: one of the check of pairs, and one of each
/// strategy's own.
pub fn freed_early() -> Result<(), Failed> {
    for (row, number) in [
        ("ddp", "1"),
        ("ddp", "6"),
        ("zero3", "7"),
        ("tp_sp", "8"),
        ("1f1b", "9"),
    ] {
        let variables = [("SIMGPU_ORDER", "1"), ("SIMGPU_FREE_EARLY", number)];
        let (_, planted) = failed(row, &variables)?;
        let named = planted
            .pair()
            .map_err(|failed| format!("{row}: {failed}"))?;
        check(
            named.contains("the free of a block") && named.contains("nccl "),
            format!("{row}: {named}"),
        )?;
    }
    Ok(())
}

/// The bound of a row that need not be exact is one that a missing wait breaks, without memory that becomes NaN.
pub fn bounds() -> Result<(), Failed> {
    for (row, kind) in [
        ("bf16_llama", "ready"),
        ("llama", "ready"),
        ("llama_tp", "done"),
        ("buckets_accumulated", "ready"),
    ] {
        let overlap = Overlap { row, kinds: &[] };
        let (split, planted) = overlap.without(kind, &DELAYS[1..])?;
        // A value that is not finite ends the run by itself: no bound holds it.
        if let Some(reason) = planted.failure()? {
            check(
                reason.contains("is no finite number"),
                format!("{row}: {reason}"),
            )?;
            continue;
        }
        let training = Training::of(&planted.place, RUN)?;
        let expected = on_cpu(&split)?;
        let is_near = training.is_like(&expected, split.bound);
        check(is_near.is_err(), format!("{row}: the bound sees nothing"))?;
    }
    Ok(())
}
