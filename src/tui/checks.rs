//! What a draft would do on this machine; reads data, so it has a thread of its own.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    draft::{Draft, Problem, Read, field_of},
    stamps::{Stamps, stamps},
};
use crate::{
    base::{fs::free_bytes, text::printable, units},
    config::{DeviceConfig, DevicesConfig, ParallelConfig, Precision, RunConfig},
    data,
    hw::{Device, Machine},
    launch::{dirs, in_full, lock, names, runs, start, worker_program},
    plan::{self, DataSummary, PlanError, RunPlan},
};

/// The largest number of CPU ranks for which splits are listed, where no device is named.
const MOST_RANKS: usize = 8;
/// The largest number of named devices for which splits are listed.
const MOST_DEVICES: usize = 32;
/// Optimizer moments in a checkpoint, at most.
const MOST_MOMENTS: usize = 2;
/// Tokens of data that can't be read, so that the rest of a config can be judged.
const STAND_IN_TOKENS: u64 = 1 << 40;

/// Between two words about a preparation.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What was found out about a draft.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    pub revision: u64,
    /// Dotted path and words; all of them.
    pub problems: Vec<Problem>,
    pub plan: Option<Box<RunPlan>>,
    pub splits: Vec<SplitRow>,
    /// In the order of ranks, as many as are named or visible; none: cores.
    pub devices: Vec<Device>,
    /// What a user should know: sign and words.
    pub checks: Vec<(bool, String)>,
    /// The data's text was looked at too, if it can be.
    pub is_thorough: bool,
    /// The beginning of the data's text.
    pub head: Option<String>,
    pub machine: String,
    /// The name that a run would get.
    pub run_name: String,
}

impl Checked {
    /// A rank's device in words.
    pub fn device(&self, rank: usize) -> String {
        let device = self.devices.get(rank).unwrap_or(&Device::Cpu);
        device.to_string()
    }
}

/// One way to share the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitRow {
    pub dp: usize,
    pub tp: usize,
    pub pp: usize,
    /// Bytes of a rank, or why it can't be.
    pub verdict: Result<u64, String>,
}

/// Checks drafts one after the other, and keeps what they have in common.
pub struct Checker {
    runs_dir: PathBuf,
    machine: Option<Machine>,
    /// Runs of the folder that were running at the last look at it.
    running: Vec<String>,
    /// The data that was read last, by its part of the config and its files as they were.
    data: Option<(Value, Stamps, Result<DataSummary, String>)>,
    /// What is told of a preparation that takes a while.
    tell: Box<dyn Fn(String) + Send + Sync>,
}

impl Checker {
    /// Nothing is looked at before the first draft; `tell` hears how far data is that takes a while.
    pub fn new(runs_dir: PathBuf, tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self {
            runs_dir,
            machine: None,
            running: Vec::new(),
            data: None,
            tell: Box::new(tell),
        }
    }

    /// The plan of a config here.
    ///
    /// # Errors
    /// Path and words of everything that is wrong; what depends on data that can't be read is left out.
    pub fn plan(&mut self, config: &RunConfig) -> Result<RunPlan, Vec<Problem>> {
        match self.data(config) {
            Ok(data) => start::plan(config, self.machine(), &data).map_err(|error| words(&error)),
            Err(problem) => {
                let mut problems = vec![("data".to_owned(), problem)];
                problems.extend(self.judge_without_data(config));
                Err(problems)
            }
        }
    }

    /// What is wrong with a config beside its data.
    fn judge_without_data(&mut self, config: &RunConfig) -> Vec<Problem> {
        let judged = start::plan(config, self.machine(), &stand_in());
        judged.err().map_or_else(Vec::new, |error| words(&error))
    }

    /// All that can be said about a draft.
    pub fn check(&mut self, draft: &Draft) -> Checked {
        let running = running(&self.runs_dir);
        if draft.thorough || running != self.running {
            // Others may have begun, or ended, to use its cards.
            self.machine = None;
            self.running = running;
        }
        if draft.thorough {
            self.data = None;
        }
        let Read {
            config, problems, ..
        } = draft.read();
        let mut checked = Checked {
            revision: draft.revision,
            is_thorough: draft.thorough,
            machine: told(self.machine()),
            problems,
            ..Checked::default()
        };
        let Some(config) = config else {
            return checked;
        };
        checked.run_name.clone_from(&config.name);
        match names::check(&config.name) {
            Ok(()) => {
                let next = names::next_free(&self.runs_dir, &config.name);
                checked.run_name = next.unwrap_or_else(|| config.name.clone());
            }
            Err(error) => {
                let words = format!("{error}; try {}", names::cleaned(&config.name));
                checked.problems.push(("name".to_owned(), words));
            }
        }
        let is_readable = !checked
            .problems
            .iter()
            .any(|(path, _)| path.starts_with("data"));
        let judged = match is_readable {
            true => self.plan(&config),
            false => Err(self.judge_without_data(&config)),
        };
        match judged {
            Ok(plan) if checked.problems.is_empty() => {
                checked.checks = self.checks(&config, &plan, &checked.run_name);
                checked.plan = Some(Box::new(plan));
            }
            Ok(_) => {}
            Err(more) => {
                // A stand-in says nothing about what the user will write there.
                let known: Vec<String> =
                    checked.problems.iter().map(|(at, _)| at.clone()).collect();
                let is_new = |at: &str| !known.iter().any(|known| field_of(known) == at);
                let more = more.into_iter().filter(|(at, _)| is_new(at));
                checked.problems.extend(more);
            }
        }
        let data = match is_readable {
            true => self.data(&config).ok(),
            false => None,
        };
        let data = data.unwrap_or_else(stand_in);
        checked.devices = devices(&config, self.machine());
        checked.splits = splits(&config, self.machine(), &data);
        if draft.thorough && is_readable {
            checked.head = Some(self.head(&config, &mut checked.checks));
        }
        checked
    }

    fn machine(&mut self) -> &Machine {
        self.machine.get_or_insert_with(Machine::probe)
    }

    fn data(&mut self, config: &RunConfig) -> Result<DataSummary, String> {
        let key = serde_json::to_value(&config.data).unwrap_or_default();
        let stamps = stamps(&key);
        if let Some((known, at, summary)) = &self.data
            && (known, at) == (&key, &stamps)
        {
            return summary.clone();
        }
        let told = Mutex::new(Instant::now());
        let prepared = data::prepare(&config.data, &dirs::cache_dir(), &|progress| {
            let Ok(mut last) = told.lock() else { return };
            if last.elapsed() >= TELL_EVERY {
                *last = Instant::now();
                let share = 100.0 * progress.done as f64 / progress.total.max(1) as f64;
                (self.tell)(format!("{} {share:.0} %", progress.what));
            }
        });
        let summary = match &prepared {
            Ok(prepared) => Ok(DataSummary::from(prepared)),
            Err(error) => Err(in_full(error).replace('\n', "; ")),
        };
        self.data = Some((key, stamps, summary.clone()));
        summary
    }

    fn checks(&mut self, config: &RunConfig, plan: &RunPlan, name: &str) -> Vec<(bool, String)> {
        let mut checks = vec![(
            true,
            format!(
                "data: {} tokens to train on, {} held out, ids below {}",
                units::count(plan.data.train_tokens as f64),
                units::count(plan.data.val_tokens as f64),
                plan.data.vocab_size
            ),
        )];
        checks.extend(memory(config, plan, self.machine(), available_bytes()));
        let free = self
            .runs_dir
            .ancestors()
            .find_map(|folder| free_bytes(folder).ok());
        checks.push(disk(config, plan, free));
        match worker_program::find() {
            Ok(_) => checks.push((true, "capstan-worker is there".to_owned())),
            Err(error) => checks.push((false, error.to_string())),
        }
        if *name != config.name {
            let text = format!("name: {} is taken, the run will be {name}", config.name);
            checks.push((true, text));
        }
        if self.running.is_empty() {
            checks.push((true, "no other run of this folder is running".to_owned()));
        } else {
            let text = format!("running beside it, slower: {}", self.running.join(", "));
            checks.push((false, text));
        }
        checks.extend(plan.notes.iter().map(|note| (false, note.clone())));
        checks
    }

    /// The first characters of the data, and what ids occur.
    fn head(&mut self, config: &RunConfig, checks: &mut Vec<(bool, String)>) -> String {
        match data::inspect(&config.data, &dirs::cache_dir(), &|_| {}) {
            Ok(inspection) => {
                let (ids, size) = (inspection.distinct_ids, inspection.vocab_size);
                checks.push((ids <= size, format!("{ids} of {size} token ids occur")));
                printable(&inspection.head)
            }
            Err(error) => in_full(&error),
        }
    }
}

/// The folder's runs that are running.
fn running(runs_dir: &Path) -> Vec<String> {
    let runs = runs::all(runs_dir);
    let held = runs.iter().filter(|folder| lock::is_held(folder));
    held.map(crate::launch::RunFolder::name).collect()
}

/// Path and words of every refusal.
pub fn words(error: &PlanError) -> Vec<(String, String)> {
    let refusals = error.0.iter();
    refusals
        .map(|refusal| {
            let words = format!("{}; {}", refusal.problem, refusal.remedy);
            (refusal.path.clone(), words)
        })
        .collect()
}

/// A machine in a few words.
pub fn told(machine: &Machine) -> String {
    match machine.gpus.as_slice() {
        [] => {
            let why = machine.no_gpus_because.clone();
            let why = why.unwrap_or_else(|| "no GPU is visible".to_owned());
            format!(
                "{} cores, {}; {why}",
                machine.cores,
                units::bytes(machine.memory_bytes)
            )
        }
        [first, ..] => format!(
            "{} × {} {}, driver {}",
            machine.gpus.len(),
            first.name,
            units::bytes(first.memory_bytes),
            first.driver
        ),
    }
}

/// What is said of data that can't be read.
fn stand_in() -> DataSummary {
    DataSummary {
        train_tokens: STAND_IN_TOKENS,
        val_tokens: STAND_IN_TOKENS,
        vocab_size: 1,
        fingerprint: String::new(),
        files: Vec::new(),
    }
}

/// Memory that nobody uses, of the machine or of this process's control group; `None` where Linux does not say.
fn available_bytes() -> Option<u64> {
    let text =
        crate::base::read::text(Path::new("/proc/meminfo"), crate::base::read::Bound::TOLD).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * units::KIB)
}

/// Bytes that a rank's activations take at the very least: the logits with their gradient, and the input of every
/// segment. What segments keep inside comes on top, several times as much.
fn least_activation_bytes(config: &RunConfig, plan: &RunPlan) -> u64 {
    let element = match config.precision {
        Precision::Bf16 => 2,
        Precision::Fp64 => 8,
        Precision::Fp32 | Precision::Tf32 => 4,
    };
    let mesh = plan.split.mesh;
    let tokens = (plan.micro_batch * plan.model.seq_len()) as u64;
    let logits = 2 * (plan.model.vocab_size() / mesh.tp) as u64;
    let inputs = (plan.model.d_model() * plan.model.segments().len() / mesh.pp) as u64;
    element * tokens * (logits + inputs)
}

/// Whether what is planned fits into what is free, of the host or of the fullest card. Activations are known from
/// below only, so more than half of it is a warning.
fn memory(
    config: &RunConfig,
    plan: &RunPlan,
    machine: &Machine,
    available: Option<u64>,
) -> Vec<(bool, String)> {
    let least = least_activation_bytes(config, plan);
    let of_rank = plan.memory.total() + least;
    let on = |device: Device| {
        plan.ranks
            .iter()
            .filter(|rank| rank.device == device)
            .count() as u64
    };
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "n/a".to_owned(), units::bytes);
    let line = |place: &str, n_ranks: u64, free: Option<u64>, rest: String| {
        let needed = of_rank * n_ranks;
        let needs = units::bytes(needed);
        let text = match free.is_some_and(|free| needed > free) {
            true => format!(
                "memory: {place}needs at least {needs} and {} are free{rest}; a smaller batch.micro or model, or more tp \
                 or pp, takes less",
                known(free)
            ),
            false => format!(
                "memory: {place}at least {needs} of {} free{rest}; further activations come on top",
                known(free)
            ),
        };
        (free.is_some_and(|free| needed <= free / 2), text)
    };
    let cpu_ranks = on(Device::Cpu);
    if cpu_ranks > 0 {
        let total = machine.memory_bytes;
        let free = available.map(|free| if total > 0 { free.min(total) } else { free });
        return vec![line("", cpu_ranks, free, String::new())];
    }
    let cards = machine.gpus.iter().enumerate().filter_map(|(index, gpu)| {
        let n_ranks = on(Device::Cuda(index));
        let free = gpu.memory_bytes.saturating_sub(gpu.used_bytes.unwrap_or(0));
        let room = i128::from(free) - i128::from(of_rank * n_ranks);
        (n_ranks > 0).then_some((room, index, n_ranks, free, gpu))
    });
    let fullest = cards.min_by_key(|(room, ..)| *room);
    let fullest = fullest.map(|(_, index, n_ranks, free, gpu)| {
        let used = format!(
            " ({} used by others, {} in all)",
            known(gpu.used_bytes),
            units::bytes(gpu.memory_bytes)
        );
        line(&format!("GPU {index}: "), n_ranks, Some(free), used)
    });
    fullest.into_iter().collect()
}

/// Whether the checkpoints of a run find room.
fn disk(config: &RunConfig, plan: &RunPlan, free: Option<u64>) -> (bool, String) {
    // One more than are kept lies there while it is written; the best one comes besides.
    let most = config.checkpoint.keep as u64 + 2;
    let saves = plan
        .total_steps()
        .map(|steps| steps.div_ceil(config.checkpoint.every.max(1)));
    let n = saves.map_or(most, |saves| most.min(saves + 1));
    let needed = n * plan.checkpoint_bytes(MOST_MOMENTS);
    let Some(free) = free else {
        return (
            false,
            format!("disk: free space n/a; {} needed", units::bytes(needed)),
        );
    };
    let text = format!(
        "disk: {n} checkpoints take at most {} of {} free",
        units::bytes(needed),
        units::bytes(free)
    );
    (needed <= free, text)
}

/// The devices that ranks may have: those that are named, else the GPUs.
pub fn devices(config: &RunConfig, machine: &Machine) -> Vec<Device> {
    match &config.devices {
        DevicesConfig::Auto => (0..machine.gpus.len()).map(Device::Cuda).collect(),
        DevicesConfig::List(list) => {
            let named = list.iter().map(|device| match device {
                DeviceConfig::Gpu(index) => Device::Cuda(*index),
                DeviceConfig::Cpu(_) => Device::Cpu,
            });
            named.collect()
        }
    }
}

/// Every way to share the work over the ranks that there are places for, with the planner's verdict: as many as devices
/// are named, else GPUs, else cores; and over as many as the config asks for.
pub fn splits(config: &RunConfig, machine: &Machine, data: &DataSummary) -> Vec<SplitRow> {
    let most = match devices(config, machine).len() {
        0 => machine.cores.clamp(1, MOST_RANKS),
        n => n.min(MOST_DEVICES),
    };
    let asked = config
        .parallel
        .map_or(1, |ParallelConfig { dp, tp, pp, .. }| {
            plan::Mesh { pp, dp, tp }.world()
        });
    let beyond = Some(asked).filter(|asked| (most + 1..=MOST_DEVICES).contains(asked));
    let mut rows = Vec::new();
    for world in beyond.into_iter().chain((1..=most).rev()) {
        let divisors = |n: usize| (1..=n).rev().filter(move |d| n.is_multiple_of(*d));
        for dp in divisors(world) {
            for tp in divisors(world / dp) {
                let pp = world / dp / tp;
                rows.push(SplitRow {
                    dp,
                    tp,
                    pp,
                    verdict: verdict(config, [dp, tp, pp], machine, data),
                });
            }
        }
    }
    rows
}

fn verdict(
    config: &RunConfig,
    [dp, tp, pp]: [usize; 3],
    machine: &Machine,
    data: &DataSummary,
) -> Result<u64, String> {
    let mut config = config.clone();
    let own = config.parallel.unwrap_or_default();
    config.parallel = Some(ParallelConfig { dp, tp, pp, ..own });
    match plan::resolve(&config, machine, data) {
        Ok(plan) => Ok(plan.memory.total()),
        Err(error) => {
            let reasons: Vec<String> = error
                .0
                .iter()
                .map(|refusal| format!("{} {}; {}", refusal.path, refusal.problem, refusal.remedy))
                .collect();
            Err(reasons.join(". "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hw::Gpu;

    fn machine(n_gpus: usize) -> Machine {
        let gpu = |index: usize| Gpu {
            uuid: format!("GPU-{index}"),
            name: "NVIDIA GeForce RTX 4090".to_owned(),
            memory_bytes: 24 * units::GIB,
            used_bytes: Some(index as u64 * 10 * units::GIB),
            compute_capability: [8, 9],
            driver: "580".to_owned(),
            nvml_index: Some(index),
        };
        Machine {
            cores: 2,
            memory_bytes: 16 * units::GIB,
            shm_bytes: None,
            gpus: (0..n_gpus).map(gpu).collect(),
            left_out: Vec::new(),
            links: Vec::new(),
            no_gpus_because: None,
        }
    }

    fn summary() -> DataSummary {
        DataSummary {
            train_tokens: 1_000_000,
            val_tokens: 100_000,
            vocab_size: 256,
            fingerprint: "x".to_owned(),
            files: Vec::new(),
        }
    }

    fn config(changes: &[(&str, Value)]) -> RunConfig {
        draft(changes).config().expect("a config")
    }

    fn draft(changes: &[(&str, Value)]) -> Draft {
        let mut draft = Draft::default();
        for (path, value) in changes {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            draft.set(&path, value.clone());
        }
        draft
    }

    fn plan_of(config: &RunConfig, machine: &Machine) -> RunPlan {
        plan::resolve(config, machine, &summary()).expect("a plan")
    }

    fn checker(runs_dir: &std::path::Path, machine: Machine) -> Checker {
        let mut checker = Checker::new(runs_dir.to_owned(), |_| {});
        checker.machine = Some(machine);
        checker
    }

    #[test]
    fn data_that_appears_is_read_without_another_edit() {
        let runs = tempfile::tempdir().expect("a folder");
        let path = runs.path().join("a.txt");
        let draft = draft(&[(
            "data",
            json!({ "text": { "path": path, "tokenizer": "bytes" } }),
        )]);
        let mut checker = checker(runs.path(), machine(0));
        let told = |checked: Checked| {
            let mut problems = checked.problems.into_iter();
            problems.find(|(at, _)| at == "data").map(|(_, text)| text)
        };
        let absent = told(checker.check(&draft));
        assert!(absent.is_some_and(|text| text.contains("no such file")));
        std::fs::write(&path, "some text to train on\n".repeat(5_000)).expect("written");
        assert_eq!(told(checker.check(&draft)), None);
    }

    #[test]
    fn problems_of_every_kind_are_told_together() {
        let runs = tempfile::tempdir().expect("a folder");
        let draft = draft(&[
            ("model.gpt.n_head", json!("abc")),
            ("name", json!("a/b")),
            ("data", json!({ "text": { "path": "/nowhere/at/all" } })),
            ("batch.micro", json!(7)),
            ("checkpoint.keep", json!(0)),
        ]);
        let checked = checker(runs.path(), machine(0)).check(&draft);
        for (path, words) in [
            ("model.gpt.n_head", "try 4"),
            ("name", "try a-b"),
            ("data", "no such file"),
            ("batch.micro", "try "),
            ("checkpoint.keep", "at least 2"),
        ] {
            let found = checked.problems.iter().find(|(at, _)| at == path);
            let (_, told) = found.expect(path);
            assert!(told.contains(words), "{path}: {told}");
        }
        assert_eq!(checked.problems.len(), 5, "{:?}", checked.problems);
        assert!(checked.plan.is_none() && !checked.splits.is_empty());
    }

    #[test]
    fn the_run_is_told_by_the_name_that_it_gets() {
        let runs = tempfile::tempdir().expect("a folder");
        let draft = Draft::default();
        let mut checker = checker(runs.path(), machine(0));
        assert_eq!(checker.check(&draft).run_name, "hello");
        std::fs::create_dir(runs.path().join("hello")).expect("made");
        let checked = checker.check(&draft);
        assert_eq!(checked.run_name, "hello-2");
        let told = |(_, text): &(bool, String)| text.contains("hello is taken");
        assert!(checked.checks.iter().any(told), "{:?}", checked.checks);
    }

    #[test]
    fn memory_is_compared_with_what_is_free() {
        let host = machine(0);
        let small = config(&[]);
        let plan = plan_of(&small, &host);
        let told = |free| memory(&small, &plan, &host, free).remove(0);
        assert!(told(Some(8 * units::GIB)).0);
        assert!(!told(Some(units::MIB)).0 && !told(None).0);
        assert!(told(None).1.contains("of n/a free"), "{:?}", told(None));
        let large = config(&[
            ("model", json!({ "gpt": { "preset": "gpt2" } })),
            ("batch", json!({ "global": 256, "micro": 256 })),
            ("devices", json!(["cpu"])),
        ]);
        let plan = plan_of(&large, &host);
        let (is_well, text) = memory(&large, &plan, &host, Some(12 * units::GIB)).remove(0);
        assert!(!is_well && text.contains("a smaller batch.micro"), "{text}");
        let (_, text) = told(Some(8 * units::GIB));
        assert!(text.contains("further activations come on top"), "{text}");
    }

    #[test]
    fn of_cards_the_fullest_is_told_with_what_others_use() {
        let cards = machine(3);
        let config = config(&[("batch.global", json!(24))]);
        let plan = plan_of(&config, &cards);
        let lines = memory(&config, &plan, &cards, None);
        let [(true, text)] = &lines[..] else {
            unreachable!("one line: {lines:?}")
        };
        for part in [
            "GPU 2: ",
            "of 4.00 GiB free",
            "20.00 GiB used by others, 24.00 GiB in all",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_disk_holds_no_more_checkpoints_than_are_saved() {
        for (steps, n) in [(100, 2), (1000, 3), (100_000, 4)] {
            let config = config(&[
                ("stop.steps", json!(steps)),
                ("checkpoint", json!({ "every": 500, "keep": 2 })),
            ]);
            let plan = plan_of(&config, &machine(0));
            let (is_well, text) = disk(&config, &plan, Some(units::GIB));
            assert!(
                is_well && text.contains(&format!("{n} checkpoints")),
                "{text}"
            );
            assert!(!disk(&config, &plan, Some(1)).0 && !disk(&config, &plan, None).0);
        }
    }

    #[test]
    fn splits_cover_the_devices_that_are_named_and_the_split_that_is_asked_for() {
        let worlds = |changes: &[(&str, Value)]| {
            let rows = splits(&config(changes), &machine(0), &summary());
            let worlds: Vec<usize> = rows.iter().map(|row| row.dp * row.tp * row.pp).collect();
            worlds
        };
        assert_eq!(worlds(&[])[0], 2, "cores");
        let four = ("devices", json!(["cpu", "cpu", "cpu", "cpu"]));
        assert_eq!(worlds(&[four])[0], 4);
        let asked = worlds(&[("parallel.dp", json!(8))]);
        assert_eq!(asked.iter().filter(|world| **world == 8).count(), 10);
        assert_eq!(asked[10], 2);
    }
}
