//! Whatever the configuration offers to a card stands in some row of the matrix.

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::splits::{self, Split};
use crate::support::check;

/// Values that the schema lists, and where they stand in a config.
const VALUES: [(&str, &str); 4] = [
    ("PipelineSchedule", "/parallel/schedule"),
    ("Recompute", "/parallel/recompute"),
    ("Precision", "/precision"),
    ("RanksPerWorker", "/ranks_per_worker"),
];
/// Keys that the schema lists, and the object in a config that has one of them.
const KEYS: [(&str, &str); 2] = [("ModelConfig", "/model"), ("OptimizerConfig", "/optimizer")];
/// What rows take by leaving it out, and fp64, which is refused on a GPU.
const NOT_NAMED: [&str; 3] = ["none", "fp32", "fp64"];

/// The list is the configuration's own; a family without a row would be seen.
pub fn everything() -> Result<(), Failed> {
    let schema: Value = serde_json::from_str(&capstan::config::json_schema())?;
    let configs: Vec<Value> = splits::all().iter().map(Split::on_gpus).collect();
    let found = missing(&schema, &configs)?;
    check(found.is_empty(), format!("in no row: {found:?}"))?;
    let is_llama = |config: &Value| config.pointer("/model/llama").is_some();
    let others: Vec<Value> = configs
        .into_iter()
        .filter(|config| !is_llama(config))
        .collect();
    let found = missing(&schema, &others)?;
    check(found == ["/model/llama"], format!("not seen: {found:?}"))
}

/// What no config has, as a path with its last part a value or a key.
fn missing(schema: &Value, configs: &[Value]) -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    for (list, place) in VALUES {
        let taken = |value: &Value| {
            configs
                .iter()
                .any(|config| config.pointer(place) == Some(value))
        };
        let offered = values(schema, list)?.into_iter();
        let offered =
            offered.filter(|value| !NOT_NAMED.contains(&value.as_str().unwrap_or_default()));
        found.extend(
            offered
                .filter(|value| !taken(value))
                .map(|value| format!("{place}={value}")),
        );
    }
    let degrees = schema["$defs"]["ParallelConfig"]["properties"].as_object();
    let degrees = degrees.ok_or("the schema knows no split")?.keys();
    let mut keys: Vec<String> = degrees.map(|key| format!("/parallel/{key}")).collect();
    for (list, place) in KEYS {
        keys.extend(
            objects(schema, list)?
                .iter()
                .map(|key| format!("{place}/{key}")),
        );
    }
    let taken = |key: &String| configs.iter().any(|config| config.pointer(key).is_some());
    found.extend(keys.into_iter().filter(|key| !taken(key)));
    let levels = (1..=3).map(|level| json!(level));
    let taken = |level: &Value| {
        configs
            .iter()
            .any(|config| config["parallel"]["zero"] == *level)
    };
    found.extend(
        levels
            .filter(|level| !taken(level))
            .map(|level| format!("/parallel/zero={level}")),
    );
    Ok(found)
}

/// The values of a list of the schema, described one by one or together.
fn values(schema: &Value, list: &str) -> Result<Vec<Value>, Failed> {
    let definition = &schema["$defs"][list];
    let parts = definition["oneOf"].as_array().cloned().unwrap_or_default();
    let all = parts.iter().chain([definition]).flat_map(|part| {
        let together = part["enum"].as_array().cloned().unwrap_or_default();
        together.into_iter().chain(part.get("const").cloned())
    });
    let all: Vec<Value> = all.collect();
    check(all.len() > 1, format!("the schema lists no {list}"))?;
    Ok(all)
}

/// The keys of a choice of objects of the schema.
fn objects(schema: &Value, list: &str) -> Result<Vec<String>, Failed> {
    let choices = schema["$defs"][list]["oneOf"].as_array();
    let choices = choices.into_iter().flatten();
    let objects = choices.filter_map(|choice| choice["properties"].as_object());
    let all: Vec<String> = objects.flat_map(|object| object.keys().cloned()).collect();
    check(all.len() > 1, format!("the schema lists no {list}"))?;
    Ok(all)
}
