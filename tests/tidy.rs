//! House rules as tests: floors, walls, docs, the top level. Each check has a planted violation that it must see.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use libtest_mimic::{Failed, Trial};

/// The floors of `src`, lowest first. A file uses its own floor and lower ones.
const FLOORS: [&str; 20] = [
    "base",
    "event",
    "config",
    "hw",
    "arch",
    "data",
    "plan",
    "torch",
    "dist",
    "nn",
    "optim",
    "models",
    "parallel",
    "checkpoint",
    "engine",
    "store",
    "launch",
    "worker",
    "headless",
    "tui",
];
/// Floors that the front is made of: none may name a floor that needs libtorch.
const FRONT: [&str; 10] = [
    "arch", "base", "config", "data", "event", "headless", "hw", "launch", "plan", "store",
];
/// Words, and the only places where they may stand.
const WALLS: [(&str, &[&str]); 8] = [
    (
        "tch",
        &[
            "torch",
            "dist",
            "nn",
            "optim",
            "models",
            "parallel",
            "checkpoint",
            "engine",
            "worker",
        ],
    ),
    ("unsafe", &["torch", "base/mmap.rs"]),
    ("cudarc", &["torch"]),
    ("libc", &["torch"]),
    ("libloading", &["torch"]),
    ("torch_sys", &["torch"]),
    ("nvml_wrapper", &["hw"]),
    ("ratatui", &["tui"]),
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
const MOST_LINES: usize = 700;
const MARKS: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("tidy::a_file_uses_its_own_floor_and_lower_ones", || {
            all(floors)
        }),
        Trial::test("tidy::words_stay_behind_their_walls", || all(walls)),
        Trial::test("tidy::every_file_says_what_it_is_for", || all(header)),
        Trial::test("tidy::public_items_are_documented", || all(documented)),
        Trial::test("tidy::files_are_short_and_finished", || {
            all(short_and_finished)
        }),
        Trial::test("tidy::the_front_is_made_of_its_own_floors", front),
        Trial::test("tidy::the_top_level_holds_what_it_should", top_level),
        Trial::test("tidy::every_check_sees_a_planted_violation", planted),
    ]
}

type Check = fn(&str, &str) -> Vec<String>;

/// Runs a check over every source file; its path is relative to `src`.
fn all(check: Check) -> Result<(), Failed> {
    let root = root().join("src");
    let mut found = Vec::new();
    for path in rust_files(&root) {
        let relative = path.strip_prefix(&root)?.display().to_string();
        let violations = check(&relative, &fs::read_to_string(&path)?);
        found.extend(
            violations
                .into_iter()
                .map(|violation| format!("{relative}: {violation}")),
        );
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n").into())
    }
}

fn floors(path: &str, text: &str) -> Vec<String> {
    let Some(own) = level(floor(path)) else {
        return Vec::new();
    };
    let used = crate_paths(text);
    let above = |name: &String| level(name).is_some_and(|used| used > own);
    used.into_iter()
        .filter(above)
        .map(|name| format!("uses {name}, a floor above its own"))
        .collect()
}

fn walls(path: &str, text: &str) -> Vec<String> {
    let breached = |(word, places): &&(&str, &[&str])| {
        let allowed = places
            .iter()
            .any(|place| path == *place || floor(path) == *place);
        !allowed && code(text).any(|line| words(line).any(|found| found == *word))
    };
    WALLS
        .iter()
        .filter(breached)
        .map(|(word, _)| format!("names {word}"))
        .collect()
}

fn header(_: &str, text: &str) -> Vec<String> {
    let has_header = text
        .lines()
        .next()
        .is_some_and(|line| line.starts_with("//! ") && line.len() > 10);
    if has_header {
        Vec::new()
    } else {
        vec!["does not begin with what it is for".to_owned()]
    }
}

/// Functions, types, traits and constants; modules, fields and variants speak for themselves.
fn documented(path: &str, text: &str) -> Vec<String> {
    // Doc comments there are what `--help` prints.
    if path == "headless/cli.rs" {
        return Vec::new();
    }
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let is_item = |line: &str| {
        let kinds = [
            "fn ",
            "struct ",
            "enum ",
            "trait ",
            "type ",
            "const ",
            "unsafe fn ",
        ];
        line.trim_start()
            .strip_prefix("pub ")
            .is_some_and(|rest| kinds.iter().any(|kind| rest.starts_with(kind)))
    };
    let is_documented = |index: usize| {
        let above = lines[..index].iter().rev().map(|line| line.trim());
        let mut above = above.skip_while(|line| {
            line.starts_with("#[") || line.starts_with(')') || line.ends_with(',')
        });
        above.next().is_some_and(|line| line.starts_with("///"))
    };
    let undocumented = lines
        .iter()
        .enumerate()
        .filter(|&(index, line)| is_item(line) && !is_documented(index));
    undocumented
        .filter(|(_, line)| !TELLING.iter().any(|name| line.contains(name)))
        .map(|(_, line)| format!("no docs: {}", line.trim()))
        .collect()
}

/// Names whose docs could only restate them.
const TELLING: [&str; 8] = [
    "fn rank(&self)",
    "fn world(&self)",
    "fn root(&self)",
    "fn main()",
    "const KIB",
    "const MIB",
    "const GIB",
    "fn new(",
];

fn short_and_finished(_: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if text.lines().count() > MOST_LINES {
        found.push(format!("has more than {MOST_LINES} lines"));
    }
    let marked = MARKS.iter().filter(|mark| {
        text.lines()
            .any(|line| words(line).any(|word| word == **mark))
    });
    found.extend(marked.map(|mark| format!("holds a {mark}")));
    found
}

/// What `main.rs` declares is what the front is linked from.
fn front() -> Result<(), Failed> {
    let text = fs::read_to_string(root().join("src/main.rs"))?;
    let declared: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(declared, FRONT);
    Ok(())
}

fn top_level() -> Result<(), Failed> {
    let ignored = ["target", "runs"];
    let strange: Vec<String> = fs::read_dir(root())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()) && !ignored.contains(&name.as_str()))
        .collect();
    if strange.is_empty() {
        Ok(())
    } else {
        Err(format!("not expected here: {strange:?}").into())
    }
}

fn planted() -> Result<(), Failed> {
    let plants: [(Check, &str, &str); 8] = [
        (floors, "config/a.rs", "use crate::plan::RunPlan;"),
        (
            floors,
            "launch/a.rs",
            "use crate::{\n    headless::cli,\n};",
        ),
        (walls, "plan/a.rs", "use tch::Tensor;"),
        (walls, "dist/a.rs", "    unsafe { x() }"),
        (header, "a.rs", "use std::fs;"),
        (documented, "a.rs", "\npub fn a() {}"),
        (short_and_finished, "a.rs", "// TODO: more"),
        (short_and_finished, "a.rs", &"\n".repeat(MOST_LINES + 1)),
    ];
    for (check, path, text) in plants {
        assert!(
            !check(path, text).is_empty(),
            "not seen: {path}: {}",
            text.trim()
        );
    }
    assert!(walls("base/mmap.rs", "unsafe {}").is_empty());
    assert!(walls("hw/a.rs", "// unsafe is a word in a comment").is_empty());
    assert!(floors("plan/a.rs", "use crate::config::RunConfig;").is_empty());
    Ok(())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let files = entries.flat_map(|path| {
        if path.is_dir() {
            rust_files(&path)
        } else {
            vec![path]
        }
    });
    files
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

fn floor(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

fn level(floor: &str) -> Option<usize> {
    FLOORS.iter().position(|name| *name == floor)
}

/// The lines without comments, and without unit tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Floors that a file names: as `crate::x` anywhere, or in a `use crate::{` list over several lines.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut in_list = false;
    for line in code(text) {
        let direct = line
            .match_indices("crate::")
            .filter_map(|(at, path)| words(&line[at + path.len()..]).next());
        found.extend(direct.map(str::to_owned));
        if in_list
            && line
                .strip_prefix("    ")
                .is_some_and(|entry| !entry.starts_with([' ', '}']))
        {
            found.extend(words(line).next().map(str::to_owned));
        }
        in_list = (in_list || line.starts_with("use crate::{")) && !line.starts_with("};");
    }
    found
}
