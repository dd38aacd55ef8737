//! The programs with cards that NVML tells of: a library in its place (`fake_nvml.c`).

use std::{fs, path::Path, process::Command};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Said, Workplace, check, wait, with_stand_in};

pub fn trials() -> Vec<Trial> {
    vec![
        with_fakes("sensors::what_nvml_tells_is_shown", shown),
        with_fakes("sensors::one_to_sixteen_cards_are_shown", many),
        with_fakes("sensors::a_call_that_fails_leaves_its_value_out", any_call),
        with_fakes("sensors::top_says_why_a_card_is_not_there", left_out),
        with_fakes("sensors::a_driver_that_hangs_hides_no_host", no_answer),
        with_fakes("sensors::a_lost_card_is_one_warning_of_its_rank", lost),
        with_fakes(
            "sensors::what_a_card_suffers_is_one_warning_each",
            suffering,
        ),
        with_fakes("sensors::a_silent_card_is_one_warning", silent),
        with_fakes("sensors::a_hung_driver_holds_no_run_up", hung),
        with_fakes(
            "sensors::an_orphaned_sampler_ends_even_in_the_driver",
            orphaned,
        ),
        with_stand_in("sensors::a_sampler_that_dies_is_started_again", restarted),
        Trial::test("sensors::intervals_have_an_end", bounded),
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
        "GPU 0 NVIDIA GeForce RTX 4090  GPU-00000001  97      12.0/24.0  338/450  71  2520  power limit  5.9/5.8    4 x16   55",
        "GPU 1 NVIDIA GeForce RTX 4090  GPU-00000002  97      12.0/24.0  338/450  71  2520  temperature  5.9/5.8    4 x4 !  55",
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
    let look = readings(&place, 2)?.pop().unwrap_or_default();
    let card = &look["gpus"][1];
    // Watts that the fake's counter makes of the time since the sampler's first look.
    let joules = card["energy_j"].as_f64().unwrap_or(0.0);
    let is_told = card["memory_temperature_c"] == 72
        && card["ecc_uncorrected"] == 0
        && card["nvlink_tx_bytes_per_sec"] == 6100 * (1_u64 << 20)
        && card["pcie_tx_bytes_per_sec"] == 2000 * (1_u64 << 20)
        && [
            &card["sm_active"],
            &card["tensor_active"],
            &card["dram_active"],
        ] == [0.14, 0.35, 0.7]
        && (338.0..3380.0).contains(&joules)
        && card["energy_is_estimate"].is_null()
        && card["fan"].is_null();
    check(is_told, card.to_string())?;
    check(
        look["schema"] == 1 && look["time"].as_f64() > Some(1.7e9),
        look.to_string(),
    )?;
    place
        .capstan(&["doctor"])?
        .says(&["0-1: over NVLink, peer access"])?;
    Ok(())
}

/// Lines of `top --json`, a second apart.
fn readings(place: &Workplace, count: usize) -> Result<Vec<Value>, Failed> {
    let count = count.to_string();
    let said = place
        .capstan(&["top", "--count", &count, "--every-s", "1", "--json"])?
        .ended_with(0)?;
    Ok(said
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

fn many() -> Result<(), Failed> {
    for n in [1, 3, 16] {
        let (place, _library) = with_cards(Workplace::new("well")?, "geforce")?;
        let visible: Vec<String> = (0..n).map(|index| index.to_string()).collect();
        let place = place
            .with("FAKE_NVML_CARDS", &n.to_string())
            .with("CUDA_VISIBLE_DEVICES", &visible.join(","));
        let look = readings(&place, 1)?.pop().unwrap_or_default();
        let gpus = look["gpus"].as_array().cloned().unwrap_or_default();
        check(gpus.len() == n, look.to_string())?;
        for (gpu, number) in gpus.iter().zip(1..) {
            let uuid = format!("GPU-{number:08}-aaaa-bbbb-cccc-dddddddddddd");
            check(
                gpu["uuid"] == *uuid && gpu["power_w"] == 338.0,
                gpu.to_string(),
            )?;
        }
        let last = format!("GPU {} NVIDIA GeForce RTX 4090", n - 1);
        place
            .capstan(&["top", "--count", "1", "--every-s", "1"])?
            .ended_with(0)?
            .says(&[&last])?;
        place
            .capstan(&["doctor"])?
            .ended_with(4)?
            .says(&[&format!("GPU-{n:08}")])?;
    }
    Ok(())
}

/// Functions of the stand-in library that a refusal may come from.
fn functions() -> Vec<String> {
    let source = include_str!("fake_nvml.c");
    let names = source.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("int ")?.split_once('(')?;
        let frees = ["nvmlShutdown", "nvmlGpmSampleFree", "nvmlEventSetFree"];
        (name.starts_with("nvml") && !frees.contains(&name)).then(|| name.to_owned())
    });
    names.collect()
}

/// NotSupported for any call: everything ends well, and no value is another than where all calls work.
fn any_call() -> Result<(), Failed> {
    for kind in ["geforce", "hopper"] {
        let (place, _library) = with_cards(Workplace::new("well")?, kind)?;
        let whole = readings(&place, 1)?.pop().unwrap_or_default();
        let whole = &whole["gpus"][0];
        let functions = functions();
        check(functions.len() > 30, format!("{functions:?}"))?;
        // Each takes a second, most of it asleep.
        for some in functions.chunks(12) {
            std::thread::scope(|scope| {
                let tried: Vec<_> = some
                    .iter()
                    .map(|function| scope.spawn(|| one_call(&place, function, whole)))
                    .collect();
                tried.into_iter().try_for_each(|tried| {
                    tried
                        .join()
                        .map_err(|_| Failed::from("a trial's thread died"))?
                })
            })?;
        }
    }
    Ok(())
}

fn one_call(place: &Workplace, function: &str, whole: &Value) -> Result<(), Failed> {
    let run = |arguments: &[&str]| -> Result<Said, Failed> {
        let mut command = place.command(arguments);
        Ok(Said::from(
            command.env("FAKE_NVML_FAILS", function).output()?,
        ))
    };
    let said = run(&["top", "--count", "1", "--every-s", "1", "--json"])?.ended_with(0)?;
    let look = said.json()?;
    let Some(gpu) = look["gpus"][0].as_object() else {
        let reason = look["no_gpus_because"].to_string() + &look["left_out"].to_string();
        check(reason.len() > 20, format!("{function}: {look}"))?;
        return run(&["doctor"])?.says(&["note"]).map(drop);
    };
    let varies = ["energy_j", "energy_is_estimate"];
    // A card without memory of its own is taken to share the host's; the rates have two sources.
    let shares = ["memory_used_bytes", "memory_total_bytes", "fan"];
    let rates = ["pcie_tx_bytes_per_sec", "pcie_rx_bytes_per_sec"];
    for (key, value) in gpu {
        let may_differ = [&varies[..], &shares, &rates]
            .concat()
            .contains(&key.as_str());
        let is_known = value.as_f64().is_none_or(|value| value > 0.0);
        let is_same = *value == whole[key];
        check(
            is_same || may_differ && is_known,
            format!(
                "{function}: {key} is {value}, {} where it works",
                whole[key]
            ),
        )?;
    }
    let said = run(&["top", "--count", "1", "--every-s", "1"])?.ended_with(0)?;
    let row = said.out.lines().find(|line| line.starts_with("GPU 0 "));
    let row = row.ok_or_else(|| Failed::from(format!("{function}: no card in {said:#?}")))?;
    let has_column = [
        "Usage",
        "Rates",
        "Temperature",
        "ClockInfo",
        "CurrPcie",
        "Reasons",
    ];
    if has_column.iter().any(|part| function.contains(part)) && !function.contains("Max") {
        check(row.contains("n/a"), format!("{function}: {row}"))?;
    }
    if ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"].contains(&function) {
        said.says(&["! XID errors are not watched on all cards (GPU-0000000"])?;
    }
    run(&["doctor"])?.ended_with(4)?;
    Ok(())
}

fn left_out() -> Result<(), Failed> {
    let looks = [&["top", "--count", "1", "--every-s", "1"][..], &["doctor"]];
    for (kind, reason) in [
        ("mig", "card 0 of nvidia-smi: it is cut into MIG parts"),
        ("mute", "card 0 of nvidia-smi: it does not answer"),
    ] {
        let (place, _library) = with_cards(Workplace::new("well")?, kind)?;
        for look in looks {
            place.capstan(look)?.says(&[reason, "GPU-00000001"])?;
        }
        let look = readings(&place, 1)?.pop().unwrap_or_default();
        check(
            look["gpus"].as_array().is_some_and(|gpus| gpus.len() == 1)
                && look["left_out"][0].to_string().contains(reason),
            look.to_string(),
        )?;
    }
    let (place, _library) = with_cards(Workplace::new("well")?, "geforce")?;
    let place = place.with("CUDA_VISIBLE_DEVICES", "7");
    let reason = "CUDA_VISIBLE_DEVICES is \"7\", which names none of 2 GPU(s)";
    for look in looks {
        place.capstan(look)?.says(&[reason])?;
    }
    let place = Workplace::new("well")?.with("CAPSTAN_NVML", "/nowhere/libnvidia-ml.so");
    for look in looks {
        place.capstan(look)?.says(&["NVML: "])?;
    }
    Ok(())
}

fn no_answer() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("well")?, "stuck")?;
    let top = ["top", "--count", "1", "--every-s", "1"];
    let said = place.capstan(&top)?.ended_with(0)?;
    let host = said.out.lines().find(|line| line.starts_with("host "));
    check(
        host.is_some_and(|host| !host.contains("n/a  n/a")),
        &said.out,
    )?;
    said.says(&["no GPUs: the NVIDIA driver has not answered for "])?;
    place
        .capstan(&["doctor"])?
        .says(&["the NVIDIA driver did not answer within 15 s"])?;

    let (place, _library) = with_cards(Workplace::new("well")?, "hung")?;
    let said = place.capstan(&top)?.ended_with(0)?;
    let row = said.out.lines().find(|line| line.starts_with("GPU 1 "));
    let is_unknown = |row: &str| row.matches("n/a").count() >= 7;
    check(row.is_some_and(is_unknown), &said.out)
}

fn lost() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::long("well")?, "lost")?;
    place
        .capstan(&["top", "--count", "3", "--every-s", "1"])?
        .ended_with(0)?
        .says(&["GPU-00000002  LOST", "! GPU 1 (GPU-00000002) is lost: "])?;
    place.write_config(json!({ "devices": [1, 0], "log": { "sensors_every_s": 1 } }))?;
    let front = place.train_aside(&["--plain"])?;
    let is_lost = |reading: &Value| reading["gpus"][1]["is_lost"] == true;
    wait_for_looks(&place, 3, is_lost)?;
    let said = warnings(&place, "GPU 1 ");
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

/// The run's looks at sensors, in order.
fn looks(place: &Workplace) -> Vec<Value> {
    place.events_named("tiny", "sensors")
}

fn wait_for_looks(
    place: &Workplace,
    count: usize,
    holds: impl Fn(&Value) -> bool,
) -> Result<(), Failed> {
    wait("looks at sensors", || {
        looks(place).iter().filter(|look| holds(look)).count() >= count
    })
}

/// The run's warnings with these words.
fn warnings(place: &Workplace, words: &str) -> Vec<Value> {
    let mut said = place.events_named("tiny", "warning");
    said.retain(|warning| warning["text"].to_string().contains(words));
    said
}

/// Heat, a power limit, an XID that is no loss and a narrow link: each is said once, of its rank, with what to try.
fn suffering() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::long("well")?, "geforce")?;
    let place = place.with("FAKE_NVML_XID", "63");
    place.write_config(json!({ "devices": [1, 0], "log": { "sensors_every_s": 1 } }))?;
    let _front = place.train_aside(&["--plain"])?;
    let expected = [
        (
            0,
            "GPU 1 (GPU-00000002) XID 63: ",
            "replace it where this returns",
        ),
        (
            0,
            "GPU 1 (GPU-00000002) is slowed by temperature at 71 °C in each of ",
            "fans",
        ),
        (
            0,
            "GPU 1 (GPU-00000002) has a PCIe link of x4 ",
            "another slot",
        ),
        (
            1,
            "GPU 0 (GPU-00000001) is slowed by power limit of 450 W in each of ",
            "nvidia-smi -pl",
        ),
    ];
    for (_, words, _) in expected {
        wait(words, || !warnings(&place, words).is_empty())?;
    }
    let n = looks(&place).len();
    wait_for_looks(&place, n + 3, |_| true)?;
    for (rank, words, remedy) in expected {
        let said = warnings(&place, words);
        let text = said[0]["text"].to_string();
        check(
            said.len() == 1 && said[0]["rank"] == rank && text.contains(remedy),
            format!("{said:?}"),
        )?;
    }
    let said = warnings(&place, "GPU ");
    check(said.len() == expected.len(), format!("{said:?}"))
}

/// It answers Unknown to every call from a moment on.
fn silent() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::long("well")?, "silent")?;
    place.write_config(json!({ "devices": [0, 1], "log": { "sensors_every_s": 1 } }))?;
    let _front = place.train_aside(&["--plain"])?;
    wait_for_looks(&place, 3, |look| look["gpus"][1]["is_silent"] == true)?;
    let said = warnings(&place, "GPU 1 ");
    check(
        said.len() == 1 && said[0].to_string().contains("does not answer any more; "),
        format!("{said:?}"),
    )?;
    let last = looks(&place).pop().unwrap_or_default();
    let card = last["gpus"][1].as_object().cloned().unwrap_or_default();
    let mut told = card.keys().map(String::as_str);
    check(
        told.all(|key| ["uuid", "name", "is_silent"].contains(&key)),
        last.to_string(),
    )?;
    check(last["gpus"][0]["power_w"] == 338.0, last.to_string())?;
    check(last["run_energy"].is_null(), "half of it is not the run's")
}

/// The sampler's GPUs wait for the driver for ever; the host's values, the run, its end and its exit code don't.
fn hung() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("well")?, "hung")?;
    place.write_config(json!({ "devices": [0, 1], "log": { "sensors_every_s": 1 } }))?;
    let place = place.with("STAND_IN_STEPS", "200");
    place.train(&["--plain"])?.ended_with(0)?;
    check(place.step("tiny") == 200, "all steps")?;

    let (place, _library) = with_cards(Workplace::long("well")?, "hung")?;
    place.write_config(json!({ "devices": [0, 1], "log": { "sensors_every_s": 1 } }))?;
    let _front = place.train_aside(&["--plain"])?;
    let words = "the NVIDIA driver has not answered for ";
    wait(words, || !warnings(&place, words).is_empty())?;
    let n = looks(&place).len();
    wait_for_looks(&place, n + 3, |_| true)?;
    let said = warnings(&place, words);
    check(
        said.len() == 1 && said[0]["rank"].is_null(),
        format!("{said:?}"),
    )?;
    let last = looks(&place).pop().unwrap_or_default();
    let is_so = last["host"]["memory_used_bytes"].as_u64() > Some(0)
        && last["gpus"][1]["name"] == "NVIDIA GeForce RTX 4090"
        && last["gpus"][1]["memory_used_bytes"].is_null();
    check(is_so, last.to_string())
}

/// The supervisor's sampler.
pub fn sampler(supervisor: Pid) -> Result<Pid, Failed> {
    let parent = format!("PPid:\t{}\n", supervisor.as_raw_nonzero());
    let is_it = |folder: &Path| {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        read("status").contains(&parent) && read("cmdline").contains("\0sensors\0")
    };
    let mut found = None;
    wait("a sampler", || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let folder = processes.map(|entry| entry.path()).find(|path| is_it(path));
        let pid = folder.and_then(|folder| folder.file_name()?.to_str()?.parse().ok());
        found = pid.and_then(Pid::from_raw);
        found.is_some()
    })?;
    found.ok_or_else(|| "no sampler".into())
}

/// Nothing that it would have written tells it that its supervisor is gone.
fn orphaned() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::long("well")?, "hung")?;
    place.write_config(json!({ "log": { "sensors_every_s": 3600 } }))?;
    let _front = place.train_aside(&["--plain"])?;
    let supervisor = place.supervisor("tiny")?;
    let sampler = sampler(supervisor)?;
    kill_process(supervisor, Signal::KILL)?;
    wait("the sampler's end", || {
        !Path::new(&format!("/proc/{}", sampler.as_raw_nonzero())).exists()
    })
}

fn restarted() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.write_config(json!({ "log": { "sensors_every_s": 1 } }))?;
    let _front = place.train_aside(&["--plain"])?;
    let supervisor = place.supervisor("tiny")?;
    let is_first = |look: &Value| look["is_first"] == true;
    for life in 1..=3 {
        wait_for_looks(&place, life, is_first)?;
        if life < 3 {
            kill_process(sampler(supervisor)?, Signal::KILL)?;
        }
    }
    let said = warnings(&place, "the process that looks at sensors ");
    check(
        said.len() == 1
            && said[0]
                .to_string()
                .contains("died (signal: 9 (SIGKILL)); it is started again"),
        format!("{said:?}"),
    )
}

fn bounded() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    for seconds in ["18446744073709551615", "3601", "0"] {
        place
            .capstan(&["top", "--count", "1", "--every-s", seconds])?
            .ended_with(2)?
            .says(&["3600"])?;
    }
    place.write_config(json!({ "log": { "sensors_every_s": u64::MAX } }))?;
    place.train(&["--dry-run"])?.ended_with(2)?.says(&[
        "log.sensors_every_s",
        "is more than 3600",
        "an hour",
    ])?;
    Ok(())
}
