//! From text to [`RunConfig`]: parse strictly, apply changes, parse again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    Assignment, ConfigError, ParallelConfig, RunConfig,
    words::{expectation, plainly},
};
use crate::base::read::{self, Bound};

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
    let text = read::input(path, Bound::WRITTEN).map_err(unreadable)?;
    // What came through a pipe has no folder: its paths start from the working folder.
    let found = match path.is_file() {
        true => fs::canonicalize(path)
            .map_err(unreadable)?
            .parent()
            .map(Path::to_owned),
        false => std::env::current_dir().ok(),
    };
    let folder = found.unwrap_or_default();
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
        config = parse_changed(&merged, changes)?;
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
        let path = place(&error);
        let inner = error.into_inner();
        let position = format!(" at line {} column {}", inner.line(), inner.column());
        let message = inner.to_string();
        let message = message.strip_suffix(&position).unwrap_or(&message);
        let problem = match serde_json::from_str(text) {
            Ok(written) => problem(&written, &path, message),
            Err(_) => message.to_owned(),
        };
        shape(describe(&path, &format!("{problem}{position}"), message))
    })?;
    deserializer
        .end()
        .map_err(|error| shape(error.to_string()))?;
    Ok(config)
}

/// Parses what the command line changed: lines of it nobody has seen, so errors name the assignments.
fn parse_changed(merged: &Value, changes: &[Assignment]) -> Result<RunConfig, ConfigError> {
    serde_path_to_error::deserialize(merged).map_err(|error| {
        let path = place(&error);
        let message = error.into_inner().to_string();
        let blamed = blamed(&path, changes);
        let shown = if blamed == [path.as_str()] { "" } else { &path };
        ConfigError::Shape {
            origin: format!("--set {}", blamed.join(", --set ")),
            message: describe(shown, &problem(merged, &path, &message), &message),
        }
    })
}

/// The assignments that an error comes from; all of them where it comes from none in particular.
fn blamed(path: &str, changes: &[Assignment]) -> Vec<String> {
    let is_within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let all: Vec<String> = changes.iter().map(|change| change.path.join(".")).collect();
    let near = all
        .iter()
        .filter(|name| is_within(name, path) || is_within(path, name));
    let near: Vec<String> = near.cloned().collect();
    if near.is_empty() { all } else { near }
}

/// The dotted path of an error, empty where it came too early to have one ("?") or means the whole (".").
fn place(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    path.trim_end_matches(['.', '?']).to_owned()
}

/// Adds the path and, where serde's own `message` is about an unknown name, the nearest known one.
fn describe(path: &str, problem: &str, message: &str) -> String {
    let place = match path {
        "" => String::new(),
        path => format!("{path}: "),
    };
    let suggestion = suggestion(message)
        .map(|known| format!("; did you mean `{known}`?"))
        .unwrap_or_default();
    format!("{place}{problem}{suggestion}")
}

/// What is wrong with the value at `path` of a text that is JSON, in plain words.
fn problem(root: &Value, path: &str, message: &str) -> String {
    // The text's parser calls it a syntax error where a choice or a list goes on too long.
    let reread = match message {
        "expected value" | "trailing characters" => refusal(root).map(|(_, message)| message),
        _ => None,
    };
    let message = reread.as_deref().unwrap_or(message);
    // What fits there is what serde misses in a value that can't fit.
    let unfit = match expectation(message) {
        Some((_, "map with a single key" | "string or map")) => json!({ "?": null }),
        Some((_, "fewer elements in array")) => json!([]),
        _ => return plainly(message, None),
    };
    let mut changed = root.clone();
    let pointer = format!("/{}", path.replace('.', "/"));
    let put = changed.pointer_mut(&pointer).map(|value| *value = unfit);
    let missed = put.and_then(|()| refusal(&changed).filter(|(at, _)| at == path));
    let known = missed
        .as_ref()
        .and_then(|(_, message)| expectation(message));
    plainly(message, known.map(|(_, known)| known))
}

/// Where and why a value is no config.
fn refusal(root: &Value) -> Option<(String, String)> {
    let parsed: Result<RunConfig, _> = serde_path_to_error::deserialize(root);
    let error = parsed.err()?;
    Some((place(&error), error.into_inner().to_string()))
}

/// Where and why a value is no config, in plain words; `None` where it is one. The path is empty where that is not
/// known. Callers that want more than the first problem mend this one and ask again.
pub fn shape_problem(root: &Value) -> Option<(String, String)> {
    let (path, message) = refusal(root)?;
    let words = describe("", &problem(root, &path, &message), &message);
    Some((path, words))
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
            .contains("`global` stands there twice")
        );
        assert!(message(&GOOD.replace('8', "\"eight\""), &[]).contains("batch.global"));
        assert!(message(&format!("{GOOD} x"), &[]).contains("trailing"));
        assert!(message(&GOOD[..GOOD.len() - 2], &[]).starts_with("test.json: EOF"));
        assert!(message(&GOOD.replace("10 }", "10, \"tokens\": 9 }"), &[]).contains("exactly one"));
    }

    #[test]
    fn a_bad_change_is_named_by_its_path_and_by_no_line() {
        for (changes, words) in [
            (
                &["seed=2", "batch.global=many"][..],
                "--set batch.global: expected a whole number of at least 0, not the text \"many\"",
            ),
            (
                &["optimizer.sgd={\"lr\":\"x\"}"],
                "--set optimizer.sgd: optimizer.sgd.lr: expected a number, not the text \"x\"",
            ),
            (
                &["devices=[\"cpu\",\"gpu\"]"],
                "--set devices: devices[1]: expected \"cpu\" or a GPU's index, not the text \"gpu\"",
            ),
            (
                &["data.tokens.train=x"],
                "--set data.tokens.train: data.tokens: `vocab_size` is missing",
            ),
            (
                &["stop=5"],
                "--set stop: give exactly one of `steps`, `tokens`, `epochs`, `seconds`, not 5",
            ),
        ] {
            assert_eq!(message(GOOD, changes), words);
        }
        let unknown = message(GOOD, &["seed=2", "modle.x=1"]);
        assert!(
            unknown.starts_with("--set modle.x: modle: unknown field `modle`"),
            "{unknown}"
        );
        assert!(unknown.ends_with("did you mean `model`?"), "{unknown}");
    }
}
