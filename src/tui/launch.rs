//! Launch (1): what will I run, will it fit, what is wrong?

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    app::{App, Effect, Popup, Screen},
    fields::{self, Field, Kind},
    keys::{Action, Key},
    picker::{self, Asked, Looked},
    popup::confirm,
    update::edit_line,
};
use crate::{
    base::units,
    config::{self, Assignment, RunConfig},
    launch::RunFolder,
    plan::{RunPlan, StopPlan},
};

/// The job that ships with the program, which a first run trains.
const HELLO: &str = include_str!("../../configs/hello.json");

/// A config that is being written.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub root: Value,
    /// Grows with every change.
    pub revision: u64,
    /// Look at the data's text too.
    pub thorough: bool,
}

impl Default for Draft {
    fn default() -> Self {
        let folder = std::env::current_dir().unwrap_or_default();
        let hello = config::load_text(HELLO, "hello.json", &folder, &[], None);
        let root = hello.map_or(Value::Null, |loaded| written(&loaded.config));
        Self {
            root,
            revision: 1,
            thorough: false,
        }
    }
}

impl Draft {
    /// The config as a file holds it.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.root).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The config, if its shape is right; else where and why not.
    ///
    /// # Errors
    /// The path of the value that can't be read (empty where that is not known), and the words.
    pub fn config(&self) -> Result<RunConfig, (String, String)> {
        let folder = std::env::current_dir().unwrap_or_default();
        match config::load_text(&self.text(), "config", &folder, &[], None) {
            Ok(loaded) => Ok(loaded.config),
            Err(error) => {
                let text = error.to_string();
                let text = text.strip_prefix("config: ").unwrap_or(&text);
                let (path, problem) = text.split_once(": ").unwrap_or(("", text));
                // The place in a text that nobody has seen says nothing.
                let problem = problem.split(" at line ").next().unwrap_or(problem);
                Err((path.to_owned(), problem.to_owned()))
            }
        }
    }

    /// The name that a run of it would take.
    pub fn name(&self) -> String {
        self.root["name"].as_str().unwrap_or("run").to_owned()
    }

    fn set(&mut self, path: &[String], value: Value) {
        Assignment {
            path: path.to_vec(),
            value,
        }
        .apply(&mut self.root);
        self.revision += 1;
    }
}

/// A config with every default in sight.
fn written(config: &RunConfig) -> Value {
    let mut config = config.clone();
    config.schema = None;
    serde_json::to_value(config).unwrap_or_default()
}

/// What was found out about a draft.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    pub revision: u64,
    /// Dotted path and words; all of them.
    pub problems: Vec<(String, String)>,
    pub plan: Option<Box<RunPlan>>,
    pub splits: Vec<SplitRow>,
    /// What a user should know: sign and words.
    pub checks: Vec<(bool, String)>,
    /// The beginning of the data's text.
    pub head: Option<String>,
    pub machine: String,
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

/// The screen's own state.
#[derive(Debug, Default)]
pub struct Launch {
    pub draft: Draft,
    pub cursor: usize,
    /// What is being typed for the field under the cursor.
    pub editing: Option<String>,
    pub checked: Option<Checked>,
    /// The beginning of the draft's data.
    pub looked: Option<Looked>,
    /// The file that holds the draft, and the revision that it holds.
    pub saved: Option<(PathBuf, u64)>,
    /// Why the config that was asked for could not be read.
    pub refused: Option<String>,
}

impl Launch {
    /// The form's lines.
    pub fn fields(&self) -> Vec<Field> {
        fields::of(&self.draft.root)
    }

    /// Begins with a file's config.
    pub fn open(&mut self, path: &Path) {
        match config::load_file(path, &[], None) {
            Ok(loaded) => {
                self.draft.root = written(&loaded.config);
                self.draft.revision += 1;
                self.saved = Some((path.to_owned(), self.draft.revision));
            }
            Err(error) => self.refused = Some(error.to_string()),
        }
    }

    /// The verdict on the draft as it stands; `None` while it is being checked.
    pub fn verdict(&self) -> Option<&Checked> {
        let revision = self.draft.revision;
        self.checked
            .as_ref()
            .filter(|checked| checked.revision == revision)
    }

    /// The draft's data, to be looked at.
    pub fn data(&self) -> Asked {
        Asked::Data(self.draft.root["data"].clone())
    }

    /// What is wrong at a field or, for a heading's own refusals, right there.
    pub fn problem(&self, field: &Field) -> Option<&str> {
        let path = field.dotted();
        let problems = &self.checked.as_ref()?.problems;
        let here = problems.iter().find(|(at, _)| *at == path);
        here.map(|(_, text)| text.as_str())
    }

    /// The machine in a few words.
    pub fn machine_words(&self) -> String {
        self.checked.as_ref().map_or_else(
            || "looking at the machine ...".to_owned(),
            |checked| checked.machine.clone(),
        )
    }

    /// The command that does the same without a screen.
    pub fn command(&self) -> String {
        match &self.saved {
            Some((path, revision)) if *revision == self.draft.revision => {
                format!("capstan train {}", path.display())
            }
            _ => format!("capstan train {}.json", self.draft.name()),
        }
    }

    /// Whether the command's file holds the draft as it stands.
    pub fn is_saved(&self) -> bool {
        self.saved
            .as_ref()
            .is_some_and(|(_, revision)| *revision == self.draft.revision)
    }
}

/// Asks for a verdict on the draft, and for a look at data that was not looked at.
pub fn check(app: &App) -> Vec<Effect> {
    let mut effects = vec![Effect::Check(Box::new(app.launch.draft.clone()))];
    let looked = app.launch.looked.as_ref();
    if looked.is_none_or(|looked| looked.asked != app.launch.data()) {
        effects.push(Effect::Look(app.launch.data()));
    }
    effects
}

/// A key of the map.
pub fn act(app: &mut App, action: Action) -> Vec<Effect> {
    let fields = app.launch.fields();
    let last = fields.len().saturating_sub(1);
    let place = app.launch.cursor.min(last);
    let page = app.rows.max(1);
    match action {
        Action::Up => app.launch.cursor = place.saturating_sub(1),
        Action::Down => app.launch.cursor = (place + 1).min(last),
        Action::PageUp => app.launch.cursor = place.saturating_sub(page),
        Action::PageDown => app.launch.cursor = (place + page).min(last),
        Action::First => app.launch.cursor = 0,
        Action::Last => app.launch.cursor = last,
        Action::NextPanel => app.launch.cursor = next_group(&fields, place, true),
        Action::PreviousPanel => app.launch.cursor = next_group(&fields, place, false),
        Action::Left | Action::Right => {
            return turn(app, &fields, place, action == Action::Right);
        }
        Action::Open => return open(app, &fields, place),
        Action::DryRun => {
            app.launch.looked = None;
            app.launch.draft.thorough = true;
            app.launch.draft.revision += 1;
            if let Some((_, revision)) = &mut app.launch.saved {
                *revision += u64::from(*revision + 1 == app.launch.draft.revision);
            }
            app.say("checking, data included ...");
            return check(app);
        }
        Action::Write => {
            app.popup = Some(Popup::WriteTo {
                path: format!("{}.json", app.launch.draft.name()),
            });
        }
        Action::Edit => return vec![Effect::Edit(app.launch.draft.text())],
        Action::Copy => return vec![Effect::Copy(app.launch.command())],
        Action::Launch => return launch(app),
        Action::Reopen if app.runs.rows.iter().all(Vec::is_empty) => {
            app.say("there is no past run yet");
        }
        Action::Reopen => {
            let rows = app.runs.rows.iter().flatten();
            let folders = rows.map(|row| row.folder.clone()).collect();
            app.popup = Some(Popup::Recent { folders, chosen: 0 });
        }
        _ => {}
    }
    Vec::new()
}

fn next_group(fields: &[Field], place: usize, forward: bool) -> usize {
    let is_start = |index: &usize| fields.get(*index).is_some_and(|field| field.depth() == 0);
    if forward {
        (place + 1..fields.len()).find(is_start).unwrap_or(0)
    } else {
        (0..place)
            .rev()
            .find(is_start)
            .unwrap_or(fields.len().saturating_sub(1))
    }
}

/// The next choice of a field; on the split, the next one that works.
fn turn(app: &mut App, fields: &[Field], place: usize, forward: bool) -> Vec<Effect> {
    let Some(field) = fields.get(place) else {
        return Vec::new();
    };
    if field.path == ["parallel"] {
        return turn_split(app, forward);
    }
    let Kind::Choice(options) = &field.kind else {
        app.say(format!("{} edits this field", app.key(Action::Open)));
        return Vec::new();
    };
    let n = options.len();
    let here = options
        .iter()
        .position(|(name, _)| *name == field.value)
        .unwrap_or(0);
    let next = if forward { here + 1 } else { here + n - 1 } % n;
    app.launch.draft.set(&field.path, options[next].1.clone());
    check(app)
}

fn turn_split(app: &mut App, forward: bool) -> Vec<Effect> {
    let present = split_of(&app.launch.draft.root);
    let splits = app
        .launch
        .checked
        .iter()
        .flat_map(|checked| &checked.splits);
    let working: Vec<[usize; 3]> = splits
        .filter(|split| split.verdict.is_ok())
        .map(|split| [split.dp, split.tp, split.pp])
        .collect();
    if working.is_empty() {
        app.complain("no split works as the config stands");
        return Vec::new();
    }
    let n = working.len();
    let here = working.iter().position(|split| Some(*split) == present);
    let next = match (here, forward) {
        (None, _) => 0,
        (Some(here), true) => (here + 1) % n,
        (Some(here), false) => (here + n - 1) % n,
    };
    set_split(app, working[next])
}

/// The degrees that the draft names.
pub fn split_of(root: &Value) -> Option<[usize; 3]> {
    let parallel = root
        .get("parallel")
        .filter(|parallel| !parallel.is_null())?;
    let degree = |axis: &str| parallel[axis].as_u64().map_or(1, |n| n as usize);
    Some([degree("dp"), degree("tp"), degree("pp")])
}

/// Moves the ranks to these axes.
pub fn set_split(app: &mut App, degrees: [usize; 3]) -> Vec<Effect> {
    let draft = &mut app.launch.draft;
    for (axis, degree) in ["dp", "tp", "pp"].into_iter().zip(degrees) {
        draft.set(&["parallel".to_owned(), axis.to_owned()], degree.into());
    }
    // Every further setting of the split comes in sight.
    if let Ok(config) = draft.config() {
        draft.root = written(&config);
    }
    check(app)
}

fn open(app: &mut App, fields: &[Field], place: usize) -> Vec<Effect> {
    let Some(field) = fields.get(place) else {
        return Vec::new();
    };
    match &field.kind {
        _ if field.path == ["parallel"] => {
            app.popup = Some(Popup::Splits { chosen: 0 });
            Vec::new()
        }
        _ if field.path == ["data"] => picker::open(app),
        Kind::Choice(_) => turn(app, fields, place, true),
        Kind::Free => {
            let text = if field.value == "absent" {
                String::new()
            } else {
                field.value.replace('\n', "\\n")
            };
            app.launch.editing = Some(text);
            Vec::new()
        }
        Kind::Heading => {
            app.launch.cursor = place + 1;
            Vec::new()
        }
    }
}

/// Takes other data.
pub fn set_data(app: &mut App, data: Value) -> Vec<Effect> {
    let draft = &mut app.launch.draft;
    draft.set(&["data".to_owned()], data);
    // Every further setting of the data comes in sight.
    if let Ok(config) = draft.config() {
        draft.root = written(&config);
    }
    check(app)
}

/// A key for the value that is being typed.
pub fn type_value(app: &mut App, key: Key) -> Vec<Effect> {
    let Some(mut text) = app.launch.editing.take() else {
        return Vec::new();
    };
    if key == Key::Tab {
        app.launch.editing = Some(text.clone());
        return vec![Effect::Complete(text)];
    }
    match edit_line(&mut text, key) {
        None => {
            app.launch.editing = Some(text);
            Vec::new()
        }
        Some(false) => Vec::new(),
        Some(true) => {
            let fields = app.launch.fields();
            let Some(field) = fields.get(app.launch.cursor) else {
                return Vec::new();
            };
            let value = match text.trim() {
                "" | "absent" => Value::Null,
                trimmed => serde_json::from_str(trimmed)
                    .unwrap_or_else(|_| Value::String(text.replace("\\n", "\n"))),
            };
            // A field that holds a text keeps one, whatever it looks like.
            let is_text = app
                .launch
                .draft
                .root
                .pointer(&format!("/{}", field.path.join("/")))
                .is_some_and(Value::is_string);
            let value = if is_text && !field.path.starts_with(&["devices".to_owned()]) {
                Value::String(text.replace("\\n", "\n"))
            } else {
                value
            };
            app.launch.draft.set(&field.path, value);
            check(app)
        }
    }
}

fn launch(app: &mut App) -> Vec<Effect> {
    let Some(checked) = app.launch.verdict() else {
        let key = app.key(Action::Launch);
        app.complain(format!("still checking; press {key} again in a moment"));
        return Vec::new();
    };
    if let Some((path, problem)) = checked.problems.first() {
        let n = checked.problems.len();
        let text = format!("{n} problem(s), first {path}: {problem}");
        app.complain(text);
        return Vec::new();
    }
    let Some(plan) = &checked.plan else {
        app.complain("there is no plan for this config");
        return Vec::new();
    };
    let mut lines = summary(&app.launch.draft.name(), plan);
    let warnings = checked.checks.iter().filter(|(is_well, _)| !is_well);
    lines.extend(warnings.map(|(_, text)| format!("! {text}")));
    let then = Effect::Launch(Box::new(app.launch.draft.clone()));
    confirm(app, "Launch", lines, then)
}

/// The plan in a few lines.
pub fn summary(name: &str, plan: &RunPlan) -> Vec<String> {
    let stop = match plan.stop {
        StopPlan::Steps { steps } => format!("{steps} steps"),
        StopPlan::Seconds { seconds } => units::seconds(seconds),
    };
    let tokens = plan.global_batch * plan.model.seq_len();
    vec![
        format!("run    {name}"),
        format!("model  {} parameters", units::count(plan.n_params as f64)),
        format!("split  {} on {} rank(s)", plan.split.name(), plan.world()),
        format!(
            "batch  {} × {} = {} tokens",
            plan.global_batch,
            plan.model.seq_len(),
            units::count(tokens as f64)
        ),
        format!("until  {stop}"),
        format!(
            "memory {} a rank, activations on top",
            units::bytes(plan.memory.total())
        ),
    ]
}

/// Takes in a verdict; one on an older draft is history.
pub fn checked(app: &mut App, checked: Checked) {
    if checked.revision < app.launch.draft.revision {
        return;
    }
    if app.launch.draft.thorough && checked.head.is_some() {
        let mut lines: Vec<String> = Vec::new();
        for (path, problem) in &checked.problems {
            lines.push(format!("! {path}: {problem}"));
        }
        for (is_well, text) in &checked.checks {
            let sign = if *is_well { "✓" } else { "!" };
            lines.push(format!("{sign} {text}"));
        }
        lines.push(String::new());
        lines.push("the data begins:".to_owned());
        let head = checked.head.clone().unwrap_or_default();
        lines.extend(head.lines().take(12).map(str::to_owned));
        app.notice = None;
        app.popup = Some(Popup::Text {
            title: "Checks; nothing was started".to_owned(),
            lines,
            scroll: 0,
        });
    }
    app.launch.draft.thorough = false;
    app.launch.checked = Some(checked);
}

/// Begins with a past run's config.
pub fn reopen(app: &mut App, folder: RunFolder) -> Vec<Effect> {
    app.show(Screen::Launch);
    let name = folder.name();
    app.say(format!("begun with the config of {name}"));
    let name = base_of(app, &name).to_owned();
    vec![Effect::Reopen { folder, name }]
}

/// A run's name without the number that kept it apart from the run of that name.
fn base_of<'a>(app: &App, name: &'a str) -> &'a str {
    let is_run = |name: &str| app.runs.rows.iter().flatten().any(|row| row.name == name);
    match name.rsplit_once('-') {
        Some((base, n)) if n.parse::<u32>().is_ok() && is_run(base) => base,
        _ => name,
    }
}

/// Takes in the text of a config.
pub fn edited(app: &mut App, text: Result<String, String>) -> Vec<Effect> {
    let folder = std::env::current_dir().unwrap_or_default();
    let loaded = text.and_then(|text| {
        let loaded = config::load_text(&text, "config", &folder, &[], None);
        loaded.map_err(|error| error.to_string())
    });
    match loaded {
        Ok(loaded) => {
            app.launch.draft.root = written(&loaded.config);
            app.launch.draft.revision += 1;
            app.launch.cursor = 0;
            check(app)
        }
        Err(text) => {
            app.complain(format!("the config stays as it was: {text}"));
            Vec::new()
        }
    }
}
