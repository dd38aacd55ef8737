//! A config that is being written, which need not be one yet.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{fields, written::text_of};
use crate::config::{self, Assignment, ConfigError, RunConfig};

/// The job that ships with the program, which a first run trains.
const HELLO: &str = include_str!("../../configs/hello.json");
/// Values of the wrong shape that are told, at most.
const MOST_PROBLEMS: usize = 64;

/// Dotted path and words of something that is wrong.
pub type Problem = (String, String);

/// A config that is being written.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub root: Value,
    /// Grows with every change.
    pub revision: u64,
    /// Look at the data's text too.
    pub thorough: bool,
    /// The last root of the right shape: where the next is not, its values are what to try.
    sound: Value,
}

/// What a value says as a config.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// With stand-ins for what can't be read; `None` where that did not help.
    pub config: Option<RunConfig>,
    /// Everything of the wrong shape.
    pub problems: Vec<Problem>,
    /// Where a stand-in is, and what stood there.
    replaced: Vec<(Vec<String>, Option<Value>)>,
}

impl Default for Draft {
    fn default() -> Self {
        let hello = config::load_text(HELLO, "hello.json", &working_folder(), &[], None);
        let root = hello.map_or(Value::Null, |loaded| written(&loaded.config));
        Self {
            sound: root.clone(),
            root,
            revision: 1,
            thorough: false,
        }
    }
}

impl Draft {
    /// The config as a file holds it.
    pub fn text(&self) -> String {
        text_of(&self.root)
    }

    /// The draft as a config, with everything in it that has not the right shape.
    pub fn read(&self) -> Read {
        read(&self.root, &self.sound, &working_folder())
    }

    /// The config.
    ///
    /// # Errors
    /// Path and words of everything that has not the right shape.
    pub fn config(&self) -> Result<RunConfig, Vec<Problem>> {
        let read = self.read();
        match read.config {
            Some(config) if read.problems.is_empty() => Ok(config),
            _ => Err(read.problems),
        }
    }

    /// The base of its run's name.
    pub fn name(&self) -> String {
        self.root["name"].as_str().unwrap_or("run").to_owned()
    }

    /// Takes the place of what it was.
    pub fn replace(&mut self, root: Value) {
        self.root = root;
        self.revision += 1;
        self.settle();
    }

    /// Sets a value, and brings in sight what further settings it has.
    pub fn set(&mut self, path: &[String], value: Value) {
        let change = Assignment {
            path: path.to_vec(),
            value,
        };
        change.apply(&mut self.root);
        self.revision += 1;
        self.settle();
    }

    /// Takes a key out.
    pub fn remove(&mut self, path: &[String]) {
        remove(&mut self.root, path);
        self.revision += 1;
        self.settle();
    }

    /// Writes defaults and absolute paths out, and remembers what has the right shape.
    fn settle(&mut self) {
        let read = self.read();
        if let Some(whole) = read.whole() {
            self.root = whole;
        }
        if let Some(config) = &read.config {
            self.sound = written(config);
        }
    }

    /// The draft that a text describes; relative paths start from `folder`.
    ///
    /// A text of JSON whose values have the wrong shape is a draft with problems.
    ///
    /// # Errors
    /// The text is no JSON object, or not one that a value can stand for, as where a key stands twice or hardly
    /// anything in it is of a config.
    pub fn parse(&self, text: &str, origin: &str, folder: &Path) -> Result<Value, ConfigError> {
        let error = match config::load_text(text, origin, folder, &[], None) {
            Ok(loaded) => return Ok(written(&loaded.config)),
            Err(error) => error,
        };
        let Ok(raw) = serde_json::from_str(text) else {
            return Err(error);
        };
        let read = read(&raw, &self.sound, folder);
        if !raw.is_object() || read.problems.is_empty() {
            return Err(error);
        }
        read.whole().ok_or(error)
    }
}

impl Read {
    /// The config with every default in sight, and what is wrong in its place.
    fn whole(&self) -> Option<Value> {
        let mut root = written(self.config.as_ref()?);
        for (path, was) in self.replaced.iter().rev() {
            match was {
                Some(value) => put(&mut root, path, value.clone()),
                None => remove(&mut root, path),
            }
        }
        Some(root)
    }
}

/// The folder that relative paths start from.
pub fn working_folder() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

/// The field at which a problem stands: an entry of a list stands at the list's.
pub fn field_of(place: &str) -> &str {
    place.split('[').next().unwrap_or(place)
}

/// A config with every default in sight.
fn written(config: &RunConfig) -> Value {
    let mut config = config.clone();
    config.schema = None;
    serde_json::to_value(config).unwrap_or_default()
}

/// Reads a value again and again, each time with a stand-in for what it stumbled over.
fn read(root: &Value, sound: &Value, folder: &Path) -> Read {
    let mut mended = root.clone();
    let mut found = Read::default();
    while let Some((place, words)) = config::shape_problem(&mended) {
        let Some(mend) = Mend::of(&mended, sound, &place, &words) else {
            found.problems.push((place, words));
            return found;
        };
        let tried = mend.stand_in.as_ref().and_then(in_a_line);
        let words = match tried {
            Some(value) => format!("{words}; try {value}"),
            None => words,
        };
        found.problems.push((mend.told, words));
        found
            .replaced
            .push((mend.path.clone(), at(&mended, &mend.path).cloned()));
        match mend.stand_in {
            Some(value) => put(&mut mended, &mend.path, value),
            None => remove(&mut mended, &mend.path),
        }
        if found.problems.len() >= MOST_PROBLEMS {
            return found;
        }
    }
    let Ok(mut config) = serde_json::from_value::<RunConfig>(mended.clone()) else {
        return found;
    };
    config.resolve_paths(folder);
    // An empty path would mean the folder itself.
    for path in emptied(&mended, &written(&config)) {
        let told = path.join(".");
        if found.problems.iter().all(|(known, _)| *known != told) {
            let words = "is empty; type a path".to_owned();
            found.problems.push((told, words));
            found
                .replaced
                .push((path, Some(Value::String(String::new()))));
        }
    }
    found.config = Some(config);
    found
}

/// Where a text is empty before, and not after.
fn emptied(before: &Value, after: &Value) -> Vec<Vec<String>> {
    match (before, after) {
        (Value::String(text), Value::String(other)) if text.is_empty() && !other.is_empty() => {
            vec![Vec::new()]
        }
        (Value::Object(object), after) => {
            let inner = object.iter().flat_map(|(key, value)| {
                let found = emptied(value, &after[key.as_str()]).into_iter();
                found.map(|mut path| {
                    path.insert(0, key.clone());
                    path
                })
            });
            inner.collect()
        }
        _ => Vec::new(),
    }
}

/// What lets reading go on past a problem.
struct Mend {
    path: Vec<String>,
    /// `None`: the key goes.
    stand_in: Option<Value>,
    /// The path as the problem's own.
    told: String,
}

impl Mend {
    fn of(root: &Value, sound: &Value, place: &str, words: &str) -> Option<Self> {
        let mut path: Vec<String> = place.split('.').map(str::to_owned).collect();
        path.retain(|key| !key.is_empty());
        let name = words.split('`').nth(1).unwrap_or_default().to_owned();
        if words.starts_with("unknown field ") {
            if path.last() != Some(&name) {
                path.push(name);
            }
            let told = path.join(".");
            return at(root, &path).is_some().then_some(Self {
                path,
                stand_in: None,
                told,
            });
        }
        let is_missing = words.ends_with(" is missing");
        if is_missing {
            path.push(name);
        }
        // A list's entry is mended by the whole list.
        for key in &mut path {
            let end = key.find('[').unwrap_or(key.len());
            key.truncate(end);
        }
        let told = if is_missing {
            path.join(".")
        } else {
            place.to_owned()
        };
        // What holds a value that no stand-in helps is replaced as a whole.
        while !path.is_empty() {
            let present = at(root, &path);
            let known = [
                present.and_then(whole_number),
                at(sound, &path).cloned(),
                fields::made_at(&path),
            ];
            let other = known.into_iter().flatten();
            let stand_in = other.filter(|value| Some(value) != present).find(|value| {
                let mut tried = root.clone();
                put(&mut tried, &path, value.clone());
                // Of several keys that are missing at a place, the next is told there too.
                config::shape_problem(&tried)
                    .is_none_or(|(at, other)| at != place || is_missing && other != words)
            });
            if stand_in.is_some() {
                return Some(Self {
                    path,
                    stand_in,
                    told,
                });
            }
            path.pop();
        }
        None
    }
}

/// The whole number next to one that is none: 1000 for 1e3.
fn whole_number(value: &Value) -> Option<Value> {
    let number = value.as_f64().filter(|_| value.is_f64())?;
    let is_near = (1.0..1e15).contains(&number);
    is_near.then(|| Value::from(number.round() as u64))
}

/// A value that can be typed; whole objects can't.
fn in_a_line(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

fn at<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, key| value.get(key))
}

fn put(root: &mut Value, path: &[String], value: Value) {
    let mut place = root;
    for key in path {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(object) = place else { return };
        place = object.entry(key.clone()).or_insert(Value::Null);
    }
    *place = value;
}

fn remove(root: &mut Value, path: &[String]) {
    let Some((last, folder)) = path.split_last() else {
        return;
    };
    let holder = folder
        .iter()
        .try_fold(root, |value, key| value.get_mut(key));
    if let Some(Value::Object(object)) = holder {
        object.remove(last);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(changes: &[(&str, Value)]) -> Draft {
        let mut draft = Draft::default();
        for (path, value) in changes {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            draft.set(&path, value.clone());
        }
        draft
    }

    #[test]
    fn every_value_of_the_wrong_shape_is_told_with_one_that_works() {
        let hello = Draft::default();
        let draft = changed(&[
            ("model.gpt.n_head", json!("abc")),
            ("batch.global", json!(-1)),
            ("batch.globl", json!(4)),
            ("optimizer.adamw.betas", json!([0.9, "x"])),
            ("devices", json!(["cpu", "gpu"])),
            ("precision", json!("fp8")),
            ("stop", json!({ "steps": 1, "tokens": 5 })),
            ("data", json!({ "text": { "tokenizer": "chars" } })),
        ]);
        let read = draft.read();
        let told: Vec<String> = read
            .problems
            .iter()
            .map(|(path, words)| format!("{path}: {words}"))
            .collect();
        let told = told.join("\n");
        let n_head = &hello.root["model"]["gpt"]["n_head"];
        for part in [
            &*format!(
                "model.gpt.n_head: expected a whole number of at least 0, not the text \"abc\"; try {n_head}"
            ),
            "batch.global: expected a whole number of at least 0, not -1; try ",
            "batch.globl: unknown field `globl`",
            "optimizer.adamw.betas[1]: expected a number",
            "devices[1]: expected \"cpu\" or a GPU's index",
            "precision: unknown choice `fp8`",
            "stop: give exactly one of `steps`",
            "data.text.path: `path` is missing",
            "data.text.tokenizer: unknown choice `chars`",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(read.problems.len(), 9, "{told}");
        assert!(read.config.is_some() && draft.config().is_err());
    }

    #[test]
    fn a_mended_draft_is_a_config_again() {
        let mut draft = changed(&[("model.gpt.n_head", json!("abc"))]);
        assert_eq!(draft.root["model"]["gpt"]["n_head"], "abc");
        draft.set(&["model", "gpt", "n_head"].map(str::to_owned), json!(4));
        assert_eq!(
            draft.config().expect("a config"),
            Draft::default().config().expect("hello")
        );
    }

    #[test]
    fn an_empty_path_is_no_folder() {
        let draft = changed(&[("data", json!({ "text": { "path": "" } }))]);
        assert_eq!(draft.root["data"]["text"]["path"], "");
        let problems = draft.config().expect_err("a problem");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].0 == "data.text.path" && problems[0].1.contains("empty"));
    }

    #[test]
    fn typed_paths_start_from_the_working_folder() {
        let draft = changed(&[("data", json!({ "text": { "path": "a/b.txt" } }))]);
        let path = working_folder().join("a/b.txt");
        assert_eq!(draft.root["data"]["text"]["path"], json!(path));
    }

    #[test]
    fn a_text_with_problems_is_a_draft_and_one_without_sense_is_none() {
        let hello = Draft::default();
        let parse = |text: &str| hello.parse(text, "a.json", Path::new("/data"));
        let text = r#"{ "model": { "gpt": { "preset": "gpt-nano" } }, "data": { "text": { "path": "a.txt" } },
            "batch": { "globl": 8 }, "stop": { "steps": 10 } }"#;
        let root = parse(text).expect("a draft");
        assert_eq!(root["batch"], json!({ "globl": 8 }));
        assert_eq!(root["data"]["text"]["path"], "/data/a.txt");
        assert_eq!(root["seed"], 1337, "defaults are in sight");
        let bare = parse(r#"{ "modle": {}, "data": { "builtin": "hello" } }"#).expect("a draft");
        assert_eq!(
            (&bare["modle"], &bare["model"], &bare["batch"]),
            (&json!({}), &Value::Null, &Value::Null)
        );
        let whole = text.replace("globl", "global");
        assert!(parse(&whole).is_ok());
        let foreign: Vec<String> = (0..100).map(|n| format!("\"key {n}\": 1")).collect();
        for text in [
            "",
            "[]",
            "{",
            &whole.replace("\"stop\"", "\"seed\": 1, \"seed\": 2, \"stop\""),
            &format!("{{ {} }}", foreign.join(", ")),
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
