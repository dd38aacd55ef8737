//! Samples on the host: from files to token ids to batches. No tensors here.
//!
//! [`prepare`] reads what [`DataConfig`](crate::config::DataConfig) names, makes token ids of it once, and keeps
//! them in a cache that is mapped, not loaded. [`WindowOrder`] says which window of those tokens a
//! global sample index means, [`Loader`] reads the batches of one data-parallel rank ahead of its
//! steps, [`EvalWindows`] are the fixed windows of an evaluation.

mod batch;
mod cache;
mod chars;
mod corpus;
mod cut;
mod encode;
mod encoding;
mod error;
mod export;
mod files;
mod fingerprint;
mod index;
mod inspect;
mod jsonl;
mod loader;
mod prepare;
mod preview;
mod progress;
mod recipe;
mod seen;
mod subword;
#[cfg(test)]
mod tests;
mod token_file;
mod token_format;
mod tokenizer;
mod tokens;
mod windows;

pub use batch::{BatchPlan, HostBatch, IGNORED_TARGET, StepBatch};
pub use cache::{SourceKind, SourceStats};
pub use chars::CharTokenizer;
pub use error::DataError;
pub use export::{TokenizerJson, tokenizer_of};
pub use inspect::{Inspection, inspect};
pub use loader::Loader;
pub use prepare::{Prepared, prepare, reopen};
pub use preview::{Preview, preview, recognise};
pub use progress::Progress;
pub use seen::SeenFile;
pub use subword::SubwordTokenizer;
pub use token_file::{TokenFile, TokenWidth};
pub use tokenizer::Tokenizer;
pub use windows::{EvalWindows, Window, WindowOrder};
