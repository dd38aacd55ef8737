//! What a draft would do on this machine; reads data, so it has a thread of its own.

use std::{path::Path, path::PathBuf};

use serde_json::Value;

use super::launch::{Checked, Draft, SplitRow};
use crate::{
    base::{fs::free_bytes, text::printable, units},
    config::{ParallelConfig, RunConfig},
    data,
    hw::Machine,
    launch::{dirs, in_full, lock, names, runs, start, worker_program},
    plan::{self, DataSummary, PlanError, RunPlan},
};

/// The largest number of CPU ranks for which splits are listed.
const MOST_RANKS: usize = 8;
/// Optimizer moments in a checkpoint, at most.
const MOST_MOMENTS: usize = 2;

/// Checks drafts one after the other, and keeps what they have in common.
pub struct Checker {
    runs_dir: PathBuf,
    machine: Option<Machine>,
    /// The data that was read last, by its part of the config.
    data: Option<(Value, Result<DataSummary, String>)>,
}

impl Checker {
    /// Nothing is looked at before the first draft.
    pub const fn new(runs_dir: PathBuf) -> Self {
        Self {
            runs_dir,
            machine: None,
            data: None,
        }
    }

    /// The plan of a config here.
    ///
    /// # Errors
    /// Path and words of everything that is wrong.
    pub fn plan(&mut self, config: &RunConfig) -> Result<RunPlan, Vec<(String, String)>> {
        let data = self.data(config);
        let data = data.map_err(|problem| vec![("data".to_owned(), problem)])?;
        let machine = self.machine();
        start::plan(config, machine, &data).map_err(|error| words(&error))
    }

    /// All that can be said about a draft.
    pub fn check(&mut self, draft: &Draft) -> Checked {
        if draft.thorough {
            // Others may have begun, or ended, to use its cards.
            self.machine = None;
        }
        let mut checked = Checked {
            revision: draft.revision,
            machine: told(self.machine()),
            ..Checked::default()
        };
        let config = match draft.config() {
            Ok(config) => config,
            Err(problem) => {
                checked.problems.push(problem);
                return checked;
            }
        };
        if let Err(error) = names::check(&config.name) {
            checked
                .problems
                .push(("name".to_owned(), error.to_string()));
        }
        match self.plan(&config) {
            Ok(plan) => {
                checked.checks = self.checks(&config, &plan);
                checked.plan = Some(Box::new(plan));
            }
            Err(problems) => checked.problems.extend(problems),
        }
        if let Ok(data) = self.data(&config) {
            checked.splits = splits(&config, self.machine(), &data);
        }
        if draft.thorough {
            checked.head = Some(self.head(&config, &mut checked.checks));
        }
        checked
    }

    fn machine(&mut self) -> &Machine {
        self.machine.get_or_insert_with(Machine::probe)
    }

    fn data(&mut self, config: &RunConfig) -> Result<DataSummary, String> {
        let key = serde_json::to_value(&config.data).unwrap_or_default();
        if let Some((known, summary)) = &self.data
            && *known == key
        {
            return summary.clone();
        }
        let prepared = data::prepare(&config.data, &dirs::cache_dir(), &|_| {});
        let summary = match &prepared {
            Ok(prepared) => Ok(DataSummary::from(prepared)),
            Err(error) => Err(in_full(error).replace('\n', "; ")),
        };
        self.data = Some((key, summary.clone()));
        summary
    }

    fn checks(&mut self, config: &RunConfig, plan: &RunPlan) -> Vec<(bool, String)> {
        let mut checks = vec![(
            true,
            format!(
                "data: {} tokens to train on, {} held out, ids below {}",
                units::count(plan.data.train_tokens as f64),
                units::count(plan.data.val_tokens as f64),
                plan.data.vocab_size
            ),
        )];
        if plan
            .ranks
            .iter()
            .all(|rank| rank.device == crate::hw::Device::Cpu)
        {
            let needed = plan.memory.total() * plan.world() as u64;
            let present = self.machine().memory_bytes;
            let of = if present > 0 {
                units::bytes(present)
            } else {
                "an unknown amount of".to_owned()
            };
            checks.push((true, format!("memory: {} of {of}", units::bytes(needed))));
        }
        checks.push(disk(&self.runs_dir, config, plan));
        match worker_program::find() {
            Ok(_) => checks.push((true, "capstan-worker is there".to_owned())),
            Err(error) => checks.push((false, error.to_string())),
        }
        let others: Vec<String> = runs::all(&self.runs_dir)
            .iter()
            .filter(|folder| lock::is_held(folder))
            .map(crate::launch::RunFolder::name)
            .collect();
        if others.is_empty() {
            checks.push((true, "no other run of this folder is running".to_owned()));
        } else {
            let text = format!("running beside it, slower: {}", others.join(", "));
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

/// Whether the checkpoints that are kept find room.
fn disk(runs_dir: &Path, config: &RunConfig, plan: &RunPlan) -> (bool, String) {
    // One more than are kept lies there while it is written; the best one comes besides.
    let n = config.checkpoint.keep as u64 + 2;
    let needed = n * plan.checkpoint_bytes(MOST_MOMENTS);
    let present = runs_dir
        .ancestors()
        .find_map(|folder| free_bytes(folder).ok());
    let Some(free) = present else {
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

/// Every way to share the work over the ranks that this machine has places for, with the planner's verdict.
pub fn splits(config: &RunConfig, machine: &Machine, data: &DataSummary) -> Vec<SplitRow> {
    let most = match machine.gpus.len() {
        0 => machine.cores.clamp(1, MOST_RANKS),
        n => n,
    };
    let mut rows = Vec::new();
    for world in (1..=most).rev() {
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
