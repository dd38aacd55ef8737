//! Every number of a configuration with absurd values: each answers within a second, by a refusal or a plan.

use std::{
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use capstan::{
    config::{self, Assignment, json_schema},
    hw::Machine,
    plan::{self, DataSummary},
};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::check;

const MINIMAL: &str = "tests/fixtures/configs/good/minimal.json";
/// Beyond any count, at and around the ends of the machine's types.
const ABSURD: [&str; 8] = [
    "9007199254740992",
    "18446744073709551615",
    "9223372036854775807",
    "4503599627370496",
    "1e308",
    "-1",
    "0",
    "65536",
];
/// Of values that are refused whatever the number means: more than a count may be.
const BEYOND: usize = 3;
/// Seeds are no counts, rates and shares have bounds of their own, and a device's number is that of a card or of none.
const NO_COUNTS: [&str; 3] = ["seed", "sample.seed", "devices"];
const LIMIT: Duration = Duration::from_secs(1);
/// A test machine's other work counts as well.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "absurd::every_number_answers_within_a_second",
        walk,
    )]
}

/// A number of the schema by its dotted path.
struct Number {
    path: String,
    is_count: bool,
}

/// Collects numbers below a schema; `$ref`s and choices are followed.
fn numbers(root: &Value, schema: &Value, path: &str, found: &mut Vec<Number>) {
    if let Some(name) = schema["$ref"].as_str() {
        numbers(
            root,
            &root["$defs"][name.trim_start_matches("#/$defs/")],
            path,
            found,
        );
    }
    for choices in ["oneOf", "anyOf", "allOf"] {
        for choice in schema[choices].as_array().into_iter().flatten() {
            numbers(root, choice, path, found);
        }
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        numbers(root, inner, &path, found);
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    let is_count = kinds.iter().any(|kind| kind == "integer");
    let is_new = !found.iter().any(|number| number.path == path);
    if is_new && (is_count || kinds.iter().any(|kind| kind == "number")) {
        found.push(Number {
            path: path.to_owned(),
            is_count,
        });
    }
}

fn machine() -> Machine {
    Machine {
        cores: 8,
        memory_bytes: 16 << 30,
        shm_bytes: None,
        gpus: Vec::new(),
        left_out: Vec::new(),
        links: Vec::new(),
        no_gpus_because: Some("no NVIDIA driver is loaded".to_owned()),
    }
}

/// Whether a plan is made of the minimal config with this assignment; in a thread of its own, which a loop can't hold up.
fn is_planned(text: String) -> Result<(bool, Duration), Failed> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn({
        let text = text.clone();
        move || {
            let began = Instant::now();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MINIMAL);
            let change = Assignment::parse(&text).expect("well-formed");
            let loaded = config::load_file(&path, &[change], None);
            let data = DataSummary {
                train_tokens: 100_000,
                val_tokens: 10_000,
                vocab_size: 65,
                fingerprint: "f".to_owned(),
                files: Vec::new(),
            };
            let planned =
                loaded.is_ok_and(|loaded| plan::resolve(&loaded.config, &machine(), &data).is_ok());
            let _ = sender.send((planned, began.elapsed()));
        }
    });
    receiver
        .recv_timeout(PATIENCE)
        .map_err(|_| format!("{text} has no answer, or ends in a panic").into())
}

fn walk() -> Result<(), Failed> {
    let schema: Value = serde_json::from_str(&json_schema())?;
    let mut found = Vec::new();
    numbers(&schema, &schema, "", &mut found);
    let n_counts = found.iter().filter(|number| number.is_count).count();
    check(
        n_counts >= 35 && found.len() >= 50,
        format!("{n_counts} counts of {}", found.len()),
    )?;
    let mut problems = Vec::new();
    for number in &found {
        for (index, value) in ABSURD.iter().enumerate() {
            let text = format!("{}={value}", number.path);
            let (planned, took) = is_planned(text.clone())?;
            if took > LIMIT {
                problems.push(format!("{text} took {took:?}"));
            }
            let is_bounded = number.is_count && !NO_COUNTS.contains(&number.path.as_str());
            if planned && is_bounded && index < BEYOND {
                problems.push(format!("{text} is planned"));
            }
        }
    }
    check(problems.is_empty(), problems.join("\n"))
}
