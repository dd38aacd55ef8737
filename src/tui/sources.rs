//! What is read for the screens: the folder of runs, a run's details, data, paths.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    app::Msg,
    board::Board,
    picker::{Asked, Looked},
    runs::{Details, RunRow, differences},
};
use crate::{
    arch::ModelShape,
    base::{fs::absolute, units},
    config::DataConfig,
    data,
    event::{Event, LogReader},
    launch::{
        RunFolder, in_full, lock,
        runs::{self, Stamp},
    },
    plan::RunPlan,
};

/// Between two looks at the folder of runs.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// Tells of the runs whenever something about one has changed, until nobody listens.
pub fn scan(runs_dir: &Path, to: &SyncSender<Msg>) {
    let mut scan = Scan::default();
    loop {
        if let Some(said) = scan.look(runs_dir)
            && to.send(said).is_err()
        {
            return;
        }
        thread::sleep(SCAN_EVERY);
    }
}

/// What the last look at the folder of runs brought.
#[derive(Default)]
pub struct Scan {
    known: HashMap<RunFolder, (Stamp, RunRow)>,
    failed: Option<String>,
    has_looked: bool,
}

impl Scan {
    /// What is to be told, where something has changed.
    ///
    /// A run whose log is as it was is not looked at, unless a supervisor held it: with its death nothing is written.
    pub fn look(&mut self, runs_dir: &Path) -> Option<Msg> {
        let folders = match runs::listed(runs_dir) {
            Ok(folders) => folders,
            Err(error) => {
                let text = in_full(&error);
                let is_news = self.failed.as_ref() != Some(&text);
                self.failed = Some(text.clone());
                return is_news.then_some(Msg::NoRuns(text));
            }
        };
        let mut changed = !self.has_looked || self.failed.is_some();
        for (stamp, folder) in &folders {
            let before = self.known.get(folder);
            if before.is_some_and(|(at, row)| at == stamp && !row.held) {
                continue;
            }
            let row = row(folder, stamp.written, lock::is_held(folder));
            changed |= before.is_none_or(|(_, before)| *before != row);
            self.known.insert(folder.clone(), (*stamp, row));
        }
        if self.known.len() > folders.len() {
            let present: HashSet<&RunFolder> = folders.iter().map(|(_, folder)| folder).collect();
            self.known.retain(|folder, _| present.contains(folder));
            changed = true;
        }
        self.has_looked = true;
        self.failed = None;
        changed.then(|| {
            let rows = folders
                .iter()
                .filter_map(|(_, folder)| self.known.get(folder));
            Msg::Runs(rows.map(|(_, row)| row.clone()).collect())
        })
    }
}

/// A run's line of the list.
pub fn row(folder: &RunFolder, written: SystemTime, held: bool) -> RunRow {
    let state = runs::see(folder).map(Box::new);
    let state = state.map_err(|error| in_full(&error));
    let word = match &state {
        Ok(state) => runs::word(state, held),
        Err(_) => "unreadable",
    };
    let written = written
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64());
    RunRow {
        name: folder.name(),
        word,
        fault: runs::check_config(folder)
            .err()
            .map(|error| in_full(&error)),
        held,
        has_checkpoint: folder.has_checkpoint(),
        state,
        written,
        model: folder
            .read_plan()
            .map_or_else(|| "n/a".to_owned(), |plan| model(&plan)),
        data: config(folder)["data"].take(),
        folder: folder.clone(),
    }
}

/// A run's config as written; null where it can't be read.
fn config(folder: &RunFolder) -> Value {
    let text = crate::base::read::bytes(&folder.config(), crate::base::read::Bound::TOLD)
        .unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The text of a run's config, under another name.
///
/// # Errors
/// The config can't be read.
pub fn renamed(folder: &RunFolder, name: String) -> Result<String, String> {
    let mut config = config(folder);
    if !config.is_object() {
        return Err(format!("{} can't be read", folder.config().display()));
    }
    config["name"] = name.into();
    Ok(config.to_string())
}

/// A model in a few words.
pub fn model(plan: &RunPlan) -> String {
    let params = units::count(plan.n_params as f64);
    let family = match serde_json::to_value(&plan.model) {
        Ok(Value::Object(object)) => object.keys().next().cloned(),
        _ => None,
    };
    let seq_len = ModelShape::seq_len(&plan.model);
    format!("{} {params}, seq {seq_len}", family.unwrap_or_default())
}

/// Plan and config of a run; what is not there is left out.
pub fn fill(board: &mut Board) {
    board.is_planned_anew = false;
    board.plan = board.folder.read_plan().map(Box::new);
    let text =
        crate::base::read::bytes(&board.folder.config(), crate::base::read::Bound::TOLD).ok();
    board.config = text.and_then(|text| serde_json::from_slice(&text).ok());
}

/// What Runs shows of one run beside its line; `None` where it was told to stop.
pub fn details(
    folder: &RunFolder,
    against: Option<&RunFolder>,
    stop: &AtomicBool,
) -> Option<Details> {
    let differences = against.map(|other| differences(&config(folder), &config(other)));
    let mut board = Board::new(folder.clone());
    let mut trained_s = 0.0;
    if let Ok(mut log) = LogReader::open(&folder.events()) {
        while let Ok(Some(record)) = log.next_sound_record() {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Event::Step { step_time_s, .. } = record.event {
                trained_s += step_time_s;
            }
            board.apply(&record);
        }
    }
    let published = folder.published();
    let mut files: Vec<(String, u64)> = fs::read_dir(folder.root())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, size(&entry.path()))
        })
        .collect();
    files.sort();
    Some(Details {
        name: folder.name(),
        against: against.map(RunFolder::name),
        differences: differences.unwrap_or_default(),
        checkpoints: published
            .into_iter()
            .map(|(step, path)| (step, size(&path)))
            .collect(),
        files,
        trained_s,
        started: board.state.started,
        next_seq: board.state.next_seq,
        loss: board.loss,
    })
}

/// Looks at the beginning of data, and at what a typed path is.
pub fn look(asked: Asked) -> Looked {
    let data = match &asked {
        Asked::Path(typed) => {
            let path = absolute(
                &std::env::current_dir().unwrap_or_default(),
                &at_home(typed),
            );
            data::recognise(&path).map_err(|error| in_full(&error))
        }
        Asked::Data(data) => Ok(data.clone()),
    };
    let found = data.and_then(|data| {
        let config: DataConfig =
            serde_json::from_value(data.clone()).map_err(|error| error.to_string())?;
        let seen = data::preview(&config).map_err(|error| in_full(&error))?;
        Ok((data, seen))
    });
    Looked { asked, found }
}

/// A typed path, in which `~` means the user's own folder.
pub fn at_home(typed: &str) -> PathBuf {
    match (typed.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => typed.into(),
    }
}

/// A path with what all files that begin so have in common, and their names.
pub fn completed(text: &str) -> (String, Vec<String>) {
    let (folder, begun) = match text.rsplit_once('/') {
        Some((folder, begun)) => (format!("{folder}/"), begun),
        None => (String::new(), text),
    };
    let shown = if folder.is_empty() { "." } else { &folder };
    let entries = fs::read_dir(at_home(shown)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_meant = name.starts_with(begun);
            is_meant.then(|| {
                let end = if entry.path().is_dir() { "/" } else { "" };
                format!("{name}{end}")
            })
        })
        .collect();
    names.sort();
    let Some(first) = names.first() else {
        return (text.to_owned(), names);
    };
    let common = first
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|&end| names.iter().all(|name| name.get(..end) == first.get(..end)))
        .last()
        .unwrap_or(0);
    let whole = format!("{folder}{}", &first[..common.max(begun.len())]);
    (whole, names)
}

/// Bytes of a file, or of all files below a folder; links are not followed.
fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}
