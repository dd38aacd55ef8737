//! The whole picture: tabs, the screen, the last line, and what lies over it.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Clear, Paragraph},
};

use super::{
    app::{App, SCREENS, Screen},
    keys::{Action, Binding, Class},
    later, launch_view, live, live_view, logs_view, popup,
    recording::SPEED,
    runs_view, small,
};
use crate::base::text::{columns, fitting};

/// Below this size only the most important lines are shown.
pub const LEAST: (u16, u16) = (40, 10);

/// What marks a recording.
pub const RECORDING: &str = "RECORDING, not a live run";

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    if area.width == 0 || area.height == 0 {
        return;
    }
    if is_small(area) {
        small::draw(frame, area, app);
        popup::draw(frame, area, app);
        if app.notice.is_some() {
            let last = Rect {
                y: area.bottom() - 1,
                height: 1,
                ..area
            };
            frame.render_widget(Clear, last);
            draw_last(frame, last, app);
        }
        app.look.finish(frame.buffer_mut());
        return;
    }
    let [tabs, body, last] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_tabs(frame, tabs, app);
    match app.screen {
        Screen::Launch => launch_view::draw(frame, body, app),
        Screen::Live => live_view::draw(frame, body, app),
        Screen::Runs => runs_view::draw(frame, body, app),
        Screen::Logs => logs_view::draw(frame, body, app),
        Screen::Plan | Screen::Compare => later::draw(frame, body, app),
    }
    draw_last(frame, last, app);
    popup::draw(frame, body, app);
    app.look.finish(frame.buffer_mut());
}

fn is_small(area: Rect) -> bool {
    area.width < LEAST.0 || area.height < LEAST.1
}

/// The part of a terminal of this size that lies under what is popped up.
pub fn body_of((width, height): (u16, u16)) -> Rect {
    let area = Rect::new(0, 0, width, height);
    match is_small(area) {
        true => area,
        false => Rect {
            y: 1,
            height: height - 2,
            ..area
        },
    }
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let full = area.width >= 120;
    let mut spans = vec![Span::raw(" ")];
    for screen in SCREENS {
        let number = screen.number();
        if screen == app.screen {
            let text = format!("[{number} {}]", screen.title());
            spans.push(Span::styled(text, app.look.bold().patch(app.look.accent())));
        } else if full {
            spans.push(Span::raw(format!(" {number} {} ", screen.title())));
        } else {
            spans.push(Span::raw(format!(" {number} ")));
        }
    }
    let tabs = Line::from(spans);
    let right = headline(app);
    let used = tabs.width();
    frame.render_widget(Paragraph::new(tabs), area);
    let room = usize::from(area.width).saturating_sub(used + 2);
    let right = cut(&right, room);
    frame.render_widget(Paragraph::new(right).right_aligned(), area);
}

/// What the screen is about, beside the tabs.
fn headline(app: &App) -> String {
    let mut parts = Vec::new();
    if app.recording {
        parts.push(format!("{RECORDING}, {SPEED} times as fast"));
    }
    if app.readonly {
        parts.push("read-only".to_owned());
    }
    match app.screen {
        Screen::Live | Screen::Logs => {
            if let Some(board) = live::shown(app) {
                let word = board.word();
                parts.push(format!("{}  {word}", board.folder.name()));
                if app.live.frozen.is_some() {
                    parts.push(format!("FROZEN ({} goes on)", app.key(Action::Freeze)));
                }
            }
        }
        Screen::Runs => {
            if let Some(rows) = &app.runs.rows {
                parts.push(format!(
                    "{} of {} runs",
                    app.runs.visible().len(),
                    rows.len()
                ));
            }
        }
        Screen::Launch => parts.push(app.launch.machine_words()),
        Screen::Plan | Screen::Compare => {}
    }
    parts.join("   ")
}

/// The last word said, else the keys that matter here, as many as fit.
fn draw_last(frame: &mut Frame<'_>, area: Rect, app: &App) {
    if let Some(notice) = &app.notice {
        let style = if notice.is_error {
            app.look.bad()
        } else {
            app.look.good()
        };
        let sign = if notice.is_error { "! " } else { "" };
        let text = cut(&format!(" {sign}{}", notice.text), usize::from(area.width));
        frame.render_widget(Paragraph::new(Span::styled(text, style)), area);
        return;
    }
    if let Some(popup) = &app.popup {
        let keys = cut(
            &format!(" {}", popup::footer(app, popup)),
            usize::from(area.width),
        );
        frame.render_widget(Paragraph::new(keys), area);
        return;
    }
    let goes_on = app.board.as_ref().is_some_and(|board| board.held) && !app.recording;
    let leave = if app.screen == Screen::Live && area.width >= 120 && goes_on {
        "leave (run goes on)"
    } else {
        "leave"
    };
    let [help, palette, quit] =
        [Action::Help, Action::Palette, Action::Leave].map(|action| app.key(action));
    let end = match area.width {
        ..60 => format!("{help} help  {quit} {leave} "),
        _ => format!("{help} help  {palette} cmd  {quit} {leave} "),
    };
    let room = usize::from(area.width).saturating_sub(end.chars().count() + 1);
    let mut spans = Vec::new();
    let mut used = 0;
    let here = app
        .keys
        .iter()
        .filter(|binding| binding.is_on(app.screen) && !binding.brief.is_empty())
        .filter(|binding| is_apt(app, binding));
    for binding in here {
        let Some(key) = binding.keys.first() else {
            continue;
        };
        let (key, brief) = (key.name(), binding.brief);
        let width = key.chars().count() + brief.chars().count() + 3;
        if used + width > room {
            break;
        }
        used += width;
        spans.push(Span::styled(format!(" {key}"), app.look.bold()));
        spans.push(Span::raw(format!(" {brief} ")));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
    frame.render_widget(Paragraph::new(end).right_aligned(), area);
}

/// Whether a key does something here: nothing is changed read-only or in a recording, and on Live what steers a run needs
/// one that runs, a resumption one that doesn't.
fn is_apt(app: &App, binding: &Binding) -> bool {
    if binding.class == Class::Act && (app.readonly || app.recording) {
        return false;
    }
    if app.screen != Screen::Live {
        return true;
    }
    let Some(board) = &app.board else {
        return false;
    };
    let is_saved = !board.state.checkpoints.is_empty();
    match binding.action {
        Action::Checkpoint | Action::Pause | Action::Stop | Action::Kill => board.held,
        Action::Resume => !board.held && is_saved,
        Action::Sample => board.held || is_saved,
        _ => true,
    }
}

/// The first `width` columns of a text, with a mark where something was cut off.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    match width {
        0 => String::new(),
        1 => "…".to_owned(),
        // One character comes at least, which may be too wide.
        _ => match fitting(text, width - 1) {
            short if columns(short) < width => format!("{short}…"),
            _ => "…".to_owned(),
        },
    }
}

/// The last `width` columns of a text, with a mark where something was cut off.
pub fn cut_start(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    if width == 0 {
        return String::new();
    }
    let mut starts = text.char_indices().map(|(at, _)| &text[at..]);
    let short = starts.find(|rest| columns(rest) < width).unwrap_or("");
    format!("…{short}")
}

/// A text in lines of at most `width` columns, broken at blanks where there are some.
pub fn wrap(text: &str, width: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let most = fitting(rest, width);
        if most.len() == rest.len() {
            break;
        }
        let line = match most.rfind(' ') {
            Some(blank) if blank > 0 && !rest[most.len()..].starts_with(' ') => &most[..blank],
            _ => most,
        };
        lines.push(line);
        rest = rest[line.len()..].trim_start();
    }
    lines.push(rest);
    lines
}

/// The first of the rows of a width, with a mark where others were left out.
pub fn first_rows(rows: Vec<&str>, width: usize, most: usize) -> Vec<String> {
    let is_cut = rows.len() > most;
    let mut rows: Vec<String> = rows.into_iter().take(most).map(str::to_owned).collect();
    if let Some(last) = rows.last_mut().filter(|_| is_cut) {
        *last = format!("{}…", fitting(last, width.saturating_sub(1)));
    }
    rows
}

/// How long ago, in one coarse unit, so that it does not change with each frame.
pub fn ago(now: f64, then: f64) -> String {
    let seconds = now - then;
    if then <= 0.0 || !seconds.is_finite() {
        return "-".to_owned();
    }
    match seconds as i64 {
        ..60 => "now".to_owned(),
        60..3_600 => format!("{} m", seconds as i64 / 60),
        3_600..86_400 => format!("{} h", seconds as i64 / 3_600),
        _ => format!("{} d", seconds as i64 / 86_400),
    }
}
