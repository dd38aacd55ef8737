//! The run folder: the interface between all processes of a run.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use crate::plan::RunPlan;

const CONTROL_SOCKET: &str = "control.sock";

/// The paths inside one run's folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// Names the folder; nothing is created or checked.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The run's name: the folder's.
    pub fn name(&self) -> String {
        self.root
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The configuration as merged, with absolute paths.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// The resolved plan.
    pub fn plan(&self) -> PathBuf {
        self.root.join("plan.json")
    }

    /// The plan as written, for whom one that can't be read is none.
    pub fn read_plan(&self) -> Option<RunPlan> {
        let text = crate::base::read::bytes(&self.plan(), crate::base::read::Bound::TOLD).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The event log.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// The fold of the events so far, replaced atomically.
    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// What libtorch, NCCL and panics printed.
    pub fn worker_log(&self) -> PathBuf {
        self.root.join("worker.log")
    }

    /// Checkpoints, a folder each.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Locked by the supervisor as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Where the supervisor takes orders.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join(CONTROL_SOCKET)
    }

    /// The published checkpoints by step, oldest first; whether they are sound, only loading them tells.
    pub fn published(&self) -> Vec<(u64, PathBuf)> {
        let entries = std::fs::read_dir(self.checkpoints());
        let mut published: Vec<(u64, PathBuf)> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name.strip_prefix("step-")?.parse().ok()?, entry.path()))
            })
            .collect();
        published.sort();
        published
    }

    /// Whether a published checkpoint lies here.
    pub fn has_checkpoint(&self) -> bool {
        !self.published().is_empty()
    }

    /// The socket's path by way of the folder's descriptor: a socket path is limited to 107 bytes.
    ///
    /// Holds as long as the returned folder stays open.
    ///
    /// # Errors
    /// The folder can't be opened.
    pub fn short_socket_path(&self) -> io::Result<(File, PathBuf)> {
        let folder = crate::base::fs::open_folder(&self.root)?;
        let path = format!("/proc/self/fd/{}/{CONTROL_SOCKET}", folder.as_raw_fd());
        Ok((folder, path.into()))
    }
}
