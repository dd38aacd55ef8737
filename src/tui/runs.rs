//! Runs (5): what did I run; how do I resume, repeat, delete it?

use std::collections::BTreeSet;

use super::{
    app::{App, Effect, Screen},
    draw::body_of,
    fields::shown,
    filter::{Field, Filter, Words},
    keys::{Action, Key},
    popup::ask_name,
    runs_view,
    series::Series,
};
use crate::{
    base::units,
    launch::{RunFolder, runs::shortly},
    store::RunState,
};

/// A run as the list knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    pub folder: RunFolder,
    pub name: String,
    /// The word for how it stands.
    pub word: &'static str,
    pub held: bool,
    pub has_checkpoint: bool,
    /// Why its config can't be read.
    pub fault: Option<String>,
    /// Or why it can't be read.
    pub state: Result<Box<RunState>, String>,
    /// Unix seconds at which its log was written last.
    pub written: f64,
    /// From its config: model and split in short.
    pub model: String,
    /// From its config: where the data comes from; null where that can't be read.
    pub data: serde_json::Value,
}

impl RunRow {
    fn step(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.step)
    }

    fn loss(&self) -> f64 {
        let last = self.state.as_ref().ok().and_then(|state| state.last);
        last.map_or(f64::INFINITY, |last| last.loss)
    }

    fn best(&self) -> f64 {
        let state = self.state.as_ref().ok();
        let best = state.and_then(|state| state.best_eval());
        best.map_or(f64::INFINITY, |best| best.loss)
    }

    /// Whether resuming it can help.
    pub fn is_resumable(&self) -> bool {
        !self.held && self.has_checkpoint && self.fault.is_none() && self.word != "completed"
    }

    /// A sign for the status, beside its word.
    pub fn sign(&self) -> char {
        match self.word {
            "completed" => '✓',
            "failed" | "unreadable" => '✗',
            _ if self.held => '●',
            _ if self.is_resumable() => '↻',
            _ => '■',
        }
    }
}

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    When,
    Name,
    Status,
    Step,
    Loss,
    Best,
}

impl Sort {
    /// Whether the largest, or the latest, comes first.
    pub const fn is_descending(self) -> bool {
        matches!(self, Self::When | Self::Step)
    }
}

const SORTS: [Sort; 6] = [
    Sort::When,
    Sort::Name,
    Sort::Status,
    Sort::Step,
    Sort::Loss,
    Sort::Best,
];

/// The details of the selected run, read from its folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub name: String,
    /// What its config has else than that of `against`.
    pub against: Option<String>,
    pub differences: Vec<String>,
    /// Step and bytes, oldest first.
    pub checkpoints: Vec<(u64, u64)>,
    /// Name and bytes.
    pub files: Vec<(String, u64)>,
    pub loss: Series,
    /// Seconds of all steps that were made, also of those that came again.
    pub trained_s: f64,
    /// Unix seconds of the first event: another's is another run's.
    pub started: Option<f64>,
    /// Events that were read.
    pub next_seq: u64,
}

/// Details that were asked for and have not come.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    name: String,
    against: Option<String>,
    started: Option<f64>,
}

/// What a filter of the list can name.
const FIELDS: &[Field] = &[
    Field {
        name: "name",
        is_whole: false,
    },
    Field {
        name: "status",
        is_whole: false,
    },
    Field {
        name: "model",
        is_whole: false,
    },
    Field {
        name: "split",
        is_whole: false,
    },
];

/// The screen's own state.
#[derive(Debug)]
pub struct Runs {
    /// `None` until the folder was read.
    pub rows: Option<Vec<RunRow>>,
    /// Why the folder can't be read.
    pub failed: Option<String>,
    pub filter: Filter,
    pub typing: bool,
    pub sort: Sort,
    pub reversed: bool,
    pub selected: Option<String>,
    pub marked: BTreeSet<String>,
    pub details: Option<Details>,
    pub pending: Option<Pending>,
    /// The details have the keys.
    pub in_details: bool,
    pub scroll: usize,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            rows: None,
            failed: None,
            filter: Filter::new(FIELDS, Words::Each),
            typing: false,
            sort: Sort::default(),
            reversed: false,
            selected: None,
            marked: BTreeSet::new(),
            details: None,
            pending: None,
            in_details: false,
            scroll: 0,
        }
    }
}

impl Runs {
    /// The rows that pass the filter, in order.
    pub fn visible(&self) -> Vec<&RunRow> {
        let rows = self.rows.iter().flatten();
        let mut rows: Vec<&RunRow> = rows.filter(|row| passes(row, &self.filter)).collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::When => b.written.total_cmp(&a.written),
                Sort::Name => a.name.cmp(&b.name),
                Sort::Status => a.word.cmp(b.word),
                Sort::Step => b.step().cmp(&a.step()),
                Sort::Loss => a.loss().total_cmp(&b.loss()),
                Sort::Best => a.best().total_cmp(&b.best()),
            };
            let order = if self.reversed {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| a.name.cmp(&b.name))
        });
        rows
    }

    /// The row under the cursor.
    pub fn chosen(&self) -> Option<&RunRow> {
        let visible = self.visible();
        let by_name = visible
            .iter()
            .find(|row| Some(&row.name) == self.selected.as_ref());
        by_name.or(visible.first()).copied()
    }

    fn place(&self) -> usize {
        let name = self.chosen().map(|row| row.name.clone());
        let visible = self.visible();
        visible
            .iter()
            .position(|row| Some(&row.name) == name.as_ref())
            .unwrap_or(0)
    }
}

fn passes(row: &RunRow, filter: &Filter) -> bool {
    let split = row.state.as_ref().map_or("", |state| &state.strategy);
    let of = |field: &str| match field {
        "name" => row.name.clone(),
        "status" => row.word.to_owned(),
        "model" => row.model.clone(),
        _ => split.to_owned(),
    };
    // A line each, so that a regex's ^ and $ are those of a name.
    let each = [row.name.as_str(), &row.model, row.word, split];
    filter.narrows_to(of) && filter.fits_any(&each)
}

/// Takes in the folder's runs. The first time that there are some, the latest becomes the one that Live shows.
pub fn take(app: &mut App, rows: Vec<RunRow>) -> Vec<Effect> {
    let latest = rows.first().map(|row| row.folder.clone());
    let place = app.runs.place();
    let had_some = app.runs.rows.as_ref().is_some_and(|rows| !rows.is_empty());
    app.runs.rows = Some(rows);
    app.runs.failed = None;
    let mut rows = app.runs.rows.iter().flatten();
    let is_gone = |name: &String| rows.all(|row| row.name != *name);
    if app.runs.selected.as_ref().is_some_and(is_gone) {
        // The next one takes the place of the one under the cursor.
        let visible = app.runs.visible();
        let next = visible.get(place.min(visible.len().saturating_sub(1)));
        app.runs.selected = next.map(|row| row.name.clone());
    }
    let mut effects = arrive(app);
    if app.board.is_none()
        && !had_some
        && let Some(folder) = latest
    {
        effects.extend(app.watch(folder));
    }
    effects
}

/// What the screen needs to be read when it is in sight. The cursor begins on the run that is watched.
pub fn arrive(app: &mut App) -> Vec<Effect> {
    if app.screen != Screen::Runs {
        return Vec::new();
    }
    if app.runs.selected.is_none()
        && let Some(board) = &app.board
    {
        let mut rows = app.runs.rows.iter().flatten();
        let watched = rows.find(|row| row.folder == board.folder);
        app.runs.selected = watched.map(|row| row.name.clone());
    }
    look_at_chosen(app)
}

/// Takes in details, where they are those that were asked for last.
pub fn take_details(app: &mut App, details: Details) {
    let is_asked = app.runs.pending.as_ref().is_none_or(|pending| {
        (&pending.name, &pending.against) == (&details.name, &details.against)
    });
    if is_asked {
        app.runs.pending = None;
        app.runs.details = Some(details);
    }
}

/// Asks for the details of the row under the cursor, where they are not there already.
fn look_at_chosen(app: &mut App) -> Vec<Effect> {
    let Some(row) = app.runs.chosen() else {
        app.runs.details = None;
        app.runs.pending = None;
        return Vec::new();
    };
    let against = against(app, &row.name);
    let state = row.state.as_ref().ok();
    let wanted = Pending {
        name: row.name.clone(),
        against: against.as_ref().map(RunFolder::name),
        started: state.and_then(|state| state.started),
    };
    let next_seq = state.map_or(0, |state| state.next_seq);
    let is_there = app.runs.details.as_ref().is_some_and(|details| {
        details.name == wanted.name
            && details.against == wanted.against
            && (details.started == wanted.started || wanted.started.is_none())
            && is_fresh(details.next_seq, next_seq)
    });
    if is_there || app.recording || app.runs.pending.as_ref() == Some(&wanted) {
        return Vec::new();
    }
    let folder = row.folder.clone();
    app.runs.pending = Some(wanted);
    vec![Effect::Details { folder, against }]
}

/// A log is read anew where it has grown by a twentieth.
const fn is_fresh(read: u64, present: u64) -> bool {
    present <= read.saturating_add(read / 20)
}

/// The marked run that configs are compared against; else the neighbour in time, rather the one before.
fn against(app: &App, name: &str) -> Option<RunFolder> {
    let rows: Vec<&RunRow> = app.runs.rows.iter().flatten().collect();
    let marked = rows
        .iter()
        .find(|row| app.runs.marked.contains(&row.name) && row.name != name);
    let place = rows.iter().position(|row| row.name == name)?;
    // The earliest has none before it.
    let after = place.checked_sub(1).and_then(|place| rows.get(place));
    let beside = rows.get(place + 1).or(after);
    marked.or(beside).map(|row| row.folder.clone())
}

/// A key of the map.
pub fn act(app: &mut App, action: Action) -> Vec<Effect> {
    let page = app.rows.max(1);
    let details = runs_view::details(app, body_of(app.size));
    if app.runs.in_details
        && details.rows > 0
        && let Some(scroll) = action.moved(app.runs.scroll, details.hidden, page / 2)
    {
        app.runs.scroll = scroll;
        return Vec::new();
    }
    let last = app.runs.visible().len().saturating_sub(1);
    if let Some(place) = action.moved(app.runs.place(), last, page) {
        app.runs.in_details = false;
        app.runs.selected = app.runs.visible().get(place).map(|row| row.name.clone());
        app.runs.scroll = 0;
        return look_at_chosen(app);
    }
    match action {
        Action::NextPanel | Action::PreviousPanel | Action::Left | Action::Right
            if details.rows == 0 =>
        {
            app.say("the details have no room in this window");
        }
        Action::NextPanel | Action::PreviousPanel | Action::Left | Action::Right => {
            app.runs.in_details = !app.runs.in_details;
        }
        Action::Filter => {
            app.runs.filter.clear();
            app.runs.typing = true;
        }
        Action::Sort => sort(app),
        action => return act_on_chosen(app, action),
    }
    Vec::new()
}

/// The same column from its other end, then the next.
fn sort(app: &mut App) {
    let runs = &mut app.runs;
    runs.reversed = !runs.reversed;
    if !runs.reversed {
        let place = SORTS.iter().position(|sort| *sort == runs.sort);
        runs.sort = SORTS[place.map_or(0, |place| (place + 1) % SORTS.len())];
    }
    let order = if runs.reversed { ", reversed" } else { "" };
    let text = format!("sorted by {:?}{order}", runs.sort).to_lowercase();
    app.say(text);
}

fn act_on_chosen(app: &mut App, action: Action) -> Vec<Effect> {
    let Some(row) = app.runs.chosen().cloned() else {
        let is_filtered = app.runs.rows.as_ref().is_some_and(|rows| !rows.is_empty());
        let words = match is_filtered {
            true => format!(
                "no run passes the filter; {} clears it",
                app.key(Action::Back)
            ),
            false => {
                let key = app.key(Action::Show(Screen::Launch));
                format!("there is no run here yet; {key} launches one")
            }
        };
        app.complain(words);
        return Vec::new();
    };
    match action {
        Action::Open => {
            app.show(Screen::Live);
            app.watch(row.folder)
        }
        Action::Mark => {
            if !app.runs.marked.remove(&row.name) {
                app.runs.marked.insert(row.name);
            }
            app.runs.details = None;
            look_at_chosen(app)
        }
        Action::Resume if row.is_resumable() => vec![Effect::Resume(row.folder)],
        Action::Resume => {
            let why = if row.held {
                "is running"
            } else if row.fault.is_some() {
                "has no config that can be read"
            } else if row.has_checkpoint {
                "has completed; capstan resume NAME --set stop.steps=N trains on"
            } else {
                "has no checkpoint to go on from"
            };
            app.complain(format!("{} {why}", row.name));
            Vec::new()
        }
        Action::Delete if row.held => {
            app.complain(format!("{} is running: stop it first", row.name));
            Vec::new()
        }
        Action::Delete => {
            let lines = lost(&row, app.runs.details.as_ref());
            ask_name(app, "Delete", lines, &row.name, Effect::Delete(row.folder))
        }
        Action::Copy => vec![Effect::Copy(command(app, &row))],
        Action::Reopen => super::launch::reopen(app, row.folder),
        _ => Vec::new(),
    }
}

/// The command that goes on with the run, or shows it.
pub fn command(app: &App, row: &RunRow) -> String {
    let verb = if row.is_resumable() {
        "resume"
    } else {
        "status"
    };
    format!("capstan {verb} {}", shortly(&app.runs_dir, &row.folder))
}

fn lost(row: &RunRow, details: Option<&Details>) -> Vec<String> {
    let mut lines = vec![format!("this deletes {}", row.folder.root().display())];
    let details = details.filter(|details| details.name == row.name);
    if let Ok(state) = &row.state {
        lines.push(format!("{} steps, {}", state.step, trained(state, details)));
    }
    if let Some(details) = details {
        let bytes: u64 = details.files.iter().map(|(_, bytes)| bytes).sum();
        lines.push(format!(
            "{} checkpoint(s), {} in all",
            details.checkpoints.len(),
            units::bytes(bytes)
        ));
    }
    lines
}

/// How long it was trained, over all its starts.
pub fn trained(state: &RunState, details: Option<&Details>) -> String {
    match details {
        Some(details) if details.trained_s > 0.0 => {
            format!("{:>7} of training", units::seconds(details.trained_s))
        }
        _ => {
            let first = state.started.unwrap_or(state.updated);
            let time = units::seconds((state.updated - first).max(0.0));
            format!("{time:>7} from its first event to its last")
        }
    }
}

/// A key for the filter.
pub fn type_filter(app: &mut App, key: Key) -> Vec<Effect> {
    app.runs.typing = app.runs.filter.type_key(key).is_none();
    look_at_chosen(app)
}

/// Esc: leaves the details, else clears the filter, else the marks; false where there was nothing to undo.
pub fn back(app: &mut App) -> bool {
    if app.runs.in_details {
        app.runs.in_details = false;
    } else if !app.runs.filter.is_empty() {
        app.runs.filter.clear();
    } else if !app.runs.marked.is_empty() {
        app.runs.marked.clear();
    } else {
        return false;
    }
    true
}

/// What the second config has else, a line a value.
pub fn differences(own: &serde_json::Value, other: &serde_json::Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", own, other, &mut lines);
    lines
}

fn compare(
    path: &str,
    own: &serde_json::Value,
    other: &serde_json::Value,
    lines: &mut Vec<String>,
) {
    use serde_json::Value;
    const NAMES: [&str; 2] = ["name", "$schema"];
    match (own, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys.filter(|key| !(path.is_empty() && NAMES.contains(&key.as_str()))) {
                let inner = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let null = Value::Null;
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                compare(&inner, a, b, lines);
            }
        }
        (own, other) if own != other => {
            lines.push(format!("{path}: {} → {}", told(other), told(own)));
        }
        _ => {}
    }
}

fn told(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(_) => value.to_string(),
        value => shown(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_their_path_and_both_values() {
        let own = json!({ "name": "b", "batch": { "global": 32 }, "parallel": { "dp": 4 } });
        let other = json!({ "name": "a", "batch": { "global": 16 } });
        assert_eq!(
            differences(&own, &other),
            ["batch.global: 16 → 32", "parallel: absent → {\"dp\":4}"]
        );
        assert!(differences(&own, &own).is_empty());
    }
}
