//! Peak matrix rates of known GPUs, each with its source; nothing is guessed.

/// Dense bf16 tensor-core FLOP/s of one card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    pub flops: f64,
    pub source: &'static str,
}

/// Dense bf16 rates from NVIDIA's documents (without sparsity), by the whole names that the driver gives: a laptop's
/// card and other variants have part of their name in common with a faster one.
const KNOWN: [(&[&str], f64, &str); 10] = [
    (
        &["NVIDIA H100 80GB HBM3"],
        989.4e12,
        "NVIDIA H100 data sheet, SXM",
    ),
    (
        &["NVIDIA H100 PCIe"],
        756e12,
        "NVIDIA H100 data sheet, PCIe",
    ),
    (
        &["NVIDIA H100 NVL"],
        835.5e12,
        "NVIDIA H100 data sheet, NVL",
    ),
    (&["NVIDIA H200"], 989.4e12, "NVIDIA H200 data sheet, SXM"),
    (
        &["NVIDIA H200 NVL"],
        835.5e12,
        "NVIDIA H200 data sheet, NVL",
    ),
    (
        &[
            "NVIDIA A100-SXM4-40GB",
            "NVIDIA A100-SXM4-80GB",
            "NVIDIA A100-PCIE-40GB",
            "NVIDIA A100 80GB PCIe",
        ],
        312e12,
        "NVIDIA A100 data sheet",
    ),
    (&["NVIDIA L40S"], 362e12, "NVIDIA L40S data sheet"),
    (
        &["NVIDIA RTX 6000 Ada Generation"],
        364e12,
        "NVIDIA RTX 6000 Ada data sheet",
    ),
    (
        &["NVIDIA GeForce RTX 4090"],
        165.2e12,
        "NVIDIA Ada architecture paper, fp32 accumulate",
    ),
    (
        &["NVIDIA GeForce RTX 3090"],
        71e12,
        "NVIDIA Ampere GA102 paper, fp32 accumulate",
    ),
];

/// The bf16 peak of a card by its whole product name, where it is known.
pub fn peak_flops(name: &str) -> Option<Peak> {
    KNOWN
        .iter()
        .find(|(names, ..)| names.contains(&name))
        .map(|&(_, flops, source)| Peak { flops, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_cards_have_a_peak() {
        let flops = |name| peak_flops(name).map(|peak| peak.flops);
        assert_eq!(flops("NVIDIA H100 80GB HBM3"), Some(989.4e12));
        assert_eq!(flops("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(flops("NVIDIA A100-SXM4-80GB"), Some(312e12));
        assert_eq!(flops("GeForce GT 710"), None);
    }

    #[test]
    fn a_variant_does_not_get_another_cards_peak() {
        for name in [
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA GeForce RTX 4090 D",
            "NVIDIA GeForce RTX 3090 Ti",
            "NVIDIA H100 80GB HBM2e",
            "NVIDIA H100",
            "NVIDIA A100X",
            "NVIDIA L40",
        ] {
            assert_eq!(peak_flops(name), None, "{name}");
        }
        let nvl = peak_flops("NVIDIA H100 NVL").map(|peak| peak.flops);
        assert_eq!(nvl, Some(835.5e12));
    }

    #[test]
    fn every_name_stands_once() {
        let mut names: Vec<&str> = KNOWN
            .iter()
            .flat_map(|(names, ..)| *names)
            .copied()
            .collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
