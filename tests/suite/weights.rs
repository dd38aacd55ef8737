//! Weights in and out: transformers' folders, every number format, every split, and the way back.

use std::{collections::BTreeMap, fs, path::Path};

use capstan::{
    arch::{ModelShape, gpt::GptShape},
    checkpoint,
    config::Precision,
    engine::{Ending, Passes, RankDevice, Stepper},
    event::Event,
    hw::Device,
    weights::{self, Source},
};
use half::{bf16, f16};
use libtest_mimic::{Failed, Trial};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::{
    in_process::{Bench, Setting, Told, apart},
    reference::LLAMA_SHAPE,
    support::{Workplace, check},
};

/// Of logits, as ‖a − b‖ by ‖b‖: fp32 rounding.
const LOGITS: f64 = 1e-5;
/// Splits in fp64; a mistake moves losses by 1e-4 and more.
pub const FP64: f64 = 1e-9;
pub const GPT: &str = r#"model={"gpt":{"n_layer":2,"n_head":4,"d_model":32,"seq_len":16}}"#;
const GPT_WITHOUT_BIASES: &str =
    r#"model={"gpt":{"n_layer":2,"n_head":4,"d_model":32,"seq_len":16,"bias":false}}"#;
pub const LLAMA: &str =
    r#"model={"llama":{"n_layer":2,"n_head":4,"n_kv_head":2,"d_model":32,"d_ff":48,"seq_len":16}}"#;
pub const LLAMA_TIED: &str = r#"model={"llama":{"n_layer":2,"n_head":4,"n_kv_head":2,"d_model":32,"d_ff":48,"seq_len":16,
    "rope_theta":500,"tie_embeddings":true,"rope_scaling":{"llama3":{"factor":4,"low_freq_factor":1,
    "high_freq_factor":4,"original_max_position":64}}}}"#;
const CPUS: &str = "devices=[\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\",\"cpu\"]";
const SPLITS: [&str; 8] = [
    "dp=1",
    "dp=2",
    "tp=2",
    "pp=2",
    "dp=2,zero=1",
    "dp=2,zero=3",
    "pp=2,schedule=interleaved,virtual_stages=2",
    "pp=2,tp=2,dp=2,zero=1,sequence_parallel=true",
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("weights::gpt2_of_transformers_has_its_logits", || {
            has_its_logits("hf-gpt2", &hf_gpt2())
        }),
        Trial::test("weights::llama_of_transformers_has_its_logits", || {
            has_its_logits("hf-llama", &hf_llama())
        }),
        Trial::test("weights::half_precision_is_read_to_the_bit", half_precision),
        Trial::test("weights::names_may_vary_as_they_do", names),
        Trial::test("weights::a_misplaced_tensor_is_seen", misplaced),
        Trial::test("weights::what_is_no_number_is_refused", not_finite),
        Trial::test("weights::bf16_runs_round_what_is_read", rounded),
        Trial::test("weights::a_run_is_exported_and_trained_on", export),
        Trial::test("weights::an_export_says_what_it_left_out", export_notes),
    ];
    for (name, model) in [
        ("gpt", GPT),
        ("gpt without biases", GPT_WITHOUT_BIASES),
        ("llama", LLAMA),
        ("llama, tied", LLAMA_TIED),
    ] {
        let name = format!("weights::an_export_starts_every_split, {name}");
        trials.push(Trial::test(name, move || round_trip(model)));
    }
    trials
}

/// As `tests/reference/hf.py` has them.
fn hf_gpt2() -> ModelShape {
    ModelShape::Gpt(GptShape {
        n_layer: 2,
        n_head: 2,
        d_model: 32,
        seq_len: 16,
        vocab_size: 37,
        bias: true,
        dropout: 0.0,
    })
}

fn hf_llama() -> ModelShape {
    ModelShape::Llama(LLAMA_SHAPE)
}

/// A folder of several parts with an index, and what transformers computes with it.
fn has_its_logits(name: &str, shape: &ModelShape) -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let source = Source::open(&folder.join(name)).map_err(|refused| format!("{refused:?}"))?;
    let pretrained = source
        .fit(shape)
        .map_err(|refused| format!("{refused:?}"))?;
    check(
        pretrained.summary().n_files > 1,
        "the folder has several parts",
    )?;
    let device = RankDevice::enter(Device::Cpu, 1)?;
    let stepper = Stepper::alone(shape, Precision::Fp32, 0, device)?;
    checkpoint::start_from(&pretrained, &stepper.store)?;
    let bytes = fs::read(folder.join(format!("{name}.safetensors")))?;
    let expected = SafeTensors::deserialize(&bytes)?;
    let tokens: Vec<i64> = expected
        .tensor("tokens")?
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&id| i64::from_le_bytes(id))
        .collect();
    let ours = Passes::alone(stepper)
        .logits(&tokens, None)?
        .ok_or("one rank has the head")?;
    let view = expected.tensor("logits")?;
    let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    let theirs = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?;
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    let off = norm(&(&ours - &theirs)) / norm(&theirs);
    check(off < LOGITS, format!("{off:e}"))
}

/// A run that is over, exported; its evaluation over the whole split.
pub fn exported(bench: &Bench, model: &str, folder: &Path) -> Result<f64, Failed> {
    let checkpoints = bench.path("checkpoints");
    let setting = Setting {
        checkpoints: Some(checkpoints.clone()),
        ..Setting::default()
    };
    let told = bench.run(&[model, CPUS], setting);
    weights::export(
        &bench.newest(&checkpoints),
        &weights::Origin::default(),
        folder,
        &|_| {},
    )?;
    Ok(told.final_eval())
}

/// One step from the weights at `from`, with an evaluation of the whole split before it.
pub fn started(bench: &Bench, model: &str, from: &Path, layout: &str, more: &[&str]) -> Told {
    let init = format!("init.pretrained={}", from.display());
    let changes = [
        &[
            model,
            CPUS,
            &init,
            "stop.steps=1",
            "seed=5",
            "eval.at_start=true",
            "eval.batches=1000",
        ],
        more,
    ]
    .concat();
    bench.run_layout(layout, &changes, Setting::default())
}

pub fn first_eval(told: &Told) -> f64 {
    let eval = told.events.iter().find_map(|event| match event {
        Event::Eval { step: 0, loss, .. } => Some(*loss),
        _ => None,
    });
    eval.expect("an evaluation before the first step")
}

/// Trained, exported, and the start of other runs: the same evaluation, and one step under every split.
fn round_trip(model: &str) -> Result<(), Failed> {
    let bench = Bench::new();
    let folder = bench.path("exported");
    let evaluated = exported(&bench, model, &folder)?;
    let mut first: Option<(Vec<f64>, Vec<f64>)> = None;
    for layout in SPLITS {
        let told = started(&bench, model, &folder, layout, &[]);
        let off = apart(&[first_eval(&told)], &[evaluated]);
        check(
            off < FP64,
            format!("{layout}: the evaluation is off by {off:e}"),
        )?;
        let (losses, norms) = (told.losses(), told.grad_norms());
        let (one, one_norms) = first.get_or_insert_with(|| (losses.clone(), norms.clone()));
        let off = apart(&losses, one).max(apart(&norms, one_norms));
        check(off < FP64, format!("{layout}: step 1 is off by {off:e}"))?;
    }
    Ok(())
}

/// Tensors of a file by name.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub fn read(path: &Path) -> Result<Tensors, Failed> {
    let bytes = fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let parts = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name, parts)
    });
    Ok(tensors.collect())
}

pub fn write(path: &Path, tensors: &Tensors) -> Result<(), Failed> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        Ok((name, TensorView::new(*dtype, shape.clone(), data)?))
    });
    let views = views.collect::<Result<Vec<_>, Failed>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}

/// An exported folder's only weights, and a bench to train on.
fn an_export() -> Result<(Bench, Tensors), Failed> {
    let bench = Bench::new();
    let folder = bench.path("exported");
    exported(&bench, GPT, &folder)?;
    let tensors = read(&folder.join("model.safetensors"))?;
    Ok((bench, tensors))
}

/// The numbers of an fp64 tensor, each made anew.
fn changed(data: &[u8], dtype: Dtype, change: impl Fn(f64) -> Vec<u8>) -> (Dtype, Vec<u8>) {
    let values = data
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f64::from_le_bytes(bytes));
    (dtype, values.flat_map(change).collect())
}

/// F16 and BF16 files start a run as an F64 file of the same rounded values does.
fn half_precision() -> Result<(), Failed> {
    type Round = fn(f64) -> (Vec<u8>, f64);
    let f16: Round = |x| {
        (
            f16::from_f64(x).to_le_bytes().to_vec(),
            f16::from_f64(x).to_f64(),
        )
    };
    let bf16: Round = |x| {
        (
            bf16::from_f64(x).to_le_bytes().to_vec(),
            bf16::from_f64(x).to_f64(),
        )
    };
    let (bench, tensors) = an_export()?;
    for (dtype, round) in [(Dtype::F16, f16), (Dtype::BF16, bf16)] {
        let made = |dtype, change: &dyn Fn(f64) -> Vec<u8>| -> Tensors {
            let change = |(name, (_, shape, data)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
                let (dtype, data) = changed(data, dtype, change);
                (name.clone(), (dtype, shape.clone(), data))
            };
            tensors.iter().map(change).collect()
        };
        let paths =
            ["half", "whole"].map(|name| bench.path(&format!("{name}-{dtype:?}.safetensors")));
        write(&paths[0], &made(dtype, &|x| round(x).0))?;
        write(
            &paths[1],
            &made(Dtype::F64, &|x| round(x).1.to_le_bytes().to_vec()),
        )?;
        let [half, whole] = paths.map(|path| started(&bench, GPT, &path, "dp=1", &[]).losses());
        check(half == whole, format!("{dtype:?}: {half:?}, {whole:?}"))?;
    }
    Ok(())
}

/// With and without the prefix, with constants, with a head that says the same twice, in parts.
fn names() -> Result<(), Failed> {
    let (bench, tensors) = an_export()?;
    let folder = bench.path("named");
    fs::create_dir(&folder)?;
    let mut named: Tensors = tensors
        .iter()
        .map(|(name, tensor)| (name.replace("transformer.", ""), tensor.clone()))
        .collect();
    for constant in ["h.0.attn.bias", "h.1.attn.bias", "h.0.attn.masked_bias"] {
        named.insert(
            constant.to_owned(),
            (Dtype::U8, vec![1, 1, 2, 2], vec![1, 0, 1, 1]),
        );
    }
    named.insert("lm_head.weight".to_owned(), named["wte.weight"].clone());
    let (first, second): (Tensors, Tensors) = named
        .into_iter()
        .partition(|(name, _)| name.starts_with("h.0"));
    let mut weight_map = BTreeMap::new();
    for (part, tensors) in [
        ("model-00001-of-00002.safetensors", first),
        ("model-00002-of-00002.safetensors", second),
    ] {
        write(&folder.join(part), &tensors)?;
        weight_map.extend(tensors.into_keys().map(|name| (name, part)));
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": weight_map });
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )?;
    let plain = started(&bench, GPT, &bench.path("exported"), "dp=1", &[]).losses();
    let varied = started(&bench, GPT, &folder, "dp=1", &[]).losses();
    check(plain == varied, format!("{plain:?}, {varied:?}"))
}

/// The comparison of [`round_trip`] sees two layers in each other's place.
fn misplaced() -> Result<(), Failed> {
    let (bench, mut tensors) = an_export()?;
    let names = [0, 1].map(|layer| format!("transformer.h.{layer}.mlp.c_fc.weight"));
    let [a, b] = names.clone().map(|name| tensors[&name].clone());
    tensors.extend(names.into_iter().zip([b, a]));
    let path = bench.path("swapped.safetensors");
    write(&path, &tensors)?;
    let right = first_eval(&started(&bench, GPT, &bench.path("exported"), "dp=1", &[]));
    let wrong = first_eval(&started(&bench, GPT, &path, "dp=1", &[]));
    let off = apart(&[wrong], &[right]);
    check(off > 1e3 * FP64, format!("{off:e}"))
}

/// A value that is no number is refused before the first step, with its tensor.
fn not_finite() -> Result<(), Failed> {
    let (bench, mut tensors) = an_export()?;
    let name = "transformer.h.1.ln_2.weight";
    let (_, _, data) = tensors.get_mut(name).ok_or("exported")?;
    let last = data.len() - 8;
    data[last..].copy_from_slice(&f64::NAN.to_le_bytes());
    let path = bench.path("nan.safetensors");
    write(&path, &tensors)?;
    for layout in ["dp=1", "tp=2"] {
        let told = started(&bench, GPT, &path, layout, &[]);
        let Ending::Faulted(fault) = &told.ending else {
            return Err(format!("{layout}: {:?}", told.ending).into());
        };
        check(
            fault.step == 0
                && !fault.retry
                && *fault.cause == *"h.1.ln_2.weight holds NaN or infinity",
            format!("{layout}: {fault:?}"),
        )?;
    }
    Ok(())
}

/// bf16 training computes with rounded weights and keeps whole ones, under a cut copy too.
fn rounded() -> Result<(), Failed> {
    let (bench, _) = an_export()?;
    let from = bench.path("exported");
    let start = |layout, precision: &str| {
        let precision = format!("precision={precision}");
        started(&bench, GPT, &from, layout, &[&precision]).losses()
    };
    let exact = start("dp=1", "fp32");
    for layout in ["dp=1", "dp=2,zero=3", "tp=2"] {
        let off = apart(&start(layout, "bf16"), &exact);
        check(off < 2e-3, format!("{layout}: {off:e}"))?;
    }
    Ok(())
}

/// The commands: train, export, train on.
fn export() -> Result<(), Failed> {
    let place = Workplace::real()?;
    place.train(&["--plain"])?.ended_with(0)?;
    let folder = place.config.with_file_name("exported");
    let target = folder.display().to_string();
    // Of an export that was killed: no process has this number.
    let left = folder.with_file_name(".tmp-exported-4194305");
    fs::create_dir(&left)?;
    let said = place.capstan(&["export", "tiny", &target])?.ended_with(0)?;
    check(!left.exists(), "what a killed export left is gone")?;
    said.says(&[
        "exported tiny after step 4 to ",
        "40 tensors of F32",
        "GPT2LMHeadModel",
        "tokenizer.json",
    ])?;
    let sizes: Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    check(
        sizes["model_type"] == "gpt2" && sizes["n_positions"] == 64 && sizes["vocab_size"] == 256,
        sizes.to_string(),
    )?;
    let again = place.capstan(&["export", "tiny", &target])?.ended_with(2)?;
    again.says(&["exists and is not an empty folder; give another one"])?;

    let empty = place.config.with_file_name("empty");
    fs::create_dir(&empty)?;
    let target = empty.display().to_string();
    let answer = place
        .capstan(&["export", "tiny", &target, "--json"])?
        .ended_with(0)?
        .json()?;
    check(
        answer["schema"] == 1 && answer["step"] == 4 && answer["tensors"] == 40,
        answer.to_string(),
    )?;
    check(
        answer["files"].as_array().map(Vec::len) == Some(4),
        answer.to_string(),
    )?;
    let left: Vec<_> = fs::read_dir(place.runs().with_file_name("."))?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    check(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".tmp-")),
        format!("{left:?}"),
    )?;
    place.capstan(&["export", "nobody", "x"])?.ended_with(2)?;

    train_on(&place)
}

/// A run from the exported folder starts where the exported run ended, and resumes from its own checkpoint.
fn train_on(place: &Workplace) -> Result<(), Failed> {
    let init = [
        "--set",
        "init.pretrained=exported",
        "--set",
        "eval.at_start=true",
        "--set",
        "eval.batches=1000",
    ];
    let config = place.config.clone();
    let mut command = place.command(&[
        "train",
        &config.display().to_string(),
        "--name",
        "on",
        "--plain",
    ]);
    let output = command
        .args(init)
        .current_dir(config.parent().unwrap_or(&config))
        .output()?;
    crate::support::Said::from(output)
        .ended_with(0)?
        .says(&["weights  40 tensors from ", "exported: 1 file, F32"])?;
    let loss = |name: &str, which: usize| {
        place
            .events_named(name, "eval")
            .get(which)
            .and_then(|eval| eval["loss"].as_f64())
    };
    let (before, after) = (loss("tiny", 0).unwrap_or(0.0), loss("on", 0).unwrap_or(1.0));
    check(
        apart(&[after], &[before]) < 1e-6,
        format!("{before} exported, {after} found"),
    )?;
    let resumed = place
        .capstan(&["resume", "on", "--set", "stop.steps=8", "--plain"])?
        .ended_with(0)?;
    resumed.says(&["step 8/8"])?;
    Ok(())
}

/// A run on ids, without biases, whose newest checkpoint is damaged.
fn export_notes() -> Result<(), Failed> {
    let place = Workplace::real()?;
    let ids: Vec<u8> = (0..4000u16).flat_map(|i| (i % 65).to_le_bytes()).collect();
    fs::write(place.config.with_file_name("train.bin"), ids)?;
    place.write_config(json!({
        "data": { "tokens": { "train": "train.bin", "vocab_size": 65 } },
        "model": { "gpt": { "preset": "gpt-nano", "bias": false } },
        "checkpoint": { "every": 2 },
    }))?;
    place.train(&["--plain"])?.ended_with(0)?;
    let newest = place
        .run("tiny")
        .join("checkpoints/step-00000004/model.safetensors");
    let whole = fs::read(&newest)?;
    fs::write(&newest, &whole[..whole.len() - 1])?;
    let folder = place.config.with_file_name("exported");
    let said = place
        .capstan(&["export", "tiny", &folder.display().to_string()])?
        .ended_with(0)?;
    said.says(&[
        "exported tiny after step 2",
        "note: passed over a checkpoint: ",
        "note: no tokenizer is written: the run trained on token ids, and its config names no tokenizer",
        "note: the model has no biases, GPT2LMHeadModel always has them: 19 are written as zeros",
    ])?;
    check(!folder.join("tokenizer.json").exists(), "no tokenizer")?;
    fs::remove_dir_all(place.run("tiny").join("checkpoints"))?;
    let said = place.capstan(&["export", "tiny", "other"])?.ended_with(2)?;
    said.says(&["tiny has no checkpoint yet"])?;
    Ok(())
}
