//! What of a plan depends on which cards its ranks have, and is known once they have them.

use super::RunPlan;
use crate::{
    arch::ModelShape,
    config::{Attention, Precision},
    hw::{Gpu, Machine, peak_flops},
};

impl RunPlan {
    /// Takes in what a machine's cards are like, those that the ranks have.
    pub fn take_cards(&mut self, machine: &Machine) {
        let indices = self.gpus();
        self.cudnn_attention = self.attention == Attention::Auto
            && self.would_prefer_cudnn(machine)
            && !self.drops_out_of_attention();
        self.lacks_peer_access = !machine.without_peer_access(&indices).is_empty();
        // The rates that are known are those of bf16.
        let is_rated = self.precision == Precision::Bf16 && !indices.is_empty();
        let cards = indices.iter().map(|&index| machine.gpus.get(index));
        let peaks = cards.map(|card| Some(peak_flops(&card?.name)?.flops));
        self.peak_flops = is_rated.then(|| peaks.sum()).flatten();
    }

    /// Whether attention is written out while training, so that a mask can be put on its weights.
    pub(super) fn drops_out_of_attention(&self) -> bool {
        matches!(&self.model, ModelShape::Gpt(gpt) if gpt.dropout > 0.0)
    }

    /// Whether libtorch takes cuDNN's attention on some of the ranks' cards where it has the choice.
    pub(super) fn would_prefer_cudnn(&self, machine: &Machine) -> bool {
        let cards = self.gpus().into_iter();
        let mut cards = cards.filter_map(|index| machine.gpus.get(index));
        self.precision == Precision::Bf16 && cards.any(Gpu::prefers_cudnn_attention)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{self, Assignment},
        hw::{Device, recorded},
        plan::{DataSummary, PlanError, RefusalKind, resolve},
    };

    fn planned(machine: &Machine, changes: &[&str]) -> Result<RunPlan, PlanError> {
        let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hello.json");
        let changes = changes.iter().map(|text| Assignment::parse(text));
        let changes: Vec<Assignment> = changes.collect::<Result<_, _>>().expect("well-formed");
        let loaded = config::load_file(&hello, &changes, None).expect("a good config");
        let data = DataSummary {
            train_tokens: 1_000_000,
            val_tokens: 100_000,
            vocab_size: 256,
            fingerprint: "f".to_owned(),
            files: Vec::new(),
        };
        resolve(&loaded.config, machine, &data)
    }

    fn notes(machine: &Machine, changes: &[&str], about: &str) -> Vec<String> {
        let notes = planned(machine, changes).expect("a plan").notes;
        let about = |note: &String| note.contains(about);
        notes.into_iter().filter(about).collect()
    }

    #[test]
    fn cudnns_attention_may_run_in_bf16_on_hopper_and_blackwell_alone() {
        let nvlink = recorded::machine("nvlink-8").machine;
        let geforce = recorded::machine("geforce-4").machine;
        let mut blackwell = geforce.clone();
        blackwell.gpus[1].compute_capability = [10, 0];
        let mut consumer = geforce.clone();
        for gpu in &mut consumer.gpus {
            gpu.compute_capability = [12, 0];
        }
        for (machine, changes, may_run) in [
            (&nvlink, &["precision=bf16"][..], true),
            (&nvlink, &["precision=tf32"], false),
            (&nvlink, &["precision=bf16", "attention=flash"], false),
            (&nvlink, &["precision=bf16", "attention=math"], false),
            (&nvlink, &["precision=bf16", "devices=[\"cpu\"]"], false),
            (&nvlink, &["precision=bf16", "model.gpt.dropout=0.1"], false),
            (&geforce, &["precision=bf16"], false),
            (&consumer, &["precision=bf16"], false),
            (&blackwell, &["precision=bf16"], true),
            (&blackwell, &["precision=bf16", "devices=[0]"], false),
        ] {
            let plan = planned(machine, changes).expect("a plan");
            assert_eq!(plan.cudnn_attention, may_run, "{changes:?}");
        }
    }

    #[test]
    fn a_choice_of_attention_without_effect_is_noted() {
        let nvlink = recorded::machine("nvlink-8").machine;
        let geforce = recorded::machine("geforce-4").machine;
        for (machine, changes, n_notes) in [
            (&nvlink, &["precision=bf16", "attention=flash"][..], 0),
            (&nvlink, &["precision=fp32", "attention=flash"], 1),
            (&geforce, &["precision=bf16", "attention=flash"], 1),
            (&geforce, &["attention=math"], 0),
            (&geforce, &["attention=math", "model.gpt.dropout=0.1"], 1),
            (&geforce, &["attention=auto", "model.gpt.dropout=0.1"], 0),
        ] {
            let notes = notes(machine, changes, "attention");
            assert_eq!(notes.len(), n_notes, "{changes:?}: {notes:?}");
        }
    }

    #[test]
    fn peaks_are_known_of_whole_names_in_bf16_alone() {
        let mut machine = recorded::machine("geforce-4").machine;
        let peak = |machine: &Machine, changes: &[&str]| {
            planned(machine, changes).expect("a plan").peak_flops
        };
        assert_eq!(peak(&machine, &["precision=bf16"]), Some(4.0 * 165.2e12));
        assert_eq!(peak(&machine, &["precision=fp32"]), None);
        machine.gpus[3].name.push_str(" D");
        assert_eq!(peak(&machine, &["precision=bf16"]), None);
        let two = ["precision=bf16", "devices=[0,1]"];
        assert_eq!(peak(&machine, &two), Some(2.0 * 165.2e12));
    }

    #[test]
    fn too_little_shared_memory_is_noted_where_cards_exchange_through_it() {
        let mut machine = recorded::machine("geforce-4").machine;
        assert!(notes(&machine, &[], "/dev/shm").is_empty());
        machine.shm_bytes = Some(64 << 20);
        let found = notes(&machine, &[], "/dev/shm");
        assert!(found[0].contains("64.0 MiB are free"), "{found:?}");
        assert!(notes(&machine, &["devices=[0]"], "/dev/shm").is_empty());
        assert!(planned(&machine, &[]).expect("a plan").lacks_peer_access);
        let mut nvlink = recorded::machine("nvlink-8").machine;
        nvlink.shm_bytes = Some(64 << 20);
        assert!(notes(&nvlink, &[], "/dev/shm").is_empty());
        assert!(!planned(&nvlink, &[]).expect("a plan").lacks_peer_access);
    }

    #[test]
    fn cards_with_an_old_driver_are_left_out_with_the_reason() {
        let mut machine = recorded::machine("geforce-4").machine;
        machine.gpus[1].driver = "470.256.02".to_owned();
        machine.gpus[2].driver = "470.256.02".to_owned();
        let devices = |machine: &Machine| -> Vec<Device> {
            let plan = planned(machine, &[]).expect("a plan");
            plan.ranks.iter().map(|rank| rank.device).collect()
        };
        assert_eq!(devices(&machine), [Device::Cuda(0), Device::Cuda(3)]);
        let found = notes(&machine, &[], "not used");
        assert!(
            found.len() == 1 && found[0].starts_with("not used: GPU 1, 2: its driver 470.256.02"),
            "{found:?}"
        );
        let error = planned(&machine, &["devices=[1]"]).expect_err("a refusal");
        assert_eq!(error.0[0].kind, RefusalKind::DeviceMissing);
        assert!(error.to_string().contains("470.256.02"), "{error}");
        for gpu in &mut machine.gpus {
            gpu.driver = "470.256.02".to_owned();
        }
        assert_eq!(devices(&machine), [Device::Cpu; 2]);
    }

    #[test]
    fn cards_without_tensor_cores_for_a_precision_are_noted() {
        let mut machine = recorded::machine("geforce-4").machine;
        machine.gpus[2].compute_capability = [7, 5];
        for (precision, words) in [
            ("bf16", "GPU 2 came before sm_80: bf16 is slow"),
            ("tf32", "GPU 2 came before sm_80: tf32 computes as fp32"),
        ] {
            let precision = format!("precision={precision}");
            let found = notes(&machine, &[&precision], "came before");
            assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
            let others = [precision.as_str(), "devices=[0,1]"];
            assert!(notes(&machine, &others, "came before").is_empty());
        }
        assert!(notes(&machine, &["precision=fp32"], "came before").is_empty());
    }
}
