//! Files of weights as other programs leave them: a Hugging Face folder, or one safetensors file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::format::TensorFile;
use crate::{
    base::read::{self, Bound},
    plan::{Refusal, RefusalKind},
};

/// Where the config names the weights.
pub(super) const CONFIG_PATH: &str = "init.pretrained";
/// Problems of one kind that are listed; more of the same would hide the others.
const MOST_LISTED: usize = 8;
/// All weights in one file.
pub(super) const WHOLE: &str = "model.safetensors";
/// Which part holds which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// The model's sizes.
pub(super) const SIZES: &str = "config.json";
/// What older folders hold instead.
const PICKLE: &str = "pytorch_model.bin";

/// Weights whose files are sound; whether they fit a model is another question.
pub struct Source {
    pub(super) path: PathBuf,
    pub(super) files: Vec<TensorFile>,
    /// Each tensor with its file's number, in the files' order.
    pub(super) tensors: Vec<(String, usize)>,
    /// The folder's `config.json`, where there is one.
    pub(super) sizes: Option<Value>,
}

/// The file that says which part holds which tensor; what else it says is not needed.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Source {
    /// Opens all files of `path` and checks that they are whole. No tensor's data is touched.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn open(path: &Path) -> Result<Self, Vec<Refusal>> {
        let found = fs::metadata(path).map_err(|error| vec![unreachable_path(path, &error)])?;
        if !found.is_dir() {
            return if path.extension().is_some_and(|end| end == "json") {
                Self::of_index(path)
            } else {
                Self::of_file(path)
            };
        }
        let sizes = sizes(&path.join(SIZES));
        let opened = match (path.join(WHOLE), path.join(INDEX)) {
            (whole, _) if whole.exists() => Self::of_file(&whole),
            (_, index) if index.exists() => Self::of_index(&index),
            _ => Err(vec![no_weights(path)]),
        };
        match (opened, sizes) {
            (Ok(source), Ok(sizes)) => Ok(Self {
                path: path.to_owned(),
                sizes,
                ..source
            }),
            (Ok(_), Err(refusal)) => Err(vec![refusal]),
            (Err(refusals), sizes) => Err(refusals.into_iter().chain(sizes.err()).collect()),
        }
    }

    fn of_file(path: &Path) -> Result<Self, Vec<Refusal>> {
        let file = TensorFile::open(path).map_err(|problem| vec![broken(path, &problem)])?;
        let tensors = file.names().into_iter().map(|name| (name, 0)).collect();
        Ok(Self {
            path: path.to_owned(),
            files: vec![file],
            tensors,
            sizes: None,
        })
    }

    fn of_index(path: &Path) -> Result<Self, Vec<Refusal>> {
        let malformed =
            |error: &dyn std::fmt::Display| vec![broken(path, &format!("can't be read: {error}"))];
        let text = read::bytes(path, Bound::TOLD).map_err(|error| malformed(&error))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| malformed(&error))?;
        let mut parts: Vec<&String> = index.weight_map.values().collect();
        parts.sort();
        parts.dedup();
        let (files, mut refusals) = open_parts(path, &parts);
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let mut tensors = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let own = file.name();
            // A tensor that the index does not name is loaded by others too; one that it puts elsewhere is not.
            let held = file.names().into_iter();
            let held =
                held.filter(|name| index.weight_map.get(name).is_none_or(|part| *part == own));
            tensors.extend(held.map(|name| (name, number)));
        }
        let misplaced = index.weight_map.iter().filter(|(name, part)| {
            let file = files.iter().find(|file| file.name() == **part);
            file.is_none_or(|file| file.info(name).is_none())
        });
        refusals.extend(capped(misplaced.map(|(name, part)| {
            broken(
                path,
                &format!("says that {part} holds {name}, and it does not"),
            )
        })));
        if refusals.is_empty() {
            Ok(Self {
                path: path.to_owned(),
                files,
                tensors,
                sizes: None,
            })
        } else {
            Err(refusals)
        }
    }
}

/// Opens the parts that an index names; all that can't be opened are refused.
fn open_parts(index: &Path, parts: &[&String]) -> (Vec<TensorFile>, Vec<Refusal>) {
    let mut files = Vec::new();
    let mut refusals = Vec::new();
    if parts.is_empty() {
        refusals.push(broken(index, "names no tensor"));
    }
    for part in parts {
        // Names come from a file: they are names, never paths.
        if part.is_empty() || part.contains('/') || part.starts_with('.') {
            refusals.push(broken(
                index,
                &format!("names a file {part:?}, which can't lie beside it"),
            ));
            continue;
        }
        let path = index.with_file_name(part);
        match TensorFile::open(&path) {
            Ok(file) => files.push(file),
            Err(problem) => {
                let named_by = index.file_name().unwrap_or_default().to_string_lossy();
                refusals.push(broken(&path, &format!("{problem} ({named_by} names it)")));
            }
        }
    }
    (files, capped(refusals))
}

fn sizes(path: &Path) -> Result<Option<Value>, Refusal> {
    let text = match read::bytes(path, Bound::TOLD) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| broken(path, &format!("can't be read: {error}")))?,
    };
    let sizes: Value = serde_json::from_slice(&text)
        .map_err(|error| broken(path, &format!("can't be read: {error}")))?;
    Ok(Some(sizes))
}

fn unreachable_path(path: &Path, error: &io::Error) -> Refusal {
    let problem = match error.kind() {
        io::ErrorKind::NotFound => format!("{} is missing", path.display()),
        _ => format!("{} can't be read: {error}", path.display()),
    };
    unreadable(
        problem,
        "give a folder with model.safetensors, or a safetensors file",
    )
}

fn no_weights(folder: &Path) -> Refusal {
    let problem = format!("{} holds neither {WHOLE} nor {INDEX}", folder.display());
    let remedy = if folder.join(PICKLE).exists() {
        "convert pytorch_model.bin with transformers' save_pretrained: capstan reads no pickles"
    } else {
        "give a folder with model.safetensors, or a safetensors file"
    };
    unreadable(problem, remedy)
}

fn broken(path: &Path, problem: &str) -> Refusal {
    unreadable(
        format!("{} {problem}", path.display()),
        "fetch the file again",
    )
}

fn unreadable(problem: String, remedy: &str) -> Refusal {
    Refusal {
        path: CONFIG_PATH.to_owned(),
        problem,
        remedy: remedy.to_owned(),
        kind: RefusalKind::Unreadable,
    }
}

/// The first refusals of a kind, and how many there are besides.
pub(super) fn capped(refusals: impl IntoIterator<Item = Refusal>) -> Vec<Refusal> {
    capped_of(refusals, std::convert::identity)
}

/// As [`capped`], where the words cost something: those that are not told are not looked for.
pub(super) fn capped_of<T>(
    found: impl IntoIterator<Item = T>,
    words: impl Fn(T) -> Refusal,
) -> Vec<Refusal> {
    let mut all = found.into_iter();
    let mut refusals: Vec<Refusal> = all.by_ref().take(MOST_LISTED).map(words).collect();
    let n_more = all.count();
    if n_more > 0
        && let Some(last) = refusals.last_mut()
    {
        last.problem = format!("{} (and {n_more} more like this)", last.problem);
    }
    refusals
}
