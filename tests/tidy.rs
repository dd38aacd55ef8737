//! House rules as tests: floors, walls, docs, sizes, the top level, what the front links. Each check has a
//! planted violation that it must see.

use std::{
    fs,
    path::{Path, PathBuf},
};

use libtest_mimic::{Failed, Trial};

pub mod elf;
mod source;

use source::Source;

/// The floors of `src`, lowest first; those of one level do not use each other.
const FLOORS: [&[&str]; 18] = [
    &["base"],
    &["config", "event"],
    &["hw"],
    &["arch"],
    &["data"],
    &["plan"],
    &["weights"],
    &["torch"],
    &["dist"],
    &["nn"],
    &["optim"],
    &["models"],
    &["parallel"],
    &["checkpoint"],
    &["engine"],
    &["store"],
    &["launch"],
    &["worker", "headless", "tui"],
];
/// Floors that need libtorch. All others make up the front: they use none of these, whatever their level.
const ON_TORCH: [&str; 9] = [
    "torch",
    "dist",
    "nn",
    "optim",
    "models",
    "parallel",
    "checkpoint",
    "engine",
    "worker",
];
/// Words, and the only places where they may stand.
const WALLS: [(&str, &[&str]); 8] = [
    ("tch", &ON_TORCH),
    ("unsafe", &["torch", "base/mmap.rs"]),
    ("cudarc", &["torch"]),
    ("libc", &["torch"]),
    ("libloading", &["torch"]),
    ("torch_sys", &["torch"]),
    ("nvml_wrapper", &["hw"]),
    ("ratatui", &["tui"]),
];
/// Where files are opened for reading, and made or opened for writing; all else asks these.
const OPENERS: [(&str, &str); 9] = [
    ("base/read.rs", "the one way to read"),
    ("base/own.rs", "the one way to write in a run folder"),
    ("base/fs.rs", "opens folders, to flush them"),
    (
        "data/cache.rs",
        "makes files in a temporary folder of the cache",
    ),
    (
        "tui/written.rs",
        "makes the config that a user asked for, under the user's own mask",
    ),
    (
        "tui/run.rs",
        "keeps a config for an editor in the cache folder",
    ),
    (
        "weights/export.rs",
        "makes files in a temporary folder of its own",
    ),
    (
        "checkpoint/publish.rs",
        "makes files in a temporary folder of its own",
    ),
    ("hw/recorded.rs", "a test's machines"),
];
/// What opens a file by its name. Reading follows links to devices and pipes, writing follows links elsewhere.
const OPENING: [&str; 9] = [
    "fs::read(",
    "fs::read_to_string(",
    "fs::write(",
    "fs::copy(",
    "File::open(",
    "File::create(",
    "File::create_new(",
    "File::options(",
    "OpenOptions::new(",
];
const TOP_LEVEL: [&str; 19] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "assets",
    "configs",
    "tests",
    "README.md",
    ".ci",
    ".cargo",
    ".gitignore",
    "build.rs",
    "clippy.toml",
    "Makefile",
    "benches",
    "scripts",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    ".git",
];
/// What git ignores at the top level.
const IGNORED: [&str; 2] = ["target", "runs"];
const MOST_LINES: usize = 700;
const MOST_FUNCTION_LINES: usize = 80;
const MARKS: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("tidy::a_file_uses_its_own_floor_and_lower_ones", || {
            over(&["src"], floors)
        }),
        Trial::test("tidy::words_stay_behind_their_walls", || {
            over(&["src"], walls)
        }),
        Trial::test("tidy::files_are_opened_in_one_place", || {
            over(&["src"], openers)
        }),
        Trial::test("tidy::public_items_are_documented", || {
            over(&["src"], documented)
        }),
        Trial::test("tidy::every_file_says_what_it_is_for", || {
            over(&["src", "tests", "build.rs"], header)
        }),
        Trial::test("tidy::files_and_functions_are_short", || {
            over(&["src", "tests", "build.rs"], short)
        }),
        Trial::test("tidy::nothing_is_left_to_do", || {
            over(&["src", "tests", "build.rs"], finished)
        }),
        Trial::test("tidy::no_command_prompts", || {
            over(&["src/headless", "src/launch", "src/tui"], prompts)
        }),
        Trial::test("tidy::every_floor_has_its_place", every_floor),
        Trial::test("tidy::the_front_is_made_of_its_own_floors", || {
            over(&["src/main.rs"], front)
        }),
        Trial::test("tidy::the_front_links_no_libtorch", linked),
        Trial::test("tidy::the_top_level_holds_what_it_should", top_level),
        Trial::test("tidy::every_check_sees_a_planted_violation", planted),
        Trial::test("tidy::a_planted_opening_is_seen", planted_openings),
    ]
}

/// Takes a path below `src` (elsewhere: below the repository) and a text, and returns the violations.
type Check = fn(&str, &str) -> Vec<String>;

/// Runs a check over every Rust file below `places`.
fn over(places: &[&str], check: Check) -> Result<(), Failed> {
    let mut found = Vec::new();
    for path in places
        .iter()
        .flat_map(|place| rust_files(&root().join(place)))
    {
        let shown = path.strip_prefix(root())?.display().to_string();
        let violations = check(
            shown.strip_prefix("src/").unwrap_or(&shown),
            &fs::read_to_string(&path)?,
        );
        found.extend(
            violations
                .iter()
                .map(|violation| format!("{shown}: {violation}")),
        );
    }
    none(&found)
}

fn none(found: &[String]) -> Result<(), Failed> {
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n").into())
    }
}

fn floors(path: &str, text: &str) -> Vec<String> {
    let own = floor(path);
    let Some(own_level) = level(own) else {
        return Vec::new();
    };
    let used = source::root_modules(path, &Source::of(text));
    used.iter()
        .filter(|used| *used != own)
        .filter_map(|used| {
            let is_lower = level(used)? < own_level;
            let crosses = ON_TORCH.contains(&used.as_str()) && !ON_TORCH.contains(&own);
            (!is_lower || crosses).then(|| format!("uses {used}, which {own} may not"))
        })
        .collect()
}

fn walls(path: &str, text: &str) -> Vec<String> {
    let source = Source::of(text);
    let tokens = source.tokens();
    let breaches = tokens.iter().flat_map(|&(line, token)| {
        let walls = WALLS.iter().filter(move |(word, _)| *word == token);
        let breached = walls.filter(|(_, places)| {
            !places
                .iter()
                .any(|place| path == *place || floor(path) == *place)
        });
        breached.map(move |(word, _)| format!("line {line} names {word}"))
    });
    breaches.collect()
}

/// Tests at a file's end may open what they made.
fn openers(path: &str, text: &str) -> Vec<String> {
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs");
    if is_test || OPENERS.iter().any(|(place, _)| *place == path) {
        return Vec::new();
    }
    let code = Source::of(text).code;
    let tests = ["mod", "pub(super) mod"].map(|word| format!("#[cfg(test)]\n{word} tests {{"));
    let end = tests.iter().filter_map(|start| code.find(start)).min();
    let code = &code[..end.unwrap_or(code.len())];
    // `TensorFile::open(` is no `File::open(`.
    let stands_alone = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let found = OPENING
        .iter()
        .filter(|way| code.match_indices(**way).any(|(at, _)| stands_alone(at)));
    found
        .map(|way| format!("opens a file by {way}…), not by base::read or base::own"))
        .collect()
}

fn header(_: &str, text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("//! ") && first.len() > 10 {
        Vec::new()
    } else {
        vec!["does not begin with what it is for".to_owned()]
    }
}

/// Functions, types, traits and constants; modules, fields and variants speak for themselves.
fn documented(_: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let source = Source::of(text);
    let items = source.code.lines().enumerate().filter_map(|(index, line)| {
        let item = line.trim().strip_prefix("pub ")?;
        Some((index, named_item(item)?))
    });
    items
        .filter(|(index, _)| !has_docs(&lines[..*index]))
        .map(|(_, name)| format!("{name} has no docs"))
        .collect()
}

/// The name of the item that a line declares.
fn named_item(line: &str) -> Option<&str> {
    const KINDS: [&str; 8] = [
        "fn", "struct", "enum", "trait", "type", "const", "static", "union",
    ];
    const QUALIFIERS: [&str; 4] = ["const", "unsafe", "async", "extern"];
    let mut words = line
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty());
    let first = words.next()?;
    let is_item = KINDS.contains(&first) || QUALIFIERS.contains(&first);
    let is_keyword = |word: &&str| KINDS.contains(word) || QUALIFIERS.contains(word);
    is_item.then(|| words.find(|word| !is_keyword(word)))?
}

/// Whether a doc comment ends right above, attributes aside.
fn has_docs(above: &[&str]) -> bool {
    let mut in_attribute = false;
    let mut above = above.iter().rev().filter(|line| {
        let ends = line.ends_with(']') && !line.starts_with("//");
        let is_attribute = in_attribute || ends;
        in_attribute = is_attribute && !line.starts_with("#[");
        !is_attribute
    });
    above.next().is_some_and(|line| line.starts_with("///"))
}

fn short(_: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        found.push(format!("has {lines} lines, more than {MOST_LINES}"));
    }
    let functions = source::functions(&Source::of(text));
    let long = functions
        .iter()
        .filter(|(_, lines)| *lines > MOST_FUNCTION_LINES);
    found.extend(
        long.map(|(name, lines)| {
            format!("{name} has {lines} lines, more than {MOST_FUNCTION_LINES}")
        }),
    );
    found
}

fn finished(_: &str, text: &str) -> Vec<String> {
    let comments = Source::of(text).comments;
    let words = comments.split(|c: char| !c.is_alphanumeric() && c != '_');
    words
        .filter(|word| MARKS.contains(word))
        .map(|mark| format!("holds a {mark}"))
        .collect()
}

/// Commands ask of the standard input only whether it is a terminal, so there is no `--no-input` to give.
fn prompts(_: &str, text: &str) -> Vec<String> {
    let uses = text.split("stdin()").skip(1);
    uses.filter(|after| !after.starts_with(".is_terminal()"))
        .map(|_| "reads the standard input".to_owned())
        .collect()
}

/// What `main.rs` declares is what the front is linked from.
fn front(_: &str, text: &str) -> Vec<String> {
    let declared = text
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    declared
        .filter(|name| level(name).is_none() || ON_TORCH.contains(name))
        .map(|name| format!("declares {name}, no floor of the front"))
        .collect()
}

/// A folder that no level names would be held to nothing.
fn every_floor() -> Result<(), Failed> {
    let folders = fs::read_dir(root().join("src"))?.flatten();
    let names = folders
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let homeless: Vec<String> = names
        .filter(|name| name != "bin" && level(name).is_none())
        .map(|name| format!("src/{name} is no floor"))
        .collect();
    none(&homeless)
}

/// The worker shows that the list is read rightly.
fn linked() -> Result<(), Failed> {
    let libraries = |program: &str| -> Result<Vec<String>, Failed> {
        elf::needed(&fs::read(program)?).ok_or_else(|| format!("{program}: no list").into())
    };
    let on_torch = |name: &String| name.contains("torch") || name.contains("c10");
    let worker = libraries(env!("CARGO_BIN_EXE_capstan-worker"))?;
    assert!(worker.iter().any(on_torch), "{worker:?}");
    let front = libraries(env!("CARGO_BIN_EXE_capstan"))?;
    assert!(
        front.iter().any(|name| name.starts_with("libc.")),
        "{front:?}"
    );
    assert!(!front.iter().any(on_torch), "{front:?}");
    Ok(())
}

fn top_level() -> Result<(), Failed> {
    let entries = fs::read_dir(root())?.flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    none(&strange(&names))
}

fn strange(names: &[String]) -> Vec<String> {
    let names = names.iter().map(String::as_str);
    names
        .filter(|name| !TOP_LEVEL.contains(name) && !IGNORED.contains(name))
        .map(|name| format!("{name} is not expected at the top level"))
        .collect()
}

fn planted() -> Result<(), Failed> {
    source::planted();
    let long_function = format!(
        "fn a() {{\n{}}}\n",
        "    b();\n".repeat(MOST_FUNCTION_LINES)
    );
    let long_file = "\n".repeat(MOST_LINES + 1);
    let bad: [(Check, &str, &str); 21] = [
        (prompts, "tui/a.rs", "stdin().read_line(&mut line)"),
        (floors, "config/a.rs", "use crate::plan::RunPlan;"),
        (floors, "config/a.rs", "use crate::event::Event;"),
        (floors, "base/a.rs", "use crate::{base::b, hw};"),
        (
            floors,
            "launch/a.rs",
            "use crate::{\n    store, headless::cli,\n};",
        ),
        (
            floors,
            "launch/a/b.rs",
            "fn a() { super::super::super::worker::b() }",
        ),
        (floors, "store/a.rs", "use crate::engine::Job;"),
        (floors, "headless/mod.rs", "use super::worker::Job;"),
        (floors, "tui/app.rs", "use crate::headless::cli;"),
        (walls, "plan/a.rs", "use tch::Tensor;"),
        (walls, "main.rs", "fn main() { tch::manual_seed(1) }"),
        (walls, "dist/a.rs", "    unsafe { x() }"),
        (walls, "launch/a.rs", "fn a() { let b: libc::c_int; }"),
        (header, "a.rs", "use std::fs;"),
        (documented, "a.rs", "\npub fn a() {}"),
        (
            documented,
            "a.rs",
            "/// A.\nstruct A;\n#[derive(\n    Debug,\n)]\npub const unsafe fn b() {}",
        ),
        (short, "a.rs", &long_file),
        (short, "a.rs", &long_function),
        (finished, "a.rs", "let a = 1; // TODO: more"),
        (front, "main.rs", "mod base;\nmod engine;"),
        (front, "main.rs", "mod other;"),
    ];
    for (check, path, text) in bad {
        assert!(
            !check(path, text).is_empty(),
            "not seen: {path}: {}",
            text.trim()
        );
    }
    let good: [(Check, &str, &str); 8] = [
        (prompts, "tui/a.rs", "stdin().is_terminal()"),
        (
            floors,
            "plan/a.rs",
            "use crate::config::RunConfig; // not crate::engine",
        ),
        (floors, "data/mod.rs", "mod a;\nuse super::config;"),
        (walls, "base/mmap.rs", "fn a() { unsafe {} }"),
        (
            walls,
            "hw/a.rs",
            "let a = \"tch\"; // unsafe is a word in a comment",
        ),
        (
            documented,
            "a.rs",
            "/// A.\n#[derive(\n    Debug,\n)]\n#[must_use]\npub struct A;",
        ),
        (finished, "a.rs", "let todo = \"TODO\";"),
        (front, "main.rs", "mod base;\nmod headless;"),
    ];
    for (check, path, text) in good {
        let found = check(path, text);
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
    let strange = strange(&["src".to_owned(), "notes.txt".to_owned()]);
    assert_eq!(strange.len(), 1);
    assert_eq!(elf::needed(b"#!/bin/sh"), None);
    Ok(())
}

fn planted_openings() -> Result<(), Failed> {
    for text in [
        "fn a() { let b = fs::read(path); }",
        "let b = std::fs::read_to_string(path)?;",
        "let b = OpenOptions::new().write(true);",
    ] {
        assert!(!openers("config/a.rs", text).is_empty(), "not seen: {text}");
        assert!(openers("base/read.rs", text).is_empty(), "{text}");
    }
    for text in [
        "let b = TensorFile::open(path)?;",
        "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { fs::write(a, b) }\n}",
    ] {
        assert!(openers("config/a.rs", text).is_empty(), "{text}");
    }
    Ok(())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder, or the file itself.
fn rust_files(place: &Path) -> Vec<PathBuf> {
    if !place.is_dir() {
        let is_rust = place.extension().is_some_and(|end| end == "rs");
        return is_rust.then(|| place.to_owned()).into_iter().collect();
    }
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| rust_files(&entry.path()))
        .collect()
}

fn floor(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

fn level(floor: &str) -> Option<usize> {
    FLOORS.iter().position(|names| names.contains(&floor))
}
