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

/// What a step costs each card, by step.
type Steps = BTreeMap<u64, Vec<Value>>;

/// Every row costs what the table says, the same in every step, and the host waits once a step.
pub fn steps() -> Result<(), Failed> {
    let mut counted = serde_json::Map::new();
    for row in ROWS {
        let steps = count(row)?;
        let first = &steps[&FIRST_STEP];
        for (step, cards) in &steps {
            check(
                cards == first,
                format!("{row}: step {step} costs {cards:?}, step {FIRST_STEP} {first:?}"),
            )?;
        }
        counted.insert(row.to_owned(), by_card(first));
    }
    compare("steps", counted)
}

/// Two steps, an evaluation of two batches and the save of a better model cost what the table says: half of what four more
/// steps add to a run.
pub fn evaluations() -> Result<(), Failed> {
    let mut counted = serde_json::Map::new();
    for row in ["single", "zero3", "tp", "1f1b"] {
        let total = |steps: u64| -> Result<Vec<Value>, Failed> {
            let lines = lines(
                row,
                json!({ "stop": { "steps": steps }, "eval": { "every": 2, "batches": 2 } }),
            )?;
            let cards = lines.values().map(|lines| {
                lines
                    .iter()
                    .map(cost)
                    .fold(json!({}), |sum, line| plus(sum, &line))
            });
            Ok(cards.collect())
        };
        let (short, long) = (total(7)?, total(11)?);
        let halves = long
            .iter()
            .zip(&short)
            .map(|(long, short)| half_of_difference(long, short));
        counted.insert(row.to_owned(), by_card(&halves.collect::<Vec<_>>()));
    }
    compare("two_steps_an_evaluation_and_a_save", counted)
}

/// Every number of both, added by name.
fn plus(sum: Value, line: &Value) -> Value {
    let mut sum = sum;
    for (key, value) in line.as_object().into_iter().flatten() {
        sum[key] = match value.as_u64() {
            Some(number) => json!(number + sum[key].as_u64().unwrap_or(0)),
            None => plus(
                if sum[key].is_null() {
                    json!({})
                } else {
                    sum[key].take()
                },
                value,
            ),
        };
    }
    sum
}

/// Half of what every number of one is above that of the other; a half that is none stays as it is, and is seen.
fn half_of_difference(long: &Value, short: &Value) -> Value {
    let entries = long.as_object().into_iter().flatten();
    let halves = entries.map(|(key, value)| {
        let half = match value.as_u64() {
            Some(number) => {
                let more = number.saturating_sub(short[key].as_u64().unwrap_or(0));
                match more % 2 {
                    0 => json!(more / 2),
                    _ => json!(more as f64 / 2.0),
                }
            }
            None => half_of_difference(value, &short[key]),
        };
        (key.clone(), half)
    });
    halves.collect::<serde_json::Map<_, _>>().into()
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

/// Trains a row and returns its steps' costs from [`FIRST_STEP`] on, which must be whole and learnt.
fn count(row: &str) -> Result<Steps, Failed> {
    let changes = json!({ "stop": { "steps": LAST_STEP + 1 }, "eval": { "every": 1000 } });
    let mut steps = Steps::new();
    for lines in lines(row, changes)?.values() {
        for (line, step) in lines
            .iter()
            .zip(1..)
            .filter(|(_, step)| (FIRST_STEP..=LAST_STEP).contains(step))
        {
            check(line["learnt"] == 0, format!("{row}: {line}"))?;
            steps.entry(step).or_default().push(cost(line));
        }
    }
    let n_steps = LAST_STEP - FIRST_STEP + 1;
    check(steps.len() as u64 == n_steps, format!("{row}: {steps:?}"))?;
    Ok(steps)
}

/// Trains a row and returns the lines of each of its cards, in their order.
fn lines(row: &str, changes: Value) -> Result<BTreeMap<u64, Vec<Value>>, Failed> {
    let split = splits::named(row).ok_or("no such row")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("counts");
    let variables = [("SIMGPU_COUNTS", &*file.to_string_lossy())];
    let changes = splits::merged(&[json!({ "sample": null }), changes]);
    let (_place, said) = on_gpus(&split, changes, &variables)?;
    said.ended_with(0)?;
    let mut cards: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in fs::read_to_string(&file)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let card = line["device"].as_u64().ok_or("a line names no card")?;
        cards.entry(card).or_default().push(line);
    }
    check(
        cards.len() == split.ranks,
        format!("{row}: lines of {} cards", cards.len()),
    )?;
    Ok(cards)
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
