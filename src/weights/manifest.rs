//! The last file of a checkpoint: what it holds, and the checksums that prove it.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    arch::ModelShape,
    base::read::{self, Bound},
    config::{ParallelConfig, Precision},
    plan::RunPlan,
};

/// Name of the manifest's file.
pub const FILE: &str = "manifest.json";
/// Version of the layout of a checkpoint's folder.
pub const SCHEMA: u32 = 1;
/// Bytes that one checksum covers.
pub const CHUNK_BYTES: usize = 4 << 20;

/// What a checkpoint's folder holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub schema: u32,
    /// capstan's version.
    pub version: String,
    /// Optimizer steps made.
    pub step: u64,
    /// Training targets seen.
    pub tokens: u64,
    /// Seconds trained, over all sessions.
    pub trained_s: f64,
    pub best: Option<BestEval>,
    pub run: RunFacts,
    pub files: BTreeMap<String, FileSum>,
}

/// What must agree, or is worth a warning where it doesn't, when training goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    pub model: ModelShape,
    /// Names of the optimizer's state buffers.
    pub optimizer: Vec<String>,
    pub precision: Precision,
    pub seed: u64,
    pub data_fingerprint: String,
    pub global_batch: usize,
    /// The split: with another one, losses agree within rounding instead of bit for bit.
    pub world: usize,
    /// Absent in checkpoints of a data-parallel split by an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<ParallelConfig>,
    pub micro_batch: usize,
    pub threads_per_rank: usize,
    pub lanes: usize,
}

/// The lowest validation loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestEval {
    pub step: u64,
    pub loss: f64,
}

/// A file's length and checksums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    pub bytes: u64,
    /// CRC-32C of each chunk of [`CHUNK_BYTES`].
    pub crc32c: Vec<u32>,
}

impl RunFacts {
    /// The facts of a plan.
    pub fn of(plan: &RunPlan, seed: u64, optimizer: &[&str]) -> Self {
        Self {
            model: plan.model.clone(),
            optimizer: optimizer.iter().map(|&name| name.to_owned()).collect(),
            precision: plan.precision,
            seed,
            data_fingerprint: plan.data.fingerprint.clone(),
            global_batch: plan.global_batch,
            world: plan.world(),
            parallel: Some(plan.split.as_config()),
            micro_batch: plan.micro_batch,
            threads_per_rank: plan.ranks.first().map_or(1, |rank| rank.threads),
            lanes: plan.ranks.first().map_or(1, |rank| rank.lanes),
        }
    }

    /// Why training can't go on from here under `now`, if it can't.
    pub fn obstacle(&self, now: &Self) -> Option<String> {
        if !self.model.is_same_network(&now.model) {
            return Some(
                "the model has changed since (start a run of its own with `capstan train`)"
                    .to_owned(),
            );
        }
        (self.optimizer != now.optimizer).then(|| "the optimizer has changed since".to_owned())
    }

    /// What differs under `now` in a way that a user should know.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut note = |differs: bool, text: &str| {
            if differs {
                differences.push(text.to_owned());
            }
        };
        note(
            self.data_fingerprint != now.data_fingerprint,
            "the data has changed: its order starts elsewhere",
        );
        note(
            self.seed != now.seed,
            "the seed has changed: data order and dropout differ from here on",
        );
        note(
            self.global_batch != now.global_batch,
            "the global batch has changed: the data position is recomputed",
        );
        note(self.precision != now.precision, "the precision has changed");
        note(self.model != now.model, "dropout has changed");
        let split = |facts: &Self| {
            (
                facts.world,
                facts.parallel,
                facts.micro_batch,
                facts.threads_per_rank,
                facts.lanes,
            )
        };
        note(
            split(self) != split(now),
            "the split has changed: losses agree with the old one within rounding, not bit for bit",
        );
        differences
    }
}

/// The file's form: the body as written, and the checksum of exactly those bytes.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    crc32c: u32,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl Manifest {
    /// The version of the layout that this program writes.
    pub const SCHEMA: u32 = SCHEMA;

    /// The text of the manifest's file.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_text(&self) -> serde_json::Result<String> {
        let body = serde_json::value::to_raw_value(self)?;
        let crc32c = crc32c::crc32c(body.get().as_bytes());
        serde_json::to_string(&Envelope {
            crc32c,
            body: &body,
        })
    }

    /// Reads and verifies the manifest of a checkpoint's folder.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let text = read::text(&folder.join(FILE), Bound::TOLD)
            .map_err(|error| format!("its manifest: {error}"))?;
        let envelope: Envelope<'_> = serde_json::from_str(&text)
            .map_err(|error| format!("its manifest is damaged: {error}"))?;
        if crc32c::crc32c(envelope.body.get().as_bytes()) != envelope.crc32c {
            return Err("its manifest's checksum is wrong".to_owned());
        }
        let manifest: Self = serde_json::from_str(envelope.body.get())
            .map_err(|error| format!("its manifest is of another form: {error}"))?;
        if manifest.schema != SCHEMA {
            return Err(format!(
                "its layout has version {}, this program reads {SCHEMA}",
                manifest.schema
            ));
        }
        Ok(manifest)
    }
}
