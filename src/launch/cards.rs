//! The cards of a run that goes on: its own where they are still there, wherever they stand by now.

use std::collections::HashMap;

use crate::{
    event::short_uuid,
    hw::{Device, Gpu, Machine},
    plan::RunPlan,
};

/// Puts into the plan of a run on GPUs which those are that its ranks have by now.
///
/// Returns words about ranks whose card is gone and that have another.
///
/// # Errors
/// There are too few GPUs, or none that would do.
pub fn keep(plan: &mut RunPlan, machine: &Machine) -> Result<Option<String>, String> {
    let before = std::mem::take(&mut plan.gpu_uuids);
    let visible = machine.gpus.iter().map(|gpu| gpu.uuid.clone());
    plan.gpu_uuids = visible.collect();
    if plan.gpu_uuids == before {
        return Ok(None);
    }
    let places = places(plan, &before, &machine.gpus).ok_or_else(|| refusal(plan, machine))?;
    let mut others = Vec::new();
    for (number, rank) in plan.ranks.iter_mut().enumerate() {
        let Device::Cuda(index) = &mut rank.device else {
            continue;
        };
        let old = before.get(*index);
        *index = places[index];
        let new = &plan.gpu_uuids[*index];
        if old != Some(new) {
            let old = old.map_or("one without a name", |old| short_uuid(old));
            others.push(format!(
                "rank {number} has GPU {index} ({}) instead of {old}",
                short_uuid(new)
            ));
        }
    }
    plan.take_cards(machine);
    let others = others.join(", ");
    Ok((!others.is_empty()).then(|| format!("cards of the run are not there any more: {others}")))
}

/// Leaves a new plan of a run the cards that its ranks had, where it has as many: which ones these are by now is told
/// when the run goes on.
pub fn carry(plan: &mut RunPlan, before: &RunPlan) {
    let is_on_gpus = |plan: &RunPlan| !plan.gpu_uuids.is_empty() && !plan.gpus().is_empty();
    if plan.ranks.len() != before.ranks.len() || !is_on_gpus(plan) || !is_on_gpus(before) {
        return;
    }
    for (rank, before) in plan.ranks.iter_mut().zip(&before.ranks) {
        rank.device = before.device;
    }
    plan.gpu_uuids.clone_from(&before.gpu_uuids);
}

/// Where each card of the ranks stands by now; for one that is gone, another that would do, at its place if possible.
fn places(plan: &RunPlan, before: &[String], gpus: &[Gpu]) -> Option<HashMap<usize, usize>> {
    let mut places = HashMap::new();
    let (mut gone, mut free) = (Vec::new(), vec![true; gpus.len()]);
    for index in plan.gpus() {
        let uuid = before.get(index);
        match gpus.iter().position(|gpu| Some(&gpu.uuid) == uuid) {
            Some(place) => {
                free[place] = false;
                places.insert(index, place);
            }
            None => gone.push(index),
        }
    }
    for index in gone {
        let would_do = |place: &usize| free[*place] && is_enough(plan, index, &gpus[*place]);
        let same = (index < gpus.len()).then_some(index);
        let place = same.into_iter().chain(0..gpus.len()).find(would_do)?;
        free[place] = false;
        places.insert(index, place);
    }
    Some(places)
}

/// Whether a card can do what the ranks of the card at `index` do.
fn is_enough(plan: &RunPlan, index: usize, gpu: &Gpu) -> bool {
    let ranks = plan.ranks.iter();
    let n_ranks = ranks.filter(|rank| rank.device == Device::Cuda(index));
    let needed = plan.memory.total() * n_ranks.count() as u64;
    gpu.unusable().is_none() && gpu.memory_bytes >= needed
}

fn refusal(plan: &RunPlan, machine: &Machine) -> String {
    let (needed, there) = (plan.gpus().len(), machine.gpus.len());
    let because = machine.no_gpus_because.iter().chain(&machine.left_out);
    let because: Vec<&str> = because.map(String::as_str).collect();
    let because = match because.as_slice() {
        [] => String::new(),
        reasons => format!(" ({})", reasons.join("; ")),
    };
    format!(
        "the run needs {needed} GPU(s) that hold it, and there are {there} by now{because}; make its cards visible \
         again, or give it others"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Assignment},
        hw::recorded,
        plan::{self, DataSummary},
    };

    /// A run on these cards of a machine with four.
    fn planned(devices: &str) -> (RunPlan, Machine) {
        let hello = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hello.json");
        let change = Assignment::parse(&format!("devices={devices}")).expect("well-formed");
        let config = config::load_file(&hello, &[change], None).expect("a good config");
        let data = DataSummary {
            train_tokens: 1_000_000,
            val_tokens: 100_000,
            vocab_size: 256,
            fingerprint: "f".to_owned(),
            files: Vec::new(),
        };
        let machine = recorded::machine("geforce-4").machine;
        let plan = plan::resolve(&config.config, &machine, &data).expect("a plan");
        (plan, machine)
    }

    fn devices(plan: &RunPlan) -> Vec<Device> {
        plan.ranks.iter().map(|rank| rank.device).collect()
    }

    #[test]
    fn cards_that_are_still_there_are_kept_wherever_they_stand() {
        let (mut plan, mut machine) = planned("[0,1]");
        assert_eq!(keep(&mut plan, &machine), Ok(None));
        machine.gpus.swap(0, 3);
        machine.gpus.swap(1, 2);
        assert_eq!(keep(&mut plan, &machine), Ok(None));
        assert_eq!(devices(&plan), [Device::Cuda(3), Device::Cuda(2)]);
        assert_eq!(plan.gpu_uuids[2], machine.gpus[2].uuid);
        machine.gpus.remove(0);
        assert_eq!(keep(&mut plan, &machine), Ok(None), "none of the run's");
        assert_eq!(devices(&plan), [Device::Cuda(2), Device::Cuda(1)]);
    }

    #[test]
    fn a_new_plan_leaves_the_ranks_their_cards() {
        let (before, mut machine) = planned("[0,1]");
        machine.gpus.swap(0, 3);
        let (mut plan, _) = planned("[0,1]");
        plan.gpu_uuids = machine.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        carry(&mut plan, &before);
        assert_eq!(keep(&mut plan, &machine), Ok(None));
        assert_eq!(devices(&plan), [Device::Cuda(3), Device::Cuda(1)]);
        let (mut fewer, _) = planned("[2]");
        let as_planned = fewer.clone();
        carry(&mut fewer, &before);
        assert_eq!(fewer, as_planned);
    }

    #[test]
    fn a_card_that_is_gone_is_replaced_in_words() {
        let (mut plan, mut machine) = planned("[0,1]");
        let lost = machine.gpus.remove(0);
        // It does not hold the run.
        machine.gpus[1].memory_bytes = 1;
        let words = keep(&mut plan, &machine).expect("enough cards");
        assert_eq!(devices(&plan), [Device::Cuda(2), Device::Cuda(0)]);
        let words = words.unwrap_or_default();
        for part in ["rank 0 has GPU 2", short_uuid(&lost.uuid)] {
            assert!(words.contains(part), "{words}");
        }
        assert!(!words.contains("rank 1"), "{words}");
    }

    #[test]
    fn too_few_cards_are_refused() {
        let (plan, machine) = planned("[0,1,2,3]");
        let few = Machine {
            gpus: machine.gpus[..3].to_vec(),
            left_out: vec!["card 3: it does not answer".to_owned()],
            ..machine.clone()
        };
        let refused = keep(&mut plan.clone(), &few).expect_err("too few");
        for part in ["needs 4", "there are 3", "card 3: it does not answer"] {
            assert!(refused.contains(part), "{refused}");
        }
        let (plan, _) = planned("[2,3]");
        let mut small = machine.clone();
        small.gpus.truncate(3);
        small.gpus[0].memory_bytes = 1;
        small.gpus[1].compute_capability = [5, 0];
        assert!(keep(&mut plan.clone(), &small).is_err(), "none would do");
        small.gpus[0] = machine.gpus[0].clone();
        small.gpus[0].driver = "470.256.02".to_owned();
        assert!(keep(&mut plan.clone(), &small).is_err(), "an old driver");
        small.gpus[0].driver = machine.gpus[0].driver.clone();
        assert!(keep(&mut plan.clone(), &small).is_ok());
        let none = Machine {
            gpus: Vec::new(),
            ..machine
        };
        assert!(keep(&mut plan.clone(), &none).is_err());
    }
}
