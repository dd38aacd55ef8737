//! What lies over a screen: help, palette, questions. Keys and drawing.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Wrap},
};

use super::{
    app::{App, Effect, Popup, Screen},
    keys::{Binding, Class, Key},
    launch::{SplitRow, reopen, set_split},
    launch_view::{recent_line, split_line},
    live, picker,
    update::{choose, edit_line, order, palette_of},
};
use crate::{base::text::columns, event::Control, launch::RunFolder};

/// Lines of help, at most.
const MOST_HELP: usize = 100;

/// A key for the popup.
pub fn press(app: &mut App, key: Key) -> Vec<Effect> {
    let Some(mut popup) = app.popup.take() else {
        return Vec::new();
    };
    let (stays, effects) = match &mut popup {
        Popup::Help {
            filter,
            typing,
            scroll,
        } => (press_help(filter, typing, scroll, key), Vec::new()),
        Popup::Palette { query, chosen } => return press_palette(app, query, *chosen, key),
        Popup::Confirm { then, .. } => match key {
            Key::Char('y') | Key::Enter => (false, vec![(**then).clone()]),
            Key::Char('n' | 'q') | Key::Esc | Key::Ctrl('c') => (false, Vec::new()),
            _ => (true, Vec::new()),
        },
        Popup::TypeName {
            name, typed, then, ..
        } => match edit_line(typed, key) {
            Some(true) if typed == name => (false, vec![(**then).clone()]),
            Some(true) => {
                app.complain(format!("that is not {name}"));
                (true, Vec::new())
            }
            Some(false) => (false, Vec::new()),
            None => (true, Vec::new()),
        },
        Popup::Interrupt => return press_interrupt(app, key),
        Popup::Text { scroll, lines, .. } => {
            let most = lines.len().saturating_sub(1);
            (scrolled(scroll, most, key), Vec::new())
        }
        Popup::Splits { chosen } => return press_splits(app, *chosen, key),
        Popup::Data(picker) => return picker::press(app, std::mem::take(picker), key),
        Popup::Recent { folders, chosen } => {
            return press_recent(app, std::mem::take(folders), *chosen, key);
        }
        Popup::WriteTo { path } => match edit_line(path, key) {
            Some(true) if !path.is_empty() => {
                let text = app.launch.draft.text();
                let path = path.clone();
                app.launch.saved = Some((path.clone().into(), app.launch.draft.revision));
                (false, vec![Effect::Write { path, text }])
            }
            Some(_) => (false, Vec::new()),
            None => (true, Vec::new()),
        },
    };
    if stays {
        app.popup = Some(popup);
    }
    effects
}

fn press_help(filter: &mut String, typing: &mut bool, scroll: &mut usize, key: Key) -> bool {
    if *typing {
        match edit_line(filter, key) {
            Some(true) => *typing = false,
            Some(false) => {
                filter.clear();
                *typing = false;
            }
            None => *scroll = 0,
        }
        return true;
    }
    match key {
        Key::Char('/') => *typing = true,
        Key::Esc if !filter.is_empty() => filter.clear(),
        Key::Char('?') | Key::F(1) => return false,
        key => return scrolled(scroll, MOST_HELP, key),
    }
    true
}

/// Moves a text; false where the key closes it.
fn scrolled(scroll: &mut usize, most: usize, key: Key) -> bool {
    match key {
        Key::Down | Key::Char('j') => *scroll += 1,
        Key::Up | Key::Char('k') => *scroll = scroll.saturating_sub(1),
        Key::PageDown | Key::Ctrl('d') => *scroll += 10,
        Key::PageUp | Key::Ctrl('u') => *scroll = scroll.saturating_sub(10),
        Key::Home | Key::Char('g') => *scroll = 0,
        Key::End | Key::Char('G') => *scroll = most,
        Key::Esc | Key::Char('q') | Key::Ctrl('c') | Key::Enter => return false,
        _ => {}
    }
    *scroll = (*scroll).min(most);
    true
}

fn press_palette(app: &mut App, query: &mut String, chosen: usize, key: Key) -> Vec<Effect> {
    let found = palette_of(app, query);
    let mut chosen = chosen;
    match key {
        Key::Down | Key::Tab => chosen = (chosen + 1).min(found.len().saturating_sub(1)),
        Key::Up | Key::BackTab => chosen = chosen.saturating_sub(1),
        key => match edit_line(query, key) {
            Some(true) => {
                return match found.get(chosen) {
                    Some(binding) => choose(app, binding),
                    None => Vec::new(),
                };
            }
            Some(false) => return Vec::new(),
            None => chosen = 0,
        },
    }
    app.popup = Some(Popup::Palette {
        query: std::mem::take(query),
        chosen,
    });
    Vec::new()
}

fn press_splits(app: &mut App, chosen: usize, key: Key) -> Vec<Effect> {
    let splits = app
        .launch
        .checked
        .iter()
        .flat_map(|checked| &checked.splits);
    let splits: Vec<SplitRow> = splits.cloned().collect();
    match (key, splits.get(chosen)) {
        (Key::Enter, Some(split)) => return set_split(app, [split.dp, split.tp, split.pp]),
        (key, _) => {
            let chosen = moved(chosen, splits.len(), key);
            app.popup = chosen.map(|chosen| Popup::Splits { chosen });
        }
    }
    Vec::new()
}

fn press_recent(app: &mut App, folders: Vec<RunFolder>, chosen: usize, key: Key) -> Vec<Effect> {
    match (key, folders.get(chosen)) {
        (Key::Enter, Some(folder)) => return reopen(app, folder.clone()),
        (key, _) => {
            let chosen = moved(chosen, folders.len(), key);
            app.popup = chosen.map(|chosen| Popup::Recent { folders, chosen });
        }
    }
    Vec::new()
}

/// The place in a list of `n` lines after a key; `None` where the key closes it.
fn moved(chosen: usize, n: usize, key: Key) -> Option<usize> {
    let last = n.saturating_sub(1);
    Some(match key {
        Key::Down | Key::Char('j') => (chosen + 1).min(last),
        Key::Up | Key::Char('k') => chosen.saturating_sub(1),
        Key::Home | Key::Char('g') => 0,
        Key::End | Key::Char('G') => last,
        Key::Enter | Key::Esc | Key::Char('q') | Key::Ctrl('c') => return None,
        _ => chosen,
    })
}

fn press_interrupt(app: &mut App, key: Key) -> Vec<Effect> {
    let refused = app.readonly || app.recording;
    match key {
        Key::Char('l') | Key::Enter | Key::Ctrl('c') => app.leaving = Some(0),
        Key::Char('s' | 'k') if refused => {
            app.complain("nothing can be steered here");
        }
        Key::Char('s') => return order(app, Control::Stop),
        Key::Char('k') => return live::ask_kill(app),
        Key::Esc | Key::Char('q') => {}
        _ => app.popup = Some(Popup::Interrupt),
    }
    Vec::new()
}

/// Draws the popup over `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    match &app.popup {
        None => {}
        Some(Popup::Help {
            filter,
            typing,
            scroll,
        }) => draw_help(frame, area, app, filter, *typing, *scroll),
        Some(Popup::Palette { query, chosen }) => draw_palette(frame, area, app, query, *chosen),
        Some(Popup::Confirm { title, lines, .. }) => {
            let mut lines = lines.clone();
            lines.extend([String::new(), "y or Enter: yes   n or Esc: no".to_owned()]);
            boxed(frame, area, app, title, &lines, 0);
        }
        Some(Popup::TypeName {
            title,
            lines,
            name,
            typed,
            ..
        }) => {
            let mut lines = lines.clone();
            lines.extend([
                String::new(),
                format!("type its name, {name}, and press Enter:"),
                format!("> {typed}_"),
                "Esc: no".to_owned(),
            ]);
            boxed(frame, area, app, title, &lines, 0);
        }
        Some(Popup::Interrupt) => {
            let lines = [
                "l  leave (Enter); runs go on".to_owned(),
                "s  stop the run after a checkpoint".to_owned(),
                "k  kill the run: asks for its name".to_owned(),
                "Esc  nothing".to_owned(),
            ];
            boxed(frame, area, app, "Ctrl-C", &lines, 0);
        }
        Some(Popup::Text {
            title,
            lines,
            scroll,
        }) => boxed(frame, area, app, title, lines, *scroll),
        Some(Popup::Splits { chosen }) => draw_splits(frame, area, app, *chosen),
        Some(Popup::Data(picker)) => picker::draw(frame, area, app, picker),
        Some(Popup::Recent { folders, chosen }) => {
            draw_recent(frame, area, app, folders, *chosen);
        }
        Some(Popup::WriteTo { path }) => {
            let lines = [
                "write the config to".to_owned(),
                format!("> {path}_"),
                "Enter: write   Esc: no".to_owned(),
            ];
            boxed(frame, area, app, "Write", &lines, 0);
        }
    }
}

fn draw_help(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    filter: &str,
    typing: bool,
    scroll: usize,
) {
    let mut lines = Vec::new();
    for (class, heading) in [
        (Class::Act, "ACT (asks first, or only starts or writes)"),
        (Class::Look, "LOOK (never changes a run)"),
        (Class::Move, "MOVE"),
    ] {
        let found = app.keys.iter().filter(|binding| {
            binding.class == class && binding.is_on(app.screen) && matches(binding, filter)
        });
        let found: Vec<String> = found
            .map(|binding| format!("{:<12} {}", binding.names(), told(binding)))
            .collect();
        if !found.is_empty() {
            lines.push(heading.to_owned());
            lines.extend(found);
            lines.push(String::new());
        }
    }
    lines.extend(notes(app));
    let cursor = if typing { "_" } else { "" };
    let title = match (filter, typing) {
        ("", false) => format!("Help: {}   / filter   Esc closes", app.screen.title()),
        (filter, _) => format!("Help: {}   / {filter}{cursor}", app.screen.title()),
    };
    boxed(frame, area, app, &title, &lines, scroll);
}

/// What a screen shows that its keys do not say.
fn notes(app: &App) -> Vec<String> {
    let mut lines = Vec::new();
    if app.screen == Screen::Live {
        lines.push(
            "n/a: this machine or this run does not tell the value. GeForce cards tell no"
                .to_owned(),
        );
        lines.push(
            "  memory temperature, laptops no power limit, cards before Volta no energy, those"
                .to_owned(),
        );
        lines.push(
            "  before Hopper no NVLink rates; processor power is often for root alone".to_owned(),
        );
        lines.push(
            "busy: time in which anything ran on the card, however well. Rates: received/sent"
                .to_owned(),
        );
        lines.push("comm: communication that no computation hid".to_owned());
        lines.push("^: the first steps reach above the scale".to_owned());
    }
    if let Some(board) = &app.board {
        lines.push(format!("Reattach:  capstan attach {}", board.folder.name()));
    }
    lines.push(
        "capstan help lists the commands; every one of them works without a screen".to_owned(),
    );
    lines
}

fn matches(binding: &Binding, filter: &str) -> bool {
    let text = format!("{} {} {}", binding.names(), binding.words, binding.twin);
    text.to_lowercase().contains(&filter.to_lowercase())
}

fn told(binding: &Binding) -> String {
    if binding.twin.is_empty() {
        return binding.words.to_owned();
    }
    format!("{}  ({})", binding.words, binding.twin)
}

fn draw_palette(frame: &mut Frame<'_>, area: Rect, app: &App, query: &str, chosen: usize) {
    let found = palette_of(app, query);
    let inner = frame_of(frame, area, app, "Palette: every action by name", 72, 18);
    let rows = usize::from(inner.height).saturating_sub(1);
    let first = chosen.saturating_sub(rows.saturating_sub(1));
    let mut lines = vec![Line::from(format!(": {query}_"))];
    for (index, binding) in found.iter().enumerate().skip(first).take(rows) {
        let place = match binding.on {
            [] => "all",
            [screen] => screen.title(),
            _ => "several",
        };
        let text = format!("{:<12} {:<8} {}", binding.names(), place, binding.words);
        let style = if index == chosen {
            app.look.selected()
        } else {
            app.look
                .dim()
                .remove_modifier(ratatui::style::Modifier::DIM)
        };
        lines.push(Line::from(Span::styled(text, style)));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn draw_splits(frame: &mut Frame<'_>, area: Rect, app: &App, chosen: usize) {
    let inner = frame_of(
        frame,
        area,
        app,
        "Splits: Enter takes one, Esc closes",
        100,
        22,
    );
    let splits = app
        .launch
        .checked
        .iter()
        .flat_map(|checked| &checked.splits);
    let [list, why] = Layout::vertical([Constraint::Min(0), Constraint::Length(3)]).areas(inner);
    if let Some(Err(reason)) = splits.clone().nth(chosen).map(|split| &split.verdict) {
        let reason = Paragraph::new(format!("✗ {reason}")).style(app.look.bad());
        frame.render_widget(reason.wrap(Wrap { trim: true }), why);
    }
    let lines = splits.map(|split| split_line(app, split, usize::from(list.width)));
    draw_list(frame, list, app, lines, chosen);
}

fn draw_recent(frame: &mut Frame<'_>, area: Rect, app: &App, folders: &[RunFolder], chosen: usize) {
    let title = "Past runs: Enter begins a new one with its config, Esc closes";
    let height = u16::try_from(folders.len()).unwrap_or(u16::MAX);
    let inner = frame_of(frame, area, app, title, 76, height.clamp(1, 16) + 2);
    let row = |folder: &RunFolder| {
        let mut rows = app.runs.rows.iter().flatten();
        rows.find(|row| row.folder == *folder)
    };
    let lines = folders.iter().map(|folder| match row(folder) {
        Some(row) => recent_line(app, row, usize::from(inner.width)),
        None => format!("{} is gone", folder.name()),
    });
    draw_list(frame, inner, app, lines, chosen);
}

fn draw_list(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    lines: impl Iterator<Item = String>,
    chosen: usize,
) {
    let rows = usize::from(area.height);
    let first = chosen.saturating_sub(rows.saturating_sub(1));
    let lines = lines.enumerate().skip(first).take(rows);
    let lines: Vec<Line<'_>> = lines
        .map(|(index, text)| {
            let style = if index == chosen {
                app.look.selected()
            } else {
                ratatui::style::Style::new()
            };
            Line::from(Span::styled(text, style))
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// A frame in the middle, cleared; returns its inside.
pub fn frame_of(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    title: &str,
    width: u16,
    height: u16,
) -> Rect {
    let width = width.min(area.width);
    let height = height.min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let block = Block::bordered()
        .title(format!(" {title} "))
        .title_style(app.look.bold());
    let inner = block.inner(place);
    frame.render_widget(block, place);
    inner
}

fn boxed(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    title: &str,
    lines: &[String],
    scroll: usize,
) {
    let widest = lines
        .iter()
        .map(|line| columns(line))
        .chain([columns(title) + 2])
        .max()
        .unwrap_or(0);
    let most = usize::from(area.width.saturating_sub(4)).max(1);
    let rows: usize = lines
        .iter()
        .map(|line| columns(line).div_ceil(most).max(1))
        .sum();
    let width = u16::try_from(widest + 4).unwrap_or(u16::MAX);
    let height = u16::try_from(rows + 2).unwrap_or(u16::MAX);
    let inner = frame_of(frame, area, app, title, width, height);
    let hidden = rows.saturating_sub(usize::from(inner.height));
    let text: Vec<Line<'_>> = lines
        .iter()
        .map(|line| Line::from(format!(" {line}")))
        .collect();
    let paragraph = Paragraph::new(text)
        .wrap(Wrap { trim: false })
        .scroll((u16::try_from(scroll.min(hidden)).unwrap_or(0), 0));
    frame.render_widget(paragraph, inner);
}

/// Asks before an effect.
pub fn confirm(app: &mut App, title: &str, lines: Vec<String>, then: Effect) -> Vec<Effect> {
    app.popup = Some(Popup::Confirm {
        title: title.to_owned(),
        lines,
        then: Box::new(then),
    });
    Vec::new()
}

/// Asks for a name before an effect.
pub fn ask_name(
    app: &mut App,
    title: &str,
    lines: Vec<String>,
    name: &str,
    then: Effect,
) -> Vec<Effect> {
    app.popup = Some(Popup::TypeName {
        title: title.to_owned(),
        lines,
        name: name.to_owned(),
        typed: String::new(),
        then: Box::new(then),
    });
    Vec::new()
}
