//! The picture of Logs.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    app::{App, Screen},
    board::{Entry, Level},
    draw::cut,
    keys::Action,
    live::shown,
    logs::visible,
};

/// Draws the log of the run that is watched.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    let Some(board) = shown(app) else {
        frame.render_widget(
            Paragraph::new(format!(
                "No run is open: {} lists the runs.",
                app.key(Action::Show(Screen::Runs))
            )),
            body,
        );
        return;
    };
    let lines = visible(app);
    let rank = app
        .logs
        .rank
        .map_or_else(|| "all".to_owned(), |rank| rank.to_string());
    let follow = if app.logs.at.is_none() {
        "following".to_owned()
    } else {
        format!("{} follows", app.key(Action::Last))
    };
    let wrap = if app.logs.wrap { "   wrapped" } else { "" };
    let head_text = format!(
        " level ≥ {}   rank {rank}   {} of {} lines   {follow}{wrap}",
        app.logs.level.name(),
        lines.len(),
        board.entries.len()
    );
    frame.render_widget(
        Paragraph::new(Span::styled(head_text, app.look.dim())),
        head,
    );
    let rows = usize::from(body.height);
    let width = usize::from(body.width);
    let last = lines.len().saturating_sub(1);
    let at = app.logs.at.unwrap_or(last).min(last);
    let drawn = around(app, &lines, at, rows, width);
    frame.render_widget(Paragraph::new(drawn), body);
    let dropped = board.dropped();
    let foot_text = if app.logs.typing {
        format!(" / {}_", app.logs.search)
    } else if !app.logs.search.is_empty() {
        let [next, previous, back] =
            [Action::NextMatch, Action::PreviousMatch, Action::Back].map(|action| app.key(action));
        let search = &app.logs.search;
        format!(" / {search}   {next} {previous} next, previous   {back} ends")
    } else if dropped > 0 {
        format!(" {dropped} older line(s) are in the files only: events.jsonl, worker.log")
    } else {
        " All ranks together; ×N: a line N times. Files: events.jsonl, worker.log".to_owned()
    };
    frame.render_widget(Paragraph::new(cut(&foot_text, width)), foot);
}

/// The lines around one of them, as many as fit.
fn around<'a>(app: &App, lines: &[&Entry], at: usize, rows: usize, width: usize) -> Vec<Line<'a>> {
    if rows == 0 || lines.is_empty() {
        return Vec::new();
    }
    let is_followed = app.logs.at.is_none();
    let after = if is_followed { 0 } else { rows / 2 };
    let end = (at + after + 1).clamp(rows.min(lines.len()), lines.len());
    let mut drawn: Vec<Line<'a>> = Vec::new();
    for index in (0..end).rev() {
        let entry = lines[index];
        let mut part = if app.logs.wrap {
            wrapped(app, entry, width)
        } else {
            vec![shifted_line(app, entry, width, app.logs.shift)]
        };
        let is_here = index == at && !is_followed;
        if is_here || app.logs.matches(entry) {
            let style = app.look.selected();
            part = part.into_iter().map(|line| line.style(style)).collect();
        }
        part.reverse();
        drawn.extend(part);
        if drawn.len() >= rows {
            break;
        }
    }
    drawn.truncate(rows);
    drawn.reverse();
    drawn
}

fn head(app: &App, entry: &Entry) -> String {
    let time = entry
        .time
        .map_or_else(|| "  worker".to_owned(), |time| app.clock(time));
    let rank = entry
        .rank
        .map_or_else(|| "  ".to_owned(), |rank| format!("r{rank}"));
    format!(" {time} {:<5} {rank} ", entry.level.name())
}

fn body(entry: &Entry) -> String {
    if entry.times > 1 {
        format!("{}  ×{}", entry.text, entry.times)
    } else {
        entry.text.clone()
    }
}

/// One line of the log, cut to the width.
pub fn entry_line<'a>(app: &App, entry: &Entry, width: usize) -> Line<'a> {
    shifted_line(app, entry, width, 0)
}

fn shifted_line<'a>(app: &App, entry: &Entry, width: usize, shift: usize) -> Line<'a> {
    let head = head(app, entry);
    let room = width.saturating_sub(head.chars().count());
    let text: String = body(entry).chars().skip(shift).collect();
    let style = match entry.level {
        Level::Info => ratatui::style::Style::new(),
        Level::Warn => app.look.warn(),
        Level::Error => app.look.bad(),
    };
    Line::from(vec![Span::raw(head), Span::styled(cut(&text, room), style)])
}

fn wrapped<'a>(app: &App, entry: &Entry, width: usize) -> Vec<Line<'a>> {
    let head = head(app, entry);
    let indent = head.chars().count();
    let room = width.saturating_sub(indent).max(1);
    let text: Vec<char> = body(entry).chars().collect();
    let mut lines = Vec::new();
    for (index, part) in text.chunks(room).enumerate() {
        let before = if index == 0 {
            head.clone()
        } else {
            " ".repeat(indent)
        };
        let part: String = part.iter().collect();
        lines.push(Line::from(format!("{before}{part}")));
    }
    if lines.is_empty() {
        lines.push(Line::from(head));
    }
    lines
}
