//! Writing a checkpoint so that it is there whole, or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use tch::Tensor;

use super::{
    CheckpointError,
    snapshot::{self, Snapshot, SnapshotFile},
    tensors,
};
use crate::{
    base::fs as base_fs,
    weights::{CHUNK_BYTES, FileSum, MANIFEST_FILE, Manifest},
};

const TEMPORARY_PREFIX: &str = ".tmp-";
const DELETED_PREFIX: &str = ".del-";
/// Room for headers, the manifest and the file system's own tables.
const SLACK_BYTES: u64 = 8 << 20;

/// A durable checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub path: PathBuf,
    pub bytes: u64,
}

/// The folder name of a step's checkpoint.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Free space that a snapshot needs before it is written.
pub fn needed_bytes(snapshot_bytes: u64) -> u64 {
    snapshot_bytes + SLACK_BYTES
}

/// Writes a snapshot below `checkpoints` and returns once it survives a power cut.
///
/// `manifest` comes with its file sums empty. A checkpoint of the same step that is there already is replaced.
///
/// # Errors
/// Too little space, a value that is no number, or a failing system call. Then nothing of the new
/// checkpoint is left and those before it are untouched.
pub fn publish(
    checkpoints: &Path,
    snapshot: &Snapshot,
    manifest: Manifest,
) -> Result<Published, CheckpointError> {
    check_space(checkpoints, needed_bytes(snapshot.n_bytes()))?;
    let temporary = checkpoints.join(format!("{TEMPORARY_PREFIX}{}", folder_name(manifest.step)));
    remove_if_there(&temporary)?;
    DirBuilder::new()
        .mode(0o700)
        .create(&temporary)
        .map_err(CheckpointError::io(&temporary))?;
    let published = fill(&temporary, snapshot, &manifest).and_then(|bytes| {
        let path = checkpoints.join(folder_name(manifest.step));
        put_in_place(checkpoints, &temporary, &path)?;
        Ok(Published { path, bytes })
    });
    if published.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    published
}

/// Deletes a checkpoint so that a half-deleted one is never mistaken for one.
///
/// # Errors
/// A failing system call.
pub fn delete(checkpoints: &Path, path: &Path) -> Result<(), CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let doomed = checkpoints.join(format!("{DELETED_PREFIX}{name}"));
    remove_if_there(&doomed)?;
    fs::rename(path, &doomed).map_err(CheckpointError::io(path))?;
    base_fs::sync_folder(checkpoints).map_err(CheckpointError::io(checkpoints))?;
    fs::remove_dir_all(&doomed).map_err(CheckpointError::io(&doomed))
}

/// Removes what an interrupted save or deletion left behind.
///
/// # Errors
/// A failing system call.
pub fn remove_leftovers(checkpoints: &Path) -> Result<(), CheckpointError> {
    let entries = match fs::read_dir(checkpoints) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(CheckpointError::io(checkpoints))?,
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(TEMPORARY_PREFIX) || name.starts_with(DELETED_PREFIX) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn check_space(checkpoints: &Path, needed: u64) -> Result<(), CheckpointError> {
    let free = base_fs::free_bytes(checkpoints).map_err(CheckpointError::io(checkpoints))?;
    if free < needed {
        return Err(CheckpointError::NoSpace {
            path: checkpoints.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}

/// Writes all files, the manifest last; returns their bytes.
fn fill(folder: &Path, snapshot: &Snapshot, manifest: &Manifest) -> Result<u64, CheckpointError> {
    let mut files = BTreeMap::new();
    for file in &snapshot.files {
        files.insert(
            file.name.to_owned(),
            write_tensors(&folder.join(file.name), file)?,
        );
    }
    let data_bytes: u64 = files.values().map(|file| file.bytes).sum();
    let path = folder.join(MANIFEST_FILE);
    let text = Manifest {
        files,
        ..manifest.clone()
    }
    .to_text();
    let text = text.map_err(|error| CheckpointError::io(&path)(error.into()))?;
    let mut file = create(&path, text.len() as u64)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(CheckpointError::io(&path))?;
    base_fs::sync_folder(folder).map_err(CheckpointError::io(folder))?;
    Ok(data_bytes + text.len() as u64)
}

fn write_tensors(path: &Path, file: &SnapshotFile) -> Result<FileSum, CheckpointError> {
    let header = tensors::header(&file.tensors).map_err(CheckpointError::DoesNotFit)?;
    let data_bytes: usize = file.tensors.iter().map(|(_, tensor)| n_bytes(tensor)).sum();
    let mut output = Summed::new(create(path, (header.len() + data_bytes) as u64)?);
    output.write(&header).map_err(CheckpointError::io(path))?;
    for (name, tensor) in &file.tensors {
        let bytes = snapshot::tensor_bytes(tensor)?;
        if !tensors::all_finite(bytes, tensor.kind()) {
            return Err(CheckpointError::NotFinite {
                tensor: name.clone(),
            });
        }
        output.write(bytes).map_err(CheckpointError::io(path))?;
    }
    output.finish().map_err(CheckpointError::io(path))
}

fn n_bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

fn create(path: &Path, len: u64) -> Result<File, CheckpointError> {
    let options = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let file = options.map_err(CheckpointError::io(path))?;
    match fallocate(&file, FallocateFlags::empty(), 0, len.max(1)) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(CheckpointError::io(path)(error.into())),
    }
    file.set_len(len).map_err(CheckpointError::io(path))?;
    Ok(file)
}

/// Renames the complete folder to its name; an older checkpoint of the same step makes way first.
fn put_in_place(checkpoints: &Path, temporary: &Path, path: &Path) -> Result<(), CheckpointError> {
    let rename = || renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE);
    match rename() {
        Err(rustix::io::Errno::EXIST) => {
            delete(checkpoints, path)?;
            rename()
        }
        // A file system without the flag: the supervisor's lock keeps other writers out.
        Err(rustix::io::Errno::INVAL) if !path.exists() => rustix::fs::rename(temporary, path),
        renamed => renamed,
    }
    .map_err(|error| CheckpointError::io(path)(error.into()))?;
    base_fs::sync_folder(checkpoints).map_err(CheckpointError::io(checkpoints))
}

fn remove_if_there(folder: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CheckpointError::io(folder)(error))
        }
        _ => Ok(()),
    }
}

/// A file that is summed chunk by chunk as it is written.
struct Summed {
    file: File,
    bytes: u64,
    complete: Vec<u32>,
    /// Checksum and length of the chunk under way.
    current: (u32, usize),
}

impl Summed {
    fn new(file: File) -> Self {
        Self {
            file,
            bytes: 0,
            complete: Vec::new(),
            current: (0, 0),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.current.1));
            self.file.write_all(now)?;
            self.current = (
                crc32c::crc32c_append(self.current.0, now),
                self.current.1 + now.len(),
            );
            if self.current.1 == CHUNK_BYTES {
                self.complete.push(std::mem::take(&mut self.current).0);
            }
            bytes = rest;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<FileSum> {
        if self.current.1 > 0 {
            self.complete.push(self.current.0);
        }
        self.file.sync_all()?;
        Ok(FileSum {
            bytes: self.bytes,
            crc32c: self.complete,
        })
    }
}
