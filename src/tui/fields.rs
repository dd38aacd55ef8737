//! The fields of a config, read from its JSON Schema: what the types gain, the form shows.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::config;

/// One line of the form.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Keys from the config's root.
    pub path: Vec<String>,
    pub kind: Kind,
    /// As shown; empty for a heading.
    pub value: String,
    pub description: String,
    /// It may be left out.
    pub is_optional: bool,
}

/// How a field is changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Fields follow.
    Heading,
    /// One of these, by name and value.
    Choice(Vec<(String, Value)>),
    /// A text, whatever it looks like.
    Text,
    /// JSON, else a text.
    Free,
}

impl Field {
    /// Deeper fields are indented.
    pub fn depth(&self) -> usize {
        self.path.len().saturating_sub(1)
    }

    /// The last key.
    pub fn label(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    /// The path as refusals name it.
    pub fn dotted(&self) -> String {
        self.path.join(".")
    }
}

/// The fields of a config that is written like `root`.
pub fn of(root: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    walk(schema(), root, &mut Vec::new(), &mut fields);
    fields
}

fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| serde_json::from_str(&config::json_schema()).unwrap_or_default())
}

/// The schema that a reference means; what stands beside the reference counts more.
fn resolved(node: &Value) -> Value {
    let Some(name) = node["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    else {
        return node.clone();
    };
    let mut target = resolved(&schema()["$defs"][name]);
    if let (Value::Object(target), Value::Object(own)) = (&mut target, node) {
        for (key, value) in own.iter().filter(|(key, _)| *key != "$ref") {
            target.insert(key.clone(), value.clone());
        }
    }
    target
}

/// The schema without "or null", and whether it had that.
fn without_null(node: &Value) -> (Value, bool) {
    let mut node = resolved(node);
    if let Some(types) = node["type"].as_array() {
        let is_optional = types.iter().any(|kind| kind == "null");
        let kind = types.iter().find(|kind| *kind != "null").cloned();
        node["type"] = kind.unwrap_or_default();
        return (node, is_optional);
    }
    let Some(choices) = node["anyOf"].as_array() else {
        return (node, false);
    };
    if !choices.iter().any(|choice| choice["type"] == "null") {
        return (node, false);
    }
    let own = node["description"].clone();
    let inner = choices.iter().find(|choice| choice["type"] != "null");
    let mut inner = inner.map(resolved).unwrap_or_default();
    if own.is_string() {
        inner["description"] = own;
    }
    (inner, true)
}

fn walk(node: &Value, value: &Value, path: &mut Vec<String>, fields: &mut Vec<Field>) {
    let (node, is_optional) = without_null(node);
    let description = node["description"].as_str().unwrap_or_default().to_owned();
    let push = |kind: Kind, shown: String, fields: &mut Vec<Field>| {
        fields.push(Field {
            path: path.clone(),
            kind,
            value: shown,
            description: description.clone(),
            is_optional,
        });
    };
    if node["oneOf"].is_array() {
        let variants = variants(&node);
        let chosen = tag(value);
        push(
            Kind::Choice(options(&variants, value, is_optional)),
            shown(value),
            fields,
        );
        let inner = variants
            .iter()
            .find(|(name, _)| Some(name) == chosen.as_ref());
        if let Some((name, Some(inner))) = inner {
            path.push(name.clone());
            walk(inner, &value[name.as_str()], path, fields);
            path.pop();
        }
        return;
    }
    match node["type"].as_str() {
        Some("object") if is_optional && value.is_null() => {
            let options = vec![
                ("absent".to_owned(), Value::Null),
                ("present".to_owned(), made(&node)),
            ];
            push(Kind::Choice(options), "absent".to_owned(), fields);
        }
        Some("object") => {
            if !path.is_empty() {
                let kind = if is_optional {
                    let present = ("present".to_owned(), value.clone());
                    Kind::Choice(vec![("absent".to_owned(), Value::Null), present])
                } else {
                    Kind::Heading
                };
                let word = if is_optional { "present" } else { "" };
                push(kind, word.to_owned(), fields);
            }
            for (key, inner) in node["properties"].as_object().into_iter().flatten() {
                if key != "$schema" {
                    path.push(key.clone());
                    walk(inner, &value[key.as_str()], path, fields);
                    path.pop();
                }
            }
        }
        Some("boolean") => {
            let mut options = vec![
                ("false".to_owned(), json!(false)),
                ("true".to_owned(), json!(true)),
            ];
            if is_optional {
                options.insert(0, ("absent".to_owned(), Value::Null));
            }
            push(Kind::Choice(options), shown(value), fields);
        }
        Some("string") => push(Kind::Text, shown(value), fields),
        _ => push(Kind::Free, shown(value), fields),
    }
}

/// The least that the schema accepts at a path; `None` where it knows no such path.
pub fn made_at(path: &[String]) -> Option<Value> {
    let mut node = schema().clone();
    for key in path {
        let (inner, _) = without_null(&node);
        let variants = variants(&inner);
        let found = variants.into_iter().find(|(name, _)| name == key);
        node = match found {
            Some((_, variant)) => variant?,
            None => inner["properties"].get(key)?.clone(),
        };
    }
    Some(made(&node))
}

/// The variants by name; those with content come with its schema.
fn variants(node: &Value) -> Vec<(String, Option<Value>)> {
    let mut found = Vec::new();
    for variant in node["oneOf"].as_array().into_iter().flatten() {
        if let Some(name) = variant["const"].as_str() {
            found.push((name.to_owned(), None));
        }
        for name in variant["enum"].as_array().into_iter().flatten() {
            found.extend(name.as_str().map(|name| (name.to_owned(), None)));
        }
        for (name, inner) in variant["properties"].as_object().into_iter().flatten() {
            found.push((name.clone(), Some(inner.clone())));
        }
    }
    found
}

/// What each variant would be set to; the present one stays as it is.
fn options(
    variants: &[(String, Option<Value>)],
    value: &Value,
    is_optional: bool,
) -> Vec<(String, Value)> {
    let present = tag(value);
    let absent = is_optional.then(|| ("absent".to_owned(), Value::Null));
    let named = variants.iter().map(|(name, inner)| {
        let made = match inner {
            _ if Some(name) == present.as_ref() => value.clone(),
            None => Value::String(name.clone()),
            Some(inner) => json!({ name.as_str(): made(inner) }),
        };
        (name.clone(), made)
    });
    absent.into_iter().chain(named).collect()
}

/// The least that a schema accepts, its defaults where it has some.
fn made(node: &Value) -> Value {
    let (node, is_optional) = without_null(node);
    if let Some(default) = node.get("default") {
        return default.clone();
    }
    if is_optional {
        return Value::Null;
    }
    if node["oneOf"].is_array() {
        return match variants(&node).into_iter().next() {
            Some((name, Some(inner))) => json!({ name: made(&inner) }),
            Some((name, None)) => Value::String(name),
            None => Value::Null,
        };
    }
    match node["type"].as_str() {
        Some("object") => {
            let required = node["required"].as_array().into_iter().flatten();
            let mut object = Map::new();
            for key in required.filter_map(Value::as_str) {
                object.insert(key.to_owned(), made(&node["properties"][key]));
            }
            for (key, inner) in node["properties"].as_object().into_iter().flatten() {
                if let Some(default) = resolved(inner).get("default") {
                    object.insert(key.clone(), default.clone());
                }
            }
            Value::Object(object)
        }
        Some("integer" | "number") => json!(0),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        _ => json!(""),
    }
}

/// The name of the variant that a value is.
fn tag(value: &Value) -> Option<String> {
    match value {
        Value::String(name) => Some(name.clone()),
        Value::Object(object) => object.keys().next().cloned(),
        _ => None,
    }
}

/// A value in a line; a choice by its name.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(_) => tag(value).unwrap_or_default(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    fn config(data: &Value) -> Value {
        let config: RunConfig = serde_json::from_value(json!({
            "model": { "gpt": { "preset": "gpt-nano" } }, "data": data,
            "batch": { "global": 8 }, "stop": { "steps": 10 }
        }))
        .expect("a config");
        serde_json::to_value(config).expect("serializable")
    }

    fn find<'a>(fields: &'a [Field], path: &str) -> &'a Field {
        fields
            .iter()
            .find(|field| field.dotted() == path)
            .expect(path)
    }

    #[test]
    fn every_key_of_a_config_has_its_field() {
        let root = config(&json!({ "builtin": "hello" }));
        let fields = of(&root);
        for key in root.as_object().expect("an object").keys() {
            assert!(fields.iter().any(|field| &field.path[0] == key), "{key}");
        }
        assert_eq!(find(&fields, "model.gpt.preset").value, "gpt-nano");
        assert_eq!(find(&fields, "stop").value, "steps");
        assert_eq!(find(&fields, "stop.steps").value, "10");
        assert_eq!(find(&fields, "parallel").value, "absent");
        assert_eq!(find(&fields, "data.builtin").value, "hello");
    }

    /// Each choice of each field makes a config of the right shape, texts to be typed in aside.
    #[test]
    fn every_choice_can_be_taken() {
        let root = config(&json!({ "builtin": "hello" }));
        for field in of(&root) {
            let Kind::Choice(options) = &field.kind else {
                continue;
            };
            for (name, value) in options {
                let mut changed = root.clone();
                let path = field.path.clone();
                crate::config::Assignment {
                    path,
                    value: value.clone(),
                }
                .apply(&mut changed);
                let read: Result<RunConfig, _> = serde_json::from_value(changed);
                assert!(read.is_ok(), "{} {name}: {read:?}", field.dotted());
            }
        }
    }
}
