//! `doctor`: can this machine train, and if not, what to do.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    cli::QueryArgs,
    outcome::MISSING,
    text::{say, say_json, table},
};
use crate::{
    base::{fs::free_bytes, text::printable, units},
    event::short_uuid,
    hw::{Gpu, Link, Machine, NO_DRIVER, NONE_SHOWN},
    launch::{dirs, in_full, worker_program},
    plan::OLDEST_CAPABILITY,
};

/// Less free space than this is worth a word.
const LITTLE_SPACE: u64 = 2 * units::GIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Good,
    /// Training works, but not as well as it could.
    Note,
    /// Training does not work.
    Bad,
    /// Absent, and nothing here would use it.
    Unneeded,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    health: Health,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// `capstan doctor`.
pub fn doctor(runs_dir: &Path, args: &QueryArgs) -> anyhow::Result<u8> {
    let machine = Machine::probe();
    let worker = ask_worker();
    let checks = checks(&machine, runs_dir, &worker);
    if args.json {
        say_json(json!({ "machine": machine, "worker": worker.ok(), "checks": checks }))?;
    } else {
        for line in told(&checks) {
            say(&line)?;
        }
    }
    let is_ill = checks.iter().any(|check| check.health == Health::Bad);
    Ok(if is_ill { MISSING } else { 0 })
}

fn checks(machine: &Machine, runs_dir: &Path, worker: &Result<Value, String>) -> Vec<Check> {
    let mut checks = vec![
        good("cores", machine.cores.to_string()),
        good("memory", units::bytes(machine.memory_bytes)),
        space("disk of runs", runs_dir),
        space("disk of cache", &dirs::cache_dir()),
    ];
    checks.extend(gpus(machine));
    match worker {
        Ok(facts) => checks.extend(worker_facts(facts, machine)),
        Err(problem) => checks.push(Check {
            name: "worker",
            health: Health::Bad,
            found: problem.clone(),
            remedy: Some("make build, or set CAPSTAN_WORKER to its path".to_owned()),
        }),
    }
    checks
}

fn gpus(machine: &Machine) -> Vec<Check> {
    let left_out = machine.left_out.iter().map(|left_out| Check {
        name: "GPU",
        health: Health::Note,
        found: left_out.clone(),
        remedy: Some("runs go without it; nvidia-smi says more".to_owned()),
    });
    if !machine.gpus.is_empty() {
        let gpus = machine.gpus.iter().enumerate().map(gpu).chain(left_out);
        let order = env::var("CUDA_DEVICE_ORDER").ok();
        let order = order.and_then(|order| other_order(machine, &order));
        return gpus.chain(order).chain(links(machine)).collect();
    }
    let reason = machine.no_gpus_because.clone();
    let reason = reason.unwrap_or_else(|| NONE_SHOWN.to_owned());
    let remedy = match reason.as_str() {
        NO_DRIVER => "ranks run on CPU; for GPUs install the NVIDIA driver, 580 or later",
        _ => "ranks run on CPU until that is put right; nvidia-smi says more",
    };
    let none = Check {
        name: "GPUs",
        health: Health::Note,
        found: reason,
        remedy: Some(remedy.to_owned()),
    };
    left_out.chain([none]).collect()
}

fn gpu((index, gpu): (usize, &Gpu)) -> Check {
    let [major, minor] = gpu.compute_capability;
    let memory = units::bytes(gpu.memory_bytes);
    let nvml = match gpu.nvml_index {
        Some(nvml) if nvml != index => format!("; nvidia-smi calls it {nvml}"),
        _ => String::new(),
    };
    let found = format!(
        "{index}: {}, {memory}, sm_{major}{minor}, driver {}, {}{nvml}",
        gpu.name,
        gpu.driver,
        short_uuid(&gpu.uuid)
    );
    if gpu.compute_capability >= OLDEST_CAPABILITY {
        return good("GPU", found);
    }
    Check {
        name: "GPU",
        health: Health::Note,
        found,
        remedy: Some("libtorch 2.11 has no kernels for it; runs go without it".to_owned()),
    }
}

/// Runs count by bus, or as `CUDA_VISIBLE_DEVICES` lists the cards; other programs may count otherwise.
fn other_order(machine: &Machine, order: &str) -> Option<Check> {
    (machine.gpus.len() > 1 && order != "PCI_BUS_ID").then(|| Check {
        name: "GPU order",
        health: Health::Note,
        found: format!("CUDA_DEVICE_ORDER is {order}; runs number GPUs as above all the same"),
        remedy: Some("other programs may number them otherwise: go by the UUIDs".to_owned()),
    })
}

/// The pairs of GPUs, those that are linked alike in one line.
fn links(machine: &Machine) -> Vec<Check> {
    let mut kinds: Vec<(Link, Vec<String>)> = Vec::new();
    for link in &machine.links {
        let [a, b] = link.gpus;
        let alike = |kind: &&mut (Link, _)| {
            (kind.0.route, kind.0.peer_access) == (link.route, link.peer_access)
        };
        match kinds.iter_mut().find(alike) {
            Some((_, pairs)) => pairs.push(format!("{a}-{b}")),
            None => kinds.push((*link, vec![format!("{a}-{b}")])),
        }
    }
    kinds
        .iter()
        .map(|(link, pairs)| linked(*link, &pairs.join(" ")))
        .collect()
}

fn linked(link: Link, pairs: &str) -> Check {
    let route = link.route.map_or_else(
        || "linked in a way that the driver does not tell".to_owned(),
        |route| format!("over {route}"),
    );
    let (health, access) = match link.peer_access {
        Some(true) => (Health::Good, "peer access"),
        Some(false) => (Health::Note, "no peer access"),
        None => (Health::Good, "peer access n/a"),
    };
    let remedy = "ranks there exchange through the host's memory, which is slower; GeForce cards since RTX 40 offer none";
    Check {
        name: "GPU links",
        health,
        found: format!("{pairs}: {route}, {access}"),
        remedy: (health == Health::Note).then(|| remedy.to_owned()),
    }
}

/// The nearest folder that exists stands for one that doesn't yet.
fn space(name: &'static str, folder: &Path) -> Check {
    let present = folder
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(folder);
    match free_bytes(present) {
        Ok(bytes) if bytes >= LITTLE_SPACE => good(name, format!("{} free", units::bytes(bytes))),
        Ok(bytes) => Check {
            name,
            health: Health::Note,
            found: format!("{} free", units::bytes(bytes)),
            remedy: Some(format!("make room on the disk of {}", present.display())),
        },
        Err(error) => Check {
            name,
            health: Health::Bad,
            found: format!("{}: {error}", present.display()),
            remedy: Some("choose another folder with --runs-dir or XDG_CACHE_HOME".to_owned()),
        },
    }
}

/// What the worker says of itself: whatever it reports, a line each.
fn ask_worker() -> Result<Value, String> {
    let program = worker_program::find().map_err(|error| in_full(&error))?;
    let output = Command::new(&program)
        .arg("doctor")
        .envs(worker_program::environment(&program))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let facts = said
        .lines()
        .find_map(|line| serde_json::from_str(line).ok());
    facts.ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.lines().last().unwrap_or("it says nothing");
        format!(
            "{} ({}): {}",
            program.display(),
            output.status,
            printable(complaint)
        )
    })
}

fn worker_facts(facts: &Value, machine: &Machine) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Ok(program) = worker_program::find() {
        checks.push(good("worker", program.display().to_string()));
    }
    for (key, value) in facts.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), printable);
        checks.push(match key.as_str() {
            "cuda" => library("CUDA", &value, value == "loaded", machine.gpus.len(), 1),
            "nccl" => {
                let is_version = value.starts_with(|first: char| first.is_ascii_digit());
                library("NCCL", &value, is_version, machine.gpus.len(), 2)
            }
            "cuda_devices" => seen_by_cuda(&value, machine),
            _ => good("worker says", format!("{key}: {value}")),
        });
    }
    checks
}

/// CUDA has to see what the driver shows.
fn seen_by_cuda(said: &str, machine: &Machine) -> Check {
    let found = format!("cuda_devices: {said}");
    let (shown, left_out) = (machine.gpus.len(), machine.left_out.len());
    // Whether CUDA counts the cards that are left out depends on why they are.
    let sound = shown..=shown + left_out;
    if said.parse().is_ok_and(|seen: usize| sound.contains(&seen)) {
        return good("worker says", found);
    }
    Check {
        name: "worker says",
        health: Health::Bad,
        found: format!("{found}, where the driver shows {shown}"),
        remedy: Some(
            "the driver may be too old for CUDA 13 (580 is needed), or a card needs a reset"
                .to_owned(),
        ),
    }
}

/// A library that the worker opens where a run has `needed_from` GPUs or more.
fn library(
    name: &'static str,
    said: &str,
    is_loaded: bool,
    n_gpus: usize,
    needed_from: usize,
) -> Check {
    if is_loaded {
        return good(name, said.to_owned());
    }
    if n_gpus < needed_from {
        let place = if n_gpus == 0 { "CPU" } else { "one GPU" };
        return Check {
            name,
            health: Health::Unneeded,
            found: format!("not loaded, not needed on {place}"),
            remedy: None,
        };
    }
    let remedy =
        "make setup fetches it with the libtorch for GPUs; until then give \"devices\": [\"cpu\"]";
    Check {
        name,
        health: Health::Bad,
        found: format!("not loaded: {said}"),
        remedy: Some(remedy.to_owned()),
    }
}

const fn good(name: &'static str, found: String) -> Check {
    Check {
        name,
        health: Health::Good,
        found,
        remedy: None,
    }
}

fn told(checks: &[Check]) -> Vec<String> {
    let row = |check: &Check| {
        let health = match check.health {
            Health::Good => "ok",
            Health::Note => "note",
            Health::Bad => "BAD",
            Health::Unneeded => "-",
        };
        let remedy = check
            .remedy
            .as_ref()
            .map(|remedy| format!("; {remedy}"))
            .unwrap_or_default();
        vec![
            check.name.to_owned(),
            health.to_owned(),
            format!("{}{remedy}", check.found),
        ]
    };
    table(
        &["CHECK", "", "FOUND"],
        &checks.iter().map(row).collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use insta::{assert_snapshot, with_settings};

    use super::*;
    use crate::hw::recorded;

    fn machine(n_gpus: usize) -> Machine {
        let gpu = |index| Gpu {
            uuid: format!("GPU-{index}"),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: 80 << 30,
            compute_capability: [9, 0],
            driver: "580.82".to_owned(),
            used_bytes: None,
            nvml_index: Some(index),
        };
        Machine {
            cores: 2,
            memory_bytes: 1 << 30,
            gpus: (0..n_gpus).map(gpu).collect(),
            left_out: Vec::new(),
            links: Vec::new(),
            no_gpus_because: None,
        }
    }

    fn found(n_gpus: usize, facts: &Value, name: &str) -> (Health, String, bool) {
        let checks = worker_facts(facts, &machine(n_gpus));
        let check = checks.into_iter().find(|check| check.name == name);
        let check = check.expect("a line");
        (check.health, check.found, check.remedy.is_some())
    }

    #[test]
    fn every_machine_is_told() {
        for name in recorded::ALL {
            let told = told(&gpus(&recorded::machine(name).machine)).join("\n");
            with_settings!({ snapshot_path => "../../tests/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
                assert_snapshot!(format!("doctor-{name}"), told);
            });
        }
    }

    #[test]
    fn cuda_has_to_see_what_the_driver_shows() {
        let health = |machine: &Machine, said: &str| {
            let check = seen_by_cuda(said, machine);
            assert_eq!(check.remedy.is_some(), check.health == Health::Bad);
            check.health
        };
        let mut machine = machine(2);
        for (said, expected) in [
            ("2", Health::Good),
            ("1", Health::Bad),
            ("3", Health::Bad),
            ("no CUDA", Health::Bad),
        ] {
            assert_eq!(health(&machine, said), expected, "{said}");
        }
        machine.left_out = vec!["card 2: it is cut into MIG parts".to_owned()];
        assert_eq!(health(&machine, "3"), Health::Good);
        assert_eq!(health(&machine, "4"), Health::Bad);
    }

    #[test]
    fn another_order_than_the_bus_is_noted() {
        assert!(other_order(&machine(2), "FASTEST_FIRST").is_some());
        assert!(other_order(&machine(2), "PCI_BUS_ID").is_none());
        assert!(other_order(&machine(1), "FASTEST_FIRST").is_none());
    }

    #[test]
    fn what_gpus_need_is_missed_only_where_they_are() {
        let missing = json!({
            "cuda": "libtorch_cuda.so: cannot open shared object file",
            "nccl": "libnccl.so is not on the loader's path",
        });
        let unneeded = |place| {
            (
                Health::Unneeded,
                format!("not loaded, not needed on {place}"),
                false,
            )
        };
        for name in ["CUDA", "NCCL"] {
            assert_eq!(found(0, &missing, name), unneeded("CPU"));
            let (health, words, has_remedy) = found(2, &missing, name);
            assert!(health == Health::Bad && has_remedy, "{name}: {words}");
            assert!(words.contains("libnccl.so") || words.contains("libtorch_cuda.so"));
        }
        assert_eq!(found(1, &missing, "CUDA").0, Health::Bad);
        assert_eq!(found(1, &missing, "NCCL"), unneeded("one GPU"));
        let there = json!({ "cuda": "loaded", "nccl": "2.28.9" });
        assert_eq!(
            found(2, &there, "CUDA"),
            (Health::Good, "loaded".to_owned(), false)
        );
        assert_eq!(
            found(2, &there, "NCCL"),
            (Health::Good, "2.28.9".to_owned(), false)
        );
    }
}
