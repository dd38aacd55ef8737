//! The split between data and model parallelism: a control that moves ranks between the axes, and all that it could be.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::{Paragraph, Wrap},
};
use serde_json::Value;

use super::{
    app::{App, Effect, Popup},
    checks::{Checked, SplitRow},
    keys::{Action, Key},
    launch::check,
    launch_view::{split_line, who_line},
    popup::{action_of, draw_list, frame_of, moved},
};
use crate::{base::units, plan::Mesh};

/// The axes as a config names them.
const AXES: [(&str, &str); 3] = [
    ("dp", "each rank trains on its share of the batch"),
    ("tp", "each rank computes its share of every layer"),
    ("pp", "each rank computes its share of the layers"),
];

/// The state of the choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splits {
    /// 0 to 2: an axis; from 3: a line of the list.
    row: usize,
    /// Of the three axes.
    degrees: [usize; 3],
    /// Why the last step was refused.
    refused: Option<String>,
}

/// The degrees of a split.
pub fn degrees_of(split: &SplitRow) -> [usize; 3] {
    [split.dp, split.tp, split.pp]
}

/// The degrees that the draft names.
pub fn named(root: &Value) -> Option<[usize; 3]> {
    let parallel = root
        .get("parallel")
        .filter(|parallel| !parallel.is_null())?;
    Some(AXES.map(|(axis, _)| parallel[axis].as_u64().map_or(1, |n| n as usize)))
}

/// The degrees that a run would have: those that the draft names, else those that the plan found.
pub fn present(app: &App) -> Option<[usize; 3]> {
    let mesh = || {
        let plan = app.launch.checked.as_ref()?.plan.as_ref()?;
        let Mesh { pp, dp, tp } = plan.split.mesh;
        Some([dp, tp, pp])
    };
    named(&app.launch.draft.root).or_else(mesh)
}

fn rows(app: &App) -> &[SplitRow] {
    let checked = app.launch.checked.as_ref();
    checked.map_or(&[], |checked| &checked.splits)
}

/// The next split that works; those over more ranks come first, and last that none is named.
pub fn turn(app: &mut App, forward: bool) -> Vec<Effect> {
    let working = rows(app).iter().filter(|split| split.verdict.is_ok());
    let mut choices: Vec<_> = working.map(|split| Some(degrees_of(split))).collect();
    if choices.is_empty() {
        app.complain(none_because(app));
        return Vec::new();
    }
    choices.push(None);
    let n = choices.len();
    let named = named(&app.launch.draft.root);
    let here = choices.iter().position(|choice| *choice == named);
    let next = match (here, forward) {
        (None, _) => 0,
        (Some(here), true) => (here + 1) % n,
        (Some(here), false) => (here + n - 1) % n,
    };
    match choices[next] {
        Some(degrees) => set(app, degrees),
        None => unset(app),
    }
}

/// The place of the settings that the split had when none was named any more.
fn left() -> (String, String) {
    ("parallel".to_owned(), "present".to_owned())
}

/// Moves the ranks to these axes.
fn set(app: &mut App, degrees: [usize; 3]) -> Vec<Effect> {
    let path = ["parallel".to_owned()];
    let settings = app.launch.left.remove(&left());
    let draft = &mut app.launch.draft;
    if let Some(settings) = settings.filter(|_| named(&draft.root).is_none()) {
        draft.set(&path, settings);
    }
    for ((axis, _), degree) in AXES.into_iter().zip(degrees) {
        draft.set(&["parallel".to_owned(), axis.to_owned()], degree.into());
    }
    check(app)
}

/// Leaves the split to the plan.
fn unset(app: &mut App) -> Vec<Effect> {
    let settings = app.launch.draft.root["parallel"].clone();
    app.launch.left.insert(left(), settings);
    app.launch.draft.set(&["parallel".to_owned()], Value::Null);
    check(app)
}

/// Opens the choice at the present split.
pub fn open(app: &mut App) {
    app.popup = Some(Popup::Splits(Splits {
        degrees: present(app).unwrap_or([1; 3]),
        ..Splits::default()
    }));
}

/// Why there is no split to choose.
fn none_because(app: &App) -> String {
    match &app.launch.checked {
        None => "the splits are being checked".to_owned(),
        Some(checked) => match checked.problems.first() {
            Some((path, problem)) => format!("no split works: {path}: {problem}"),
            None => "no split works as the config stands".to_owned(),
        },
    }
}

/// A key for the choice.
pub fn press(app: &mut App, mut splits: Splits, key: Key) -> Vec<Effect> {
    let list = rows(app);
    let axis = (splits.row < AXES.len()).then_some(splits.row);
    splits.refused = None;
    match (action_of(app, key), axis) {
        (Some(Action::Open), Some(_)) => return set(app, splits.degrees),
        (Some(Action::Open), None) => {
            let chosen = list.get(splits.row - AXES.len()).map(degrees_of);
            return chosen.map_or_else(Vec::new, |degrees| set(app, degrees));
        }
        (Some(Action::Left | Action::Right), Some(axis)) => {
            let grows = action_of(app, key) == Some(Action::Right);
            match step(list, splits.degrees, axis, grows) {
                Ok(degree) => splits.degrees[axis] = degree,
                Err(reason) => splits.refused = Some(reason),
            }
        }
        _ => match moved(app, splits.row, AXES.len() + list.len(), key) {
            Some(row) => splits.row = row,
            None => return Vec::new(),
        },
    }
    app.popup = Some(Popup::Splits(splits));
    Vec::new()
}

/// The next degree of an axis that works beside the other two, or why there is none.
fn step(list: &[SplitRow], degrees: [usize; 3], axis: usize, grows: bool) -> Result<usize, String> {
    let (name, _) = AXES[axis];
    let present = degrees[axis];
    let mut beyond = along(list, degrees, axis);
    beyond.retain(|(degree, _)| {
        if grows {
            *degree > present
        } else {
            *degree < present
        }
    });
    if !grows {
        beyond.reverse();
    }
    let works = beyond.iter().find(|(_, split)| split.verdict.is_ok());
    if let Some((degree, _)) = works {
        return Ok(*degree);
    }
    if let Some((degree, split)) = beyond.first() {
        let reason = split.verdict.as_ref().err().cloned().unwrap_or_default();
        return Err(format!("{name} {degree}: {reason}"));
    }
    if !grows {
        return Err(format!("{name} is {present} already"));
    }
    let most = list
        .iter()
        .map(|split| split.dp * split.tp * split.pp)
        .max();
    let [dp, tp, pp] = degrees;
    let is_alone = dp * tp * pp == present;
    let remedy = match is_alone {
        true => "name more under devices",
        false => "shrink another axis first",
    };
    Err(format!(
        "all {} devices are taken: dp {dp} x tp {tp} x pp {pp}; {remedy}",
        most.unwrap_or(0)
    ))
}

/// The splits that differ from `degrees` along one axis at most, by its degree.
fn along(list: &[SplitRow], degrees: [usize; 3], axis: usize) -> Vec<(usize, &SplitRow)> {
    let is_beside = |split: &&SplitRow| {
        let other = degrees_of(split);
        (0..AXES.len()).all(|index| index == axis || other[index] == degrees[index])
    };
    let beside = list.iter().filter(is_beside);
    let mut beside: Vec<_> = beside
        .map(|split| (degrees_of(split)[axis], split))
        .collect();
    beside.sort_by_key(|(degree, _)| *degree);
    beside
}

/// Ranks whose part is told, at most.
const MOST_WHO: usize = 8;

/// Draws the choice over `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, splits: &Splits) {
    let title = "Splits: Enter takes one, Esc closes";
    let world: usize = splits.degrees.iter().product();
    let height = rows(app).len() + world.min(MOST_WHO) + 8;
    let height = u16::try_from(height).unwrap_or(u16::MAX).min(30);
    let inner = frame_of(frame, area, app, title, 100, height);
    let Some(checked) = app
        .launch
        .checked
        .as_ref()
        .filter(|_| !rows(app).is_empty())
    else {
        let why = Paragraph::new(none_because(app)).wrap(Wrap { trim: true });
        frame.render_widget(why, inner);
        return;
    };
    let axis = (splits.row < AXES.len()).then_some(splits.row);
    let room = inner.height.saturating_sub(6);
    let who_rows = match axis {
        Some(_) => room.min(world.min(MOST_WHO) as u16),
        None => 0,
    };
    let [axes, why, who, list] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(3),
        Constraint::Length(who_rows),
        Constraint::Min(0),
    ])
    .areas(inner);
    let width = usize::from(inner.width);
    let lines = (0..AXES.len()).map(|index| axis_line(app, splits, index));
    draw_list(frame, axes, app, lines, axis);
    let (text, style) = told(app, checked, splits);
    let text = Paragraph::new(text).style(style).wrap(Wrap { trim: true });
    frame.render_widget(text, why);
    let [dp, tp, pp] = splits.degrees;
    let mesh = Mesh { pp, dp, tp };
    let who_lines: Vec<Line<'_>> = (0..usize::from(who_rows))
        .map(|rank| Line::from(who_line(mesh, rank, &checked.device(rank))))
        .collect();
    frame.render_widget(Paragraph::new(who_lines), who);
    let lines = rows(app).iter().map(|split| split_line(app, split, width));
    draw_list(frame, list, app, lines, splits.row.checked_sub(AXES.len()));
}

/// An axis with the degrees that it could have beside the other two: the present one in brackets, refused ones crossed.
fn axis_line(app: &App, splits: &Splits, axis: usize) -> String {
    let (name, words) = AXES[axis];
    let degrees = along(rows(app), splits.degrees, axis);
    let shown = degrees.iter().map(|(degree, split)| {
        let is_present = *degree == splits.degrees[axis];
        match (is_present, &split.verdict) {
            (true, _) => format!("[{degree}]"),
            (false, Ok(_)) => format!(" {degree} "),
            (false, Err(_)) => format!("✗{degree} "),
        }
    });
    let shown: String = shown.collect();
    let arrows = if splits.row == axis { "←→" } else { "  " };
    format!(" {name} {arrows} {shown:<16}  {words}")
}

/// What the chosen split takes, or why it is none.
fn told(app: &App, checked: &Checked, splits: &Splits) -> (String, ratatui::style::Style) {
    let chosen = match splits.row.checked_sub(AXES.len()) {
        Some(index) => checked.splits.get(index),
        None => {
            let is_it = |split: &&SplitRow| degrees_of(split) == splits.degrees;
            checked.splits.iter().find(is_it)
        }
    };
    let refused = splits.refused.as_ref();
    match (refused, chosen.map(|split| &split.verdict)) {
        (Some(reason), _) => (format!("✗ {reason}"), app.look.bad()),
        (None, Some(Err(reason))) => (format!("✗ {reason}"), app.look.bad()),
        (None, Some(Ok(bytes))) => (
            format!("✓ {} a rank, activations on top", units::bytes(*bytes)),
            app.look.good(),
        ),
        (None, None) => ("left and right change an axis".to_owned(), app.look.dim()),
    }
}
