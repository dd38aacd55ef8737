//! Weights on disk, without tensors: checkpoints as files, verified before use; Hugging Face's files in and out.

mod companions;
mod error;
mod export;
mod family;
mod format;
mod gpt;
mod llama;
mod manifest;
mod pretrained;
mod saved;
mod source;
mod specials;

pub use companions::Companions;
pub use error::{LoadError, Rejection};
pub use export::{ExportError, Exported, MODEL_FILE, Origin, check_free, export};
pub use format::{Entry, header};
pub use manifest::{BestEval, CHUNK_BYTES, FILE as MANIFEST_FILE, FileSum, Manifest, RunFacts};
pub use pretrained::{Pretrained, Stored};
pub use saved::{Loaded, Newest, newest_valid, open, steps};
pub use source::Source;
