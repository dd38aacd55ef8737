//! Each row of the matrix on simulated cards: the same numbers as CPU ranks, without and with stress.

use libtest_mimic::Failed;
use serde_json::json;

use super::{
    splits::Split,
    training::{RUN, Training, Variables, on_cpu, on_gpus},
};
use crate::support::{check, is_soak};

/// Rows that also run under stress in `make test`; `make soak` takes all.
const STRESSED: [&str; 10] = [
    "zero1",
    "zero2",
    "zero3",
    "tp_sp",
    "interleaved",
    "recompute_selective",
    "dropout",
    "two_ranks_a_card",
    "pp2_tp2_interleaved_sp",
    "bf16_zero3",
];
/// Rounds of stress, each with another seed, of `make soak`.
const ROUNDS: u64 = 5;
/// Names the seed of the delays where a failure is to be seen again.
const SEED_VARIABLE: &str = "CAPSTAN_SIMULATED_SEED";

pub fn is_stressed(split: &Split) -> bool {
    is_soak() || STRESSED.contains(&split.name)
}

/// The order of all launches is checked besides.
pub fn plain(split: &Split) -> Result<(), Failed> {
    same(split, &[("SIMGPU_ORDER", "1")])
}

/// Freed memory becomes NaN, blocks end at guard pages, launches and transfers are delayed.
pub fn under_stress(split: &Split) -> Result<(), Failed> {
    let rounds = if is_soak() { ROUNDS } else { 1 };
    for round in 0..rounds {
        let seed = seed(round).to_string();
        let variables = [
            ("SIMGPU_POISON", "1"),
            ("SIMGPU_FENCE", "1"),
            ("SIMGPU_DELAY_US", "3000"),
            ("SIMNCCL_DELAY_US", "4000"),
            ("SIMGPU_SEED", &seed),
        ];
        same(split, &variables).map_err(|failed| {
            let text = failed.message().unwrap_or_default();
            format!("{SEED_VARIABLE}={seed}: {text}")
        })?;
    }
    Ok(())
}

fn seed(round: u64) -> u64 {
    let named = std::env::var(SEED_VARIABLE)
        .ok()
        .and_then(|seed| seed.parse().ok());
    named.unwrap_or_else(|| {
        let time = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(time.subsec_nanos()) + round
    })
}

fn same(split: &Split, variables: Variables) -> Result<(), Failed> {
    let expected = on_cpu(split)?;
    let (place, said) = on_gpus(split, json!({}), variables)?;
    said.ended_with(0)?;
    let warned = place.events_named(RUN, "warning");
    check(warned.is_empty(), format!("{warned:?}"))?;
    Training::of(&place, RUN)?.is_like(&expected, split.bound)
}
