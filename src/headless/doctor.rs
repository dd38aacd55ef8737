//! `doctor`: can this machine train, and if not, what to do.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use serde::Serialize;
use serde_json::json;

use super::{
    cli::QueryArgs,
    outcome::MISSING,
    text::{say, say_json, table},
};
use crate::{
    base::{fs::free_bytes, text::printable, units},
    event::short_uuid,
    hw::{Gpu, Library, Link, Machine, NO_DRIVER, NONE_SHOWN, Unusable, WorkerReport},
    launch::{dirs, in_full, worker_program},
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

fn checks(machine: &Machine, runs_dir: &Path, worker: &Result<WorkerReport, String>) -> Vec<Check> {
    let mut checks = vec![
        good("cores", machine.cores.to_string()),
        good("memory", units::bytes(machine.memory_bytes)),
        space("disk of runs", runs_dir),
        space("disk of cache", &dirs::cache_dir()),
    ];
    checks.extend(gpus(machine));
    match worker {
        Ok(report) => checks.extend(worker_checks(report, machine)),
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
        let gpus = gpus.chain(order).chain(links(machine));
        return gpus.chain(shared_memory(machine)).collect();
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
    let Some(reason) = gpu.unusable() else {
        return good("GPU", found);
    };
    let remedy = match reason {
        Unusable::TooOld(_) => "runs go without it",
        Unusable::Driver { .. } => "install a newer one; runs go without the card until then",
    };
    Check {
        name: "GPU",
        health: Health::Note,
        found,
        remedy: Some(format!("{reason}; {remedy}")),
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

/// Where NCCL exchanges between GPUs without peer access.
fn shared_memory(machine: &Machine) -> Option<Check> {
    let all: Vec<usize> = (0..machine.gpus.len()).collect();
    let free = machine.shm_bytes?;
    if machine.without_peer_access(&all).is_empty() {
        return None;
    }
    let found = format!("{} free", units::bytes(free));
    let Some(_) = machine.scarce_shared_memory() else {
        return Some(good("/dev/shm", found));
    };
    Some(Check {
        name: "/dev/shm",
        health: Health::Note,
        found,
        remedy: Some(
            "NCCL exchanges through it and may need more; in a container: docker run --shm-size=1g"
                .to_owned(),
        ),
    })
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

/// What the worker says of itself.
fn ask_worker() -> Result<WorkerReport, String> {
    let program = worker_program::find().map_err(|error| in_full(&error))?;
    let output = Command::new(&program)
        .arg("doctor")
        .envs(worker_program::environment())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let report = said
        .lines()
        .find_map(|line| serde_json::from_str(line).ok());
    report.ok_or_else(|| {
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

fn worker_checks(report: &WorkerReport, machine: &Machine) -> Vec<Check> {
    let says =
        |what: &str, value: &str| good("worker says", format!("{what}: {}", printable(value)));
    let program = worker_program::find().ok();
    let program = program.map(|program| good("worker", program.display().to_string()));
    let n_gpus = machine.gpus.len();
    let prefers_cudnn = machine.gpus.iter().any(Gpu::prefers_cudnn_attention);
    let needs_nvrtc = prefers_cudnn && report.has_cudnn;
    program
        .into_iter()
        .chain([
            says("libtorch", &report.libtorch),
            says("threads", &report.threads.to_string()),
            seen_by_cuda(report.cuda_devices, machine),
            library("CUDA", &report.cuda, n_gpus > 0, "on CPU"),
            library("NCCL", &report.nccl, n_gpus > 1, "on CPU or one GPU"),
            library("NVRTC", &report.nvrtc, needs_nvrtc, "by these devices"),
        ])
        .collect()
}

/// CUDA has to see what the driver shows.
fn seen_by_cuda(seen: usize, machine: &Machine) -> Check {
    let found = format!("cuda_devices: {seen}");
    let (shown, left_out) = (machine.gpus.len(), machine.left_out.len());
    // Whether CUDA counts the cards that are left out depends on why they are.
    if (shown..=shown + left_out).contains(&seen) {
        return good("worker says", found);
    }
    Check {
        name: "worker says",
        health: Health::Bad,
        found: format!("{found}, where the driver shows {shown}"),
        remedy: Some("a card may need a reset; nvidia-smi says more".to_owned()),
    }
}

/// A library that the worker opens where `is_needed`; elsewhere it is not needed `by` what there is.
fn library(name: &'static str, library: &Library, is_needed: bool, by: &str) -> Check {
    match library {
        Library::Good(found) => good(name, printable(found)),
        Library::Bad(_) if !is_needed => Check {
            name,
            health: Health::Unneeded,
            found: format!("not usable, not needed {by}"),
            remedy: None,
        },
        Library::Bad(reason) => Check {
            name,
            health: Health::Bad,
            found: format!("not usable: {}", printable(reason)),
            remedy: Some(
                "make setup fetches it with the libtorch for GPUs; until then give \"devices\": [\"cpu\"]"
                    .to_owned(),
            ),
        },
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
            shm_bytes: None,
            gpus: (0..n_gpus).map(gpu).collect(),
            left_out: Vec::new(),
            links: Vec::new(),
            no_gpus_because: None,
        }
    }

    fn report(tried: Result<&str, &str>) -> WorkerReport {
        let library = || Library::from(tried.map(str::to_owned));
        WorkerReport {
            libtorch: "2.11.0".to_owned(),
            threads: 2,
            cuda_devices: 0,
            cuda: library(),
            has_cudnn: true,
            nccl: library(),
            nvrtc: library(),
        }
    }

    fn found(machine: &Machine, tried: Result<&str, &str>, name: &str) -> (Health, String, bool) {
        let checks = worker_checks(&report(tried), machine);
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
        let health = |machine: &Machine, seen: usize| {
            let check = seen_by_cuda(seen, machine);
            assert_eq!(check.remedy.is_some(), check.health == Health::Bad);
            check.health
        };
        let mut machine = machine(2);
        for (seen, expected) in [(2, Health::Good), (1, Health::Bad), (3, Health::Bad)] {
            assert_eq!(health(&machine, seen), expected, "{seen}");
        }
        machine.left_out = vec!["card 2: it is cut into MIG parts".to_owned()];
        assert_eq!(health(&machine, 3), Health::Good);
        assert_eq!(health(&machine, 4), Health::Bad);
    }

    #[test]
    fn another_order_than_the_bus_is_noted() {
        assert!(other_order(&machine(2), "FASTEST_FIRST").is_some());
        assert!(other_order(&machine(2), "PCI_BUS_ID").is_none());
        assert!(other_order(&machine(1), "FASTEST_FIRST").is_none());
    }

    #[test]
    fn what_gpus_need_is_missed_only_where_they_are() {
        let missing = Err("libx.so: cannot open shared object file");
        let no_h100 = recorded::machine("geforce-4").machine;
        for (name, place, n_unneeded) in [
            ("CUDA", "on CPU", 0),
            ("NCCL", "on CPU or one GPU", 1),
            ("NVRTC", "by these devices", 0),
        ] {
            let unneeded = format!("not usable, not needed {place}");
            for n_gpus in 0..=n_unneeded {
                let expected = (Health::Unneeded, unneeded.clone(), false);
                assert_eq!(found(&machine(n_gpus), missing, name), expected);
            }
            let needed = machine(n_unneeded + 1);
            let (health, words, has_remedy) = found(&needed, missing, name);
            assert!(health == Health::Bad && has_remedy, "{name}: {words}");
            assert!(words.contains("libx.so"), "{name}: {words}");
            let there = (Health::Good, "2.28.9".to_owned(), false);
            assert_eq!(found(&needed, Ok("2.28.9"), name), there);
        }
        assert_eq!(found(&no_h100, missing, "NVRTC").0, Health::Unneeded);
    }
}
