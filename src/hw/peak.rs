//! Peak matrix rates of known GPUs, each with its source; nothing is guessed.

/// Dense bf16 tensor-core FLOP/s of one card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    pub flops: f64,
    pub source: &'static str,
}

/// Dense bf16 rates from NVIDIA's data sheets (without sparsity), longest name first.
const KNOWN: [(&str, f64, &str); 8] = [
    ("H100 PCIe", 756e12, "NVIDIA H100 data sheet, PCIe"),
    ("H100", 989.4e12, "NVIDIA H100 data sheet, SXM"),
    ("H200", 989.4e12, "NVIDIA H200 data sheet, SXM"),
    ("A100", 312e12, "NVIDIA A100 data sheet"),
    ("L40S", 362e12, "NVIDIA L40S data sheet"),
    ("RTX 6000 Ada", 364e12, "NVIDIA RTX 6000 Ada data sheet"),
    (
        "RTX 4090",
        165.2e12,
        "NVIDIA Ada architecture paper, fp32 accumulate",
    ),
    (
        "RTX 3090",
        71e12,
        "NVIDIA Ampere GA102 paper, fp32 accumulate",
    ),
];

/// The bf16 peak of a card by its product name, where it is known.
pub fn peak_flops(name: &str) -> Option<Peak> {
    KNOWN
        .iter()
        .find(|(part, ..)| name.contains(part))
        .map(|&(_, flops, source)| Peak { flops, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_cards_have_a_peak() {
        assert_eq!(
            peak_flops("NVIDIA H100 80GB HBM3").map(|peak| peak.flops),
            Some(989.4e12)
        );
        assert_eq!(
            peak_flops("NVIDIA H100 PCIe").map(|peak| peak.flops),
            Some(756e12)
        );
        assert_eq!(peak_flops("GeForce GT 710"), None);
    }
}
