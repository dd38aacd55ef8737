//! The same training under every split between data and model parallelism: one matrix, and planted
//! mistakes that must break it.

use std::path::{Path, PathBuf};

use capstan::checkpoint;
use libtest_mimic::{Failed, Trial};

use crate::in_process::{Bench, Setting, apart};

/// Promise P6 in fp64: rounding leaves 1e-13, a mistake 1e-4 and more.
const FP64_STEP_1: f64 = 1e-9;
const FP64_50_STEPS: f64 = 1e-8;
/// In fp32 at the first step.
const FP32_STEP_1: f64 = 1e-6;
/// In fp32 over 50 steps at a learning rate of 1e-4.
const FP32_50_STEPS: f64 = 1e-5;
/// In bf16 over 50 steps at a learning rate of 1e-4.
const BF16: f64 = 2e-3;

/// A model under test, by the assignment that makes it.
struct Model {
    name: &'static str,
    set: &'static str,
}

const GPT: &Model = &Model {
    name: "gpt",
    set: "model.gpt.n_head=4",
};
/// A vocabulary that is padded where it is whole too.
const GPT_PADDED: &Model = &Model {
    name: "gpt-padded",
    set: r#"model.gpt={ "n_layer": 2, "n_head": 4, "d_model": 32, "seq_len": 16, "vocab_size": 1030 }"#,
};
/// More logits of a batch than the loss computes at a time.
const GPT_WIDE: &Model = &Model {
    name: "gpt-wide",
    set: r#"model.gpt={ "n_layer": 1, "n_head": 2, "d_model": 8, "seq_len": 40, "vocab_size": 70001 }"#,
};
/// Fewer heads of keys and values than of queries, stretched wavelengths, a head of its own.
const LLAMA: &Model = &Model {
    name: "llama",
    set: r#"model.llama={ "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48, "seq_len": 16,
        "rope_scaling": { "llama3": { "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position": 64 } } }"#,
};
/// One head of keys and values a tensor-parallel rank.
const LLAMA_TIED: &Model = &Model {
    name: "llama-tied",
    set: r#"model.llama={ "n_layer": 2, "n_head": 8, "n_kv_head": 4, "d_model": 32, "d_ff": 40, "seq_len": 16,
        "tie_embeddings": true }"#,
};

/// A split of a model, and what is changed with it. Ranks, accumulation and recomputation vary over the rows.
struct Row {
    model: &'static Model,
    layout: &'static str,
    micro: usize,
}

const fn row(layout: &'static str, micro: usize) -> Row {
    of(GPT, layout, micro)
}

const fn of(model: &'static Model, layout: &'static str, micro: usize) -> Row {
    Row {
        model,
        layout,
        micro,
    }
}

/// Up to eight ranks; the text's windows have uneven counts of valid targets.
const MATRIX: &[Row] = &[
    row("dp=2", 2),
    row("dp=2,zero=1", 4),
    row("dp=4,zero=1", 1),
    row("dp=2,zero=2", 2),
    row("dp=4,zero=2", 2),
    row("dp=2,zero=3", 4),
    row("dp=2,zero=3,recompute=full", 1),
    row("dp=8,zero=3", 1),
    row("recompute=full", 4),
    row("recompute=selective", 8),
    row("tp=2", 8),
    row("tp=2,sequence_parallel=true", 4),
    row("tp=4,recompute=selective", 8),
    row("tp=4,sequence_parallel=true,recompute=full", 4),
    row("tp=2,dp=2", 2),
    row("tp=2,dp=2,zero=1", 4),
    row("tp=2,dp=2,zero=2,sequence_parallel=true", 2),
    row("tp=2,dp=2,zero=3,sequence_parallel=true,recompute=full", 2),
    row("tp=2,dp=4,zero=3", 1),
    row("pp=2", 2),
    row("pp=2,schedule=gpipe", 1),
    row("pp=2,schedule=interleaved,virtual_stages=2", 1),
    row("pp=3,recompute=full", 2),
    row("pp=4", 1),
    row("pp=4,schedule=gpipe,recompute=selective", 2),
    row("pp=2,dp=2", 1),
    row("pp=2,dp=2,zero=1", 1),
    row("pp=2,tp=2", 2),
    row("pp=2,tp=2,sequence_parallel=true,recompute=full", 1),
    row("pp=2,tp=2,schedule=interleaved,virtual_stages=3", 2),
    row("pp=2,tp=2,dp=2,zero=1", 2),
    row(
        "pp=2,tp=2,dp=2,zero=1,sequence_parallel=true,recompute=full",
        1,
    ),
    row("pp=2,tp=4", 2),
    of(GPT_PADDED, "dp=2,zero=3", 4),
    of(GPT_PADDED, "tp=2,sequence_parallel=true", 8),
    of(GPT_PADDED, "pp=2,dp=2,zero=1", 2),
    of(LLAMA, "dp=2", 2),
    of(LLAMA, "dp=2,zero=1", 4),
    of(LLAMA, "dp=2,zero=2", 2),
    of(LLAMA, "dp=2,zero=3", 2),
    of(LLAMA, "recompute=full", 4),
    of(LLAMA, "recompute=selective", 8),
    of(LLAMA, "tp=2", 8),
    of(LLAMA, "tp=2,sequence_parallel=true", 4),
    of(LLAMA, "pp=2", 2),
    of(LLAMA, "pp=4", 1),
    of(LLAMA, "pp=2,tp=2,dp=2,zero=1,sequence_parallel=true", 2),
    of(LLAMA_TIED, "dp=2,zero=3,recompute=full", 2),
    of(LLAMA_TIED, "recompute=full", 4),
    of(LLAMA_TIED, "tp=2", 8),
    of(LLAMA_TIED, "tp=4,sequence_parallel=true", 4),
    of(LLAMA_TIED, "pp=2", 2),
    of(LLAMA_TIED, "pp=4", 1),
    of(LLAMA_TIED, "tp=2,dp=4,zero=3,sequence_parallel=true", 1),
    of(LLAMA_TIED, "pp=2,tp=4,recompute=selective", 2),
];

const CPUS: &str = "devices=[\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\"]";

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = MATRIX
        .iter()
        .map(|row| {
            let name = format!(
                "parity::{} {} micro={}",
                row.model.name, row.layout, row.micro
            );
            Trial::test(name, move || agrees(row))
        })
        .collect();
    trials.extend([
        Trial::test("parity::chunks_of_logits_agree", chunks_agree),
        Trial::test("parity::planted_mistakes_are_seen", mistakes_are_seen),
        Trial::test("parity::fp32_agrees", fp32_agrees),
        Trial::test("parity::bf16_agrees", bf16_agrees),
        Trial::test(
            "parity::dropout_does_not_depend_on_the_split",
            dropout_agrees,
        ),
        Trial::test(
            "parity::evaluation_does_not_depend_on_the_split",
            evaluation_agrees,
        ),
        Trial::test("parity::every_rank_accounts_for_its_time", time_adds_up),
        Trial::test("parity::every_gradient_agrees", gradients_agree),
        Trial::test("parity::a_checkpoint_fits_every_split", checkpoints_fit),
        Trial::test(
            "parity::each_rank_takes_its_planned_memory",
            memory_is_planned,
        ),
    ]);
    trials
}

/// Losses and gradient norms of a model under a layout.
fn curve(bench: &Bench, model: &Model, layout: &str, changes: &[&str]) -> (Vec<f64>, Vec<f64>) {
    let told = bench.run_layout(
        layout,
        &[&[CPUS, model.set], changes].concat(),
        Setting::default(),
    );
    (told.losses(), told.grad_norms())
}

fn agrees(row: &Row) -> Result<(), Failed> {
    let bench = Bench::new();
    let micro = format!("batch.micro={}", row.micro);
    let steps = "stop.steps=50";
    let (one, one_norms) = curve(&bench, row.model, "dp=1", &[steps, "batch.micro=8"]);
    let (losses, norms) = curve(&bench, row.model, row.layout, &[steps, &micro]);
    for (what, ours, theirs) in [
        ("loss", &losses, &one),
        ("gradient norm", &norms, &one_norms),
    ] {
        let first = apart(&ours[..1], &theirs[..1]);
        assert!(first < FP64_STEP_1, "{what} at step 1: {first:e}");
        let all = apart(ours, theirs);
        assert!(all < FP64_50_STEPS, "{what} over 50 steps: {all:e}");
    }
    Ok(())
}

/// A batch's logits in three chunks of rows, the last one smaller, or of each two windows in one.
fn chunks_agree() -> Result<(), Failed> {
    let bench = Bench::new();
    let steps = "stop.steps=3";
    let (one, one_norms) = curve(&bench, GPT_WIDE, "dp=1", &[steps, "batch.micro=2"]);
    for (layout, micro) in [("dp=1", "batch.micro=8"), ("tp=2", "batch.micro=8")] {
        let (losses, norms) = curve(&bench, GPT_WIDE, layout, &[steps, micro]);
        let difference = apart(&losses, &one).max(apart(&norms, &one_norms));
        assert!(difference < FP64_STEP_1, "{layout}: {difference:e}");
    }
    Ok(())
}

fn mistakes_are_seen() -> Result<(), Failed> {
    let bench = Bench::new();
    for (model, layout, inject) in [
        (GPT, "tp=2", "0:0:missing-reduction"),
        (GPT, "tp=2,sequence_parallel=true", "0:0:missing-reduction"),
        (GPT, "tp=2", "1:1:shifted-shard"),
        (GPT, "pp=2", "0:0:wrong-micro-batch"),
        (GPT, "pp=2,tp=2", "0:0:wrong-micro-batch"),
        (GPT, "dp=2,zero=2", "0:0:mean-of-means"),
        (LLAMA, "tp=2", "0:0:missing-reduction"),
        (LLAMA_TIED, "tp=2", "1:1:shifted-shard"),
    ] {
        let changes = [CPUS, model.set, "stop.steps=15", "batch.micro=2"];
        let right = bench
            .run_layout(layout, &changes, Setting::default())
            .losses();
        let setting = Setting {
            inject: Some(inject),
            ..Setting::default()
        };
        let told = bench.run_layout(layout, &changes, setting);
        // A shape that no longer fits ends the run, which is seen too.
        if matches!(told.ending, capstan::engine::Ending::Finished(_)) {
            let difference = apart(&told.losses(), &right);
            assert!(
                difference > 100.0 * FP64_50_STEPS,
                "{} {layout}, {inject}: {difference:e}",
                model.name
            );
        }
    }
    Ok(())
}

const SOME: [&str; 6] = [
    "dp=2,zero=1",
    "dp=2,zero=3",
    "tp=2",
    "tp=2,sequence_parallel=true",
    "pp=2",
    "pp=2,tp=2,dp=2,zero=1",
];

fn fp32_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = [
        "precision=fp32",
        "stop.steps=50",
        "optimizer.adamw.lr=1e-4",
        "batch.micro=4",
    ];
    for model in [GPT, LLAMA] {
        let (one, one_norms) = curve(&bench, model, "dp=1", &changes);
        for layout in SOME {
            let (losses, norms) = curve(&bench, model, layout, &changes);
            let what = format!("{} {layout}", model.name);
            assert!(apart(&losses[..1], &one[..1]) < FP32_STEP_1, "{what}");
            assert!(
                apart(&norms[..1], &one_norms[..1]) < FP32_50_STEPS,
                "{what}"
            );
            let all = apart(&losses, &one);
            assert!(all < FP32_50_STEPS, "{what}: {all:e}");
        }
    }
    Ok(())
}

fn bf16_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = [
        "precision=bf16",
        "stop.steps=50",
        "optimizer.adamw.lr=1e-4",
        "batch.micro=4",
    ];
    for model in [GPT, LLAMA] {
        let (one, _) = curve(&bench, model, "dp=1", &changes);
        for layout in SOME {
            let difference = apart(&curve(&bench, model, layout, &changes).0, &one);
            assert!(difference < BF16, "{} {layout}: {difference:e}", model.name);
        }
    }
    Ok(())
}

fn dropout_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = ["model.gpt.dropout=0.2", "stop.steps=10", "batch.micro=4"];
    let (one, _) = curve(&bench, GPT, "dp=1", &changes);
    for layout in [
        "tp=2",
        "tp=4,sequence_parallel=true,recompute=full",
        "pp=2,dp=2",
        "dp=2,zero=3,recompute=selective",
    ] {
        let difference = apart(&curve(&bench, GPT, layout, &changes).0, &one);
        // Masks are the same bits; fp32 masks and the masked path's fp32 softmax leave fp32 rounding.
        assert!(difference < 1e-6, "{layout}: {difference:e}");
    }
    Ok(())
}

fn evaluation_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    for model in [GPT, GPT_PADDED, LLAMA] {
        let changes = [
            CPUS,
            model.set,
            "stop.steps=4",
            "batch.micro=4",
            "sample={\"prompt\":\"abc\",\"tokens\":6}",
        ];
        let finals = |layout: &str| {
            let told = bench.run_layout(layout, &changes, Setting::default());
            (told.final_eval(), told.sample())
        };
        let (one, text) = finals("dp=1");
        for layout in [
            "dp=2,zero=3",
            "tp=2,sequence_parallel=true",
            "pp=2,schedule=interleaved,virtual_stages=2",
            "pp=2,tp=2,dp=2",
        ] {
            let (loss, sampled) = finals(layout);
            let what = format!("{} {layout}", model.name);
            assert!((loss - one).abs() < FP64_STEP_1 * one, "{what}");
            assert_eq!(sampled, text, "{what}");
        }
    }
    Ok(())
}

/// What each rank says adds up to its step, and what it moved is what its split must move.
fn time_adds_up() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = [CPUS, GPT.set, "stop.steps=6", "batch.micro=2"];
    for (layout, n_ranks) in [
        ("dp=1", 1),
        ("dp=2", 2),
        ("dp=2,zero=3", 2),
        ("tp=2", 2),
        ("pp=2,tp=2", 4),
    ] {
        let told = bench.run_layout(layout, &changes, Setting::default());
        for (ranks, step_time_s) in told.parts() {
            assert_eq!(ranks.len(), n_ranks, "{layout}");
            for part in &ranks {
                let sum = part.phases.total();
                // Ranks meet at a step's end, so their steps are about as long.
                assert!(
                    (sum - step_time_s).abs() < 0.25 * step_time_s + 0.02,
                    "{layout}: {sum} of {step_time_s}"
                );
                assert!(part.phases.forward > 0.0 && part.phases.backward > 0.0);
                let moves = (
                    part.bytes.all_reduce,
                    part.bytes.reduce_scatter,
                    part.bytes.all_gather,
                    part.bytes.send,
                );
                let expected = match layout {
                    "dp=1" => (false, false, false, false),
                    "dp=2" | "tp=2" => (true, false, false, false),
                    "dp=2,zero=3" => (true, true, true, false),
                    _ => (true, false, false, true),
                };
                let found = (moves.0 > 0, moves.1 > 0, moves.2 > 0, moves.3 > 0);
                assert_eq!(found, expected, "{layout}: {part:?}");
            }
        }
    }
    Ok(())
}

/// Trains one step of plain SGD and returns the weights by name; at a learning rate this large they are the
/// gradients.
fn after_one_step(
    bench: &Bench,
    model: &Model,
    layout: &str,
    precision: &str,
    lr: f64,
) -> Vec<(String, Vec<f64>)> {
    let folder = bench.path(&format!("{layout} {precision} {lr}"));
    let optimizer = format!("optimizer.sgd={{\"lr\":{lr:.1},\"momentum\":0.0}}");
    let precision = format!("precision={precision}");
    let changes = [
        CPUS,
        model.set,
        "stop.steps=1",
        "batch.micro=4",
        &optimizer,
        &precision,
    ];
    let told = bench.run_layout(layout, &changes, saving(&folder));
    assert_eq!(told.losses().len(), 1);
    let loaded = bench.newest(&folder);
    let file = loaded.tensors("model.safetensors").expect("weights");
    let values = |name: &str| {
        let tensor = file.tensor(name).expect("listed");
        let bytes = tensor.data();
        match tensor.dtype() {
            safetensors::Dtype::F64 => bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect(),
            _ => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect(),
        }
    };
    let mut names = file.names();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| (name.to_owned(), values(name)))
        .collect()
}

fn saving(folder: &Path) -> Setting<'static> {
    Setting {
        checkpoints: Some(PathBuf::from(folder)),
        ..Setting::default()
    }
}

/// Every tensor's gradient, fused ones whole, within a share of its own norm.
fn gradients_agree() -> Result<(), Failed> {
    for model in [GPT, GPT_PADDED, LLAMA, LLAMA_TIED] {
        for (precision, lr, tolerance) in [("fp64", 1.0, 1e-9), ("fp32", 1e4, 1e-5)] {
            let bench = Bench::new();
            let before = after_one_step(&bench, model, "dp=1", precision, 0.0);
            let one = after_one_step(&bench, model, "dp=1", precision, lr);
            for layout in SOME {
                let other = after_one_step(&bench, model, layout, precision, lr);
                for (((name, start), (_, a)), (other_name, b)) in
                    before.iter().zip(&one).zip(&other)
                {
                    assert_eq!(name, other_name);
                    let norm = |pairs: &mut dyn Iterator<Item = (&f64, &f64)>| {
                        pairs.map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
                    };
                    let difference = norm(&mut a.iter().zip(b));
                    let size = norm(&mut a.iter().zip(start));
                    assert!(
                        difference <= tolerance * size,
                        "{layout}, {precision}, {name}: {difference:e} of {size:e}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Saved under one split after three steps, six steps end alike under any other, and bit for bit under the same.
fn checkpoints_fit() -> Result<(), Failed> {
    checkpoints_of(GPT)?;
    checkpoints_of(GPT_PADDED)?;
    checkpoints_of(LLAMA_TIED)
}

fn checkpoints_of(model: &Model) -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = [
        CPUS,
        model.set,
        "batch.micro=2",
        "checkpoint.every=3",
        "stop.steps=6",
    ];
    let run = |layout: &str, changes: &[&str], from: Option<&Path>| {
        let setting = match from {
            Some(path) => Setting {
                resume: Some(checkpoint::open(path).expect("a good checkpoint")),
                ..Setting::default()
            },
            None => saving(&bench.path(&format!("{layout} {}", changes.len()))),
        };
        bench.run_layout(layout, changes, setting).losses()
    };
    let fp32 = [&changes[..], &["precision=fp32"]].concat();
    for layout in ["dp=2,tp=2", "pp=2,tp=2,dp=2,zero=1", "dp=2,zero=3"] {
        let whole = run(layout, &changes, None);
        let saved = bench.path(&format!("{layout} 5/step-00000003"));
        for other in [
            "pp=4",
            "dp=2,zero=3",
            "dp=1",
            "tp=4,sequence_parallel=true",
            "dp=4,zero=1",
        ] {
            let difference = apart(&run(other, &changes, Some(&saved)), &whole[3..]);
            assert!(
                difference < FP64_50_STEPS,
                "{} {layout} to {other}: {difference:e}",
                model.name
            );
        }
        let whole = run(layout, &fp32, None);
        let saved = bench.path(&format!("{layout} 6/step-00000003"));
        assert_eq!(
            run(layout, &fp32, Some(&saved)),
            whole[3..],
            "{layout} to itself"
        );
    }
    Ok(())
}

/// What a rank's tensors take between two steps is what the plan says, within 3 %.
fn memory_is_planned() -> Result<(), Failed> {
    let bench = Bench::new();
    let models = [
        (GPT, ["model.gpt.d_model=128", "model.gpt.n_layer=4"]),
        (GPT_PADDED, ["model.gpt.d_model=128", "model.gpt.n_layer=4"]),
        (LLAMA, ["model.llama.d_model=128", "model.llama.n_layer=4"]),
        (
            LLAMA_TIED,
            ["model.llama.d_model=128", "model.llama.n_layer=4"],
        ),
    ];
    let layouts = [
        "dp=1",
        "dp=2",
        "dp=2,zero=1",
        "dp=4,zero=1",
        "dp=2,zero=2",
        "dp=2,zero=3",
        "dp=4,zero=3",
        "tp=2",
        "pp=2",
        "pp=2,tp=2,dp=2,zero=1",
    ];
    for (model, sizes) in models {
        for precision in ["precision=fp32", "precision=bf16"] {
            let base = [CPUS, model.set, precision, "stop.steps=2", "batch.micro=1"];
            let changes = [&base[..], &sizes].concat();
            for layout in layouts {
                let ratio = memory_ratio(&bench, layout, &changes)?;
                assert!(
                    (0.99..1.03).contains(&ratio),
                    "{} {layout}, {precision}: {ratio:.3}",
                    model.name
                );
            }
        }
    }
    Ok(())
}

/// Measured bytes of the rank that takes most, over those planned.
fn memory_ratio(bench: &Bench, layout: &str, changes: &[&str]) -> Result<f64, Failed> {
    let told = bench.run_layout(layout, changes, Setting::default());
    let (ranks, _) = told.parts().pop().ok_or("steps")?;
    let measured = ranks
        .iter()
        .filter_map(|part| part.memory_bytes)
        .max()
        .ok_or("counted")?;
    let planned = bench.plan_layout(layout, changes).memory.total();
    Ok(measured as f64 / planned as f64)
}
