//! Where capstan keeps things: the XDG base folders.

use std::{env, path::PathBuf};

use directories::ProjectDirs;

/// Names the folder of runs where `--runs-dir` doesn't.
pub const RUNS_DIR_VARIABLE: &str = "CAPSTAN_RUNS_DIR";

/// `$CAPSTAN_RUNS_DIR`, else `$XDG_DATA_HOME/capstan/runs`.
pub fn runs_dir() -> PathBuf {
    if let Some(folder) = env::var_os(RUNS_DIR_VARIABLE).filter(|folder| !folder.is_empty()) {
        return folder.into();
    }
    project().map_or_else(
        || PathBuf::from("runs"),
        |dirs| dirs.data_dir().join("runs"),
    )
}

/// `$XDG_CACHE_HOME/capstan`: everything in it can be made again.
pub fn cache_dir() -> PathBuf {
    project().map_or_else(
        || env::temp_dir().join("capstan"),
        |dirs| dirs.cache_dir().to_owned(),
    )
}

/// `$XDG_CONFIG_HOME/capstan`: what the user has set.
pub fn config_dir() -> PathBuf {
    project().map_or_else(
        || PathBuf::from("capstan"),
        |dirs| dirs.config_dir().to_owned(),
    )
}

fn project() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "capstan")
}
