//! The same numbers as PyTorch 2.11 (promise P7) and Hugging Face's transformers on it. `tests/reference/*.py`
//! made them.

use std::{path::Path, sync::Arc};

use capstan::{
    arch::{ModelShape, gpt::GptShape, llama::LlamaShape},
    config::{AdamwConfig, Llama3Scaling, OptimizerConfig, Precision},
    data::{HostBatch, StepBatch},
    engine::{Passes, RankDevice, StepClock, Stepper},
    hw::Device,
    nn::ParamStore,
    optim::{self, Optimizer},
};
use libtest_mimic::{Failed, Trial};
use safetensors::SafeTensors;
use tch::{Kind, Tensor};

const LOSS: f64 = 1e-6;
const GRADIENT: f64 = 1e-5;
/// Weights after several updates: an element whose gradient is near zero moves by rounding.
const WEIGHTS_AFTER: f64 = 1e-5;
const ADAMW: AdamwConfig = AdamwConfig {
    lr: 1e-3,
    betas: [0.9, 0.99],
    eps: 1e-8,
    weight_decay: 0.1,
    clip: Some(1.0),
};
/// Stored numbers, and the model that they are of.
struct Reference {
    /// `FILE.safetensors` and `FILE.json`.
    file: &'static str,
    /// What the names of the last weights begin with.
    after: &'static str,
    shape: ModelShape,
}

const GPT: &Reference = &Reference {
    file: "gpt-tiny",
    after: "after10",
    shape: ModelShape::Gpt(GptShape {
        n_layer: 2,
        n_head: 2,
        d_model: 32,
        seq_len: 16,
        vocab_size: 37,
        bias: true,
        dropout: 0.0,
    }),
};
const LLAMA: &Reference = &Reference {
    file: "llama-tiny",
    after: "after",
    shape: ModelShape::Llama(LLAMA_SHAPE),
};
/// Of `llama-tiny`, as transformers saved it.
pub const LLAMA_SHAPE: LlamaShape = LlamaShape {
    n_layer: 2,
    n_head: 4,
    n_kv_head: 2,
    d_model: 32,
    d_ff: 48,
    seq_len: 24,
    vocab_size: 37,
    rope_theta: 500.0,
    rope_scaling: Some(Llama3Scaling {
        factor: 4.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 64,
    }),
    tie_embeddings: false,
    norm_eps: 1e-5,
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "reference::gpt_forward_gradients_and_ten_steps_equal_pytorch",
            || equals_pytorch(GPT, None),
        ),
        Trial::test(
            "reference::llama_forward_gradients_and_five_steps_equal_transformers",
            || equals_pytorch(LLAMA, None),
        ),
        Trial::test("reference::gpt_logits_equal_transformers", gpt2_logits),
        Trial::test("reference::a_planted_difference_is_seen", || {
            for (reference, name) in [
                (GPT, "h.1.mlp.c_fc.weight"),
                (LLAMA, "model.layers.1.self_attn.k_proj.weight"),
            ] {
                let seen = std::panic::catch_unwind(|| equals_pytorch(reference, Some(name)));
                assert!(seen.is_err(), "one value of {name} off by 0.5 passes");
            }
            Ok(())
        }),
        Trial::test(
            "reference::another_rotation_norm_or_grouping_is_seen",
            other_llamas_differ,
        ),
    ]
}

/// Compares; `planted` names a tensor whose first value is moved beforehand.
fn equals_pytorch(reference: &Reference, planted: Option<&str>) -> Result<(), Failed> {
    let bytes = read(reference.file, "safetensors")?;
    let file = SafeTensors::deserialize(&bytes)?;
    let json: serde_json::Value = serde_json::from_slice(&read(reference.file, "json")?)?;
    let losses: Vec<f64> = serde_json::from_value(json["loss"].clone())?;
    let norms: Vec<f64> = serde_json::from_value(json["grad_norm"].clone())?;

    let mut passes = model(&reference.shape, &file, planted)?;
    let tokens = stored(&file, "tokens")?;
    assert_logits(&mut passes, &tokens, &stored(&file, "logits")?)?;

    let mut optimizer = optimizer(&passes.stepper.store)?;
    for (step, (loss, norm)) in losses.iter().zip(&norms).enumerate() {
        let ours = train(&mut passes, &tokens.select(0, step as i64), step as u64 + 1)?;
        assert!(
            (ours - loss).abs() <= LOSS * loss.abs(),
            "step {step}: loss {ours}, PyTorch's {loss}"
        );
        if step == 0 {
            let store = &passes.stepper.store;
            for spec in store.specs() {
                let ours = store.named_view(store.grads(), &spec.name)?;
                let theirs = stored(&file, &format!("grad.{}", spec.name))?;
                assert_close(&spec.name, &ours, &theirs, GRADIENT);
            }
        }
        let stats = optim::grad_stats(passes.grad_norm()?, ADAMW.clip)?;
        let ours = stats.norm.double_value(&[]);
        assert!(
            (ours - norm).abs() <= GRADIENT * norm,
            "step {step}: gradient norm {ours}, PyTorch's {norm}"
        );
        optimizer.update(step as u64 + 1, ADAMW.lr, &stats)?;
    }
    let store = &passes.stepper.store;
    for spec in store.specs() {
        let ours = store.named_view(store.master(), &spec.name)?;
        let theirs = stored(&file, &format!("{}.{}", reference.after, spec.name))?;
        let (ours, theirs) = without_key_bias(&spec.name, &ours, &theirs);
        let what = format!("{} after {} steps", spec.name, losses.len());
        assert_close(&what, &ours, &theirs, WEIGHTS_AFTER);
    }
    Ok(())
}

/// transformers' GPT-2 takes capstan's names and layouts as they are.
fn gpt2_logits() -> Result<(), Failed> {
    let (weights, theirs) = (
        read("gpt-tiny", "safetensors")?,
        read("gpt2-tiny", "safetensors")?,
    );
    let file = SafeTensors::deserialize(&weights)?;
    let expected = stored(&SafeTensors::deserialize(&theirs)?, "logits")?;
    let mut passes = model(&GPT.shape, &file, None)?;
    assert_logits(&mut passes, &stored(&file, "tokens")?, &expected)
}

/// The reference tells each particular of a Llama from what could stand in its place.
fn other_llamas_differ() -> Result<(), Failed> {
    let bytes = read(LLAMA.file, "safetensors")?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (tokens, expected) = (stored(&file, "tokens")?, stored(&file, "logits")?);
    for (what, shape) in [
        (
            "without stretching",
            LlamaShape {
                rope_scaling: None,
                ..LLAMA_SHAPE
            },
        ),
        (
            "another base",
            LlamaShape {
                rope_theta: 510.0,
                ..LLAMA_SHAPE
            },
        ),
        (
            "another epsilon",
            LlamaShape {
                norm_eps: 1e-3,
                ..LLAMA_SHAPE
            },
        ),
        (
            "wider heads",
            LlamaShape {
                n_head: 2,
                n_kv_head: 1,
                ..LLAMA_SHAPE
            },
        ),
    ] {
        let mut passes = model(&ModelShape::Llama(shape), &file, None)?;
        let compare = || assert_logits(&mut passes, &tokens, &expected).is_ok();
        let compare = std::panic::AssertUnwindSafe(compare);
        assert!(std::panic::catch_unwind(compare).is_err(), "{what} passes");
    }
    Ok(())
}

/// The logits of step 0's windows.
fn assert_logits(passes: &mut Passes, tokens: &Tensor, expected: &Tensor) -> Result<(), Failed> {
    for row in 0..expected.size()[0] {
        let window = tokens
            .select(0, 0)
            .get(row)
            .narrow(0, 0, expected.size()[1]);
        let logits = passes.logits(&Vec::<i64>::try_from(window)?, None)?;
        let logits = logits.ok_or("one rank has the head")?;
        assert_close("logits", &logits, &expected.get(row), GRADIENT);
    }
    Ok(())
}

fn read(file: &str, end: &str) -> Result<Vec<u8>, Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    Ok(std::fs::read(folder.join(format!("{file}.{end}")))?)
}

fn optimizer(store: &ParamStore) -> Result<Box<dyn Optimizer>, Failed> {
    let config = OptimizerConfig::Adamw(ADAMW);
    let state = optim::new_state(&config, store)?;
    Ok(optim::build(&config, store, state, &store.everything())?)
}

fn model(
    shape: &ModelShape,
    file: &SafeTensors<'_>,
    planted: Option<&str>,
) -> Result<Passes, Failed> {
    let device = RankDevice::enter(Device::Cpu, 1)?;
    let stepper = Stepper::alone(shape, Precision::Fp32, 0, device)?;
    let _guard = tch::no_grad_guard();
    for spec in stepper.store.specs() {
        let mut view = stepper
            .store
            .named_view(stepper.store.master(), &spec.name)?;
        view.copy_(&stored(file, &format!("param.{}", spec.name))?);
        if planted == Some(spec.name.as_str()) {
            let _ = view.view([-1]).get(0).g_add_scalar_(0.5);
        }
    }
    Ok(Passes::alone(stepper))
}

/// Forward and backward over tokens `[rows, seq_len + 1]`; the mean loss.
fn train(passes: &mut Passes, tokens: &Tensor, step: u64) -> Result<f64, Failed> {
    let rows = tokens.size()[0] as usize;
    let seq_len = tokens.size()[1] as usize - 1;
    let part = |start| {
        Vec::<i64>::try_from(
            tokens
                .narrow(1, start, seq_len as i64)
                .contiguous()
                .view([-1]),
        )
    };
    let n_valid = (rows * seq_len) as u64;
    let micro = HostBatch {
        inputs: part(0)?,
        targets: part(1)?,
        sample_indices: (0..rows as u64).collect(),
        n_valid,
        rows,
        seq_len,
    };
    let batch = StepBatch {
        step: step - 1,
        micros: vec![micro],
        global_valid: n_valid,
    };
    let device = RankDevice::enter(Device::Cpu, 1)?;
    let losses = passes.train(&batch, step, &mut StepClock::new(&device, Arc::default())?)?;
    Ok(losses[0].double_value(&[]) / n_valid as f64)
}

fn stored(file: &SafeTensors<'_>, name: &str) -> Result<Tensor, Failed> {
    let view = file.tensor(name)?;
    let kind = match view.dtype() {
        safetensors::Dtype::I64 => Kind::Int64,
        _ => Kind::Float,
    };
    let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Ok(Tensor::f_from_data_size(view.data(), &shape, kind)?)
}

/// A key bias has no effect on softmax: its gradient is rounding noise, which AdamW makes a full step of.
fn without_key_bias(name: &str, ours: &Tensor, theirs: &Tensor) -> (Tensor, Tensor) {
    if !name.ends_with("attn.c_attn.bias") {
        return (ours.shallow_clone(), theirs.shallow_clone());
    }
    let keep = |bias: &Tensor| {
        let third = bias.size()[0] / 3;
        Tensor::cat(
            &[bias.narrow(0, 0, third), bias.narrow(0, 2 * third, third)],
            0,
        )
    };
    (keep(ours), keep(theirs))
}

fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    let (apart, size) = (norm(&(ours - theirs)), norm(theirs));
    assert!(
        apart <= tolerance * size,
        "{what}: |a - b| = {apart:e}, |b| = {size:e}"
    );
}
