//! A plan in a few lines.

use std::ops::Range;

use super::text::facts;
use crate::{
    arch::ModelShape,
    base::units,
    plan::{Communicator, InitSummary, Mesh, RunPlan, StopPlan},
};

/// The plan, a fact a line.
pub fn lines(name: &str, plan: &RunPlan) -> Vec<String> {
    let mut rows = vec![("run", name.to_owned()), ("model", model(plan))];
    rows.extend(plan.init.as_ref().map(|init| ("weights", weights(init))));
    rows.extend([("data", data(plan)), ("split", split(plan))]);
    rows.extend(stages(plan).map(|stages| ("stages", stages)));
    rows.extend([
        ("batch", batch(plan)),
        ("stop", stop(plan)),
        ("memory", memory(plan)),
    ]);
    rows.extend(plan.notes.iter().map(|note| ("note", note.clone())));
    facts(&rows)
}

fn model(plan: &RunPlan) -> String {
    let sizes = match &plan.model {
        ModelShape::Gpt(gpt) => format!("GPT of {} layers, {} heads", gpt.n_layer, gpt.n_head),
        ModelShape::Llama(llama) => format!(
            "Llama of {} layers, {} heads ({} of keys and values)",
            llama.n_layer, llama.n_head, llama.n_kv_head
        ),
    };
    format!(
        "{sizes}, d_model {}, seq_len {}: {} parameters",
        plan.model.d_model(),
        plan.model.seq_len(),
        units::count(plan.n_params as f64)
    )
}

fn weights(init: &InitSummary) -> String {
    format!(
        "{} from {}: {}, {}",
        count(init.n_tensors, "tensor"),
        init.path.display(),
        count(init.n_files, "file"),
        init.dtypes.join(" and ")
    )
}

fn data(plan: &RunPlan) -> String {
    format!(
        "{} tokens to train on, {} held out, a vocabulary of {}",
        units::count(plan.data.train_tokens as f64),
        units::count(plan.data.val_tokens as f64),
        plan.data.vocab_size
    )
}

fn split(plan: &RunPlan) -> String {
    let devices: Vec<String> = plan
        .ranks
        .iter()
        .map(|rank| rank.device.to_string())
        .collect();
    let threads = match plan.ranks.first() {
        Some(rank) if rank.lanes > 1 => {
            format!(
                "{} lanes of {} a rank",
                rank.lanes,
                count(rank.threads / rank.lanes, "thread")
            )
        }
        rank => format!(
            "{} a rank",
            count(rank.map_or(1, |rank| rank.threads), "thread")
        ),
    };
    let communicator = match plan.communicator {
        Communicator::Solo => "",
        Communicator::Local => ", over memory",
        Communicator::Nccl => ", over NCCL",
        Communicator::Host => ", through the supervisor",
    };
    let workers = match plan.n_workers {
        1 => String::new(),
        n => format!(", {n} workers"),
    };
    let on = format!(
        "{} on {} ({}), {threads}{communicator}{workers}",
        plan.split.name(),
        count(plan.world(), "rank"),
        devices.join(", ")
    );
    let Mesh { pp, dp, tp } = plan.split.mesh;
    match (pp, dp, tp) {
        (1, _, 1) => on,
        _ => format!("{on}: pp {pp} x dp {dp} x tp {tp}"),
    }
}

/// Where a pipeline's stages begin and end, and what a stage idles at least.
fn stages(plan: &RunPlan) -> Option<String> {
    let split = &plan.split;
    if split.mesh.pp == 1 {
        return None;
    }
    let segments = plan.model.segments();
    let stage = |chunks: &Vec<Range<usize>>| {
        let chunks = chunks.iter().map(|chunk| {
            let (first, last) = (&segments[chunk.start].name, &segments[chunk.end - 1].name);
            match chunk.len() {
                1 => first.clone(),
                _ => format!("{first} to {last}"),
            }
        });
        chunks.collect::<Vec<_>>().join(" and ")
    };
    let stages: Vec<String> = split.chunks.iter().map(stage).collect();
    let n_chunks = split.chunks.first().map_or(1, Vec::len);
    let idle = (split.mesh.pp - 1) as f64 / n_chunks as f64;
    let bubble = 100.0 * idle / (plan.grad_accum_steps as f64 + idle);
    Some(format!(
        "{}; at least {bubble:.0} % bubble",
        stages.join(" | ")
    ))
}

fn batch(plan: &RunPlan) -> String {
    format!(
        "{} sequences a step ({} tokens); a rank takes {} in {} of {}",
        plan.global_batch,
        plan.global_batch * plan.model.seq_len(),
        plan.local_batch,
        count(plan.grad_accum_steps, "pass"),
        plan.micro_batch
    )
}

fn stop(plan: &RunPlan) -> String {
    match plan.stop {
        StopPlan::Steps { steps } => {
            let tokens = steps as f64 * (plan.global_batch * plan.model.seq_len()) as f64;
            format!("after {steps} steps ({} tokens)", units::count(tokens))
        }
        StopPlan::Seconds { seconds } => format!("after {}", units::seconds(seconds)),
    }
}

fn memory(plan: &RunPlan) -> String {
    let total = units::bytes(plan.memory.total());
    format!("{total} a rank for weights, gradients and optimizer state; activations come on top")
}

fn count(n: usize, what: &str) -> String {
    let plural = match (n, what.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{n} {what}{plural}")
}
