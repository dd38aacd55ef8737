//! The choice of data: built-in, of a past run, or a path that is typed; with a look at its beginning.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};
use serde_json::{Value, json};

use super::{
    app::{App, Effect, Popup},
    draw::{cut, cut_start},
    fields::{self, Kind},
    keys::Key,
    launch,
    line::Line as Typed,
    popup::{PAGE, frame_of},
};
use crate::{base::text::printable, base::units, data::Preview};

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// As typed.
    Path(String),
    /// The part `data` of a config.
    Data(Value),
}

/// What was seen there.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    pub asked: Asked,
    /// The part `data` of a config with its beginning, or why there is none.
    pub found: Result<(Value, Preview), String>,
}

/// The state of the choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picker {
    pub typed: Typed,
    /// 0: the typed path; from 1: what is known.
    pub chosen: usize,
    /// As it was when the choice was opened: runs that go on would change its order.
    known: Vec<Known>,
    pub looked: Option<Looked>,
}

/// Data that needs no typing.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    data: Value,
    /// The run that has used it; empty for what is built in.
    of: String,
}

/// What is built in, then what past runs have used, the latest first.
fn known(app: &App) -> Vec<Known> {
    let root = json!({ "data": { "builtin": null } });
    let field = fields::of(&root)
        .into_iter()
        .find(|field| field.path == ["data", "builtin"]);
    let built_in = match field.map(|field| field.kind) {
        Some(Kind::Choice(options)) => options,
        _ => Vec::new(),
    };
    let mut known: Vec<Known> = built_in
        .into_iter()
        .map(|(_, value)| Known {
            data: json!({ "builtin": value }),
            of: String::new(),
        })
        .collect();
    for row in app.runs.rows.iter().flatten() {
        if row.data.is_object() && known.iter().all(|known| known.data != row.data) {
            known.push(Known {
                data: row.data.clone(),
                of: row.name.clone(),
            });
        }
    }
    known
}

/// Opens the choice at the first of what is known.
pub fn open(app: &mut App) -> Vec<Effect> {
    let picker = Picker {
        chosen: 1,
        known: known(app),
        ..Picker::default()
    };
    let effects = look(&picker);
    app.popup = Some(Popup::Data(picker));
    effects
}

fn asked(picker: &Picker) -> Option<Asked> {
    match picker.chosen.checked_sub(1) {
        None if picker.typed.is_empty() => None,
        None => Some(Asked::Path(picker.typed.to_string())),
        Some(index) => picker
            .known
            .get(index)
            .map(|known| Asked::Data(known.data.clone())),
    }
}

fn look(picker: &Picker) -> Vec<Effect> {
    asked(picker).map(Effect::Look).into_iter().collect()
}

/// A key for the choice.
pub fn press(app: &mut App, mut picker: Picker, key: Key) -> Vec<Effect> {
    let before = asked(&picker);
    let mut effects = Vec::new();
    match key {
        Key::Up | Key::BackTab => picker.chosen = picker.chosen.saturating_sub(1),
        Key::Down => picker.chosen = (picker.chosen + 1).min(picker.known.len()),
        Key::PageUp => picker.chosen = picker.chosen.saturating_sub(PAGE),
        Key::PageDown => picker.chosen = (picker.chosen + PAGE).min(picker.known.len()),
        Key::Tab => {
            picker.chosen = 0;
            effects.push(Effect::Complete(picker.typed.to_string()));
        }
        Key::Enter => match seen(&picker) {
            Some(Ok((data, _))) => {
                let (data, is_recognised) = (data.clone(), picker.chosen == 0);
                return launch::set_data(app, data, is_recognised);
            }
            Some(Err(problem)) => app.complain(problem.clone()),
            None if before.is_none() => app.say("type a path, or choose one with the arrows"),
            None => app.say("still looking; press Enter again in a moment"),
        },
        key => {
            let typed = picker.typed.to_string();
            if picker.typed.press(key) == Some(false) {
                return launch::look(app).into_iter().collect();
            }
            if *picker.typed != *typed {
                picker.chosen = 0;
            }
        }
    }
    if asked(&picker) != before {
        effects.extend(look(&picker));
    }
    app.popup = Some(Popup::Data(picker));
    effects
}

/// A text that was pasted.
pub fn paste(picker: &mut Picker, text: &str) -> Vec<Effect> {
    picker.typed.insert(text);
    picker.chosen = 0;
    look(picker)
}

/// What was seen of what is chosen; `None` while it is looked at.
fn seen(picker: &Picker) -> Option<&Result<(Value, Preview), String>> {
    let asked = asked(picker)?;
    let looked = picker
        .looked
        .as_ref()
        .filter(|looked| looked.asked == asked);
    looked.map(|looked| &looked.found)
}

/// Takes in what was seen, where it is still wanted.
pub fn take(app: &mut App, looked: Looked) {
    if looked.asked == app.launch.data() {
        app.launch.looked = Some(looked.clone());
    }
    if let Some(Popup::Data(picker)) = &mut app.popup
        && asked(picker).as_ref() == Some(&looked.asked)
    {
        picker.looked = Some(looked);
    }
}

/// Takes in what the paths that begin as typed have in common, and shows them where they are several.
pub fn complete(app: &mut App, typed: &str, whole: String, names: &[String]) -> Vec<Effect> {
    let field = match &mut app.popup {
        Some(Popup::Data(picker)) => Some(&mut picker.typed),
        Some(Popup::Open(opener)) => Some(&mut opener.typed),
        Some(Popup::WriteTo { path }) => Some(path),
        _ => app.launch.editing.as_mut(),
    };
    let Some(field) = field.filter(|field| ***field == *typed) else {
        return Vec::new();
    };
    let is_longer = typed != whole;
    if is_longer {
        *field = Typed::new(whole.as_str());
    }
    match names {
        [] => app.complain("no path begins so"),
        [_] => {}
        names => app.say(names.join("  ")),
    }
    match app.popup {
        Some(Popup::Data(_)) if is_longer => vec![Effect::Look(Asked::Path(whole))],
        _ => Vec::new(),
    }
}

/// Kind and place of data in a line, the end of a long path in sight.
fn named(data: &Value, width: usize) -> String {
    let (kind, inner) = match data.as_object().and_then(|data| data.iter().next()) {
        Some((kind, inner)) => (kind.as_str(), inner),
        None => ("", data),
    };
    let place = [inner, &inner["path"], &inner["train"]]
        .into_iter()
        .find_map(Value::as_str);
    let room = width.saturating_sub(9);
    format!("{kind:<8} {}", cut_start(place.unwrap_or_default(), room))
}

/// Kind, size and first samples, as many as fit.
pub fn told(found: &Result<(Value, Preview), String>, width: usize, rows: usize) -> Vec<String> {
    let (data, seen) = match found {
        Ok(found) => found,
        // The reason stands behind the path, which may be longer than the box.
        Err(problem) => return vec![format!("✗ {}", cut_start(problem, 4 * width))],
    };
    let more = if seen.is_whole { "" } else { "more than " };
    let files = if seen.n_files == 1 { "file" } else { "files" };
    let mut about = format!(
        "{more}{} {files}, {}",
        seen.n_files,
        units::bytes(seen.bytes)
    );
    if seen.n_files > 1 {
        about.push_str(", only the first was looked at");
    }
    for (kind, key) in [("jsonl", "field"), ("tokens", "vocab_size")] {
        let value = &data[kind][key];
        if !value.is_null() {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            about = format!("{about}, {key} {value}");
        }
    }
    let mut lines = vec![named(data, width), cut(&about, width)];
    let samples = seen
        .samples
        .iter()
        .map(|sample| cut(&format!("│ {}", printable(sample)), width));
    lines.extend(samples);
    lines.truncate(rows);
    lines
}

/// Draws the choice over `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, picker: &Picker) {
    let title = "Data: Enter takes it, Esc closes";
    let inner = frame_of(frame, area, app, title, 100, 24);
    let known = &picker.known;
    let rows = u16::try_from(known.len()).unwrap_or(u16::MAX);
    let [path, list, rule, beginning] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows.min(inner.height / 3)),
        Constraint::Length(1),
        Constraint::Min(0),
    ])
    .areas(inner);
    let width = usize::from(inner.width);
    let style = |index: usize| {
        if index == picker.chosen {
            app.look.selected()
        } else {
            ratatui::style::Style::new()
        }
    };
    let hint = if picker.typed.is_empty() {
        "  a path; Tab completes it"
    } else {
        ""
    };
    let typed = cut_start(&picker.typed.shown(), width.saturating_sub(3));
    let typed = cut(&format!(" > {typed}{hint}"), width);
    frame.render_widget(Span::styled(typed, style(0)), path);
    let shown = usize::from(list.height);
    let first = picker.chosen.saturating_sub(shown);
    let lines: Vec<Line<'_>> = known
        .iter()
        .enumerate()
        .skip(first)
        .take(shown)
        .map(|(index, known)| {
            let room = width.saturating_sub(known.of.chars().count() + 4);
            let text = format!(" {:<room$}  {} ", named(&known.data, room), known.of);
            Line::from(Span::styled(cut(&text, width), style(index + 1)))
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), list);
    frame.render_widget(Span::styled("─".repeat(width), app.look.dim()), rule);
    let room = width.saturating_sub(2);
    let lines = match (seen(picker), asked(picker)) {
        (Some(found), _) => told(found, room, usize::from(beginning.height)),
        (None, Some(_)) => vec!["looking ...".to_owned()],
        (None, None) => Vec::new(),
    };
    let lines: Vec<Line<'_>> = lines
        .into_iter()
        .map(|line| Line::from(format!(" {line}")))
        .collect();
    let paragraph = Paragraph::new(lines).wrap(Wrap { trim: false });
    frame.render_widget(paragraph, beginning);
}
