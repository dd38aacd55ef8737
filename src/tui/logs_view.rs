//! The picture of Logs.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    app::{App, Screen},
    board::{Board, LogLine},
    draw::cut,
    keys::Action,
    live::shown,
    logs::{place, visible},
};
use crate::{
    base::text::{columns, fitting},
    store::lines::Level,
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
    let head_text = told_head(app, board, lines.len());
    frame.render_widget(
        Paragraph::new(Span::styled(head_text, app.look.dim())),
        head,
    );
    let rows = usize::from(body.height);
    let width = usize::from(body.width);
    let mut drawn = around(app, &lines, rows, width);
    if drawn.is_empty() && !board.entries.is_empty() {
        let [level, rank] = [Action::Level, Action::Rank].map(|action| app.key(action));
        let words = format!(" no line passes; {level} changes the level, {rank} the rank");
        drawn.push(Line::from(Span::styled(words, app.look.dim())));
    }
    frame.render_widget(Paragraph::new(drawn), body);
    let (text, is_problem) = told_foot(app, board);
    let style = if is_problem {
        app.look.warn()
    } else {
        Style::new()
    };
    frame.render_widget(Paragraph::new(Span::styled(cut(&text, width), style)), foot);
}

fn told_head(app: &App, board: &Board, n_visible: usize) -> String {
    let logs = &app.logs;
    let rank = logs
        .rank
        .map_or_else(|| "all".to_owned(), |rank| rank.to_string());
    let follow = match (board.reading, logs.at) {
        (Some(percent), _) => format!("reading the log, {percent} %"),
        (None, None) => "following".to_owned(),
        (None, Some(_)) => format!("{} follows", app.key(Action::Last)),
    };
    let wrap = if logs.wrap { "   wrapped" } else { "" };
    format!(
        " level ≥ {}   rank {rank}   {n_visible} of {} lines   {follow}{wrap}",
        logs.level.name(),
        board.entries.len()
    )
}

/// The last line, and whether it tells a problem.
fn told_foot(app: &App, board: &Board) -> (String, bool) {
    let filter = &app.logs.filter;
    let typed = filter.text();
    let dropped = board.dropped();
    if let Some(problem) = filter.problem() {
        let cursor = if app.logs.typing { "_" } else { "" };
        return (format!(" / {typed}{cursor}   ! {problem}"), true);
    }
    let text = if app.logs.typing {
        format!(" / {typed}_   {}", filter.syntax())
    } else if filter.searches() {
        let [next, previous, back] =
            [Action::NextMatch, Action::PreviousMatch, Action::Back].map(|action| app.key(action));
        format!(" / {typed}   {next} {previous} next, previous   {back} ends")
    } else if !filter.is_empty() {
        format!(" / {typed}   {} clears", app.key(Action::Back))
    } else if dropped > 0 {
        format!(" {dropped} older line(s) are in the files only: events.jsonl, worker.log")
    } else {
        let ranks = match app.logs.rank {
            Some(rank) => format!("Rank {rank} alone"),
            None => "All ranks together".to_owned(),
        };
        format!(" {ranks}; ×N: a line N times. Files: events.jsonl, worker.log")
    };
    (text, false)
}

/// The lines around the cursor, as many as fit; the cursor's own from its beginning on.
fn around<'a>(app: &App, lines: &[&LogLine], rows: usize, width: usize) -> Vec<Line<'a>> {
    if rows == 0 || lines.is_empty() {
        return Vec::new();
    }
    let at = place(app, lines);
    let is_followed = app.logs.at.is_none();
    let here = block(app, lines[at], rows, width, !is_followed);
    let room = rows - here.len();
    let mut above: Vec<Line<'a>> = Vec::new();
    for line in lines[..at].iter().rev() {
        if above.len() >= room {
            break;
        }
        above.extend(block(app, line, rows, width, false).into_iter().rev());
    }
    let mut below: Vec<Line<'a>> = Vec::new();
    for line in &lines[at + 1..] {
        if below.len() >= room {
            break;
        }
        below.extend(block(app, line, rows, width, false));
    }
    let half = room - room / 2;
    let n_below = below.len().min(half.max(room.saturating_sub(above.len())));
    above.truncate(room - n_below);
    below.truncate(n_below);
    above.reverse();
    above.extend(here);
    above.extend(below);
    above
}

/// One line of the log as it is shown, at most `rows` high.
fn block<'a>(app: &App, line: &LogLine, rows: usize, width: usize, is_here: bool) -> Vec<Line<'a>> {
    let lines = if app.logs.wrap {
        wrapped(app, line, rows, width)
    } else {
        vec![shifted_line(app, line, width, app.logs.shift)]
    };
    if is_here || app.logs.matches(line) {
        let style = app.look.selected();
        return lines.into_iter().map(|line| line.style(style)).collect();
    }
    lines
}

fn head(app: &App, line: &LogLine) -> String {
    let entry = &line.entry;
    let time = match entry.time {
        Some(time) => app.clock(time),
        None if line.is_output => "  worker".to_owned(),
        None => " ".repeat(8),
    };
    let ranks = shown(app).map_or(0, |board| board.state.world);
    let width = ranks.saturating_sub(1).to_string().len() + 1;
    let rank = entry
        .rank
        .map_or_else(String::new, |rank| format!("r{rank}"));
    format!(" {time} {:<5} {rank:<width$} ", entry.level.name())
}

fn body(line: &LogLine) -> String {
    if line.times > 1 {
        format!("{}  ×{}", line.entry.text, line.times)
    } else {
        line.entry.text.clone()
    }
}

fn style_of(app: &App, level: Level) -> Style {
    match level {
        Level::Info => Style::new(),
        Level::Warn => app.look.warn(),
        Level::Error => app.look.bad(),
    }
}

/// One line of the log, cut to the width.
pub fn entry_line<'a>(app: &App, line: &LogLine, width: usize) -> Line<'a> {
    shifted_line(app, line, width, 0)
}

fn shifted_line<'a>(app: &App, line: &LogLine, width: usize, shift: usize) -> Line<'a> {
    let head = head(app, line);
    let room = width.saturating_sub(columns(&head));
    let text: String = body(line).chars().skip(shift).collect();
    let style = style_of(app, line.entry.level);
    Line::from(vec![Span::raw(head), Span::styled(cut(&text, room), style)])
}

fn wrapped<'a>(app: &App, line: &LogLine, rows: usize, width: usize) -> Vec<Line<'a>> {
    let head = head(app, line);
    let indent = columns(&head);
    let room = width.saturating_sub(indent).max(1);
    let style = style_of(app, line.entry.level);
    let text = body(line);
    let mut rest = text.as_str();
    let mut lines = Vec::new();
    while lines.is_empty() || (!rest.is_empty() && lines.len() < rows) {
        let is_last = lines.len() + 1 == rows;
        let part = if is_last {
            cut(rest, room)
        } else {
            fitting(rest, room).to_owned()
        };
        rest = rest.get(part.len()..).unwrap_or("");
        let before = if lines.is_empty() {
            head.clone()
        } else {
            " ".repeat(indent)
        };
        lines.push(Line::from(vec![
            Span::raw(before),
            Span::styled(part, style),
        ]));
    }
    lines
}
