//! The programs with cards that NVML tells of: a library in its place (`fake_nvml.c`).

use std::{path::Path, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::json;
use tempfile::TempDir;

use super::support::{Workplace, check, wait, with_stand_in};

pub fn trials() -> Vec<Trial> {
    vec![
        with_fakes("sensors::what_nvml_tells_is_shown", shown),
        with_fakes("sensors::a_lost_card_is_one_warning_of_its_rank", lost),
        with_fakes("sensors::a_hung_driver_holds_no_run_up", hung),
    ]
}

/// A trial that is ignored where the stand-in worker or the stand-in library is not to be had.
pub fn with_fakes(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    let has_compiler = Command::new("cc").arg("--version").output().is_ok();
    match has_compiler {
        true => with_stand_in(name, test),
        false => Trial::test(name, test).with_ignored_flag(true),
    }
}

/// A workplace whose NVML has cards of a kind; the library vanishes with the folder.
pub fn with_cards(place: Workplace, kind: &str) -> Result<(Workplace, TempDir), Failed> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("libnvidia-ml.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/fake_nvml.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()?;
    check(compiled.success(), "fake_nvml.c does not compile")?;
    let place = place
        .with("CAPSTAN_NVML", &library.to_string_lossy())
        .with("CUDA_VISIBLE_DEVICES", "0,1")
        .with("FAKE_NVML", kind);
    Ok((place, folder))
}

fn shown() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("well")?, "geforce")?;
    place.capstan(&["top", "--count", "2", "--every-s", "1"])?.ended_with(0)?.says(&[
        "GPU 0 NVIDIA GeForce RTX 4090  GPU-00000001  97      12.0/24.0  338/450  71  2520  power limit  5.9/5.8    4 x16",
        "GPU 1 NVIDIA GeForce RTX 4090  GPU-00000002  97      12.0/24.0  338/450  71  2520  temperature  5.9/5.8    4 x4 !",
    ])?;
    // The stand-in has no CUDA.
    place.capstan(&["doctor"])?.ended_with(4)?.says(&[
        "GPU-00000001; nvidia-smi calls it 1",
        "GPU-00000002; nvidia-smi calls it 0",
        "0-1: over a host bridge, no peer access",
    ])?;
    place.write_config(json!({ "devices": [0, 1] }))?;
    place
        .train(&["--dry-run"])?
        .ended_with(0)?
        .says(&["offer no peer access"])?;

    let (place, _library) = with_cards(Workplace::new("well")?, "hopper")?;
    let said = place
        .capstan(&["top", "--count", "2", "--every-s", "1", "--json"])?
        .ended_with(0)?;
    let last = said.out.lines().last().unwrap_or_default();
    let card = &serde_json::from_str::<serde_json::Value>(last)?["gpus"][1];
    let is_told = card["memory_temperature_c"] == 72
        && card["ecc_uncorrected"] == 0
        && card["nvlink_tx_bytes_per_sec"] == 6100 * (1_u64 << 20)
        && card["pcie_tx_bytes_per_sec"] == 2000 * (1_u64 << 20)
        && card["fan"].is_null();
    check(is_told, card.to_string())?;
    place
        .capstan(&["doctor"])?
        .says(&["0-1: over NVLink, peer access"])?;
    Ok(())
}

fn lost() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::long("well")?, "lost")?;
    place
        .capstan(&["top", "--count", "3", "--every-s", "1"])?
        .ended_with(0)?
        .says(&["GPU-00000002  LOST", "! GPU 1 (GPU-00000002) is lost: "])?;
    place.write_config(json!({ "devices": [1, 0], "log": { "sensors_every_s": 1 } }))?;
    let front = place.train_aside(&["--plain"])?;
    let losses = || {
        let readings = place.events_named("tiny", "sensors").into_iter();
        readings
            .filter(|reading| reading["gpus"][1]["is_lost"] == true)
            .count()
    };
    wait("looks at a lost card", || losses() >= 3)?;
    let mut said = place.events_named("tiny", "warning");
    said.retain(|warning| warning["text"].to_string().contains("GPU 1 "));
    check(said.len() == 1, format!("{said:?}"))?;
    let text = said[0]["text"].to_string();
    check(
        said[0]["rank"] == 0 && text.contains("fell off the bus; reboot"),
        text,
    )?;
    check(
        front
            .said()
            .contains("warning: rank 0: GPU 1 (GPU-00000002) is lost"),
        front.said(),
    )
}

/// The sampler waits for the driver for ever; the run, its end and its exit code don't.
fn hung() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("well")?, "hung")?;
    place.write_config(json!({ "devices": [0, 1], "log": { "sensors_every_s": 1 } }))?;
    let place = place.with("STAND_IN_STEPS", "200");
    place.train(&["--plain"])?.ended_with(0)?;
    check(place.step("tiny") == 200, "all steps")?;
    check(
        place.events_named("tiny", "sensors").is_empty(),
        "nothing was read",
    )
}
