//! Finding, verifying and reading checkpoints: newest first, nothing unverified is used.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;

use super::{
    LoadError, Rejection,
    manifest::{CHUNK_BYTES, Manifest},
};
use crate::base::mmap::ReadOnlyMap;

/// A verified checkpoint, its files mapped.
pub struct Loaded {
    pub path: PathBuf,
    pub manifest: Manifest,
    files: HashMap<String, ReadOnlyMap>,
}

/// The newest checkpoint that can be used, and what was passed over on the way to it.
pub struct Newest {
    /// `None` where there is no checkpoint at all.
    pub loaded: Option<Loaded>,
    pub rejections: Vec<Rejection>,
}

impl Loaded {
    /// The tensors of one of the files.
    ///
    /// # Errors
    /// No such file, or none of the format.
    pub fn tensors(&self, file: &str) -> Result<SafeTensors<'_>, LoadError> {
        let unfit = |reason: String| LoadError::DoesNotFit(format!("{file}: {reason}"));
        let map = self
            .files
            .get(file)
            .ok_or_else(|| unfit("it is missing".to_owned()))?;
        SafeTensors::deserialize(map).map_err(|error| unfit(error.to_string()))
    }
}

/// The checkpoints of a run, by step, oldest first; nothing is verified.
///
/// # Errors
/// The folder can't be read; a missing one holds none.
pub fn steps(checkpoints: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(checkpoints) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(step) = name
            .strip_prefix("step-")
            .and_then(|digits| digits.parse().ok())
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Verifies checkpoints from the newest on and opens the first that holds.
///
/// # Errors
/// The folder can't be read, or there are checkpoints and none can be used: training never starts
/// from scratch silently.
pub fn newest_valid(checkpoints: &Path) -> Result<Newest, LoadError> {
    let mut rejections = Vec::new();
    for (_, path) in steps(checkpoints)
        .map_err(LoadError::io(checkpoints))?
        .into_iter()
        .rev()
    {
        match open(&path) {
            Ok(loaded) => {
                return Ok(Newest {
                    loaded: Some(loaded),
                    rejections,
                });
            }
            Err(rejection) => rejections.push(rejection),
        }
    }
    if rejections.is_empty() {
        return Ok(Newest {
            loaded: None,
            rejections,
        });
    }
    Err(LoadError::AllRejected {
        folder: checkpoints.to_owned(),
        rejections,
    })
}

/// Verifies one checkpoint whole and opens it.
///
/// # Errors
/// What is wrong with it.
pub fn open(path: &Path) -> Result<Loaded, Rejection> {
    let reject = |reason: String| Rejection {
        path: path.to_owned(),
        reason,
    };
    let manifest = Manifest::read(path).map_err(reject)?;
    let mut files = HashMap::new();
    for (name, sum) in &manifest.files {
        // Names come from a file: they are names, never paths.
        if name.contains('/') || name.starts_with('.') {
            return Err(reject(format!("its manifest names a file {name:?}")));
        }
        let map = ReadOnlyMap::open(&path.join(name))
            .map_err(|error| reject(format!("{name}: {error}")))?;
        if map.len() as u64 != sum.bytes {
            return Err(reject(format!(
                "{name} has {} bytes, expected {}",
                map.len(),
                sum.bytes
            )));
        }
        if !map
            .chunks(CHUNK_BYTES)
            .map(crc32c::crc32c)
            .eq(sum.crc32c.iter().copied())
        {
            return Err(reject(format!("{name}: a checksum is wrong")));
        }
        SafeTensors::deserialize(&map).map_err(|error| reject(format!("{name}: {error}")))?;
        files.insert(name.clone(), map);
    }
    Ok(Loaded {
        path: path.to_owned(),
        manifest,
        files,
    })
}
