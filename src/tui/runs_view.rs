//! The picture of Runs.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use super::{
    app::App,
    chart::sparkline,
    draw::{ago, cut},
    keys::Action,
    live_view::no_run,
    runs::{RunRow, Sort, command},
};
use crate::base::units;

/// Draws the list and what is known of the selected run.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let details = if area.height >= 18 {
        (area.height / 2).clamp(8, 16)
    } else {
        0
    };
    let [filter, list, below, legend] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(details),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_filter(frame, filter, app);
    draw_list(frame, list, app);
    draw_details(frame, below, app);
    let text = " ● running  ✓ completed  ↻ resumable  ■ ended  ✗ failed";
    let text = cut(text, usize::from(legend.width));
    frame.render_widget(Paragraph::new(Span::styled(text, app.look.dim())), legend);
}

fn draw_filter(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let runs = &app.runs;
    let text = if runs.typing {
        format!(
            " / {}_   status:failed model:gpt split:ddp !word",
            runs.filter
        )
    } else if !runs.filter.is_empty() {
        format!(" / {}   {} clears", runs.filter, app.key(Action::Back))
    } else if !runs.marked.is_empty() {
        let names: Vec<&str> = runs.marked.iter().map(String::as_str).collect();
        format!(" marked: {}", names.join(", "))
    } else {
        format!(" {}", app.runs_dir.display())
    };
    let text = cut(&text, usize::from(area.width));
    frame.render_widget(Paragraph::new(text), area);
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, app: &App) {
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
    if width < 60 { (11, 6) } else { (12, 9) }
}

fn heading(app: &App, width: usize) -> String {
    let mark = |sort: Sort, word: &str| {
        if app.runs.sort == sort {
            let arrow = if app.runs.reversed { '↑' } else { '↓' };
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
    let shown = cut(&row.name, name);
    let Ok(state) = &row.state else {
        return format!("{mark}{} {shown:<name$} unreadable", row.sign());
    };
    let step = match state.total_steps {
        Some(total) if width >= 60 && total < 10_000 => format!("{}/{total}", state.step),
        _ => state.step.to_string(),
    };
    let (status, digits) = narrow_widths(width + 1);
    let mut text = format!(
        "{mark}{} {shown:<name$} {:<status$} {step:>digits$}",
        row.sign(),
        row.word
    );
    if width >= 59 {
        let number = |loss: Option<f64>| loss.map_or_else(|| "–".to_owned(), |l| format!("{l:.4}"));
        let loss = number(state.last.map(|last| last.loss));
        let best = number(state.best_eval().map(|best| best.loss));
        text = format!("{text} {loss:>8} {best:>8}");
    }
    if width >= 119 {
        let speed = state.last.map_or_else(
            || "–".to_owned(),
            |last| units::count(last.tokens_per_sec.round()),
        );
        let (model, split) = (cut(&row.model, 28), cut(&state.strategy, 18));
        text = format!("{text}  {model:<28} {split:<18} {speed:>9}");
    }
    format!("{text}  {}", ago(app.now, row.written))
}

fn draw_details(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(row) = app.runs.chosen().filter(|_| area.height >= 3) else {
        return;
    };
    let room = usize::from(area.width.saturating_sub(4));
    let cursor = if app.runs.in_details { "▶" } else { "" };
    let title = format!(" {cursor}{}  {} ", row.name, row.folder.root().display());
    let block = Block::bordered().title(cut(&title, room + 2));
    let block = if app.runs.in_details {
        block
            .border_style(app.look.accent())
            .title_style(app.look.selected())
    } else {
        block
    };
    let lines = facts(app, row, room);
    let hidden = lines.len().saturating_sub(usize::from(area.height - 2));
    let scroll = u16::try_from(app.runs.scroll.min(hidden)).unwrap_or(0);
    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines).block(block).scroll((scroll, 0)), area);
}

fn facts(app: &App, row: &RunRow, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, text: String| {
        lines.push(cut(&format!(" {name:<8}{text}"), room));
    };
    match &row.state {
        Err(error) => fact("state", error.clone()),
        Ok(state) => {
            let reason = match &state.ended {
                Some(ending) => crate::base::text::printable(&ending.reason),
                None if row.held => "its supervisor is alive".to_owned(),
                None => "its supervisor is gone".to_owned(),
            };
            fact(
                "state",
                format!("{}: {}", row.word, reason.replace('\n', "; ")),
            );
            let time = units::seconds(state.elapsed_s());
            let tokens = units::count(state.tokens as f64);
            fact(
                "trained",
                format!(
                    "{} steps, {tokens} tokens, {time} since its last start",
                    state.step
                ),
            );
        }
    }
    fact("model", row.model.clone());
    let details = app
        .runs
        .details
        .as_ref()
        .filter(|details| details.name == row.name);
    if let Some(details) = details {
        match &details.against {
            Some(other) if details.differences.is_empty() => {
                fact("config", format!("as {other}"));
            }
            Some(other) => {
                let n = details.differences.len();
                fact("config", format!("{n} change(s) against {other}:"));
                for difference in &details.differences {
                    fact("", difference.clone());
                }
            }
            None => fact("config", "no other run to compare with".to_owned()),
        }
        let saved: Vec<String> = details
            .checkpoints
            .iter()
            .rev()
            .map(|(step, bytes)| format!("step {step} ({})", units::bytes(*bytes)))
            .collect();
        let saved = if saved.is_empty() {
            "none".to_owned()
        } else {
            saved.join(", ")
        };
        fact("saved", saved);
        let files: Vec<&str> = details
            .files
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        fact("files", files.join(" "));
        let loss = sparkline(&details.loss, room.saturating_sub(10), app.look);
        let none = "no step yet".to_owned();
        fact("loss", if loss.is_empty() { none } else { loss });
    }
    let (command, key) = (command(app, row), app.key(Action::Copy));
    fact("do", format!("{command}   ({key} copies)"));
    lines
}
