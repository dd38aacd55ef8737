//! The lists agree: models as arithmetic and as tensors, memory as planned and as allocated.

use std::collections::HashSet;

use capstan::{
    arch::{ModelShape, Shard, StageSpec, gpt::GptShape, llama::LlamaShape},
    config::{
        self, AdamwConfig, GptPreset, LlamaPreset, OptimizerConfig, PipelineSchedule, Precision,
        Recompute, SgdConfig,
    },
    models,
    nn::{Layout, Numbers, ParamStore, Partition},
    optim,
    plan::{Kept, MemoryPlan, Mesh, Split, Strategy},
};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

const GPTS: [GptPreset; 7] = [
    GptPreset::Gpt2,
    GptPreset::Gpt2Medium,
    GptPreset::Gpt2Large,
    GptPreset::Gpt2Xl,
    GptPreset::Nano,
    GptPreset::Micro,
    GptPreset::Mini,
];
const LLAMAS: [LlamaPreset; 5] = [
    LlamaPreset::Llama31B8,
    LlamaPreset::Llama32B3,
    LlamaPreset::Llama32B1,
    LlamaPreset::Nano,
    LlamaPreset::Micro,
];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("registry::presets_have_their_published_sizes", published),
        Trial::test("registry::every_preset_is_listed_here", presets),
        Trial::test("registry::models_are_built_as_stated", as_stated),
        Trial::test("registry::parameters_are_owned_once", owned_once),
        Trial::test("registry::planned_memory_is_allocated", memory),
    ]
}

fn gpt(preset: GptPreset, vocab_size: usize, bias: bool) -> ModelShape {
    let sizes = preset.sizes();
    ModelShape::Gpt(GptShape {
        n_layer: sizes.n_layer,
        n_head: sizes.n_head,
        d_model: sizes.d_model,
        seq_len: sizes.seq_len,
        vocab_size,
        bias,
        dropout: 0.0,
    })
}

fn llama(preset: LlamaPreset, vocab_size: usize) -> ModelShape {
    let sizes = preset.sizes();
    ModelShape::Llama(LlamaShape {
        n_layer: sizes.n_layer,
        n_head: sizes.n_head,
        n_kv_head: sizes.n_kv_head,
        d_model: sizes.d_model,
        d_ff: sizes.d_ff,
        seq_len: sizes.seq_len,
        vocab_size,
        rope_theta: sizes.rope_theta,
        rope_scaling: sizes.rope_scaling,
        tie_embeddings: sizes.tie_embeddings,
        norm_eps: 1e-5,
    })
}

/// Every preset of every family; GPTs with biases and without.
fn shapes() -> impl Iterator<Item = ModelShape> {
    let both = |preset| [true, false].map(|bias| gpt(preset, 50_257, bias));
    let llamas = LLAMAS.into_iter().map(|preset| llama(preset, 128_256));
    GPTS.into_iter().flat_map(both).chain(llamas)
}

/// The schema is made from the types, so that it knows a preset that these lists forget.
fn presets() -> Result<(), Failed> {
    let schema: Value = serde_json::from_str(&config::json_schema())?;
    let gpts: Vec<Value> = GPTS.iter().map(|preset| json!(preset)).collect();
    let llamas: Vec<Value> = LLAMAS.iter().map(|preset| json!(preset)).collect();
    for (family, listed) in [("GptPreset", gpts), ("LlamaPreset", llamas)] {
        let choices = schema["$defs"][family]["oneOf"].as_array();
        let choices = choices.ok_or("the schema lists no presets")?;
        let named: HashSet<&Value> = choices.iter().map(|choice| &choice["const"]).collect();
        assert_eq!(named, listed.iter().collect());
    }
    Ok(())
}

/// Radford et al., 2019, and Meta's Llama 3, as Hugging Face counts the released weights (a tied head once).
fn published() -> Result<(), Failed> {
    for (preset, n_params) in [
        (GptPreset::Gpt2, 124_439_808),
        (GptPreset::Gpt2Medium, 354_823_168),
        (GptPreset::Gpt2Large, 774_030_080),
        (GptPreset::Gpt2Xl, 1_557_611_200),
    ] {
        let counted = gpt(preset, 50_257, true).n_params();
        assert_eq!(counted, n_params, "{preset:?}");
    }
    for (preset, n_params) in [
        (LlamaPreset::Llama31B8, 8_030_261_248),
        (LlamaPreset::Llama32B3, 3_212_749_824),
        (LlamaPreset::Llama32B1, 1_235_814_400),
    ] {
        let counted = llama(preset, 128_256).n_params();
        assert_eq!(counted, n_params, "{preset:?}");
    }
    Ok(())
}

/// `arch/x.rs` states what `models/x.rs` builds.
fn as_stated() -> Result<(), Failed> {
    for shape in shapes() {
        let (stated, built) = (shape.segments(), models::build(&shape));
        let stated: Vec<&str> = stated.iter().map(|segment| segment.name.as_str()).collect();
        let built: Vec<&str> = built.iter().map(|segment| segment.name()).collect();
        assert_eq!(stated, built);
        let names: HashSet<&str> = stated.iter().copied().collect();
        assert_eq!(
            names.len(),
            stated.len(),
            "segments have names of their own"
        );
    }
    Ok(())
}

fn owned_once() -> Result<(), Failed> {
    for shape in shapes() {
        let segments = shape.segments();
        let mut owned = HashSet::new();
        for param in segments.iter().flat_map(|segment| &segment.params) {
            assert!(
                owned.insert(param.name.as_str()),
                "{} stands twice",
                param.name
            );
            assert!(param.numel() > 0, "{}", param.name);
        }
        for name in segments.iter().flat_map(|segment| &segment.borrows) {
            assert!(owned.contains(name.as_str()), "nobody owns {name}");
        }
    }
    Ok(())
}

fn optimizers() -> [OptimizerConfig; 3] {
    let without_momentum = SgdConfig {
        momentum: 0.0,
        ..SgdConfig::default()
    };
    [
        OptimizerConfig::Adamw(AdamwConfig::default()),
        OptimizerConfig::Sgd(SgdConfig::default()),
        OptimizerConfig::Sgd(without_momentum),
    ]
}

/// Within the padding of views to 128 bytes.
fn memory() -> Result<(), Failed> {
    for shape in [
        gpt(GptPreset::Micro, 65, true),
        gpt(GptPreset::Micro, 1_025, true),
        llama(LlamaPreset::Micro, 65),
    ] {
        for optimizer in optimizers() {
            for precision in [
                Precision::Fp32,
                Precision::Tf32,
                Precision::Bf16,
                Precision::Fp64,
            ] {
                allocates_as_planned(&shape, &optimizer, precision)?;
            }
        }
    }
    Ok(())
}

fn allocates_as_planned(
    shape: &ModelShape,
    optimizer: &OptimizerConfig,
    precision: Precision,
) -> Result<(), Failed> {
    let bytes = |tensor: &tch::Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
    let split = Split {
        mesh: Mesh {
            pp: 1,
            dp: 1,
            tp: 1,
        },
        data: Strategy::Single,
        schedule: PipelineSchedule::default(),
        chunks: vec![vec![0..shape.segments().len()]],
        sequence_parallel: false,
        recompute: Recompute::None,
    };
    let numbers = Numbers::of(precision);
    let layout = Layout::new(&StageSpec::whole(shape.segments()), Shard::WHOLE, 1);
    let store = ParamStore::new(layout, Partition::NONE, numbers, 1, tch::Device::Cpu)?;
    let state = optim::new_state(optimizer, &store)?;
    let allocated = store.n_bytes() + state.iter().map(bytes).sum::<u64>();
    let kept = Kept {
        precision,
        short_grads: false,
        optimizer,
    };
    let planned = MemoryPlan::of(shape, &split, kept);
    let excess = allocated as f64 / planned.total() as f64 - 1.0;
    assert!(
        (0.0..0.01).contains(&excess),
        "{optimizer:?}, {precision:?}: {allocated} for {planned:?}"
    );
    Ok(())
}
