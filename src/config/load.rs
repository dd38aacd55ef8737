//! From text to [`RunConfig`]: parse strictly, apply changes, parse again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Assignment, ConfigError, ParallelConfig, RunConfig};

/// A configuration with the origin of each of its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: RunConfig,
    /// By dotted path, a line for each leaf.
    pub origins: BTreeMap<String, Origin>,
}

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Default,
    File,
    CommandLine,
}

/// Reads a file and applies the command line's changes.
///
/// Paths in the file are relative to the file; paths in `changes` to the working folder.
///
/// # Errors
/// An unreadable file, a text of the wrong shape, a change that makes it so.
pub fn load_file(
    path: &Path,
    changes: &[Assignment],
    layout: Option<ParallelConfig>,
) -> Result<Loaded, ConfigError> {
    let unreadable = |source: io::Error| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let folder = fs::canonicalize(path)
        .map_err(unreadable)?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    load_text(&text, &path.display().to_string(), &folder, changes, layout)
}

/// Reads a text as [`load_file`] does; `folder` is what its relative paths start from.
///
/// # Errors
/// As [`load_file`].
pub fn load_text(
    text: &str,
    origin: &str,
    folder: &Path,
    changes: &[Assignment],
    layout: Option<ParallelConfig>,
) -> Result<Loaded, ConfigError> {
    let mut config: RunConfig = parse(text, origin)?;
    config.resolve_paths(folder);
    let written: Value = serde_json::from_str(text).unwrap_or_default();
    let mut merged = serde_json::to_value(&config).unwrap_or_default();
    for change in changes {
        change.apply(&mut merged);
    }
    if !changes.is_empty() {
        let merged = serde_json::to_string_pretty(&merged).unwrap_or_default();
        config = parse(&merged, &format!("{origin} with --set"))?;
        config.resolve_paths(&std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")));
    }
    if layout.is_some() {
        config.parallel = layout;
    }
    let origins = origins(&config, &written, changes, layout.is_some());
    Ok(Loaded { config, origins })
}

fn parse(text: &str, origin: &str) -> Result<RunConfig, ConfigError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed: Result<RunConfig, _> = serde_path_to_error::deserialize(&mut deserializer);
    let shape = |message: String| ConfigError::Shape {
        origin: origin.to_owned(),
        message,
    };
    let config = parsed.map_err(|error| {
        let path = error.path().to_string();
        shape(describe(&path, &error.into_inner().to_string()))
    })?;
    deserializer
        .end()
        .map_err(|error| shape(error.to_string()))?;
    Ok(config)
}

/// Adds the path and, for an unknown name, the nearest known one.
fn describe(path: &str, message: &str) -> String {
    // "." is the whole, and "?" a place that the error came too early to name.
    let place = match path.trim_end_matches(['.', '?']) {
        "" => String::new(),
        path => format!("{path}: "),
    };
    let suggestion = suggestion(message)
        .map(|known| format!("; did you mean `{known}`?"))
        .unwrap_or_default();
    format!("{place}{message}{suggestion}")
}

/// serde lists the known names after the unknown one, each in backquotes.
fn suggestion(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    names
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|&(distance, _)| distance <= unknown.len().div_ceil(3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known)
}

fn origins(
    config: &RunConfig,
    written: &Value,
    changes: &[Assignment],
    layout: bool,
) -> BTreeMap<String, Origin> {
    let mut leaves = Vec::new();
    collect_leaves(
        &serde_json::to_value(config).unwrap_or_default(),
        &mut Vec::new(),
        &mut leaves,
    );
    leaves
        .into_iter()
        .map(|path| {
            let changed = changes.iter().any(|change| path.starts_with(&change.path))
                || (layout && path.first().is_some_and(|key| key == "parallel"));
            let origin = if changed {
                Origin::CommandLine
            } else if stands_in(written, &path) {
                Origin::File
            } else {
                Origin::Default
            };
            (path.join("."), origin)
        })
        .collect()
}

fn collect_leaves(value: &Value, path: &mut Vec<String>, leaves: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, inner) in object {
                path.push(key.clone());
                collect_leaves(inner, path, leaves);
                path.pop();
            }
        }
        _ => leaves.push(path.clone()),
    }
}

fn stands_in(written: &Value, path: &[String]) -> bool {
    path.iter()
        .try_fold(written, |value, key| value.get(key))
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{ "model": { "gpt": { "preset": "gpt-nano" } }, "data": { "builtin": "hello" },
        "batch": { "global": 8 }, "stop": { "steps": 10 } }"#;

    fn load(text: &str, changes: &[&str]) -> Result<Loaded, ConfigError> {
        let changes: Vec<_> = changes
            .iter()
            .map(|c| Assignment::parse(c).expect("well-formed"))
            .collect();
        load_text(text, "test.json", Path::new("/data"), &changes, None)
    }

    fn message(text: &str, changes: &[&str]) -> String {
        load(text, changes)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn defaults_fill_what_is_not_written() {
        let loaded = load(GOOD, &["batch.micro=4"]).expect("a good config");
        assert_eq!(loaded.config.seed, 1337);
        assert_eq!(loaded.origins["seed"], Origin::Default);
        assert_eq!(loaded.origins["batch.global"], Origin::File);
        assert_eq!(loaded.origins["batch.micro"], Origin::CommandLine);
    }

    #[test]
    fn paths_in_the_file_start_at_the_file() {
        let text = GOOD.replace(
            r#"{ "builtin": "hello" }"#,
            r#"{ "text": { "path": "input.txt" } }"#,
        );
        let crate::config::DataConfig::Text(text) = load(&text, &[]).expect("good").config.data
        else {
            unreachable!("the data is text")
        };
        assert_eq!(text.path, Path::new("/data/input.txt"));
    }

    #[test]
    fn unknown_keys_are_refused_with_path_line_and_suggestion() {
        let text = GOOD.replace("\"global\"", "\"globl\"");
        let message = message(&text, &[]);
        for part in ["batch", "globl", "did you mean `global`", "line 2"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn duplicate_mistyped_and_trailing_text_are_refused() {
        assert!(
            message(
                &GOOD.replace("\"global\": 8", "\"global\": 8, \"global\": 9"),
                &[]
            )
            .contains("duplicate")
        );
        assert!(message(&GOOD.replace('8', "\"eight\""), &[]).contains("batch.global"));
        assert!(message(&format!("{GOOD} x"), &[]).contains("trailing"));
        assert!(message(&GOOD[..GOOD.len() - 2], &[]).starts_with("test.json: EOF"));
        assert!(message(GOOD, &["batch.global=many"]).contains("batch.global"));
    }
}
