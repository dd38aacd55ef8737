//! Launch (1): what will I run, will it fit, what is wrong?

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{
    app::{App, Effect, Popup},
    checks::Checked,
    draft::{Draft, field_of, working_folder},
    fields::{self, Field, Kind},
    keys::{Action, Key},
    line::Line,
    opener::{self, Opener},
    origin::Origin,
    picker::{self, Asked, Looked},
    popup::confirm,
    sources::at_home,
    splits,
};
use crate::{
    base::units,
    launch::RunFolder,
    plan::{RunPlan, StopPlan},
};

/// The screen's own state.
#[derive(Debug, Default)]
pub struct Launch {
    pub draft: Draft,
    pub cursor: usize,
    /// What is being typed for the field under the cursor.
    pub editing: Option<Line>,
    /// Only fields whose path holds it are shown.
    pub filter: String,
    /// The filter is being typed.
    pub filtering: bool,
    pub checked: Option<Checked>,
    /// What the check that goes on waits for.
    pub checking: Option<String>,
    /// The beginning of the draft's data.
    pub looked: Option<Looked>,
    pub origin: Origin,
    /// By path and choice, the settings of choices that were left.
    pub left: BTreeMap<(String, String), Value>,
    /// The folder of runs, where commands must name it.
    pub elsewhere: Option<PathBuf>,
}

impl Launch {
    /// The form's lines, those that pass the filter.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = fields::of(&self.draft.root);
        let filter = self.filter.to_lowercase();
        fields.retain(|field| field.dotted().to_lowercase().contains(&filter));
        fields
    }

    /// The verdict on the draft as it stands; `None` while it is being checked.
    pub fn verdict(&self) -> Option<&Checked> {
        let revision = self.draft.revision;
        self.checked
            .as_ref()
            .filter(|checked| checked.revision == revision)
    }

    /// That the draft is being checked, and what that waits for.
    pub fn checking_words(&self) -> String {
        let waits = self.checking.as_ref();
        waits.map_or_else(
            || "checking ...".to_owned(),
            |text| format!("checking: {text}"),
        )
    }

    /// The draft's data, to be looked at.
    pub fn data(&self) -> Asked {
        Asked::Data(self.draft.root["data"].clone())
    }

    /// What is wrong at a field or, for a heading's own refusals, right there.
    pub fn problem(&self, field: &Field) -> Option<&str> {
        let path = field.dotted();
        let problems = &self.checked.as_ref()?.problems;
        let here = problems.iter().find(|(at, _)| field_of(at) == path);
        here.map(|(_, text)| text.as_str())
    }

    /// What is to be known of a field that is not wrong.
    pub fn warning(&self, field: &Field) -> Option<&str> {
        let begin = format!("{}: ", field.dotted());
        let checks = self.checked.iter().flat_map(|checked| &checked.checks);
        let mut warnings = checks.filter(|(is_well, _)| !is_well);
        warnings.find_map(|(_, text)| text.strip_prefix(&begin))
    }

    /// The machine in a few words.
    pub fn machine_words(&self) -> String {
        self.checked.as_ref().map_or_else(
            || "looking at the machine ...".to_owned(),
            |checked| checked.machine.clone(),
        )
    }

    /// What a choice is set to: its settings as they were left, else `made`.
    fn change(&mut self, field: &Field, choice: &str, made: &Value) -> Value {
        let key = |choice: &str| (field.dotted(), choice.to_owned());
        let pointer = format!("/{}", field.path.join("/"));
        let present = self
            .draft
            .root
            .pointer(&pointer)
            .filter(|value| value.is_object());
        if let Some(present) = present.cloned() {
            self.left.insert(key(&field.value), present);
        }
        let left = self.left.get(&key(choice)).cloned();
        left.unwrap_or_else(|| made.clone())
    }
}

/// Asks for a verdict on the draft, and for a look at data that was not looked at.
pub fn check(app: &App) -> Vec<Effect> {
    let mut effects = vec![Effect::Check(Box::new(app.launch.draft.clone()))];
    effects.extend(look(app));
    effects
}

/// Asks for a look at the draft's data, if that was not looked at.
pub fn look(app: &App) -> Option<Effect> {
    let looked = app.launch.looked.as_ref();
    let is_due = looked.is_none_or(|looked| looked.asked != app.launch.data());
    is_due.then(|| Effect::Look(app.launch.data()))
}

/// A key of the map.
pub fn act(app: &mut App, action: Action) -> Vec<Effect> {
    let fields = app.launch.fields();
    let last = fields.len().saturating_sub(1);
    let place = app.launch.cursor.min(last);
    if let Some(place) = action.moved(place, last, app.rows.max(1)) {
        app.launch.cursor = place;
        return Vec::new();
    }
    match action {
        Action::NextPanel => app.launch.cursor = next_group(&fields, place, true),
        Action::PreviousPanel => app.launch.cursor = next_group(&fields, place, false),
        Action::Left | Action::Right => {
            return turn(app, &fields, place, action == Action::Right);
        }
        Action::Open => return open(app, &fields, place),
        Action::Filter => {
            app.launch.filter.clear();
            app.launch.filtering = true;
        }
        Action::Expand => all_checks(app),
        Action::DryRun => {
            app.launch.looked = None;
            app.launch.draft.thorough = true;
            app.say("checking, data included ...");
            return check(app);
        }
        Action::Write => {
            let path = Line::new(app.launch.target());
            app.popup = Some(Popup::WriteTo { path });
        }
        Action::Edit => return vec![Effect::Edit(app.launch.text())],
        Action::Copy if !app.launch.is_saved() => {
            let (write, copy) = (app.key(Action::Write), app.key(Action::Copy));
            let words = "no file holds this config yet";
            app.complain(format!(
                "{words}: {write} writes it, then {copy} copies the command"
            ));
        }
        Action::Copy => return vec![Effect::Copy(app.launch.command())],
        Action::Launch => return launch(app),
        Action::Reopen => app.popup = Some(Popup::Open(Opener::new(app))),
        _ => {}
    }
    Vec::new()
}

/// Esc: shows all fields again; false where that is so already.
pub fn back(app: &mut App) -> bool {
    let was_filtered = !app.launch.filter.is_empty();
    app.launch.filter.clear();
    was_filtered
}

/// A key for the filter.
pub fn type_filter(app: &mut App, key: Key) -> Vec<Effect> {
    let mut line = Line::new(std::mem::take(&mut app.launch.filter));
    let over = line.press(key);
    app.launch.filtering = over.is_none();
    app.launch.filter = match over {
        Some(false) => String::new(),
        _ => line.into_text(),
    };
    app.launch.cursor = 0;
    Vec::new()
}

fn next_group(fields: &[Field], place: usize, forward: bool) -> usize {
    let is_start = |index: &usize| {
        let root = |index: usize| fields.get(index).and_then(|field| field.path.first());
        *index == 0 || root(*index) != root(index - 1)
    };
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
        return splits::turn(app, forward);
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
    let (name, made) = &options[next];
    let value = app.launch.change(field, name, made);
    app.launch.draft.set(&field.path, value);
    if field.label() == "preset" {
        follow_preset(app, field, name);
    }
    check(app)
}

/// A preset means its own sizes: those that the config states give way, and come back without one.
fn follow_preset(app: &mut App, field: &Field, name: &str) {
    let model = field.path[..field.path.len() - 1].to_vec();
    let within = |key: &str| [model.clone(), vec![key.to_owned()]].concat();
    let key = (field.dotted(), "sizes beside it".to_owned());
    let Some(config) = app.launch.draft.read().config else {
        return;
    };
    let pointer = format!("/{}", model.join("/"));
    let stated = app.launch.draft.root.pointer(&pointer).cloned();
    let stated = stated.unwrap_or_default();
    let sizes = config.model.preset_fields();
    if sizes.is_empty() {
        let own = app.launch.left.remove(&key).unwrap_or_default();
        for (size, value) in own.as_object().into_iter().flatten() {
            app.launch.draft.set(&within(size), value.clone());
        }
        return;
    }
    let given: serde_json::Map<String, Value> = sizes
        .into_iter()
        .filter_map(|size| Some((size.clone(), stated.get(&size)?.clone())))
        .collect();
    if given.is_empty() {
        return;
    }
    for size in given.keys() {
        app.launch.draft.remove(&within(size));
    }
    let names: Vec<&str> = given.keys().map(String::as_str).collect();
    app.say(format!(
        "{} are those of {name} from here on",
        names.join(", ")
    ));
    app.launch.left.entry(key).or_insert(Value::Object(given));
}

fn open(app: &mut App, fields: &[Field], place: usize) -> Vec<Effect> {
    let Some(field) = fields.get(place) else {
        return Vec::new();
    };
    match &field.kind {
        _ if field.path == ["parallel"] => splits::open(app),
        _ if field.path == ["data"] => return picker::open(app),
        Kind::Choice(_) => return turn(app, fields, place, true),
        Kind::Text | Kind::Free => {
            let text = if field.value == "absent" {
                String::new()
            } else {
                field.value.replace('\n', "\\n")
            };
            app.launch.editing = Some(Line::new(text));
        }
        Kind::Heading => app.launch.cursor = place + 1,
    }
    Vec::new()
}

/// Takes other data. What is only a path, as recognised, leaves the settings of the present data as they are.
pub fn set_data(app: &mut App, mut data: Value, is_recognised: bool) -> Vec<Effect> {
    let present = app.launch.draft.root["data"].clone();
    if is_recognised {
        let kept = adopt(&mut data, &present);
        if !kept.is_empty() {
            app.say(kept);
        }
    }
    if let Some(kind) = present
        .as_object()
        .and_then(|present| present.keys().next())
    {
        let key = ("data".to_owned(), kind.clone());
        app.launch.left.insert(key, present.clone());
    }
    app.launch.draft.set(&["data".to_owned()], data);
    check(app)
}

/// Gives data the settings of other data, as far as its kind has them; says which.
fn adopt(data: &mut Value, other: &Value) -> String {
    let inner = |value: &Value| {
        value
            .as_object()?
            .iter()
            .next()
            .map(|(k, v)| (k.clone(), v.clone()))
    };
    let (Some((kind, own)), Some((other_kind, settings))) = (inner(data), inner(other)) else {
        return String::new();
    };
    let known = fields::made_at(&["data".to_owned(), kind.clone()]).unwrap_or_default();
    let mut names = Vec::new();
    for (key, value) in settings.as_object().into_iter().flatten() {
        // Ids that another program made say nothing about the tokenizer of a text.
        let is_foreign = key == "tokenizer" && [&kind, &other_kind].contains(&&"tokens".to_owned());
        let is_shared = match kind == other_kind {
            true => key != "val",
            false => known.get(key).is_some() && !is_foreign,
        };
        if is_shared && own.get(key).is_none() {
            data[&kind][key] = value.clone();
            names.push(format!("{key} {}", fields::shown(value)));
        }
    }
    match names.as_slice() {
        [] => String::new(),
        names => format!("as before: {}", names.join(", ")),
    }
}

/// A key for the value that is being typed.
pub fn type_value(app: &mut App, key: Key) -> Vec<Effect> {
    let Some(mut text) = app.launch.editing.take() else {
        return Vec::new();
    };
    if key == Key::Tab {
        let typed = text.to_string();
        app.launch.editing = Some(text);
        return vec![Effect::Complete(typed)];
    }
    match text.press(key) {
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
            app.launch.draft.set(&field.path, typed_value(field, &text));
            at_home_in(app, field);
            check(app)
        }
    }
}

/// What a typed text means for a field, by the field's own type.
fn typed_value(field: &Field, text: &str) -> Value {
    match text.trim() {
        "" | "absent" if field.is_optional || field.kind == Kind::Free => return Value::Null,
        _ => {}
    }
    let plain = || Value::String(text.replace("\\n", "\n"));
    match field.kind {
        Kind::Text => plain(),
        _ => serde_json::from_str(text.trim()).unwrap_or_else(|_| plain()),
    }
}

/// A path that was made absolute may begin with the user's own folder.
fn at_home_in(app: &mut App, field: &Field) {
    let pointer = format!("/{}", field.path.join("/"));
    let value = app.launch.draft.root.pointer(&pointer);
    let path = value.and_then(Value::as_str).map(PathBuf::from);
    let begun = working_folder().join("~");
    if let Some(rest) = path
        .as_deref()
        .and_then(|path| path.strip_prefix(begun).ok())
    {
        let whole = at_home(&format!("~/{}", rest.display()));
        let whole = whole.to_string_lossy().into_owned();
        app.launch.draft.set(&field.path, whole.into());
    }
}

fn launch(app: &mut App) -> Vec<Effect> {
    let Some(checked) = app.launch.verdict() else {
        let key = app.key(Action::Launch);
        let waits = app.launch.checking_words();
        app.complain(format!("still {waits}; press {key} again in a moment"));
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
    let mut lines = summary(&checked.run_name, plan);
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

/// Problems first, then what wants attention, then what is well; with their signs.
pub fn all_lines(launch: &Launch) -> Vec<String> {
    let Some(checked) = &launch.checked else {
        return Vec::new();
    };
    let problems = checked.problems.iter();
    let problems = problems.map(|(path, problem)| format!("✗ {path}: {problem}"));
    let (well, other): (Vec<_>, Vec<_>) = checked.checks.iter().partition(|(is_well, _)| *is_well);
    let other = other.iter().map(|(_, text)| format!("! {text}"));
    let well = well.iter().map(|(_, text)| format!("✓ {text}"));
    problems.chain(other).chain(well).collect()
}

fn all_checks(app: &mut App) {
    let mut lines = all_lines(&app.launch);
    if lines.is_empty() {
        lines.push(format!("still {}", app.launch.checking_words()));
    }
    app.popup = Some(Popup::text("Checks", lines));
}

/// Takes in a verdict; one on an older draft is history.
pub fn checked(app: &mut App, checked: Checked) {
    app.launch.checking = None;
    if checked.revision < app.launch.draft.revision {
        return;
    }
    let (is_thorough, head) = (checked.is_thorough, checked.head.clone());
    app.launch.checked = Some(checked);
    if is_thorough && std::mem::take(&mut app.launch.draft.thorough) {
        let mut lines = all_lines(&app.launch);
        if let Some(head) = head {
            lines.extend([String::new(), "the data begins:".to_owned()]);
            lines.extend(head.lines().take(12).map(str::to_owned));
        }
        app.present(Popup::text("Checks; nothing was started", lines));
    }
}

/// Begins with a past run's config.
pub fn reopen(app: &mut App, folder: RunFolder) -> Vec<Effect> {
    let name = base_of(app, &folder.name()).to_owned();
    opener::ask(app, Effect::Reopen { folder, name })
}

/// A run's name without the number that kept it apart from the run of that name.
fn base_of<'a>(app: &App, name: &'a str) -> &'a str {
    let is_run = |name: &str| app.runs.rows.iter().flatten().any(|row| row.name == name);
    match name.rsplit_once('-') {
        Some((base, n)) if n.parse::<u32>().is_ok() && is_run(base) => base,
        _ => name,
    }
}
