//! An exception of libtorch as a Rust error.

/// What libtorch said: the first line for people, the rest for the worker's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TorchError {
    /// First line of the exception.
    pub message: String,
    /// Everything, with the C++ stack where there is one.
    pub details: String,
}

impl TorchError {
    /// Splits an exception's text.
    pub fn new(text: &str) -> Self {
        let message = text
            .lines()
            .next()
            .unwrap_or("an unnamed error")
            .trim()
            .to_owned();
        Self {
            message,
            details: text.to_owned(),
        }
    }
}

impl From<tch::TchError> for TorchError {
    fn from(error: tch::TchError) -> Self {
        match error {
            tch::TchError::Torch(text) => Self::new(&text),
            other => Self::new(&other.to_string()),
        }
    }
}
