//! What the user wrote: typed, strict, with nothing resolved yet.
//!
//! [`plan::resolve`](crate::plan::resolve) turns a [`RunConfig`] into what will happen here.

mod bounded;
mod devices;
mod edit;
mod error;
mod llama;
mod load;
mod model;
mod parallel;
mod paths;
mod schema;
mod types;
mod words;

pub use devices::{CpuWord, DeviceConfig, DevicesConfig};
pub use edit::{Assignment, layout_from_text};
pub use error::ConfigError;
pub use llama::{Llama3Scaling, LlamaConfig, LlamaPreset, LlamaSizes, RopeScaling};
pub use load::{Loaded, Origin, load_file, load_text, shape_problem};
pub use model::{GptConfig, GptPreset, ModelConfig};
pub use parallel::{ParallelConfig, PipelineSchedule, Recompute};
pub use schema::json_schema;
pub use types::*;
