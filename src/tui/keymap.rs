//! The user's own keys: `keys.json` maps actions to keys, and what it leaves out stays as it is.

use std::{fmt, io, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    app::SCREENS,
    keys::{Binding, KEYS, Key},
};
use crate::config::ConfigError;

/// Reads a key map; without the file it is [`KEYS`]. The map lives as long as the program.
///
/// # Errors
/// A file that can't be read or is no map, unknown actions and keys, keys with two meanings: all of them, with their
/// lines.
pub fn load(path: &Path) -> Result<&'static [Binding], ConfigError> {
    let text = match crate::base::read::text(path, crate::base::read::Bound::WRITTEN) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(KEYS),
        Err(source) => {
            let path = path.to_owned();
            return Err(ConfigError::Unreadable { path, source });
        }
    };
    changed(&text).map_err(|problems| {
        let origin = path.display().to_string();
        let message = problems.join(&format!("\n{origin}: "));
        ConfigError::Shape { origin, message }
    })
}

/// The whole map as a file holds it.
pub fn text() -> String {
    let mut lines: Vec<String> = Vec::new();
    for binding in KEYS {
        let keys: Vec<String> = binding.keys.iter().map(|key| key.name()).collect();
        let line = format!("  {:?}: {}", binding.action.name(), serde_json::json!(keys));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Names and keys in the order of the text, which tells their lines.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of actions and their keys, such as {\"kill\": [\"X\"]}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Map).map(Self)
    }
}

/// One key, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    One(String),
    Several(Vec<String>),
}

fn changed(text: &str) -> Result<&'static [Binding], Vec<String>> {
    let entries: Entries<'_> =
        serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let mut problems = Vec::new();
    let mut bindings = KEYS.to_vec();
    let mut lines: Vec<(String, usize)> = Vec::new();
    for (name, raw) in entries.0 {
        let offset = raw.get().as_ptr() as usize - text.as_ptr() as usize;
        let line = 1 + text[..offset].matches('\n').count();
        if lines.iter().any(|(known, _)| *known == name) {
            problems.push(format!("line {line}: {name} stands here a second time"));
        }
        let keys = match keys(raw) {
            Ok(keys) => keys.leak(),
            Err(problem) => {
                problems.push(format!("line {line}: {name}: {problem}"));
                continue;
            }
        };
        let mut is_known = false;
        for binding in bindings
            .iter_mut()
            .filter(|binding| binding.action.name() == name)
        {
            is_known = true;
            binding.keys = keys;
        }
        if !is_known {
            problems.push(format!(
                "line {line}: there is no action {name:?}; {}",
                nearest(&name)
            ));
        }
        lines.push((name, line));
    }
    problems.extend(conflicts(&bindings, &lines));
    if problems.is_empty() {
        Ok(bindings.leak())
    } else {
        Err(problems)
    }
}

fn keys(raw: &RawValue) -> Result<Vec<Key>, String> {
    let names = match serde_json::from_str(raw.get()) {
        Ok(Named::One(name)) => vec![name],
        Ok(Named::Several(names)) if !names.is_empty() => names,
        _ => return Err("expected a key such as \"X\", or a list of some".to_owned()),
    };
    let parsed = names.iter().map(|name| {
        let unknown =
            || format!("there is no key {name:?}; expected such as x, X, F2, Ctrl-x, Enter, Up");
        Key::named(name).ok_or_else(unknown)
    });
    parsed.collect()
}

fn nearest(name: &str) -> String {
    let names = KEYS.iter().map(|binding| binding.action.name());
    let near = names.max_by(|a, b| {
        let likeness = |other: &str| strsim::jaro_winkler(name, other);
        likeness(a).total_cmp(&likeness(b))
    });
    let near = near.unwrap_or_default();
    format!("the nearest is {near:?}; capstan tui --keys prints all")
}

/// Keys that mean two things on one screen, where the file is to blame for it.
fn conflicts(bindings: &[Binding], lines: &[(String, usize)]) -> Vec<String> {
    let line = |binding: &Binding| {
        let name = binding.action.name();
        let found = lines.iter().rev().find(|(known, _)| *known == name);
        found.map(|&(_, line)| line)
    };
    let mut found: Vec<String> = Vec::new();
    for screen in SCREENS {
        let here: Vec<&Binding> = bindings
            .iter()
            .filter(|binding| binding.is_on(screen))
            .collect();
        for (index, one) in here.iter().enumerate() {
            for other in &here[index + 1..] {
                let shared = one.keys.iter().find(|key| other.keys.contains(key));
                let (Some(key), Some(line)) = (shared, line(one).max(line(other))) else {
                    continue;
                };
                let (one, other) = (one.action.name(), other.action.name());
                let meanings = format!("line {line}: {} means {one} and {other}", key.name());
                if !found.iter().any(|known| known.starts_with(&meanings)) {
                    found.push(format!("{meanings} on {}", screen.title()));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{
        app::Screen,
        keys::{Action, find},
    };
    use super::*;

    #[test]
    fn an_action_takes_the_keys_of_the_file_everywhere() {
        let map = changed("{\"resume\": \"R\", \"up\": [\"Up\", \"Ctrl-P\"]}").expect("a map");
        for screen in [Screen::Live, Screen::Runs] {
            let action = |key| find(map, key, screen).map(|binding| binding.action);
            assert_eq!(action(Key::Char('R')), Some(Action::Resume));
            assert_eq!(action(Key::Char('r')), None);
        }
        let up = find(map, Key::Ctrl('p'), Screen::Logs).map(|binding| binding.action);
        assert_eq!(up, Some(Action::Up));
        let left = find(map, Key::Char('h'), Screen::Logs).map(|binding| binding.action);
        assert_eq!(left, Some(Action::Left), "what the file leaves out stays");
    }

    #[test]
    fn the_printed_map_is_the_map() {
        let map = changed(&text()).expect("a map");
        for (own, printed) in KEYS.iter().zip(map) {
            assert_eq!((own.keys, own.action), (printed.keys, printed.action));
        }
    }

    #[test]
    fn every_fault_of_the_file_is_told_with_its_line() {
        let refused = |text: &str| changed(text).expect_err(text).join("|");
        let several =
            "{\n\"pase\": \"x\",\n\"stop\": \"K\",\n\"sort\": \"Hyper-x\",\n\"kill\": []\n}";
        let told = refused(several);
        for part in [
            "line 2: there is no action \"pase\"; the nearest is \"pause\"",
            "line 3: K means stop and kill on Live",
            "line 4: sort: there is no key \"Hyper-x\"",
            "line 5: kill: expected a key",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(refused("{\"up\": \"x\", \"up\": \"z\"}").contains("a second time"));
        assert!(refused("[]").contains("expected an object of actions"));
        assert!(refused("{").contains("line 1"));
    }

    #[test]
    fn without_a_file_the_map_is_the_built_in_one() {
        let map = load(Path::new("/nowhere/keys.json")).expect("a map");
        assert_eq!(map.len(), KEYS.len());
        assert!(load(Path::new("/")).is_err());
    }
}
