//! What of a config has no effect, or another than its words suggest.

use serde::Serialize;

use super::{Communicator, RunPlan};
use crate::{
    base::units,
    config::{Attention, GptConfig, LlamaConfig, ModelConfig, RunConfig, ScheduleConfig},
    hw::{Device, Machine},
};

/// Notes on a config whose plan is made; nothing here is refused.
pub fn notes(config: &RunConfig, machine: &Machine, plan: &RunPlan) -> Vec<String> {
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
    notes.extend(attention(config, machine, plan));
    notes.extend(no_peer_access(machine, plan));
    notes.extend(shared_memory(machine, plan));
    notes.extend(in_use(machine, plan));
    notes
}

/// A choice of attention that nothing comes of.
fn attention(config: &RunConfig, machine: &Machine, plan: &RunPlan) -> Option<String> {
    let words = match config.attention {
        Attention::Auto => return None,
        Attention::Flash | Attention::Math if plan.drops_out_of_attention() => {
            "attention has no effect on training: with model.gpt.dropout it is written out"
        }
        Attention::Flash if !plan.would_prefer_cudnn(machine) => {
            "attention: flash is what these ranks take by themselves; cuDNN's is for bf16 on H100, H200 and B200"
        }
        Attention::Flash | Attention::Math => return None,
    };
    Some(words.to_owned())
}

/// GPUs that exchange through a /dev/shm which may be too small.
fn shared_memory(machine: &Machine, plan: &RunPlan) -> Option<String> {
    let is_used = plan.lacks_peer_access && plan.communicator == Communicator::Nccl;
    let bytes = machine.scarce_shared_memory().filter(|_| is_used)?;
    Some(format!(
        "NCCL exchanges through /dev/shm there, of which {} are free and which may be too little; in a container give it \
         more: docker run --shm-size=1g",
        units::bytes(bytes)
    ))
}

/// A share of a card's memory that the driver and a desktop may take; what is beyond is somebody's.
const USUAL_USE: f64 = 0.1;

/// GPUs that somebody uses already.
fn in_use<'a>(machine: &'a Machine, plan: &'a RunPlan) -> impl Iterator<Item = String> + 'a {
    let gpus = machine.gpus.iter().enumerate();
    let planned = gpus.filter(|(index, _)| {
        let mut ranks = plan.ranks.iter();
        ranks.any(|rank| rank.device == Device::Cuda(*index))
    });
    planned.filter_map(|(index, gpu)| {
        let used = gpu.used_bytes?;
        (used as f64 > USUAL_USE * gpu.memory_bytes as f64).then(|| {
            format!(
                "{} of GPU {index}'s {} are in use already; nvidia-smi shows by whom",
                units::bytes(used),
                units::bytes(gpu.memory_bytes)
            )
        })
    })
}

/// GPUs that exchange through the host's memory.
fn no_peer_access(machine: &Machine, plan: &RunPlan) -> Option<String> {
    let used = plan.ranks.iter().filter_map(|rank| match rank.device {
        Device::Cuda(index) => Some(index),
        Device::Cpu => None,
    });
    let pairs = machine.without_peer_access(&used.collect::<Vec<_>>());
    let (first, more) = pairs.split_first()?;
    let more = match more.len() {
        0 => String::new(),
        n => format!(" (nor {n} other pair(s))"),
    };
    let [a, b] = first;
    Some(format!(
        "GPUs {a} and {b}{more} offer no peer access: they exchange through the host's memory, which is slower; `capstan doctor` shows the links"
    ))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::in_use;
    use crate::{
        base::units,
        config::{self, Assignment},
        hw::{Device, recorded},
        plan::{DataSummary, PlanError, RunPlan, resolve},
    };

    fn planned(machine: &str, changes: &[&str]) -> Result<RunPlan, PlanError> {
        let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hello.json");
        let changes: Vec<Assignment> = changes
            .iter()
            .map(|text| Assignment::parse(text).expect("well-formed"))
            .collect();
        let loaded = config::load_file(&hello, &changes, None).expect("a good config");
        let data = DataSummary {
            train_tokens: 1_000_000,
            val_tokens: 100_000,
            vocab_size: 256,
            fingerprint: "f".to_owned(),
            files: Vec::new(),
        };
        resolve(&loaded.config, &recorded::machine(machine).machine, &data)
    }

    #[test]
    fn every_machine_gets_its_own_devices() {
        for (machine, devices) in [
            ("geforce-4", (0..4).map(Device::Cuda).collect()),
            ("nvlink-8", (0..8).map(Device::Cuda).collect()),
            ("laptop", vec![Device::Cuda(0)]),
            ("lost-card", (0..2).map(Device::Cuda).collect()),
            ("no-driver", vec![Device::Cpu; 2]),
        ] {
            let plan = planned(machine, &[]).expect("a plan");
            let found: Vec<Device> = plan.ranks.iter().map(|rank| rank.device).collect();
            assert_eq!(found, devices, "{machine}");
        }
    }

    #[test]
    fn a_card_in_use_is_noted_where_the_plan_takes_it() {
        let plan = planned("geforce-4", &[]).expect("a plan");
        let mut machine = recorded::machine("geforce-4").machine;
        let gib = units::GIB;
        machine.gpus[0].used_bytes = Some(gib);
        machine.gpus[2].used_bytes = Some(20 * gib);
        let notes: Vec<String> = in_use(&machine, &plan).collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("20.00 GiB of GPU 2's"), "{notes:?}");
        let other = planned("geforce-4", &["devices=[0,1]"]).expect("a plan");
        assert_eq!(in_use(&machine, &other).count(), 0);
    }

    #[test]
    fn what_a_machine_lacks_is_refused_with_the_reason() {
        for (machine, devices, words) in [
            ("no-driver", "devices=[0]", "no NVIDIA driver is loaded"),
            ("laptop", "devices=[1]", "names GPU 1 of 1"),
            ("geforce-4", "parallel.dp=8", "8 ranks on 4 device(s)"),
        ] {
            let error = planned(machine, &[devices]).expect_err("a refusal");
            assert!(error.to_string().contains(words), "{machine}: {error}");
        }
        let huge = "model.gpt.n_layer=400";
        let wide = "model.gpt.d_model=4096";
        let error = planned("laptop", &[huge, wide]).expect_err("8 GiB");
        assert!(error.to_string().contains("of GPU 0's 8.00 GiB"), "{error}");
    }

    #[test]
    fn gpus_without_peer_access_are_noted() {
        let notes = |machine, changes: &[&str]| {
            let plan = planned(machine, changes).expect("a plan");
            let notes = plan.notes.into_iter();
            notes
                .filter(|note| note.contains("peer access"))
                .collect::<Vec<_>>()
        };
        let four = notes("geforce-4", &[]);
        assert!(
            four[0].starts_with("GPUs 0 and 1 (nor 5 other pair(s)) offer no"),
            "{four:?}"
        );
        let two = notes("geforce-4", &["devices=[1,2]"]);
        assert!(
            two[0].starts_with("GPUs 1 and 2 offer no peer access"),
            "{two:?}"
        );
        assert!(notes("geforce-4", &["devices=[3]"]).is_empty());
        for machine in ["nvlink-8", "laptop", "lost-card", "no-driver"] {
            assert!(notes(machine, &[]).is_empty(), "{machine}");
        }
    }
}
