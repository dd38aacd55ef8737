//! Every example config runs somewhere; every kind of bad one is refused with what, where and what to try.

use std::{fs, path::PathBuf};

use capstan::{
    arch::ModelShape,
    config::{self, Assignment, GptPreset, RunConfig},
    hw::{Gpu, Machine},
    models,
    nn::ParamStore,
    optim,
    plan::{self, Communicator, DataSummary, MemoryPlan, PlanError, RunPlan, Strategy},
};
use libtest_mimic::{Failed, Trial};

const BASE: &str = r#"{ "model": { "gpt": { "preset": "gpt-nano" } }, "data": { "builtin": "hello" },
    "batch": { "global": 8 }, "stop": { "steps": 10 } }"#;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("configs::every_example_makes_a_plan", examples),
        Trial::test("configs::the_schema_is_current_and_holds", schema),
        Trial::test("configs::bad_shapes_are_refused", bad_shapes),
        Trial::test(
            "configs::bad_meanings_are_refused_with_a_remedy",
            bad_meanings,
        ),
        Trial::test("configs::all_problems_come_together", all_problems),
        Trial::test("configs::automatic_choices_follow_the_machine", automatic),
        Trial::test("configs::models_are_built_as_stated", models_as_stated),
        Trial::test("configs::planned_memory_is_what_is_allocated", memory),
    ]
}

fn machine(cores: usize, gpus: usize) -> Machine {
    let gpu = |index| Gpu {
        uuid: format!("GPU-{index}"),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 80 << 30,
        compute_capability: [9, 0],
        driver: "580.82".to_owned(),
    };
    let no_gpus_because = (gpus == 0).then(|| "no NVIDIA driver is loaded".to_owned());
    Machine {
        cores,
        memory_bytes: 16 << 30,
        gpus: (0..gpus).map(gpu).collect(),
        no_gpus_because,
    }
}

fn data(vocab_size: usize) -> DataSummary {
    DataSummary {
        train_tokens: 100_000,
        val_tokens: 10_000,
        vocab_size,
        fingerprint: "f".to_owned(),
    }
}

fn load(changes: &[&str]) -> RunConfig {
    let changes: Vec<_> = changes
        .iter()
        .map(|text| Assignment::parse(text).expect("well-formed"))
        .collect();
    config::load_text(BASE, "base", std::path::Path::new("/"), &changes, None)
        .expect("a good config")
        .config
}

fn resolve(changes: &[&str], machine: &Machine) -> Result<RunPlan, PlanError> {
    plan::resolve(&load(changes), machine, &data(65))
}

fn example_files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("readable")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    assert!(files.len() >= 3);
    files
}

fn examples() -> Result<(), Failed> {
    for file in example_files() {
        let config = config::load_file(&file, &[], None)?.config;
        for gpus in [0, 1, 2, 4, 8] {
            let plan = plan::resolve(&config, &machine(2, gpus), &data(256));
            plan.map_err(|error| format!("{} on {gpus} GPUs: {error}", file.display()))?;
        }
    }
    Ok(())
}

fn schema() -> Result<(), Failed> {
    let stored = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/assets/config.schema.json"
    ))?;
    let is_current = stored == config::json_schema();
    assert!(
        is_current,
        "refresh it: capstan schema > assets/config.schema.json"
    );
    let validator = jsonschema::validator_for(&serde_json::from_str(&stored)?)?;
    for file in example_files() {
        let example = serde_json::from_str(&fs::read_to_string(&file)?)?;
        validator
            .validate(&example)
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let mistyped = serde_json::from_str(&BASE.replace("\"global\"", "\"globl\""))?;
    assert!(
        !validator.is_valid(&mistyped),
        "an unknown key passes the schema"
    );
    Ok(())
}

fn bad_shapes() -> Result<(), Failed> {
    let bad = [
        (
            "an unknown model",
            BASE.replace("\"gpt\"", "\"gtp\""),
            ["gtp", "did you mean `gpt`?"],
        ),
        (
            "an unknown key",
            BASE.replace("\"global\"", "\"globl\""),
            ["batch", "did you mean `global`?"],
        ),
        (
            "an unknown preset",
            BASE.replace("gpt-nano", "gpt-nono"),
            ["model", "did you mean `gpt-nano`?"],
        ),
        (
            "a duplicate key",
            BASE.replace("\"global\": 8", "\"global\": 8, \"global\": 9"),
            ["duplicate", "line 2"],
        ),
        (
            "a mistyped value",
            BASE.replace("8 }", "\"8\" }"),
            ["batch.global", "line 2"],
        ),
        (
            "two stops",
            BASE.replace("\"steps\": 10", "\"steps\": 10, \"tokens\": 9"),
            ["stop", "line 2"],
        ),
        (
            "a missing part",
            BASE.replace("\"batch\": { \"global\": 8 },", ""),
            ["missing field", "batch"],
        ),
        (
            "trailing text",
            format!("{BASE} []"),
            ["trailing", "line 2"],
        ),
    ];
    for (what, text, parts) in bad {
        let refused = config::load_text(&text, "c.json", std::path::Path::new("/"), &[], None);
        let message = refused
            .err()
            .ok_or_else(|| format!("{what} passes"))?
            .to_string();
        for part in parts {
            assert!(
                message.contains(part),
                "{what}: {part:?} expected in: {message}"
            );
        }
    }
    Ok(())
}

fn bad_meanings() -> Result<(), Failed> {
    let two = "devices=[\"cpu\",\"cpu\"]";
    let bad: [(&[&str], u8, &[&str]); 18] = [
        (
            &["batch.global=9", two],
            2,
            &["batch.global", "not divisible by 2", "try 10"],
        ),
        (
            &["batch.micro=3", "devices=[\"cpu\"]"],
            2,
            &["batch.micro", "try 2"],
        ),
        (&["batch.global=0"], 2, &["batch.global", "is 0"]),
        (
            &["parallel.dp=4", two],
            2,
            &["parallel.dp", "4 ranks on 2", "try parallel.dp=2"],
        ),
        (
            &["parallel.dp=1", "parallel.primary=true", two],
            2,
            &["parallel.primary", "more than one rank"],
        ),
        (
            &["model.gpt.n_head=5"],
            2,
            &["model.gpt.n_head", "5 heads do not divide", "try 4"],
        ),
        (
            &["model.gpt.vocab_size=10"],
            2,
            &["model.gpt.vocab_size", "at least 65"],
        ),
        (
            &["model.gpt.dropout=1"],
            2,
            &["model.gpt.dropout", "[0, 1)"],
        ),
        (
            &["model.gpt={\"n_layer\":2}"],
            2,
            &["model.gpt.d_model", "preset"],
        ),
        (
            &["model.gpt.seq_len=20000"],
            2,
            &["data", "held-out text has 10000 tokens", "20001"],
        ),
        (&["optimizer.adamw.lr=-1"], 2, &["optimizer.adamw.lr"]),
        (
            &["optimizer.adamw.betas=[0.9,1.0]"],
            2,
            &["optimizer.adamw.betas"],
        ),
        (&["optimizer.adamw.clip=0"], 2, &["clip", "null"]),
        (
            &["schedule.cosine.min_lr=1"],
            2,
            &["schedule.cosine.min_lr", "between 0 and lr"],
        ),
        (&["eval.every=0"], 2, &["eval.every"]),
        (
            &["checkpoint.keep=1"],
            2,
            &["checkpoint.keep", "at least 2"],
        ),
        (
            &["devices=[1]"],
            4,
            &["devices", "GPU 1", "no NVIDIA driver"],
        ),
        (
            &["model.gpt.d_model=48000"],
            3,
            &["memory", "smaller model"],
        ),
    ];
    for (changes, code, parts) in bad {
        let refused = resolve(changes, &machine(2, 0))
            .err()
            .ok_or_else(|| format!("{changes:?} passes"))?;
        let message = refused.to_string();
        assert_eq!(refused.exit_code(), code, "{changes:?}: {message}");
        for part in parts {
            assert!(
                message.contains(part),
                "{changes:?}: {part:?} expected in: {message}"
            );
        }
    }
    Ok(())
}

fn all_problems() -> Result<(), Failed> {
    let changes = ["eval.every=0", "checkpoint.keep=0", "model.gpt.n_head=7"];
    let refused = resolve(&changes, &machine(2, 0)).expect_err("three problems");
    assert_eq!(refused.0.len(), 3, "{refused}");
    Ok(())
}

fn automatic() -> Result<(), Failed> {
    let on_cpu = resolve(&[], &machine(8, 0))?;
    assert_eq!(
        (on_cpu.world(), on_cpu.communicator, on_cpu.strategy),
        (2, Communicator::Local, Strategy::Ddp)
    );
    assert_eq!(on_cpu.ranks[0].threads, 4);
    let odd = resolve(&["batch.global=7"], &machine(8, 0))?;
    assert_eq!((odd.world(), odd.strategy), (1, Strategy::Single));
    let on_gpus = resolve(&[], &machine(8, 4))?;
    assert_eq!(
        (on_gpus.world(), on_gpus.communicator),
        (4, Communicator::Nccl)
    );
    assert!(on_gpus.bucket_bytes.is_some());
    let two_on_one = resolve(&["devices=[0,0]"], &machine(8, 1))?;
    assert_eq!(
        (two_on_one.world(), two_on_one.communicator),
        (2, Communicator::Local)
    );
    let spare = resolve(&["parallel.dp=2"], &machine(8, 4))?;
    assert_eq!(spare.world(), 2);
    assert!(
        spare
            .notes
            .iter()
            .any(|note| note.contains("2 of 4 devices")),
        "{:?}",
        spare.notes
    );
    assert_eq!(
        resolve(&["precision=bf16"], &machine(8, 2))?.peak_flops,
        Some(2.0 * 989.4e12)
    );
    assert_eq!(on_cpu.peak_flops, None, "no guess");
    let tokens = resolve(&["stop.tokens=10000"], &machine(2, 0))?;
    assert_eq!(tokens.total_steps(), Some(10_000u64.div_ceil(8 * 64)));
    Ok(())
}

/// `arch/gpt.rs` states what `models/gpt.rs` builds.
fn models_as_stated() -> Result<(), Failed> {
    let published = [
        (GptPreset::Gpt2, 124_439_808),
        (GptPreset::Gpt2Medium, 354_823_168),
        (GptPreset::Gpt2Large, 774_030_080),
        (GptPreset::Gpt2Xl, 1_557_611_200),
    ];
    for (preset, n_params) in published {
        assert_eq!(shape(preset, 50_257).n_params(), n_params, "{preset:?}");
    }
    let shape = shape(GptPreset::Micro, 65);
    let (stated, built) = (shape.segments(), models::build(&shape));
    let names: Vec<&str> = built.iter().map(|segment| segment.name()).collect();
    assert_eq!(
        stated
            .iter()
            .map(|segment| segment.name.as_str())
            .collect::<Vec<_>>(),
        names
    );
    let mut params: Vec<&str> = stated
        .iter()
        .flat_map(|s| &s.params)
        .map(|p| p.name.as_str())
        .collect();
    let n_params = params.len();
    params.sort_unstable();
    params.dedup();
    assert_eq!(params.len(), n_params, "parameter names are unique");
    Ok(())
}

fn shape(preset: GptPreset, vocab_size: usize) -> ModelShape {
    let sizes = preset.sizes();
    ModelShape::Gpt(capstan::arch::gpt::GptShape {
        n_layer: sizes.n_layer,
        n_head: sizes.n_head,
        d_model: sizes.d_model,
        seq_len: sizes.seq_len,
        vocab_size,
        bias: true,
        dropout: 0.0,
    })
}

/// Within the padding of views to 128 bytes.
fn memory() -> Result<(), Failed> {
    let shape = shape(GptPreset::Micro, 65);
    for optimizer in [
        "optimizer.adamw={}",
        "optimizer.sgd={}",
        "optimizer.sgd={\"momentum\":0.0}",
    ] {
        for precision in ["fp32", "bf16", "fp64"] {
            let config = load(&[optimizer, &format!("precision={precision}")]);
            let store = ParamStore::new(&shape.segments(), config.precision, 1, tch::Device::Cpu)?;
            let state: u64 = optim::new_state(&config.optimizer, &store)?
                .iter()
                .map(bytes)
                .sum();
            let planned = MemoryPlan::of(&shape, config.precision, &config.optimizer);
            let allocated = store.n_bytes() + state;
            let excess = allocated as f64 / planned.total() as f64 - 1.0;
            assert!(
                (0.0..0.01).contains(&excess),
                "{optimizer}, {precision}: {allocated} for {planned:?}"
            );
        }
    }
    Ok(())
}

fn bytes(tensor: &tch::Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}
