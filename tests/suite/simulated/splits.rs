//! The matrix: every split, family and setting that training on simulated cards is compared with CPU ranks for.
//!
//! What is added to capstan and computes on a device (an operator, a family, a strategy, an objective) gets a row here;
//! `simulated::everything_is_in_the_matrix` walks the configuration's own lists.

use serde_json::{Value, json};

use crate::support::is_soak;

/// How near the simulated cards must come to CPU ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The same bits in every number and in the checkpoint.
    Exact,
    /// Losses and norms differ by at most this share, since kernels are chosen otherwise.
    Within(f64),
}

/// A row of the matrix.
#[derive(Clone, Debug)]
pub struct Split {
    pub name: &'static str,
    pub ranks: usize,
    /// What is replaced in the config of [`base`].
    changes: Value,
    /// What is replaced besides on cards; the CPU ranks know nothing of it.
    on_cards: Value,
    pub bound: Bound,
}

impl Split {
    fn new(name: &'static str, ranks: usize, changes: Value) -> Self {
        Self {
            name,
            ranks,
            changes,
            on_cards: json!({}),
            bound: Bound::Exact,
        }
    }

    fn on_cards(mut self, changes: Value) -> Self {
        self.on_cards = changes;
        self
    }

    fn within(mut self, bound: f64) -> Self {
        self.bound = Bound::Within(bound);
        self
    }

    /// The config of CPU ranks.
    pub fn on_cpu(&self) -> Value {
        let devices = json!({ "devices": vec!["cpu"; self.ranks] });
        merged(&[base(), self.changes.clone(), devices])
    }

    /// The config of ranks on simulated cards, in the order of their numbers unless the row says otherwise.
    pub fn on_gpus(&self) -> Value {
        let devices = json!({ "devices": (0..self.ranks).collect::<Vec<_>>() });
        merged(&[base(), self.changes.clone(), devices, self.on_cards.clone()])
    }
}

/// A training of a second: a few steps, an evaluation between them, a whole one and a sample at the end. `make soak` takes
/// more steps.
fn base() -> Value {
    let steps = if is_soak() { 20 } else { 4 };
    json!({
        "model": gpt(json!({})),
        "data": { "text": { "path": "input.txt" } },
        "batch": { "global": 8, "micro": 2 },
        "stop": { "steps": steps },
        "optimizer": { "adamw": { "lr": 1e-3, "clip": 1.0 } },
        "eval": { "every": 2, "batches": 2 },
        "checkpoint": { "every": 1000 },
        "log": { "every": 1, "sensors_every_s": null },
        "restart": { "max": 0, "hang_after_s": 60 },
        "sample": { "prompt": "To be", "tokens": 4, "seed": 3 },
        "threads_per_rank": 1,
        "parallel": {},
    })
}

fn gpt(changes: Value) -> Value {
    let small = json!({ "n_layer": 4, "n_head": 4, "d_model": 32, "seq_len": 32 });
    json!({ "gpt": merged(&[small, changes]) })
}

fn llama(changes: Value) -> Value {
    let small = json!({
        "n_layer": 4, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 64, "seq_len": 32, "tie_embeddings": false,
    });
    json!({ "llama": merged(&[small, changes]) })
}

/// The keys of all, the later ones in place of earlier ones.
pub fn merged(parts: &[Value]) -> Value {
    let entries = parts.iter().filter_map(Value::as_object).flatten();
    entries
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The rows with this name.
pub fn named(name: &str) -> Option<Split> {
    all().into_iter().find(|split| split.name == name)
}

/// All rows.
pub fn all() -> Vec<Split> {
    let mut splits = alone();
    splits.extend(combined());
    splits.extend(settings());
    splits.extend(placed());
    splits.extend(other_numbers());
    splits
}

fn split(name: &'static str, ranks: usize, parallel: Value) -> Split {
    Split::new(name, ranks, json!({ "parallel": parallel }))
}

/// Each strategy and schedule by itself.
fn alone() -> Vec<Split> {
    vec![
        split("single", 1, json!({})),
        split("ddp", 2, json!({ "dp": 2 })),
        split("primary", 2, json!({ "dp": 2, "primary": true })),
        split("zero1", 2, json!({ "dp": 2, "zero": 1 })),
        split("zero2", 2, json!({ "dp": 2, "zero": 2 })),
        split("zero3", 2, json!({ "dp": 2, "zero": 3 })),
        split("tp", 2, json!({ "tp": 2 })),
        split("tp_sp", 2, json!({ "tp": 2, "sequence_parallel": true })),
        split("1f1b", 2, json!({ "pp": 2, "schedule": "1f1b" })),
        split("gpipe", 2, json!({ "pp": 2, "schedule": "gpipe" })),
        split("interleaved", 2, interleaved(json!({}))),
    ]
}

fn interleaved(more: Value) -> Value {
    let two = json!({ "pp": 2, "schedule": "interleaved", "virtual_stages": 2 });
    merged(&[two, more])
}

/// Axes together, and more ranks on one.
fn combined() -> Vec<Split> {
    let sequence = json!({ "tp": 2, "sequence_parallel": true });
    vec![
        split("zero3_on_four", 4, json!({ "dp": 4, "zero": 3 })),
        split("tp_on_four", 4, json!({ "tp": 4 })),
        split("pp_on_four", 4, json!({ "pp": 4 })),
        split("dp2_tp2", 4, json!({ "dp": 2, "tp": 2 })),
        split(
            "zero2_tp2_sp",
            4,
            merged(&[sequence.clone(), json!({ "dp": 2, "zero": 2 })]),
        ),
        split("pp2_dp2", 4, json!({ "pp": 2, "dp": 2 })),
        split("pp2_zero1", 4, json!({ "pp": 2, "dp": 2, "zero": 1 })),
        split("pp2_tp2_interleaved_sp", 4, interleaved(sequence)),
        split(
            "pp2_dp2_tp2_zero1",
            8,
            json!({ "pp": 2, "dp": 2, "tp": 2, "zero": 1 }),
        ),
    ]
}

/// Recomputation, dropout, optimizers, batches and buckets.
fn settings() -> Vec<Split> {
    let dropout = |name, parallel| {
        let model = gpt(json!({ "dropout": 0.1 }));
        Split::new(name, 2, json!({ "model": model, "parallel": parallel }))
    };
    let two = json!({ "dp": 2 });
    vec![
        split("recompute", 2, json!({ "dp": 2, "recompute": "full" })),
        split(
            "recompute_selective",
            2,
            json!({ "dp": 2, "recompute": "selective" }),
        ),
        split(
            "recompute_zero3",
            2,
            json!({ "dp": 2, "zero": 3, "recompute": "full" }),
        ),
        split(
            "recompute_tp_sp",
            2,
            json!({ "tp": 2, "sequence_parallel": true, "recompute": "full" }),
        ),
        split(
            "recompute_selective_pp",
            2,
            json!({ "pp": 2, "recompute": "selective" }),
        ),
        dropout("dropout", json!({ "dp": 2 })),
        dropout(
            "dropout_tp_sp",
            json!({ "tp": 2, "sequence_parallel": true }),
        ),
        dropout("dropout_recompute", json!({ "dp": 2, "recompute": "full" })),
        dropout("dropout_pp", json!({ "pp": 2 })),
        Split::new(
            "sgd",
            2,
            json!({ "parallel": two, "optimizer": { "sgd": { "lr": 0.05, "clip": 1.0 } } }),
        ),
        Split::new(
            "no_clip",
            2,
            json!({ "parallel": two, "optimizer": { "adamw": { "lr": 1e-3, "clip": null } } }),
        ),
        Split::new(
            "one_micro_batch",
            2,
            json!({ "parallel": two, "batch": { "global": 8, "micro": 4 } }),
        ),
        Split::new(
            "many_micro_batches",
            2,
            json!({ "parallel": { "dp": 2, "zero": 2 }, "batch": { "global": 16, "micro": 1 } }),
        ),
        Split::new(
            "no_bias",
            1,
            json!({ "model": gpt(json!({ "bias": false })), "deterministic": true }),
        ),
        Split::new("tf32", 2, json!({ "parallel": two, "precision": "tf32" })),
        buckets("buckets", json!({ "global": 4, "micro": 2 })),
        buckets("buckets_accumulated", json!({ "global": 4, "micro": 1 })).within(1e-6),
    ]
}

/// More than 50 MiB of gradients: several buckets, where CPU ranks have one.
fn buckets(name: &'static str, batch: Value) -> Split {
    let model = gpt(json!({ "n_layer": 5, "d_model": 512, "n_head": 4, "seq_len": 8 }));
    let changes =
        json!({ "model": model, "batch": batch, "parallel": { "dp": 2 }, "stop": { "steps": 3 } });
    Split::new(name, 2, changes)
}

/// The same training, placed otherwise on cards.
fn placed() -> Vec<Split> {
    let all = json!({ "ranks_per_worker": "all" });
    let one = json!({ "ranks_per_worker": "one" });
    let zero3 = json!({ "dp": 2, "zero": 3 });
    vec![
        split("all_in_one_worker", 2, zero3.clone()).on_cards(all.clone()),
        split("all_in_one_worker_tp", 2, json!({ "tp": 2 })).on_cards(all.clone()),
        split("all_in_one_worker_pp", 2, json!({ "pp": 2 })).on_cards(all),
        split("a_worker_each", 2, json!({ "dp": 2 })).on_cards(one),
        split("other_cards", 2, zero3).on_cards(json!({ "devices": [3, 1] })),
        split("two_ranks_a_card", 2, json!({ "dp": 2, "zero": 1 }))
            .on_cards(json!({ "devices": [0, 0] })),
        split("two_ranks_a_card_pp", 2, json!({ "pp": 2 })).on_cards(json!({ "devices": [0, 0] })),
    ]
}

/// Rounding of bf16 leaves three digits. Attention of Llama in groups is another kernel in fp32.
const OF_BF16: f64 = 2e-3;
const OF_LLAMA: f64 = 1e-6;

/// Other families and number formats, whose kernels on a GPU are not those of a CPU.
fn other_numbers() -> Vec<Split> {
    let with = |name, ranks, model: Value, parallel: Value| {
        Split::new(name, ranks, json!({ "model": model, "parallel": parallel }))
    };
    let tied = || llama(json!({ "tie_embeddings": true }));
    let ungrouped = || llama(json!({ "n_kv_head": 4 }));
    let bf16 = |name, model: Value, ranks, parallel: Value| {
        let changes = json!({ "model": model, "parallel": parallel, "precision": "bf16" });
        Split::new(name, ranks, changes).within(OF_BF16)
    };
    vec![
        with("llama_ungrouped", 1, ungrouped(), json!({})).within(OF_LLAMA),
        with("llama", 2, llama(json!({})), json!({ "dp": 2, "zero": 3 })).within(OF_LLAMA),
        with("llama_tp", 2, llama(json!({})), json!({ "tp": 2 })).within(OF_LLAMA),
        with(
            "llama_tied_tp_sp",
            2,
            tied(),
            json!({ "tp": 2, "sequence_parallel": true }),
        )
        .within(OF_LLAMA),
        with("llama_tied_pp", 2, tied(), json!({ "pp": 2 })).within(OF_LLAMA),
        bf16("bf16", gpt(json!({})), 1, json!({})),
        bf16(
            "bf16_zero3",
            gpt(json!({})),
            2,
            json!({ "dp": 2, "zero": 3 }),
        ),
        bf16(
            "bf16_tp_sp",
            gpt(json!({})),
            2,
            json!({ "tp": 2, "sequence_parallel": true }),
        ),
        bf16("bf16_pp", gpt(json!({})), 2, json!({ "pp": 2 })),
        bf16("bf16_llama", llama(json!({})), 2, json!({ "dp": 2 })),
    ]
}
