//! Each row of the matrix on simulated cards: the same numbers as CPU ranks, without and with stress.

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::{
    splits::{self, Split},
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

/// Whatever the configuration offers stands in some row.
pub fn everything() -> Result<(), Failed> {
    let schema: Value = serde_json::from_str(&capstan::config::json_schema())?;
    let configs: Vec<Value> = splits::all().iter().map(Split::on_gpus).collect();
    let mut missing = Vec::new();
    for (pointer, list) in [
        ("/parallel/schedule", "PipelineSchedule"),
        ("/parallel/recompute", "Recompute"),
        ("/precision", "Precision"),
        ("/ranks_per_worker", "RanksPerWorker"),
    ] {
        let there: Vec<Value> = configs
            .iter()
            .filter_map(|config| config.pointer(pointer).cloned())
            .collect();
        missing.extend(
            choices(&schema, list)?
                .into_iter()
                .filter(|choice| !there.contains(choice)),
        );
    }
    for (pointer, list) in [("/model", "ModelConfig"), ("/optimizer", "OptimizerConfig")] {
        let names = |config: &Value, name: &Value| {
            let name = name.as_str().unwrap_or_default();
            config
                .pointer(pointer)
                .is_some_and(|value| value.get(name).is_some())
        };
        let there = |name: &Value| configs.iter().any(|config| names(config, name));
        missing.extend(
            families(&schema, list)?
                .into_iter()
                .filter(|name| !there(name)),
        );
    }
    let degrees = schema["$defs"]["ParallelConfig"]["properties"].as_object();
    for key in degrees.ok_or("the schema knows no split")?.keys() {
        let is_there = configs
            .iter()
            .any(|config| config["parallel"].get(key).is_some());
        missing.extend((!is_there).then(|| json!(key)));
    }
    check(
        missing.len() == DEFAULTS.len(),
        format!("in no row: {missing:?}"),
    )?;
    check(
        DEFAULTS.iter().all(|name| missing.contains(&json!(name))),
        format!("{missing:?}"),
    )
}

/// Choices that rows take by leaving them out, and fp64, which no GPU run may ask for.
const DEFAULTS: [&str; 3] = ["none", "fp32", "fp64"];

/// The values of an enum of the schema.
fn choices(schema: &Value, list: &str) -> Result<Vec<Value>, Failed> {
    let definition = &schema["$defs"][list];
    let some = definition["oneOf"]
        .as_array()
        .or(definition["anyOf"].as_array());
    let described = some
        .into_iter()
        .flatten()
        .flat_map(|choice| match choice["enum"].as_array() {
            Some(values) => values.clone(),
            None => vec![choice["const"].clone()],
        });
    let plain = definition["enum"].as_array().cloned().unwrap_or_default();
    let all: Vec<Value> = described.chain(plain).collect();
    check(all.len() > 1, format!("the schema lists no {list}"))?;
    Ok(all)
}

/// The keys of a choice of objects of the schema.
fn families(schema: &Value, list: &str) -> Result<Vec<Value>, Failed> {
    let choices = schema["$defs"][list]["oneOf"].as_array();
    let keys = choices
        .into_iter()
        .flatten()
        .filter_map(|choice| choice["properties"].as_object());
    let all: Vec<Value> = keys
        .flat_map(|keys| keys.keys().map(|key| json!(key)))
        .collect();
    check(all.len() > 1, format!("the schema lists no {list}"))?;
    Ok(all)
}
