//! The run configuration, field by field. Doc comments here become the JSON Schema's descriptions.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{bounded, devices::DevicesConfig, model::ModelConfig, parallel::ParallelConfig};

/// A training run: model, data, split, and when to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Where editors find the JSON Schema; without effect on the run.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Base of the run's name; the next free `-2`, `-3` is taken.
    #[serde(default = "default_name")]
    pub name: String,
    pub model: ModelConfig,
    /// Where the initial weights come from; absent: made from `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
    pub data: DataConfig,
    pub batch: BatchConfig,
    pub stop: StopConfig,
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    #[serde(default)]
    pub schedule: ScheduleConfig,
    #[serde(default)]
    pub precision: Precision,
    #[serde(default)]
    pub attention: Attention,
    /// Degrees of the split; absent: data parallel over all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<ParallelConfig>,
    #[serde(default)]
    pub devices: DevicesConfig,
    /// Ranks that a worker process hosts; absent: one where ranks have GPUs of their own, else all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks_per_worker: Option<RanksPerWorker>,
    /// Intra-op threads of a CPU rank; absent: the cores divided by the ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::RANKS }>")]
    pub threads_per_rank: Option<usize>,
    #[serde(default)]
    pub eval: EvalConfig,
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    #[serde(default)]
    pub restart: RestartConfig,
    #[serde(default)]
    pub log: LogConfig,
    /// Text to generate when the run completes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleConfig>,
    /// Seed of weights, data order and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Ask libtorch for deterministic kernels; bit-exact resume on a GPU needs it.
    #[serde(default)]
    pub deterministic: bool,
}

/// How ranks are shared between worker processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RanksPerWorker {
    /// A fault of one GPU's context harms no other. On a CPU ranks then talk through the supervisor, slowly.
    One,
    /// One process; on several GPUs for experiments only: CUDA calls that wait for the whole process can deadlock
    /// against a collective.
    All,
}

/// Initial weights that are read, not made. A run that goes on from a checkpoint takes that instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// A Hugging Face folder with `model.safetensors` (or `model.safetensors.index.json` and its parts), or one
    /// safetensors file.
    pub pretrained: PathBuf,
}

/// Where the tokens come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataConfig {
    /// Text packed into the program.
    Builtin(Builtin),
    /// A UTF-8 text file, or a folder of them.
    Text(TextConfig),
    /// A JSON Lines file (or a folder of them), one text field a line.
    Jsonl(JsonlConfig),
    /// Token ids that another program made: nanoGPT's or llm.c's files.
    Tokens(TokensConfig),
}

/// Texts that ship with capstan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Builtin {
    /// capstan's own source text, by bytes.
    Hello,
}

/// UTF-8 text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// A UTF-8 file or a folder of UTF-8 files.
    pub path: PathBuf,
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// Share of the text, from its end, held out for evaluation; in (0, 1).
    #[serde(default = "default_val_fraction")]
    pub val_fraction: f64,
    #[serde(default)]
    pub windows: WindowsConfig,
}

/// JSON Lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// A JSON Lines file or a folder of them.
    pub path: PathBuf,
    /// The field that holds the text.
    #[serde(default = "default_field")]
    pub field: String,
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// Share of the text, from its end, held out for evaluation; in (0, 1).
    #[serde(default = "default_val_fraction")]
    pub val_fraction: f64,
    #[serde(default)]
    pub windows: WindowsConfig,
}

/// Token ids that another program made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Training tokens.
    pub train: PathBuf,
    /// Held-out tokens; absent: `val_fraction` of the training file, from its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// Number of distinct ids; every id must lie below it.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::TOKENS }>")]
    pub vocab_size: usize,
    /// Bits of an id; absent: as llm.c's header says, else "u32" where `vocab_size` is above 65 536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<IdWidth>,
    /// Bytes before the first id of each file; absent: llm.c's header, where there is one, is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<u64>,
    /// The tokenizer that made the ids, for sampling text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerConfig>,
    /// Share held out when `val` is absent; in (0, 1).
    #[serde(default = "default_val_fraction")]
    pub val_fraction: f64,
    #[serde(default)]
    pub windows: WindowsConfig,
}

/// How wide the ids of a token file are; they are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdWidth {
    /// 16 bits, as nanoGPT writes them.
    U16,
    /// 32 bits.
    U32,
}

/// How text becomes token ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// The 256 byte values.
    #[default]
    Bytes,
    /// The distinct characters of the text, in code point order.
    Char,
    /// A Hugging Face `tokenizer.json`.
    File(PathBuf),
    /// GPT-2's pair of files.
    VocabMerges {
        /// `vocab.json`
        vocab: PathBuf,
        /// `merges.txt`
        merges: PathBuf,
    },
    /// A byte-level BPE trained on this text.
    Bpe {
        /// Number of tokens, at least 257.
        #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::TOKENS }>")]
        vocab_size: usize,
    },
}

/// Which windows of the token stream a step reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowsConfig {
    /// Neighbouring windows in a random order; an epoch is each token once.
    #[default]
    Disjoint,
    /// Random starts with replacement, as nanoGPT samples.
    Random,
}

/// Sequences in one optimizer step, over all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Sequences per optimizer step.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::BATCH }>")]
    pub global: usize,
    /// Sequences per forward pass of a rank; absent: a rank's whole share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::BATCH }>")]
    pub micro: Option<usize>,
}

/// When the run is complete.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StopConfig {
    /// Optimizer steps.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    Steps(u64),
    /// Training tokens, rounded up to a whole step.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    Tokens(u64),
    /// Passes over the training split, rounded up to a whole step.
    Epochs(f64),
    /// Seconds of training; the schedule runs over them.
    Seconds(f64),
}

/// What updates the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// AdamW (Loshchilov and Hutter, 2019), fused; weight decay on matrices only.
    Adamw(AdamwConfig),
    /// Stochastic gradient descent with momentum; weight decay on matrices only.
    Sgd(SgdConfig),
}

/// AdamW's hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamwConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment; both in [0, 1).
    pub betas: [f64; 2],
    /// Added to the root of the second moment; positive.
    pub eps: f64,
    /// Share of `lr` by which matrices shrink in a step; at least 0.
    pub weight_decay: f64,
    /// Largest global gradient norm; null: no clipping.
    pub clip: Option<f64>,
}

/// SGD's hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the sum of gradients; in [0, 1), 0 for none.
    pub momentum: f64,
    /// Added to a matrix's gradient, times the matrix; at least 0.
    pub weight_decay: f64,
    /// Largest global gradient norm; null: no clipping.
    pub clip: Option<f64>,
}

/// The learning rate over the run, as a function of progress.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// `lr` after the warm-up.
    Constant(ConstantConfig),
    /// A straight line from `lr` to `min_lr`.
    Linear(DecayConfig),
    /// Half a cosine from `lr` to `min_lr`.
    Cosine(DecayConfig),
    /// Warm-up, stable, decay: `lr`, then a straight line to `min_lr` over the last `decay` steps.
    Wsd(WsdConfig),
}

/// A constant rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConstantConfig {
    /// Steps of linear warm-up from 0.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub warmup: u64,
}

/// A rate that falls over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecayConfig {
    /// Steps of linear warm-up from 0.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub warmup: u64,
    /// Rate at the end; between 0 and `lr`.
    pub min_lr: f64,
}

/// A rate that falls at the end of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WsdConfig {
    /// Steps of linear warm-up from 0.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub warmup: u64,
    /// Steps of decay at the end.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub decay: u64,
    /// Rate at the end; between 0 and `lr`.
    pub min_lr: f64,
}

/// Number formats of weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    Fp32,
    /// fp32 storage, TF32 matrix products; differs from fp32 on NVIDIA GPUs only.
    Tf32,
    /// bf16 weights and activations, fp32 master weights, moments, norms and loss.
    Bf16,
    /// For tests of the arithmetic, on CPU.
    Fp64,
}

/// Which kernels compute attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// The fastest that fits: for bf16 on H100, H200 and B200 cuDNN's, elsewhere FlashAttention. cuDNN's is known to
    /// give NaN now and then; where it may have, the run goes on without it, from its last checkpoint.
    #[default]
    Auto,
    /// FlashAttention, or what else is fused; never cuDNN's.
    Flash,
    /// Written out: slower, and all scores are kept for the backward pass. To compare with.
    Math,
}

/// Evaluation on fixed windows of the held-out split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps between evaluations.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub every: u64,
    /// Global batches an evaluation reads; the last evaluation reads the whole split.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub batches: u64,
    /// Also evaluate before the first step.
    pub at_start: bool,
}

/// When checkpoints are saved, and which are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; the last step always gets one.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub every: u64,
    /// Newest checkpoints kept, at least 2; the best by validation loss is kept besides.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub keep: usize,
}

/// What happens after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartConfig {
    /// Restarts after a crash of the worker, counted anew after each checkpoint.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::RANKS }>")]
    pub max: u32,
    /// Seconds without progress of a rank after which the worker counts as hung.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub hang_after_s: u64,
}

/// Plain output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between lines of plain output.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::EVER }>")]
    pub every: u64,
    /// Seconds between looks at the machine's sensors, which the event log keeps; null: none. The plan bounds it.
    pub sensors_every_s: Option<u64>,
}

/// How text is generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// Text that the sample goes on from.
    pub prompt: String,
    /// Tokens to generate.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { bounded::CONTEXT }>")]
    pub tokens: usize,
    /// 0 takes the likeliest token; 1 samples the model's distribution.
    pub temperature: f64,
    /// Sample among the `top_k` likeliest tokens; null: among all.
    #[serde(deserialize_with = "bounded::if_given::<_, _, { bounded::TOKENS }>")]
    pub top_k: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            prompt: "\n".to_owned(),
            tokens: 256,
            temperature: 0.8,
            top_k: Some(200),
            seed: default_seed(),
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::Adamw(AdamwConfig::default())
    }
}

impl Default for AdamwConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            clip: Some(1.0),
        }
    }
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.0,
            clip: None,
        }
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant(ConstantConfig::default())
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            every: 250,
            batches: 20,
            at_start: false,
        }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: 500,
            keep: 2,
        }
    }
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            max: 3,
            hang_after_s: 300,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            every: 10,
            sensors_every_s: Some(2),
        }
    }
}

impl OptimizerConfig {
    /// The peak learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Adamw(adamw) => adamw.lr,
            Self::Sgd(sgd) => sgd.lr,
        }
    }

    /// Largest global gradient norm, where one is set.
    pub fn clip(&self) -> Option<f64> {
        match self {
            Self::Adamw(adamw) => adamw.clip,
            Self::Sgd(sgd) => sgd.clip,
        }
    }
}

impl DataConfig {
    /// Share of the tokens held out for evaluation.
    pub fn val_fraction(&self) -> f64 {
        match self {
            Self::Builtin(_) => default_val_fraction(),
            Self::Text(text) => text.val_fraction,
            Self::Jsonl(jsonl) => jsonl.val_fraction,
            Self::Tokens(tokens) => tokens.val_fraction,
        }
    }

    /// Whether text can become tokens, and tokens text.
    pub fn has_tokenizer(&self) -> bool {
        match self {
            Self::Builtin(_) | Self::Text(_) | Self::Jsonl(_) => true,
            Self::Tokens(tokens) => tokens.tokenizer.is_some(),
        }
    }

    /// Which windows a step reads.
    pub fn windows(&self) -> WindowsConfig {
        match self {
            Self::Builtin(_) => WindowsConfig::default(),
            Self::Text(text) => text.windows,
            Self::Jsonl(jsonl) => jsonl.windows,
            Self::Tokens(tokens) => tokens.windows,
        }
    }
}

fn default_name() -> String {
    "run".to_owned()
}

const fn default_seed() -> u64 {
    1337
}

const fn default_val_fraction() -> f64 {
    0.1
}

fn default_field() -> String {
    "text".to_owned()
}
