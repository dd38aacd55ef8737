//! Changes from the command line: `--set key.path=value` and `--layout dp=2`.

use serde_json::{Map, Value};

use super::{ConfigError, ParallelConfig, words::plainly};

/// Objects that hold exactly one key: setting another key of theirs replaces the choice.
const CHOICES: [&str; 5] = ["model", "data", "stop", "optimizer", "schedule"];

/// One `key.path=value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub path: Vec<String>,
    pub value: Value,
}

impl Assignment {
    /// Reads `key.path=value`; the value is JSON where it parses as JSON, else a string.
    ///
    /// # Errors
    /// No `=`, or an empty key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let malformed = || ConfigError::Assignment {
            text: text.to_owned(),
        };
        let (path, value) = text.split_once('=').ok_or_else(malformed)?;
        let path: Vec<String> = path.split('.').map(|key| key.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(malformed());
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { path, value })
    }

    /// Whether the value is `key`'s or lies below it.
    pub fn is_within(&self, key: &str) -> bool {
        self.path.first().is_some_and(|first| first == key)
    }

    /// Writes the value into `root`, making objects on the way.
    pub fn apply(&self, root: &mut Value) {
        let mut place = root;
        for (depth, key) in self.path.iter().enumerate() {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            let Value::Object(object) = place else { return };
            let is_choice = depth == 1 && CHOICES.contains(&self.path[0].as_str());
            if is_choice && !object.contains_key(key) {
                object.clear();
            }
            place = object.entry(key.clone()).or_insert(Value::Null);
        }
        *place = self.value.clone();
    }
}

/// Reads `dp=2,tp=2,zero=1`; an unnamed axis is 1.
///
/// # Errors
/// A part without `=`, an unknown axis, or a value of the wrong kind.
pub fn layout_from_text(text: &str) -> Result<ParallelConfig, ConfigError> {
    let fail = |problem: String| ConfigError::Layout {
        text: text.to_owned(),
        problem,
    };
    let mut object = Map::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (axis, value) = part
            .split_once('=')
            .ok_or_else(|| fail(format!("\"{part}\" has no =")))?;
        let value = value.trim();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        object.insert(axis.trim().to_owned(), value);
    }
    serde_json::from_value(Value::Object(object))
        .map_err(|error| fail(plainly(&error.to_string(), None)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(mut root: Value, text: &str) -> Value {
        Assignment::parse(text)
            .expect("a well-formed assignment")
            .apply(&mut root);
        root
    }

    #[test]
    fn values_are_json_else_strings() {
        assert_eq!(
            set(json!({}), "batch.global=32"),
            json!({ "batch": { "global": 32 } })
        );
        assert_eq!(set(json!({}), "name=a b"), json!({ "name": "a b" }));
        assert_eq!(
            set(json!({}), "devices=[\"cpu\"]"),
            json!({ "devices": ["cpu"] })
        );
    }

    #[test]
    fn another_choice_replaces_the_first() {
        let root = json!({ "stop": { "steps": 10 } });
        assert_eq!(
            set(root.clone(), "stop.tokens=500"),
            json!({ "stop": { "tokens": 500 } })
        );
        assert_eq!(
            set(root, "stop.steps=20"),
            json!({ "stop": { "steps": 20 } })
        );
    }

    #[test]
    fn malformed_assignments_are_refused() {
        for text in ["batch.global", "=3", "a..b=1"] {
            assert!(Assignment::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn layouts_name_their_axes() {
        assert_eq!(layout_from_text("dp=4").expect("valid").dp, 4);
        assert!(
            layout_from_text("dp=2,primary=true")
                .expect("valid")
                .primary
        );
        let interleaved =
            layout_from_text("pp=2,schedule=interleaved,virtual_stages=2").expect("valid");
        assert_eq!(
            interleaved.schedule,
            crate::config::PipelineSchedule::Interleaved
        );
        for text in ["dp", "dp=x", "dq=2", "schedule=2f2b"] {
            assert!(layout_from_text(text).is_err(), "{text}");
        }
    }
}
