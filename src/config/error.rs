//! What can be wrong with a configuration's text.

use std::{io, path::PathBuf};

/// A configuration that can't be read as one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the config {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    /// `message` states path, line and suggestion.
    #[error("{origin}: {message}")]
    Shape { origin: String, message: String },
    #[error("--set {text}: expected key.path=value, such as --set batch.global=32")]
    Assignment { text: String },
    #[error("--layout {text}: {problem}; expected such as --layout dp=2")]
    Layout { text: String, problem: String },
}
