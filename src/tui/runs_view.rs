//! The picture of Runs.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Paragraph, Wrap},
};

use super::{
    app::App,
    chart::sparkline,
    draw::{ago, cut},
    keys::Action,
    live_view::no_run,
    runs::{Details, RunRow, Sort, command, trained},
};
use crate::base::{
    text::{columns, one_line, pad},
    units,
};

/// Least rows of a screen that shows details below the list.
const ROOM_FOR_DETAILS: u16 = 18;
/// Least rows of the details.
const LEAST_DETAILS: u16 = 8;

/// Draws the list and what is known of the selected run. The list takes the rows it needs, the details the rest.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let details = details(app, area);
    let [filter, list, below, legend] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(details.rows),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_filter(frame, filter, app);
    draw_list(frame, list, app);
    draw_details(frame, below, app, details);
    let text = " ● running  ✓ completed  ↻ resumable  ■ ended  ✗ failed";
    let text = cut(text, usize::from(legend.width));
    frame.render_widget(Paragraph::new(Span::styled(text, app.look.dim())), legend);
}

/// What is known of the selected run, and the room for it.
pub struct Shown {
    facts: Vec<String>,
    /// With its frame; 0: no details are shown.
    pub rows: u16,
    /// Facts that have no place.
    pub hidden: usize,
}

/// The details as they are drawn in a body of this size.
pub fn details(app: &App, area: Rect) -> Shown {
    let facts = match app.runs.chosen() {
        Some(row) if area.height >= ROOM_FOR_DETAILS => {
            facts(app, row, usize::from(area.width.saturating_sub(4)))
        }
        _ => Vec::new(),
    };
    let list = u16::try_from(app.runs.visible().len() + 1).unwrap_or(u16::MAX);
    let room = area.height.saturating_sub(2);
    let rows = match u16::try_from(facts.len() + 2).unwrap_or(u16::MAX) {
        2 => 0,
        wanted => wanted.min((room / 2).max(room.saturating_sub(list)).max(LEAST_DETAILS)),
    };
    Shown {
        hidden: facts
            .len()
            .saturating_sub(usize::from(rows.saturating_sub(2))),
        facts,
        rows,
    }
}

fn draw_filter(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let runs = &app.runs;
    let problem = runs.filter.problem();
    let text = if runs.typing {
        let beside = problem.map_or_else(|| runs.filter.syntax(), |problem| format!("! {problem}"));
        format!(" / {}_   {beside}", runs.filter.text())
    } else if !runs.filter.is_empty() {
        let beside = problem.map_or_else(String::new, |problem| format!("   ! {problem}"));
        let key = app.key(Action::Back);
        format!(" / {}   {key} clears{beside}", runs.filter.text())
    } else if !runs.marked.is_empty() {
        let names: Vec<&str> = runs.marked.iter().map(String::as_str).collect();
        format!(" marked: {}", names.join(", "))
    } else {
        format!(" {}", app.runs_dir.display())
    };
    let style = match problem {
        Some(_) => app.look.warn(),
        None => ratatui::style::Style::new(),
    };
    let text = cut(&text, usize::from(area.width));
    frame.render_widget(Paragraph::new(Span::styled(text, style)), area);
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, app: &App) {
    if let Some(text) = &app.runs.failed {
        let text = Span::styled(format!(" ! {text}"), app.look.bad());
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), area);
        return;
    }
    let Some(_) = &app.runs.rows else {
        frame.render_widget(Paragraph::new(" reading the runs ..."), area);
        return;
    };
    let rows = app.runs.visible();
    if rows.is_empty() {
        let text = if app.runs.filter.is_empty() {
            format!(" {}", no_run(app))
        } else {
            let key = app.key(Action::Back);
            format!(" No run passes the filter; {key} clears it.")
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let width = usize::from(area.width);
    let mut lines = vec![Line::from(Span::styled(
        heading(app, width),
        app.look.bold(),
    ))];
    let room = usize::from(area.height).saturating_sub(1);
    let chosen = app.runs.chosen().map(|row| &row.name);
    let place = rows
        .iter()
        .position(|row| Some(&row.name) == chosen)
        .unwrap_or(0);
    let first = place.saturating_sub(room.saturating_sub(1));
    for (index, row) in rows.iter().enumerate().skip(first).take(room) {
        let style = if index == place && !app.runs.in_details {
            app.look.selected()
        } else if row.sign() == '✗' {
            app.look.bad()
        } else if row.held {
            app.look.good()
        } else {
            ratatui::style::Style::new()
        };
        let cursor = if index == place { '▶' } else { ' ' };
        let text = format!("{cursor}{}", told(app, row, width.saturating_sub(1)));
        lines.push(Line::from(Span::styled(cut(&text, width), style)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// Width of the name's column.
fn name_width(width: usize) -> usize {
    match width {
        ..60 => 12,
        60..120 => 22,
        _ => 36,
    }
}

/// Widths of the columns status and step.
fn narrow_widths(width: usize) -> (usize, usize) {
    if width < 60 { (11, 6) } else { (12, 11) }
}

fn heading(app: &App, width: usize) -> String {
    let mark = |sort: Sort, word: &str| {
        if app.runs.sort == sort {
            let is_descending = sort.is_descending() != app.runs.reversed;
            let arrow = if is_descending { '↓' } else { '↑' };
            format!("{word} {arrow}")
        } else {
            word.to_owned()
        }
    };
    let name = name_width(width);
    let (status, step) = narrow_widths(width);
    let mut text = format!(
        "    {:<name$} {:<status$} {:>step$}",
        mark(Sort::Name, "name"),
        mark(Sort::Status, "status"),
        mark(Sort::Step, "step")
    );
    if width >= 60 {
        text = format!(
            "{text} {:>8} {:>8}",
            mark(Sort::Loss, "loss"),
            mark(Sort::Best, "best")
        );
    }
    if width >= 120 {
        text = format!("{text}  {:<28} {:<18} {:>9}", "model", "split", "tok/s");
        text = format!("{text} {:>8}", "kWh");
    }
    format!("{text}  {}", mark(Sort::When, "when"))
}

fn told(app: &App, row: &RunRow, width: usize) -> String {
    let mark = if app.runs.marked.contains(&row.name) {
        '*'
    } else {
        ' '
    };
    let name = name_width(width + 1);
    let shown = pad(&cut(&one_line(&row.name), name), name);
    let Ok(state) = &row.state else {
        return format!("{mark}{} {shown} unreadable", row.sign());
    };
    let (status, digits) = narrow_widths(width + 1);
    let of_total = state
        .total_steps
        .map(|total| format!("{}/{total}", state.step));
    let of_total = of_total.filter(|text| text.len() <= digits);
    let step = of_total.unwrap_or_else(|| state.step.to_string());
    let mut text = format!(
        "{mark}{} {shown} {:<status$} {step:>digits$}",
        row.sign(),
        row.word
    );
    if width >= 59 {
        let number = |loss: Option<f64>| loss.map_or_else(|| "–".to_owned(), units::loss);
        let loss = number(state.last.map(|last| last.loss));
        let best = number(state.best_eval().map(|best| best.loss));
        text = format!("{text} {loss:>8} {best:>8}");
    }
    if width >= 119 {
        let speed = state.tokens_per_sec();
        let speed = speed.map_or_else(|| "–".to_owned(), |speed| units::count(speed.round()));
        let model = pad(&cut(&row.model, 28), 28);
        let split = pad(&cut(&state.strategy, 18), 18);
        let energy = state
            .energy
            .joules
            .map_or_else(|| "–".to_owned(), kilowatt_hours);
        text = format!("{text}  {model} {split} {speed:>9} {energy:>8}");
    }
    format!("{text}  {}", ago(app.now, row.written))
}

fn kilowatt_hours(joules: f64) -> String {
    format!("{:.3}", joules / 3.6e6)
}

fn draw_details(frame: &mut Frame<'_>, area: Rect, app: &App, details: Shown) {
    let Some(row) = app.runs.chosen().filter(|_| area.height >= 3) else {
        return;
    };
    let room = usize::from(area.width.saturating_sub(4));
    let cursor = if app.runs.in_details { "▶" } else { "" };
    let title = format!(" {cursor}{}  {} ", row.name, row.folder.root().display());
    let title = one_line(&title);
    let Shown { facts, hidden, .. } = details;
    let scroll = app.runs.scroll.min(hidden);
    let mut block = Block::bordered().title(cut(&title, room + 2));
    if hidden > scroll {
        let [panel, down] = [Action::NextPanel, Action::Down].map(|action| app.key(action));
        let more = format!(" {} more line(s): {panel}, then {down} ", hidden - scroll);
        block = block.title_bottom(more);
    }
    if app.runs.in_details {
        block = block
            .border_style(app.look.accent())
            .title_style(app.look.selected());
    }
    let lines: Vec<Line<'_>> = facts.into_iter().map(Line::from).collect();
    let scroll = u16::try_from(scroll).unwrap_or(0);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((scroll, 0)), area);
}

/// What is known of a run, a line each, what matters most first.
fn facts(app: &App, row: &RunRow, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, text: String| {
        lines.push(cut(&format!(" {name:<8}{text}"), room));
    };
    let details = app.runs.details.as_ref();
    let details = details.filter(|details| details.name == row.name);
    match &row.state {
        Err(error) => fact("state", format!("unreadable: {error}")),
        Ok(state) => {
            let reason = match &state.ended {
                Some(ending) => one_line(&ending.reason),
                None if row.held => "its supervisor is alive".to_owned(),
                None => "its supervisor is gone".to_owned(),
            };
            fact("state", format!("{}: {reason}", row.word));
        }
    }
    if let Some(fault) = &row.fault {
        fact("config", format!("unreadable: {fault}"));
    }
    let (command, key) = (command(app, row), app.key(Action::Copy));
    fact("do", format!("{command}   ({key} copies)"));
    if let Ok(state) = &row.state {
        let tokens = units::count(state.tokens as f64);
        let time = trained(state, details);
        let energy = state.energy.words();
        let energy = energy.map_or_else(String::new, |words| format!(", {words}"));
        let width = state.total_steps.unwrap_or(0).to_string().len();
        let steps = format!("{:>width$} steps", state.step);
        fact(
            "trained",
            format!("{steps}, {tokens:>5} tokens, {time}{energy}"),
        );
    }
    fact("model", row.model.clone());
    match details {
        Some(details) => details_facts(row, details, app, room, &mut fact),
        None if app.runs.pending.is_some() => fact("", "reading its log ...".to_owned()),
        None => {}
    }
    lines
}

fn details_facts(
    row: &RunRow,
    details: &Details,
    app: &App,
    room: usize,
    fact: &mut impl FnMut(&str, String),
) {
    let mut seen = row.state.iter().flat_map(|state| &state.checkpoints);
    let best = seen.find(|seen| seen.best).map(|seen| seen.step);
    let saved: Vec<String> = details
        .checkpoints
        .iter()
        .rev()
        .map(|(step, bytes)| {
            let best = if Some(*step) == best { ", best" } else { "" };
            format!("step {step} ({}{best})", units::bytes(*bytes))
        })
        .collect();
    let none = saved.is_empty().then(|| "none".to_owned());
    fact("saved", none.unwrap_or_else(|| saved.join(", ")));
    let loss = sparkline(&details.loss, room.saturating_sub(10), app.look);
    let none = loss.is_empty().then(|| "no step yet".to_owned());
    fact("loss", none.unwrap_or(loss));
    let sized = |(name, bytes): &(String, u64)| format!("{name} {}", units::bytes(*bytes));
    let files: Vec<String> = details.files.iter().map(sized).collect();
    for (index, line) in lines_of(&files, room.saturating_sub(10))
        .into_iter()
        .enumerate()
    {
        fact(if index == 0 { "files" } else { "" }, line);
    }
    match &details.against {
        Some(other) if details.differences.is_empty() => fact("config", format!("as {other}")),
        Some(other) => {
            let n = details.differences.len();
            fact("config", format!("{n} change(s) against {other}:"));
            for difference in &details.differences {
                fact("", difference.clone());
            }
        }
        None => fact("config", "no other run to compare with".to_owned()),
    }
}

/// Words joined by commas, on as many lines as they need.
fn lines_of(words: &[String], room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(last) if columns(last) + columns(word) + 2 <= room => {
                last.push_str(", ");
                last.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}
