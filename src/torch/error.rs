//! An exception of libtorch as a Rust error.

use crate::base::brief::Brief;

/// What libtorch said: one line for people, all of it for the worker's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TorchError {
    /// The first line of the exception, cut where it is too long for a person.
    pub message: Brief,
    /// Everything, with the C++ stack where there is one.
    pub details: String,
}

impl TorchError {
    /// Splits an exception's text.
    pub fn new(text: &str) -> Self {
        let message = match text.trim() {
            "" => Brief::from("an unnamed error"),
            text => Brief::from(text),
        };
        Self {
            message,
            details: text.to_owned(),
        }
    }

    /// Whether there is more to tell than the message.
    pub fn has_more(&self) -> bool {
        !self.message.is_all_of(&self.details)
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
