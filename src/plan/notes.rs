//! What of a config has no effect, or another than its words suggest.

use serde::Serialize;

use super::RunPlan;
use crate::{
    config::{GptConfig, LlamaConfig, ModelConfig, RunConfig, ScheduleConfig},
    hw::Device,
};

/// Notes on a config whose plan is made; nothing here is refused.
pub fn notes(config: &RunConfig, plan: &RunPlan) -> Vec<String> {
    let overridden = match &config.model {
        ModelConfig::Gpt(gpt) => overridden_gpt(gpt),
        ModelConfig::Llama(llama) => overridden_llama(llama),
    };
    let mut notes: Vec<String> = overridden.into_iter().collect();
    if let Some(steps) = plan.total_steps() {
        notes.extend(schedule_beyond(&config.schedule, steps));
    }
    let on_gpus = plan.ranks.iter().all(|rank| rank.device != Device::Cpu);
    if on_gpus && config.threads_per_rank.is_some() {
        notes.push("threads_per_rank has no effect on GPU ranks".to_owned());
    }
    notes
}

/// A field's name, what the preset gives, and what the config says.
type Sizes<'a> = &'a [(&'a str, usize, Option<usize>)];

fn overridden_gpt(gpt: &GptConfig) -> Option<String> {
    let preset = gpt.preset?;
    let sizes = preset.sizes();
    let fields = [
        ("n_layer", sizes.n_layer, gpt.n_layer),
        ("n_head", sizes.n_head, gpt.n_head),
        ("d_model", sizes.d_model, gpt.d_model),
        ("seq_len", sizes.seq_len, gpt.seq_len),
    ];
    overridden_preset(preset, &fields)
}

/// No weight depends on a Llama's context: another is no surprise.
fn overridden_llama(llama: &LlamaConfig) -> Option<String> {
    let preset = llama.preset?;
    let sizes = preset.sizes();
    let fields = [
        ("n_layer", sizes.n_layer, llama.n_layer),
        ("n_head", sizes.n_head, llama.n_head),
        ("n_kv_head", sizes.n_kv_head, llama.n_kv_head),
        ("d_model", sizes.d_model, llama.d_model),
        ("d_ff", sizes.d_ff, llama.d_ff),
    ];
    overridden_preset(preset, &fields)
}

/// A preset named beside other sizes, as by `--set model.gpt.preset` on a config that states them.
fn overridden_preset(preset: impl Serialize, fields: Sizes<'_>) -> Option<String> {
    let name = serde_json::to_value(preset).unwrap_or_default();
    let overridden: Vec<String> = fields
        .iter()
        .filter_map(|(field, given, own)| {
            let own = own.filter(|own| own != given)?;
            Some(format!("{field} {given}, the config says {own}"))
        })
        .collect();
    let name = name.as_str().unwrap_or_default();
    (!overridden.is_empty()).then(|| {
        format!(
            "preset {name} gives {}; the config counts",
            overridden.join("; ")
        )
    })
}

/// Parts of the schedule that the run is too short for.
fn schedule_beyond(schedule: &ScheduleConfig, steps: u64) -> Option<String> {
    let (name, warmup, decay) = match schedule {
        ScheduleConfig::Constant(constant) => ("constant", constant.warmup, 0),
        ScheduleConfig::Linear(linear) => ("linear", linear.warmup, 0),
        ScheduleConfig::Cosine(cosine) => ("cosine", cosine.warmup, 0),
        ScheduleConfig::Wsd(wsd) => ("wsd", wsd.warmup, wsd.decay),
    };
    if warmup >= steps {
        return Some(format!(
            "schedule.{name}.warmup: {warmup} steps in a run of {steps}, so lr is never reached"
        ));
    }
    if decay > steps {
        return Some(format!(
            "schedule.{name}.decay: {decay} steps in a run of {steps}, so lr is never reached"
        ));
    }
    (warmup.saturating_add(decay) > steps).then(|| {
        format!(
            "schedule.{name}: {warmup} steps of warm-up and {decay} of decay in a run of {steps}, so lr is never reached"
        )
    })
}
