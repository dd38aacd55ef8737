//! Every example config runs somewhere; every kind of bad one is refused with what, where and what to try.
//!
//! `tests/fixtures/configs/bad/x.txt` says how `x.json` is refused. Its first line is where: `text` (no JSON, or
//! JSON that a schema can't fault), `shape`, or `exit CODE` (by the plan). The others stand in the message.

use std::{
    fs,
    path::{Path, PathBuf},
};

use capstan::{
    config::{
        self, Assignment, ConfigError, DataConfig, DevicesConfig, PipelineSchedule, RunConfig,
        TokenizerConfig,
    },
    data,
    hw::{Gpu, Machine},
    plan::{self, Communicator, DataSummary, PlanError, RunPlan, Strategy},
};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

/// What `automatic` choices are made for; it names no device, degree or thread.
const MINIMAL: &str = "tests/fixtures/configs/good/minimal.json";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("configs::every_example_makes_a_plan", examples),
        Trial::test("configs::every_example_takes_real_text", examples_on_text),
        Trial::test("configs::every_split_has_an_example", every_split),
        Trial::test("configs::good_fixtures_make_a_plan", good_fixtures),
        Trial::test("configs::bad_fixtures_are_refused_as_stated", bad_fixtures),
        Trial::test("configs::the_schema_is_current", schema_is_current),
        Trial::test("configs::the_schema_tells_good_from_bad", schema_tells),
        Trial::test("configs::automatic_ranks_follow_the_machine", ranks),
        Trial::test("configs::communicators_follow_the_devices", communicators),
        Trial::test("configs::spare_devices_are_noted", spare_devices),
        Trial::test("configs::what_has_no_effect_is_noted", without_effect),
        Trial::test("configs::threads_share_the_cores", threads),
        Trial::test("configs::what_a_gpu_lacks_is_refused", gpus_that_lack),
        Trial::test("configs::stops_become_steps", stops),
        Trial::test("configs::peaks_are_known_or_absent", peaks),
        Trial::test("configs::batches_divide_as_planned", batches),
    ]
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn machine(cores: usize, n_gpus: usize) -> Machine {
    let gpu = |index| Gpu {
        uuid: format!("GPU-{index}"),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 80 << 30,
        compute_capability: [9, 0],
        driver: "580.82".to_owned(),
        used_bytes: None,
        nvml_index: Some(index),
    };
    let no_gpus_because = (n_gpus == 0).then(|| "no NVIDIA driver is loaded".to_owned());
    Machine {
        cores,
        memory_bytes: 16 << 30,
        shm_bytes: None,
        gpus: (0..n_gpus).map(gpu).collect(),
        left_out: Vec::new(),
        links: Vec::new(),
        no_gpus_because,
    }
}

fn data(vocab_size: usize) -> DataSummary {
    DataSummary {
        train_tokens: 100_000,
        val_tokens: 10_000,
        vocab_size,
        fingerprint: "f".to_owned(),
        files: Vec::new(),
    }
}

fn resolve(changes: &[&str], machine: &Machine) -> Result<RunPlan, PlanError> {
    let changes: Vec<_> = changes
        .iter()
        .map(|text| Assignment::parse(text).expect("well-formed"))
        .collect();
    let loaded = config::load_file(&root().join(MINIMAL), &changes, None).expect("a good config");
    plan::resolve(&loaded.config, machine, &data(65))
}

/// The JSON files of a folder, at least `least` of them.
fn json_files(folder: &str, least: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder))
        .expect("readable")
        .flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    assert!(files.len() >= least, "{folder} holds {}", files.len());
    files
}

fn load(file: &Path) -> Result<RunConfig, ConfigError> {
    Ok(config::load_file(file, &[], None)?.config)
}

/// Every example: `configs` itself, and its folders.
fn all_examples() -> Vec<PathBuf> {
    [
        ("configs", 4),
        ("configs/splits", 10),
        ("configs/workstation", 6),
    ]
    .into_iter()
    .flat_map(|(folder, least)| json_files(folder, least))
    .collect()
}

fn examples() -> Result<(), Failed> {
    for file in all_examples() {
        let config = load(&file)?;
        let is_auto = config.devices == DevicesConfig::Auto;
        let ranks = config.parallel.map(|split| split.dp * split.tp * split.pp);
        let is_for_gpus = file
            .parent()
            .is_some_and(|folder| folder.ends_with("workstation"));
        for (cores, n_gpus) in [(1, 0), (2, 0), (8, 1), (8, 2), (16, 4), (64, 8)] {
            if is_for_gpus && n_gpus < ranks.unwrap_or(1) {
                continue;
            }
            let plan = plan::resolve(&config, &machine(cores, n_gpus), &data(256))
                .map_err(|error| format!("{} on {n_gpus} GPUs: {error}", file.display()))?;
            if is_auto && n_gpus > 0 {
                let world = ranks.unwrap_or(n_gpus);
                assert_eq!(plan.world(), world, "{}", file.display());
            }
        }
    }
    Ok(())
}

/// The examples' texts are not here: others stand in for them.
fn examples_on_text() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let stand_in = |name: &str, bytes: Vec<u8>| -> Result<PathBuf, Failed> {
        let path = folder.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let words = (0..120_000u64).map(|i| format!("w{}", i * i % 7919 % 1231));
    let text = words.collect::<Vec<_>>().join(" ");
    let line = serde_json::json!({ "text": text }).to_string();
    let ids = (0..120_000u32).map(|i| (i * 31 % 50_257) as u16);
    let ids: Vec<u8> = ids.flat_map(u16::to_le_bytes).collect();
    let text = stand_in("input.txt", text.into_bytes())?;
    let lines = stand_in("input.jsonl", line.into_bytes())?;
    let ids = stand_in("ids.bin", ids)?;
    for file in all_examples() {
        let mut config = load(&file)?;
        match &mut config.data {
            DataConfig::Text(config) => config.path.clone_from(&text),
            DataConfig::Builtin(_) => {}
            DataConfig::Jsonl(config) => {
                config.path.clone_from(&lines);
                config.tokenizer = TokenizerConfig::Bytes;
                // Of a text this small a share as of a corpus is no window.
                config.val_fraction = config.val_fraction.max(0.1);
            }
            DataConfig::Tokens(config) => {
                config.train.clone_from(&ids);
                config.val = Some(ids.clone());
            }
        }
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let data = data::prepare(&config.data, &folder.path().join("cache"), &|_| ())
            .map_err(|error| fail(&error))?;
        plan::resolve(&config, &machine(64, 8), &DataSummary::from(&data))
            .map_err(|error| fail(&error))?;
    }
    Ok(())
}

/// What a plan calls its split, schedule and recomputation, over `configs/splits`.
fn every_split() -> Result<(), Failed> {
    let mut seen = Vec::new();
    for file in json_files("configs/splits", 10) {
        let plan = plan::resolve(&load(&file)?, &machine(2, 0), &data(256))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        assert!(plan.total_steps().is_some_and(|steps| steps <= 100));
        let split = &plan.split;
        seen.push(format!("{:?}", split.data));
        seen.extend((split.mesh.tp > 1).then(|| format!("tensor {}", split.sequence_parallel)));
        seen.extend((split.mesh.pp > 1).then(|| format!("{:?}", split.schedule)));
        seen.push(format!("recompute {:?}", split.recompute));
    }
    for wanted in [
        Strategy::Single,
        Strategy::Ddp,
        Strategy::Primary,
        Strategy::Zero1,
        Strategy::Zero2,
        Strategy::Zero3,
    ] {
        assert!(seen.contains(&format!("{wanted:?}")), "{wanted:?}");
    }
    for wanted in [
        PipelineSchedule::Gpipe,
        PipelineSchedule::OneForwardOneBackward,
        PipelineSchedule::Interleaved,
    ] {
        assert!(seen.contains(&format!("{wanted:?}")), "{wanted:?}");
    }
    for wanted in [
        "tensor false",
        "tensor true",
        "recompute Full",
        "recompute Selective",
    ] {
        assert!(seen.iter().any(|seen| seen == wanted), "{wanted}");
    }
    Ok(())
}

fn good_fixtures() -> Result<(), Failed> {
    for file in json_files("tests/fixtures/configs/good", 10) {
        let config = load(&file)?;
        plan::resolve(&config, &machine(2, 1), &data(65))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let written = serde_json::to_string(&config)?;
        let again = config::load_text(&written, "again", Path::new("/"), &[], None)?.config;
        assert_eq!(
            again,
            config,
            "a run's copy says the same: {}",
            file.display()
        );
    }
    Ok(())
}

/// How a bad fixture is to be refused.
struct Expected {
    stage: String,
    parts: Vec<String>,
}

fn expected(file: &Path) -> Expected {
    let text = fs::read_to_string(file.with_extension("txt")).expect("what to expect");
    let mut lines = text.lines().map(str::to_owned);
    Expected {
        stage: lines.next().unwrap_or_default(),
        parts: lines.collect(),
    }
}

fn bad_fixtures() -> Result<(), Failed> {
    let files = json_files("tests/fixtures/configs/bad", 40);
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|file| refused_otherwise(file))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// What is wrong with the refusal of a bad fixture.
fn refused_otherwise(file: &Path) -> Option<String> {
    let name = file.file_stem().unwrap_or_default().display();
    let Expected { stage, parts } = expected(file);
    let (by, message) = match load(file) {
        Err(ConfigError::Shape { origin, message }) => {
            assert_eq!(Path::new(&origin), file, "a shape's message names the file");
            let by = if stage == "text" { "text" } else { "shape" };
            (by.to_owned(), message)
        }
        Err(other) => return Some(format!("{name}: {other}")),
        Ok(config) => match plan::resolve(&config, &machine(2, 0), &data(65)) {
            Ok(_) => return Some(format!("{name}: passes")),
            Err(error) => (format!("exit {}", error.exit_code()), error.to_string()),
        },
    };
    let missing: Vec<_> = parts
        .iter()
        .filter(|part| !message.contains(*part))
        .collect();
    let is_right = by == stage && missing.is_empty() && !parts.is_empty();
    (!is_right).then(|| format!("{name}: {by}, without {missing:?}: {message}"))
}

fn schema() -> Result<Value, Failed> {
    let stored = fs::read_to_string(root().join("assets/config.schema.json"))?;
    Ok(serde_json::from_str(&stored)?)
}

fn schema_is_current() -> Result<(), Failed> {
    let stored = fs::read_to_string(root().join("assets/config.schema.json"))?;
    let is_current = stored == config::json_schema();
    assert!(
        is_current,
        "refresh it: capstan schema > assets/config.schema.json"
    );
    jsonschema::meta::validate(&schema()?).map_err(|error| error.to_string())?;
    Ok(())
}

fn schema_tells() -> Result<(), Failed> {
    let validator = jsonschema::validator_for(&schema()?)?;
    let good = json_files("tests/fixtures/configs/good", 10);
    for file in good.iter().chain(&all_examples()) {
        let config = serde_json::from_str(&fs::read_to_string(file)?)?;
        validator
            .validate(&config)
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    for file in json_files("tests/fixtures/configs/bad", 40) {
        let stage = expected(&file).stage;
        let Ok(config) = serde_json::from_str(&fs::read_to_string(&file)?) else {
            assert_eq!(stage, "text", "{}", file.display());
            continue;
        };
        assert_eq!(
            validator.is_valid(&config),
            stage != "shape",
            "{}, refused by its {stage}",
            file.display()
        );
    }
    Ok(())
}

fn ranks() -> Result<(), Failed> {
    let on_cpu = resolve(&[], &machine(8, 0))?;
    assert_eq!((on_cpu.world(), on_cpu.split.data), (2, Strategy::Ddp));
    assert_eq!(resolve(&[], &machine(1, 0))?.world(), 1, "one core");
    let odd = resolve(&["batch.global=7"], &machine(8, 0))?;
    assert_eq!((odd.world(), odd.split.data), (1, Strategy::Single));
    assert_eq!(resolve(&["parallel.dp=4"], &machine(8, 0))?.world(), 4);
    for n_gpus in [1, 2, 4, 8] {
        assert_eq!(resolve(&[], &machine(8, n_gpus))?.world(), n_gpus);
    }
    let refused = resolve(&["parallel.dp=3"], &machine(8, 2)).expect_err("two GPUs");
    assert!(
        refused.to_string().contains("3 ranks on 2 device(s)"),
        "{refused}"
    );
    let on_cpu = resolve(&["precision=fp64"], &machine(8, 2))?;
    assert!(
        on_cpu
            .ranks
            .iter()
            .all(|rank| rank.device == capstan::hw::Device::Cpu)
    );
    Ok(())
}

fn communicators() -> Result<(), Failed> {
    let one_cpu = "devices=[\"cpu\"]";
    let two_cpus = "devices=[\"cpu\",\"cpu\"]";
    let (one, all) = ("ranks_per_worker=one", "ranks_per_worker=all");
    for (changes, communicator, n_workers) in [
        (vec![one_cpu, one], Communicator::Solo, 1),
        (vec![two_cpus], Communicator::Local, 1),
        (vec![two_cpus, one], Communicator::Host, 2),
        (vec!["devices=[3]"], Communicator::Solo, 1),
        (vec!["devices=\"auto\""], Communicator::Nccl, 4),
        (vec!["devices=[2,0]", one], Communicator::Nccl, 2),
        (vec!["devices=[2,0]", all], Communicator::Nccl, 1),
        (vec!["devices=[0,0]"], Communicator::Local, 1),
        (vec!["devices=[0,0,1,1]", all], Communicator::Local, 1),
    ] {
        let plan = resolve(&changes, &machine(8, 4))?;
        let resolved = (plan.communicator, plan.n_workers);
        assert_eq!(resolved, (communicator, n_workers), "{changes:?}");
        let on_gpus = !changes[0].contains("cpu");
        assert_eq!(plan.bucket_bytes.is_some(), on_gpus, "{changes:?}");
    }
    let shared = resolve(&["devices=[0,0]", one], &machine(8, 4));
    let problem = shared.expect_err("ranks that share a GPU share a worker");
    assert!(problem.to_string().contains("share a GPU"), "{problem}");
    Ok(())
}

fn spare_devices() -> Result<(), Failed> {
    let spare = resolve(&["parallel.dp=2"], &machine(8, 4))?;
    assert_eq!((spare.world(), spare.communicator), (2, Communicator::Nccl));
    let told = |plan: &RunPlan| {
        plan.notes
            .iter()
            .filter(|note| note.contains("unused"))
            .count()
    };
    assert_eq!(spare.notes, ["2 of 4 devices stay unused"]);
    assert_eq!(told(&resolve(&["parallel.dp=4"], &machine(8, 4))?), 0);
    let mut mixed = machine(8, 2);
    mixed.gpus[0].compute_capability = [6, 1];
    let plan = resolve(&[], &mixed)?;
    assert_eq!(plan.ranks.len(), 1, "{:?}", plan.ranks);
    assert_eq!(plan.ranks[0].device, capstan::hw::Device::Cuda(1));
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("older than sm_75"))
    );
    Ok(())
}

fn without_effect() -> Result<(), Failed> {
    let on_gpus = machine(8, 2);
    for (changes, machine, note) in [
        (
            &["model.gpt.n_layer=4", "model.gpt.seq_len=32"][..],
            &machine(2, 0),
            "preset gpt-nano gives n_layer 3, the config says 4; seq_len 64, the config says 32",
        ),
        (
            &["model.llama={\"preset\":\"llama-nano\",\"d_ff\":64,\"seq_len\":32}"],
            &machine(2, 0),
            "preset llama-nano gives d_ff 128, the config says 64; the config counts",
        ),
        (
            &["schedule.cosine.warmup=10"],
            &machine(2, 0),
            "schedule.cosine.warmup: 10 steps in a run of 10",
        ),
        (
            &["schedule.wsd.decay=11"],
            &machine(2, 0),
            "schedule.wsd.decay: 11 steps in a run of 10",
        ),
        (
            &["schedule.wsd.warmup=5", "schedule.wsd.decay=6"],
            &machine(2, 0),
            "schedule.wsd: 5 steps of warm-up and 6 of decay in a run of 10",
        ),
        (
            &["threads_per_rank=2"],
            &on_gpus,
            "threads_per_rank has no effect",
        ),
    ] {
        let notes = resolve(changes, machine)?.notes;
        assert!(
            notes.len() == 1 && notes[0].starts_with(note),
            "{changes:?}: {notes:?}"
        );
    }
    for (changes, machine) in [
        (&["model.gpt.n_layer=3"][..], &machine(2, 0)),
        (&["schedule.cosine.warmup=9"], &machine(2, 0)),
        (
            &["schedule.wsd.warmup=4", "schedule.wsd.decay=6"],
            &machine(2, 0),
        ),
        (
            &["schedule.constant.warmup=99", "stop.seconds=1"],
            &machine(2, 0),
        ),
        (&["threads_per_rank=2"], &machine(8, 0)),
    ] {
        let notes = resolve(changes, machine)?.notes;
        assert!(notes.is_empty(), "{changes:?}: {notes:?}");
    }
    Ok(())
}

fn threads() -> Result<(), Failed> {
    let of = |changes: &[&str], cores| -> Result<usize, Failed> {
        let plan = resolve(changes, &machine(cores, 0))?;
        assert!(plan.ranks.iter().all(|rank| *rank == plan.ranks[0]));
        assert_eq!(plan.ranks[0].threads % plan.ranks[0].lanes, 0);
        Ok(plan.ranks[0].threads)
    };
    assert_eq!(of(&[], 8)?, 4);
    assert_eq!(of(&[], 1)?, 1);
    assert_eq!(of(&["parallel.dp=4"], 2)?, 1, "never none");
    assert_eq!(of(&["threads_per_rank=3"], 8)?, 3);
    Ok(())
}

fn gpus_that_lack() -> Result<(), Failed> {
    let missing = resolve(&["devices=[0,4]"], &machine(8, 4)).expect_err("four GPUs");
    assert_eq!(missing.exit_code(), 4);
    assert!(
        missing.to_string().contains("names GPU 4 of 4"),
        "{missing}"
    );
    let mut small = machine(8, 2);
    small.gpus[1].memory_bytes = 1 << 20;
    let full = resolve(&[], &small).expect_err("a GPU of one MiB");
    assert_eq!((full.0.len(), full.exit_code()), (1, 3), "{full}");
    assert!(full.to_string().contains("GPU 1's 1.0 MiB"), "{full}");
    let both = resolve(&["batch.global=7"], &small).expect_err("two problems");
    assert_eq!((both.0.len(), both.exit_code()), (2, 2), "{both}");
    let fp64 = resolve(&["precision=fp64", "devices=[0]"], &machine(8, 1)).expect_err("on a GPU");
    assert!(
        fp64.to_string()
            .contains("precision: fp64 is for CPU ranks"),
        "{fp64}"
    );
    Ok(())
}

fn stops() -> Result<(), Failed> {
    let steps = |stop: &str| -> Result<Option<u64>, Failed> {
        Ok(resolve(&[stop], &machine(2, 0))?.total_steps())
    };
    let per_step = 8 * 64;
    assert_eq!(steps("stop.steps=7")?, Some(7));
    assert_eq!(
        steps("stop.tokens=10000")?,
        Some(10_000u64.div_ceil(per_step))
    );
    assert_eq!(
        steps("stop.epochs=2")?,
        Some((2 * 99_999u64.div_ceil(64)).div_ceil(8))
    );
    assert_eq!(steps("stop.seconds=1.5")?, None);
    Ok(())
}

fn peaks() -> Result<(), Failed> {
    let peak = |changes: &[&str], machine: &Machine| -> Result<Option<f64>, Failed> {
        Ok(resolve(changes, machine)?.peak_flops)
    };
    assert_eq!(
        peak(&["precision=bf16"], &machine(8, 2))?,
        Some(2.0 * 989.4e12)
    );
    assert_eq!(peak(&["precision=fp32"], &machine(8, 2))?, None);
    assert_eq!(peak(&["precision=bf16"], &machine(8, 0))?, None);
    let mut unknown = machine(8, 2);
    unknown.gpus[1].name = "GeForce GT 710".to_owned();
    assert_eq!(peak(&["precision=bf16"], &unknown)?, None, "no guess");
    let shared = peak(&["precision=bf16", "devices=[0,0]"], &machine(8, 1))?;
    assert_eq!(shared, Some(989.4e12), "two ranks share one GPU's");
    Ok(())
}

fn batches() -> Result<(), Failed> {
    let changes = ["batch.global=24", "batch.micro=3", "parallel.dp=2"];
    let plan = resolve(&changes, &machine(2, 0))?;
    let sizes = (plan.global_batch, plan.local_batch, plan.micro_batch);
    assert_eq!((sizes, plan.grad_accum_steps), ((24, 12, 3), 4));
    Ok(())
}
