//! What a step costs besides arithmetic, as a benchmark: launches, host waits, bytes copied; compared with a stored table.

use std::{collections::BTreeMap, fs, path::PathBuf};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::{splits, training::on_gpus};
use crate::support::check;

/// Rows that are counted: each strategy, and what is known to cost the host something.
const ROWS: [&str; 19] = [
    "single",
    "ddp",
    "primary",
    "zero1",
    "zero2",
    "zero3",
    "tp",
    "tp_sp",
    "1f1b",
    "gpipe",
    "interleaved",
    "pp2_dp2_tp2_zero1",
    "recompute",
    "recompute_selective",
    "dropout",
    "dropout_tp_sp",
    "many_micro_batches",
    "bf16",
    "llama",
];
/// Writes the table anew where it is set: look at what changed.
const WRITE_VARIABLE: &str = "CAPSTAN_WRITE_COUNTS";
/// By then every operator's shapes are known to the stand-in, and buffers are those of every later step.
const FIRST_STEP: u64 = 5;
const LAST_STEP: u64 = 10;
/// The one wait of a step: for the numbers of the step before.
fn one_late_read() -> Value {
    json!({ "event": 1 })
}

/// A step's line of each card, by step.
type Lines = BTreeMap<u64, Vec<Value>>;

/// Every row costs what the table says, the same in every step, and the host waits once a step.
pub fn steps() -> Result<(), Failed> {
    let mut counted = serde_json::Map::new();
    for row in ROWS {
        let lines = count(row, json!({ "eval": { "every": 1000 } }))?;
        let first = &lines[&FIRST_STEP];
        for (step, cards) in &lines {
            check(
                cards == first,
                format!("{row}: step {step} costs {cards:?}, step {FIRST_STEP} {first:?}"),
            )?;
        }
        counted.insert(row.to_owned(), by_card(first));
    }
    compare("steps", counted)
}

/// What an evaluation of two batches costs besides: the difference of a step after one from a step after none.
pub fn evaluations() -> Result<(), Failed> {
    let mut counted = serde_json::Map::new();
    for row in ["single", "zero3", "tp", "1f1b"] {
        let lines = count(row, json!({ "eval": { "every": 2, "batches": 2 } }))?;
        let after = lines.keys().filter(|step| *step % 2 == 1);
        let after: Vec<&Vec<Value>> = after.filter_map(|step| lines.get(step)).collect();
        check(
            after.iter().all(|cards| *cards == after[0]),
            format!("{row}: {after:?}"),
        )?;
        counted.insert(row.to_owned(), by_card(after[0]));
    }
    compare("steps_after_an_evaluation", counted)
}

/// The host waits for nothing but the numbers of the step before, and copies nothing through memory that is not pinned.
pub fn waits() -> Result<(), Failed> {
    let table: Value = serde_json::from_slice(&fs::read(table())?)?;
    let rows = table["steps"].as_object().ok_or("no rows")?;
    check(rows.len() == ROWS.len(), "every row is in the table")?;
    for (row, cards) in rows {
        for card in cards
            .as_object()
            .into_iter()
            .flat_map(|cards| cards.values())
        {
            check(
                card["waits"] == one_late_read() && card["to_host_pageable_bytes"] == 0,
                format!("{row}: {card}"),
            )?;
        }
    }
    Ok(())
}

/// Trains a row and returns its lines from [`FIRST_STEP`] on.
fn count(row: &str, changes: Value) -> Result<Lines, Failed> {
    let split = splits::named(row).ok_or("no such row")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("counts");
    let shorter = json!({ "stop": { "steps": LAST_STEP + 1 }, "sample": null });
    let changes = splits::merged(&[shorter, changes]);
    let variables = [("SIMGPU_COUNTS", &*file.to_string_lossy())];
    let (_place, said) = on_gpus(&split, changes, &variables)?;
    said.ended_with(0)?;
    let mut lines: BTreeMap<u64, BTreeMap<u64, Value>> = BTreeMap::new();
    for line in fs::read_to_string(&file)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let number = |key: &str| line[key].as_u64().unwrap_or_default();
        let (step, card) = (number("step"), number("device"));
        if (FIRST_STEP..=LAST_STEP).contains(&step) {
            check(number("learnt") == 0, format!("{row}: {line}"))?;
            lines.entry(step).or_default().insert(card, cost(&line));
        }
    }
    let lines: Lines = lines
        .into_iter()
        .map(|(step, cards)| (step, cards.into_values().collect()))
        .collect();
    let is_whole = lines.values().all(|cards| cards.len() == split.ranks);
    let n_steps = LAST_STEP - FIRST_STEP + 1;
    check(
        is_whole && lines.len() as u64 == n_steps,
        format!("{row}: a line a step and card: {lines:?}"),
    )?;
    Ok(lines)
}

/// A line without what names it.
fn cost(line: &Value) -> Value {
    let mut line = line.clone();
    if let Some(line) = line.as_object_mut() {
        line.retain(|key, _| !["pid", "device", "step", "learnt"].contains(&key.as_str()));
    }
    line
}

/// One entry where all cards cost the same.
fn by_card(cards: &[Value]) -> Value {
    if cards.iter().all(|card| *card == cards[0]) {
        return json!({ "each card": cards[0] });
    }
    let named = cards.iter().enumerate();
    named
        .map(|(index, card)| (format!("card {index}"), card.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn table() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/simulated_counts.json")
}

/// Fails where a row differs from the stored one, naming both; or stores what was counted.
fn compare(part: &str, counted: serde_json::Map<String, Value>) -> Result<(), Failed> {
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = WRITING.lock();
    let stored = fs::read(table()).unwrap_or_else(|_| b"{}".to_vec());
    let mut stored: Value = serde_json::from_slice(&stored)?;
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        stored[part] = counted.into();
        let text = serde_json::to_string_pretty(&stored)? + "\n";
        return Ok(fs::write(table(), text)?);
    }
    let differ = counted
        .iter()
        .filter(|(row, cost)| stored[part][row.as_str()] != **cost);
    let told: Vec<String> = differ
        .map(|(row, cost)| format!("{row}: {cost}, stored: {}", stored[part][row.as_str()]))
        .collect();
    check(
        told.is_empty(),
        format!(
            "{}\n{WRITE_VARIABLE}=1 writes the table anew",
            told.join("\n")
        ),
    )
}
