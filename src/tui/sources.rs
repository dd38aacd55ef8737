//! Where news comes from: the folder of runs, and the log of the run that is watched. A thread each.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{
    app::{Msg, News},
    board::Board,
    picker::{Asked, Looked},
    runs::{Details, RunRow, differences},
};
use crate::{
    arch::ModelShape,
    base::{fs::absolute, units},
    config::DataConfig,
    data,
    event::LogReader,
    launch::{RunFolder, in_full, lock, runs},
    plan::RunPlan,
};

/// Between two looks at the folder of runs.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at the end of a log.
const TAIL_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at the lock.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Records that are passed on at once.
const BATCH: usize = 2048;
/// The worker's output is shown from its last lines on.
const MOST_LINES: usize = 5000;

/// Tells of the runs whenever something about one has changed, until nobody listens.
pub fn scan(runs_dir: &Path, to: &SyncSender<Msg>) {
    let mut known: HashMap<RunFolder, (SystemTime, RunRow)> = HashMap::new();
    let mut first = true;
    loop {
        let folders = runs::all(runs_dir);
        let mut changed = first || folders.len() != known.len();
        let mut rows = Vec::with_capacity(folders.len());
        let mut present = HashMap::new();
        for folder in folders {
            let written = runs::last_written(&folder);
            let held = lock::is_held(&folder);
            let row = match known.remove(&folder) {
                Some((at, row)) if at == written && row.held == held && !held => row,
                before => {
                    let row = row(&folder, written, held);
                    changed |= before.is_none_or(|(_, before)| before != row);
                    row
                }
            };
            rows.push(row.clone());
            present.insert(folder, (written, row));
        }
        known = present;
        first = false;
        if changed && to.send(Msg::Runs(rows)).is_err() {
            return;
        }
        thread::sleep(SCAN_EVERY);
    }
}

/// A run's line of the list.
pub fn row(folder: &RunFolder, written: SystemTime, held: bool) -> RunRow {
    let state = runs::see(folder).map(Box::new);
    let state = state.map_err(|error| error.to_string());
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
        held,
        has_checkpoint: folder.has_checkpoint(),
        state,
        written,
        model: plan(folder).map_or_else(|| "n/a".to_owned(), |plan| model(&plan)),
        data: config(folder)["data"].take(),
        folder: folder.clone(),
    }
}

/// A run's config as written; null where it can't be read.
fn config(folder: &RunFolder) -> Value {
    let text = fs::read(folder.config()).unwrap_or_default();
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

fn plan(folder: &RunFolder) -> Option<RunPlan> {
    let text = fs::read(folder.plan()).ok()?;
    serde_json::from_slice(&text).ok()
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

/// Follows a run's log and its worker's output until told to stop.
pub fn tail(folder: &RunFolder, stop: &Arc<AtomicBool>, to: &SyncSender<Msg>) {
    let root = folder.root().to_owned();
    let tell = |news: News| {
        let root = root.clone();
        let is_wanted = !stop.load(Ordering::Relaxed);
        is_wanted && to.send(Msg::Watched { root, news }).is_ok()
    };
    let mut output = Output::open(folder);
    let mut held = None;
    let mut looked: Option<Instant> = None;
    let mut log: Option<LogReader> = None;
    loop {
        if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            looked = Some(Instant::now());
            let now = lock::is_held(folder);
            if held != Some(now) && !tell(News::Held(now)) {
                return;
            }
            held = Some(now);
        }
        if let Some(lines) = output.as_mut().and_then(Output::fresh)
            && !tell(News::Lines(lines))
        {
            return;
        }
        if log.is_none() {
            log = LogReader::open(&folder.events()).ok();
        }
        match log.as_mut().map_or(Ok(Vec::new()), batch) {
            Ok(records) if records.is_empty() => thread::sleep(TAIL_EVERY),
            Ok(records) => {
                if !tell(News::Records(records)) {
                    return;
                }
            }
            Err(text) => {
                tell(News::Failed(text));
                return;
            }
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn batch(log: &mut LogReader) -> Result<Vec<crate::event::Record>, String> {
    let mut records = Vec::new();
    while records.len() < BATCH {
        match log.next_record() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(records)
}

/// The worker's own output, as it grows.
struct Output {
    lines: BufReader<fs::File>,
    torn: Vec<u8>,
}

impl Output {
    fn open(folder: &RunFolder) -> Option<Self> {
        let file = fs::File::open(folder.worker_log()).ok()?;
        Some(Self {
            lines: BufReader::new(file),
            torn: Vec::new(),
        })
    }

    /// Whole lines that were not there before.
    fn fresh(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        while self
            .lines
            .read_until(b'\n', &mut self.torn)
            .is_ok_and(|n| n > 0)
            && self.torn.ends_with(b"\n")
        {
            let line = String::from_utf8_lossy(&self.torn).trim_end().to_owned();
            self.torn.clear();
            if !line.is_empty() {
                lines.push(line);
            }
        }
        let extra = lines.len().saturating_sub(MOST_LINES);
        lines.drain(..extra);
        (!lines.is_empty()).then_some(lines)
    }
}

/// Plan and config of a run; what is not there is left out.
pub fn fill(board: &mut Board) {
    board.plan = plan(&board.folder).map(Box::new);
    let text = fs::read(board.folder.config()).ok();
    board.config = text.and_then(|text| serde_json::from_slice(&text).ok());
}

/// What Runs shows of one run beside its line.
pub fn details(folder: &RunFolder, against: Option<&RunFolder>) -> Details {
    let differences = against.map(|other| differences(&config(folder), &config(other)));
    let mut board = Board::new(folder.clone());
    if let Ok(mut log) = LogReader::open(&folder.events()) {
        while let Ok(Some(record)) = log.next_record() {
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
    Details {
        name: folder.name(),
        against: against.map(RunFolder::name),
        differences: differences.unwrap_or_default(),
        checkpoints: published
            .into_iter()
            .map(|(step, path)| (step, size(&path)))
            .collect(),
        files,
        next_seq: board.state.next_seq,
        loss: board.loss,
    }
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
