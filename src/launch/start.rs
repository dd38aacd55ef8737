//! From a front to a running supervisor.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{
    LaunchError, RunFolder, cards, dirs, lock::RunLock, names, output::last_line, runs,
    supervisor::Begin, worker_program,
};
use crate::{
    base::fs::replace,
    config::{self, RunConfig},
    hw::Machine,
    plan::{self, DataSummary, PlanError, RunPlan},
    weights::Source,
};

/// The schema lies beside the runs, so that an editor finds it from any of them.
const SCHEMA_FILE: &str = "config.schema.json";
/// The exit code for a supervisor that died before it took its run.
const DIED: u8 = 70;

/// The plan of a run that starts: with the weights that it starts from, which must fit.
///
/// # Errors
/// All refusals together.
pub fn plan(
    config: &RunConfig,
    machine: &Machine,
    data: &DataSummary,
) -> Result<RunPlan, PlanError> {
    let source = config
        .init
        .as_ref()
        .map(|init| Source::open(&init.pretrained))
        .transpose();
    let planned = plan::resolve(config, machine, data);
    let refusals = match (planned, source) {
        (Ok(plan), Ok(None)) => return Ok(plan),
        (Ok(mut plan), Ok(Some(source))) => match source.fit(&plan.model) {
            Ok(pretrained) => {
                plan.notes.extend(pretrained.notes(&plan.data));
                plan.init = Some(pretrained.summary().clone());
                return Ok(plan);
            }
            Err(refusals) => refusals,
        },
        (planned, source) => {
            let planned = planned.err().map_or_else(Vec::new, |error| error.0);
            planned
                .into_iter()
                .chain(source.err().into_iter().flatten())
                .collect()
        }
    };
    Err(PlanError(refusals))
}

/// Makes a new run and starts its supervisor; of a run that does not come about nothing is left.
///
/// # Errors
/// No worker, a name that is taken or can't be one, a folder that can't be written, and as [`supervise`].
pub fn begin(
    runs_dir: &Path,
    wanted: &names::Wanted,
    config: &RunConfig,
    plan: &RunPlan,
) -> Result<(RunFolder, Child), LaunchError> {
    let folder = create(runs_dir, wanted, config, plan)?;
    match supervise(&folder, Begin::Fresh) {
        Ok(supervisor) => Ok((folder, supervisor)),
        Err(error) => {
            let _ = fs::remove_dir_all(folder.root());
            Err(error)
        }
    }
}

/// The run folder, with what the run is to do.
fn create(
    runs_dir: &Path,
    wanted: &names::Wanted,
    config: &RunConfig,
    plan: &RunPlan,
) -> Result<RunFolder, LaunchError> {
    worker_program::find()?;
    let folder = names::take(runs_dir, wanted)?;
    let checkpoints = folder.checkpoints();
    names::private()
        .create(&checkpoints)
        .map_err(LaunchError::io("the folder", checkpoints))?;
    write_schema(runs_dir)?;
    write_intent(&folder, config, plan)?;
    Ok(folder)
}

/// Writes `config.json` and `plan.json`.
///
/// # Errors
/// A file can't be written.
pub fn write_intent(
    folder: &RunFolder,
    config: &RunConfig,
    plan: &RunPlan,
) -> Result<(), LaunchError> {
    let mut config = config.clone();
    config.name = folder.name();
    config.schema = Some(format!("../{SCHEMA_FILE}"));
    write_json(&folder.config(), &config)?;
    write_json(&folder.plan(), plan)
}

/// Starts a supervisor of the folder and waits until it has taken the run.
///
/// The supervisor leads a session of its own: it outlives this process. Its exit code is the run's. A run that goes on has
/// its cards, as they are counted now.
///
/// # Errors
/// The supervisor's own reason for not taking the run; cards that are not there; a plan that can't be rewritten.
pub fn supervise(folder: &RunFolder, begin: Begin) -> Result<Child, LaunchError> {
    let warning = match begin {
        Begin::Fresh => None,
        Begin::Resume => count_cards(folder)?,
    };
    let failed = |source| LaunchError::Io {
        what: "the supervisor of",
        path: folder.root().to_owned(),
        source,
    };
    let log_from = fs::metadata(folder.worker_log()).map_or(0, |log| log.len());
    let mut child = command(folder, begin, warning)
        .and_then(|mut command| command.spawn())
        .map_err(failed)?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut answer)
            .map_err(failed)?;
    }
    match Answer::parse(&answer) {
        Answer::Ready => Ok(child),
        Answer::Refused { code, message } => {
            let _ = child.wait();
            Err(LaunchError::Supervisor { code, message })
        }
        Answer::Silence => {
            let died = match child.wait() {
                Ok(status) => format!("the supervisor died before it took the run ({status})"),
                Err(error) => format!("the supervisor died before it took the run ({error})"),
            };
            let words = last_line(&folder.worker_log(), log_from);
            Err(LaunchError::Supervisor {
                code: DIED,
                message: words.map_or(died.clone(), |words| format!("{died}: {words}")),
            })
        }
    }
}

/// Counts the cards of a run on GPUs anew; returns words about those that are others.
fn count_cards(folder: &RunFolder) -> Result<Option<String>, LaunchError> {
    let read = || {
        let plan = folder.read_plan();
        plan.filter(|plan| !plan.gpu_uuids.is_empty())
    };
    // What is wrong with a plan the supervisor says.
    if read().is_none() {
        return Ok(None);
    }
    // That may take seconds, in which nobody holds the run.
    let machine = Machine::probe();
    let _lock = RunLock::acquire(folder)?;
    let Some(before) = read() else {
        return Ok(None);
    };
    let mut plan = before.clone();
    let words = cards::keep(&mut plan, &machine);
    let words = words.map_err(|problem| LaunchError::NotResumable {
        message: format!(
            "{problem}: capstan resume {} --set devices=auto",
            runs::shortly(&dirs::runs_dir(), folder)
        ),
    })?;
    if plan != before {
        write_json(&folder.plan(), &plan)?;
    }
    Ok(words)
}

fn command(folder: &RunFolder, begin: Begin, warning: Option<String>) -> io::Result<Command> {
    let log = crate::base::own::open(&folder.worker_log(), crate::base::own::Purpose::Append)?;
    let mut command = Command::new(env::current_exe()?);
    command
        .arg("supervise")
        .arg(fs::canonicalize(folder.root())?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    if begin == Begin::Resume {
        command.arg("--resume");
    }
    command.args(warning.map(|warning| format!("--warning={warning}")));
    Ok(command)
}

/// The one line that a supervisor says to whom started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ready,
    Refused {
        code: u8,
        message: String,
    },
    /// It died before it could speak.
    Silence,
}

impl Answer {
    /// As one line, without its end.
    pub fn line(&self) -> String {
        match self {
            Self::Ready => "ready".to_owned(),
            Self::Refused { code, message } => {
                format!("error {code} {}", message.replace('\n', "; "))
            }
            Self::Silence => String::new(),
        }
    }

    /// Reads [`Answer::line`]; anything else is silence.
    pub fn parse(line: &str) -> Self {
        let line = line.trim_end();
        if line == "ready" {
            return Self::Ready;
        }
        let refused = line
            .strip_prefix("error ")
            .and_then(|rest| rest.split_once(' '));
        match refused.and_then(|(code, message)| Some((code.parse().ok()?, message))) {
            Some((code, message)) => Self::Refused {
                code,
                message: message.to_owned(),
            },
            None => Self::Silence,
        }
    }
}

fn write_schema(runs_dir: &Path) -> Result<(), LaunchError> {
    let path = runs_dir.join(SCHEMA_FILE);
    let schema = config::json_schema();
    if crate::base::read::text(&path, crate::base::read::Bound::TOLD)
        .is_ok_and(|present| present == schema)
    {
        return Ok(());
    }
    replace(&path, schema.as_bytes()).map_err(LaunchError::io("the schema", path))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), LaunchError> {
    let failed = LaunchError::io("writing", path);
    let mut text = match serde_json::to_string_pretty(value) {
        Ok(text) => text,
        Err(error) => return Err(failed(error.into())),
    };
    text.push('\n');
    replace(path, text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_their_line() {
        let refused = Answer::Refused {
            code: 4,
            message: "no worker".to_owned(),
        };
        for answer in [Answer::Ready, refused, Answer::Silence] {
            assert_eq!(Answer::parse(&format!("{}\n", answer.line())), answer);
        }
    }

    #[test]
    fn silence_is_a_dead_supervisor() {
        for line in ["", "garbage", "error x y", "error 300 y"] {
            assert_eq!(Answer::parse(line), Answer::Silence, "{line}");
        }
    }
}
