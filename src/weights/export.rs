//! A checkpoint's weights as a folder that `transformers` loads.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value};

use super::{
    LoadError, Loaded,
    companions::{Companions, Kept, TOKENIZER, TOKENIZER_CONFIG},
    family::{self, Family},
    format::{Entry, header},
    source::{SIZES, WHOLE},
    specials::Specials,
};
use crate::{
    arch::ParamSpec,
    base::{fs as base_fs, units},
    data::{Progress, TokenizerJson},
};

/// Weights under their checkpoint names, in a checkpoint's folder.
pub const MODEL_FILE: &str = "model.safetensors";
/// Bytes written between two words of progress.
const PIECE_BYTES: usize = 8 << 20;
/// Room for the small files and the file system's own tables.
const SLACK_BYTES: u64 = 16 << 20;

/// A folder that could not be written; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{} exists and is not an empty folder; give another one", .0.display())]
    Taken(PathBuf),
    #[error("the export needs {}, {} are free at {}", units::bytes(*needed), units::bytes(*free), path.display())]
    NoSpace {
        path: PathBuf,
        needed: u64,
        free: u64,
    },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Names and bytes.
    pub files: Vec<(String, u64)>,
    pub n_tensors: usize,
    /// The number format of the weights, such as `F32`.
    pub dtype: String,
    /// The class of `transformers` that loads it.
    pub class: String,
    /// Tensors that the model lacks and `transformers` expects: written as zeros.
    pub n_zeros: usize,
    /// What of the origin was changed or left out.
    pub notes: Vec<String>,
}

/// Where a run's weights and tokens come from.
#[derive(Default)]
pub struct Origin {
    /// The run's tokenizer.
    pub tokenizer: Option<TokenizerJson>,
    /// The `tokenizer_config.json` beside the file that the tokenizer was read from.
    pub tokenizer_config: Option<Value>,
    /// What came with the weights that the run started from.
    pub companions: Option<Companions>,
}

/// Refuses a folder that is there already and holds something.
///
/// # Errors
/// It does, or can't be read.
pub fn check_free(folder: &Path) -> Result<(), ExportError> {
    let is_free = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => true,
            io::ErrorKind::NotADirectory => false,
            _ => return Err(io_error(folder)(error)),
        },
    };
    if is_free {
        Ok(())
    } else {
        Err(ExportError::Taken(folder.to_owned()))
    }
}

/// Writes weights, `config.json` and tokenizer to `folder`, which is there whole afterwards, or not at all.
///
/// # Errors
/// The folder is taken, there is too little space, the checkpoint lacks a tensor, or a system call fails.
pub fn export(
    loaded: &Loaded,
    origin: &Origin,
    folder: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Exported, ExportError> {
    check_free(folder)?;
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io_error(parent))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".tmp-{name}-");
    remove_leftovers(parent, &prefix);
    let temporary = parent.join(format!("{prefix}{}", std::process::id()));
    let written = write(loaded, origin, &temporary, progress).and_then(|exported| {
        // An empty folder makes way, a full one does not.
        fs::rename(&temporary, folder).map_err(io_error(folder))?;
        base_fs::sync_folder(parent).map_err(io_error(parent))?;
        Ok(exported)
    });
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

/// Removes what exports to the same folder left that were killed: temporary folders of processes that are gone.
fn remove_leftovers(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let is_left = pid.is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
        });
        if is_left {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn write(
    loaded: &Loaded,
    origin: &Origin,
    folder: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Exported, ExportError> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).map_err(io_error(folder))?;
    let model = &loaded.manifest.run.model;
    let family = family::of(model);
    let stored = loaded.tensors(MODEL_FILE)?;
    let weights = Weights::of(&stored, family.as_ref())?;
    weights.check_space(folder)?;
    let mut output = Output {
        folder,
        files: Vec::new(),
    };
    output.file(WHOLE, |file| weights.write(file, progress))?;
    let own = origin.tokenizer.as_ref();
    let companions = origin.companions.as_ref();
    let mut kept = companions.map_or_else(Kept::default, |companions| {
        companions.keep(family.as_ref(), own)
    });
    let specials = own.map(|own| Specials::of(own, origin.tokenizer_config.as_ref()));
    let specials = specials.unwrap_or_default();
    let sizes = sizes(family.as_ref(), weights.dtype, &specials, &mut kept);
    output.text(SIZES, &Value::Object(sizes.clone()))?;
    for (name, bytes) in &kept.files {
        output.file(name, |file| file.write_all(bytes))?;
    }
    let is_kept = |wanted: &str| kept.files.iter().any(|(name, _)| *name == wanted);
    if let Some(own) = own {
        if !is_kept(TOKENIZER) {
            output.file(TOKENIZER, |file| file.write_all(own.json.as_bytes()))?;
        }
        if !is_kept(TOKENIZER_CONFIG) {
            output.text(
                TOKENIZER_CONFIG,
                &specials.tokenizer_config(model.seq_len()),
            )?;
        }
    }
    base_fs::sync_folder(folder).map_err(io_error(folder))?;
    Ok(Exported {
        files: output.files,
        n_tensors: weights.tensors.len(),
        dtype: format!("{:?}", weights.dtype),
        class: sizes["architectures"][0]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        n_zeros: weights
            .tensors
            .iter()
            .filter(|(_, data)| data.is_none())
            .count(),
        notes: kept.notes,
    })
}

/// The tensors of the file to be, in order.
struct Weights<'a> {
    /// With the checkpoint's data; without it, zeros.
    tensors: Vec<(Entry, Option<TensorView<'a>>)>,
    dtype: Dtype,
}

impl<'a> Weights<'a> {
    fn of(stored: &SafeTensors<'a>, family: &dyn Family) -> Result<Self, ExportError> {
        let expected = family.exported();
        let first = expected
            .first()
            .and_then(|spec| stored.tensor(&spec.name).ok());
        let dtype = first.map_or(Dtype::F32, |tensor| tensor.dtype());
        let tensors = expected.iter().map(|spec| {
            let data = stored.tensor(&spec.name).ok();
            if data.is_none() && !family.may_be_zero(&spec.name) {
                return Err(LoadError::DoesNotFit(format!("{} is missing", spec.name)));
            }
            Ok((entry(spec, dtype, family), data))
        });
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { tensors, dtype })
    }

    fn n_bytes(&self) -> u64 {
        self.tensors
            .iter()
            .map(|(entry, _)| entry.n_bytes as u64)
            .sum()
    }

    fn check_space(&self, folder: &Path) -> Result<(), ExportError> {
        let free = base_fs::free_bytes(folder).map_err(io_error(folder))?;
        let needed = self.n_bytes() + SLACK_BYTES;
        if free >= needed {
            return Ok(());
        }
        Err(ExportError::NoSpace {
            path: folder.parent().unwrap_or(folder).to_owned(),
            needed,
            free,
        })
    }

    fn write(&self, file: &mut File, progress: &dyn Fn(Progress)) -> io::Result<()> {
        let entries: Vec<&Entry> = self.tensors.iter().map(|(entry, _)| entry).collect();
        file.write_all(&header(&entries, &[("format", "pt")]))?;
        let (mut done, total) = (0, self.n_bytes());
        for (entry, data) in &self.tensors {
            let zeros;
            let bytes = match data {
                Some(data) => data.data(),
                None => {
                    zeros = vec![0; entry.n_bytes];
                    &zeros[..]
                }
            };
            for piece in bytes.chunks(PIECE_BYTES) {
                file.write_all(piece)?;
                done += piece.len() as u64;
                progress(Progress {
                    what: "writing the weights",
                    done,
                    total,
                });
            }
        }
        Ok(())
    }
}

fn entry(spec: &ParamSpec, dtype: Dtype, family: &dyn Family) -> Entry {
    Entry {
        name: family.exported_name(&spec.name),
        dtype: format!("{dtype:?}"),
        shape: spec.shape.clone(),
        n_bytes: spec.numel() as usize * dtype.bitsize() / 8,
    }
}

/// `config.json`: as it came with the weights that the run started from, else the family's sizes.
fn sizes(
    family: &dyn Family,
    dtype: Dtype,
    specials: &Specials,
    kept: &mut Kept,
) -> Map<String, Value> {
    let mut sizes = match kept.config.is_empty() {
        true => family.sizes(),
        false => kept.config.clone(),
    };
    if !kept.has_tokens {
        sizes.extend(specials.ids());
    }
    let own = match dtype {
        Dtype::F64 => "float64",
        _ => "float32",
    };
    let stated = |key: &str| sizes.get(key)?.as_str().map(ToOwned::to_owned);
    match stated("dtype").or_else(|| stated("torch_dtype")) {
        Some(theirs) if theirs != own => kept.notes.push(format!(
            "the weights are written as {dtype:?}, as they were trained; config.json keeps {theirs}, the type that transformers loads them in"
        )),
        Some(_) => {}
        None => {
            sizes.insert("dtype".to_owned(), own.into());
            // Its name before version 4.56.
            sizes.insert("torch_dtype".to_owned(), own.into());
        }
    }
    sizes
}

/// A folder in the making.
struct Output<'a> {
    folder: &'a Path,
    files: Vec<(String, u64)>,
}

impl Output<'_> {
    fn text(&mut self, name: &str, value: &Value) -> Result<(), ExportError> {
        self.file(name, |file| writeln!(file, "{value:#}"))
    }

    fn file(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), ExportError> {
        let path = self.folder.join(name);
        let mut file = File::create_new(&path).map_err(io_error(&path))?;
        fill(&mut file)
            .and_then(|()| file.sync_all())
            .map_err(io_error(&path))?;
        let n_bytes = file.metadata().map_err(io_error(&path))?.len();
        self.files.push((name.to_owned(), n_bytes));
        Ok(())
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    |source| ExportError::Io { path, source }
}
