//! What lies over a screen: help, palette, questions. Keys and drawing.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    app::{App, Effect, Popup, Screen},
    draw::{body_of, wrap},
    keys::{Action, Binding, Class, Key},
    line, live, opener, picker, splits,
    update::{choose, edit_line, palette_of},
};
use crate::base::text::columns;

/// Lines that a page key moves a list or a text by.
pub const PAGE: usize = 10;
/// Columns in which a question can be read.
const LEAST_WIDTH: u16 = 20;
const YES_OR_NO: &str = "y or Enter: yes   n or Esc: no";

/// What a key means in a list, a text or a question, by the user's key map.
pub fn action_of(app: &App, key: Key) -> Option<Action> {
    let is_useful = |action: Action| {
        matches!(
            action,
            Action::Up
                | Action::Down
                | Action::Left
                | Action::Right
                | Action::First
                | Action::Last
                | Action::PageUp
                | Action::PageDown
                | Action::Open
                | Action::Back
                | Action::Leave
                | Action::Interrupt
                | Action::Help
                | Action::Filter
        )
    };
    let mut bindings = app.keys.iter();
    let found = bindings.find(|binding| binding.keys.contains(&key) && is_useful(binding.action));
    found.map(|binding| binding.action)
}

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
        } => (press_help(app, filter, typing, scroll, key), Vec::new()),
        Popup::Palette { query, chosen } => return press_palette(app, query, *chosen, key),
        Popup::Confirm {
            title,
            lines,
            then,
            scroll,
        } => match key {
            Key::Char('y') | Key::Enter if !shows(app, &[YES_OR_NO.to_owned()]) => {
                (true, Vec::new())
            }
            Key::Char('y') | Key::Enter => (false, vec![(**then).clone()]),
            Key::Char('n' | 'q') | Key::Esc | Key::Ctrl('c') => (false, Vec::new()),
            key => {
                let most = laid_out(app, title, lines, &[YES_OR_NO.to_owned()]).hidden;
                scrolled(app, scroll, most, key);
                (true, Vec::new())
            }
        },
        Popup::TypeName {
            title,
            name,
            typed,
            then,
            lines,
            scroll,
        } => match key {
            Key::Up | Key::Down | Key::PageUp | Key::PageDown => {
                let most = laid_out(app, title, lines, &name_question(name, typed)).hidden;
                scrolled(app, scroll, most, key);
                (true, Vec::new())
            }
            Key::Enter if !shows(app, &name_question(name, typed)) => (true, Vec::new()),
            key => match edit_line(typed, key) {
                Some(true) if typed == name => (false, vec![(**then).clone()]),
                Some(true) => {
                    app.complain(format!("that is not {name}"));
                    (true, Vec::new())
                }
                over => (over.is_none(), Vec::new()),
            },
        },
        Popup::Interrupt => return press_interrupt(app, key),
        Popup::Text {
            title,
            lines,
            scroll,
        } => {
            let most = laid_out(app, title, lines, &[]).hidden;
            (scrolled(app, scroll, most, key), Vec::new())
        }
        Popup::Splits(splits) => return splits::press(app, std::mem::take(splits), key),
        Popup::Data(picker) => return picker::press(app, std::mem::take(picker), key),
        Popup::Open(opener) => return opener::press(app, std::mem::take(opener), key),
        Popup::WriteTo { path } => press_write(app, path, key),
    };
    if stays {
        app.popup = Some(popup);
    }
    effects
}

/// A pasted text is for what is typed; it answers no question.
pub fn paste(app: &mut App, text: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    match &mut app.popup {
        Some(Popup::Help {
            filter,
            typing: true,
            ..
        }) => filter.push_str(text),
        Some(Popup::Palette { query, chosen }) => {
            query.push_str(text);
            *chosen = 0;
        }
        Some(Popup::TypeName { typed, .. }) => typed.push_str(text),
        Some(Popup::WriteTo { path }) => path.insert(text),
        Some(Popup::Open(opener)) => opener.paste(text),
        Some(Popup::Data(picker)) => effects = picker::paste(picker, text),
        _ => app.say("nothing is being typed here, so nothing was pasted"),
    }
    effects
}

/// Complains where the window is too small for a question: nobody agrees to what can't be read.
fn shows(app: &mut App, question: &[String]) -> bool {
    let area = body_of(app.size);
    let rows = in_rows(question, usize::from(area.width).saturating_sub(MARGINS)).len();
    let is_shown = rows + 2 <= usize::from(area.height) && area.width >= LEAST_WIDTH;
    if !is_shown {
        app.complain("enlarge the window to answer; Esc: no");
    }
    is_shown
}

fn press_write(app: &mut App, path: &mut line::Line, key: Key) -> (bool, Vec<Effect>) {
    if key == Key::Tab {
        return (true, vec![Effect::Complete(path.to_string())]);
    }
    match path.press(key) {
        Some(true) if !path.trim().is_empty() => {
            let path = opener::path_of(path);
            let write = Effect::Write {
                replaces: app.launch.replaces(&path),
                path,
                root: app.launch.draft.root.clone(),
            };
            (false, vec![write])
        }
        over => (over.is_none(), Vec::new()),
    }
}

fn press_help(
    app: &App,
    filter: &mut String,
    typing: &mut bool,
    scroll: &mut usize,
    key: Key,
) -> bool {
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
    match action_of(app, key) {
        Some(Action::Filter) => *typing = true,
        Some(Action::Back) if !filter.is_empty() => filter.clear(),
        Some(Action::Help) => return false,
        _ => {
            let (title, lines) = help(app, filter, false);
            let most = laid_out(app, &title, &lines, &[]).hidden;
            return scrolled(app, scroll, most, key);
        }
    }
    true
}

/// Moves a text; false where the key closes it.
fn scrolled(app: &App, scroll: &mut usize, most: usize, key: Key) -> bool {
    let action = action_of(app, key);
    if let Some(Action::Back | Action::Leave | Action::Interrupt | Action::Open) = action {
        return false;
    }
    let here = (*scroll).min(most);
    *scroll = action
        .and_then(|action| action.moved(here, most, PAGE))
        .unwrap_or(here);
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

/// The place in a list of `n` lines after a key; `None` where the key closes it.
pub fn moved(app: &App, chosen: usize, n: usize, key: Key) -> Option<usize> {
    let last = n.saturating_sub(1);
    match action_of(app, key) {
        Some(Action::Back | Action::Leave | Action::Interrupt) => None,
        Some(action) => Some(action.moved(chosen, last, PAGE).unwrap_or(chosen)),
        None => Some(chosen),
    }
}

fn press_interrupt(app: &mut App, key: Key) -> Vec<Effect> {
    match key {
        Key::Char('l') | Key::Enter | Key::Ctrl('c') => app.leaving = Some(0),
        Key::Char('s') if steered(app).is_some() => return live::ask_stop(app),
        Key::Char('k') if steered(app).is_some() => return live::ask_kill(app),
        Key::Esc | Key::Char('q') => {}
        _ => app.popup = Some(Popup::Interrupt),
    }
    Vec::new()
}

/// The name of the run that can be stopped or killed.
fn steered(app: &App) -> Option<String> {
    let is_refused = app.readonly || app.recording;
    let board = app.board.as_ref().filter(|board| board.held && !is_refused);
    board.map(|board| board.folder.name())
}

/// What Ctrl-C offers.
fn interrupt_lines(app: &App) -> Vec<String> {
    let mut lines = vec!["l  leave (Enter); runs go on".to_owned()];
    if app.launch.is_changed() && !app.recording {
        lines.push("   and the changed config on Launch is lost".to_owned());
    }
    if let Some(name) = steered(app) {
        lines.push(format!("s  stop {name} after a checkpoint: asks"));
        lines.push(format!("k  kill {name}: asks for its name"));
    }
    lines.push("Esc  nothing".to_owned());
    lines
}

/// Draws the popup over `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    match &app.popup {
        None => {}
        Some(Popup::Help {
            filter,
            typing,
            scroll,
        }) => {
            let (title, lines) = help(app, filter, *typing);
            boxed(frame, area, app, &title, &lines, *scroll);
        }
        Some(Popup::Palette { query, chosen }) => draw_palette(frame, area, app, query, *chosen),
        Some(Popup::Confirm {
            title,
            lines,
            scroll,
            ..
        }) => question(
            frame,
            area,
            app,
            title,
            lines,
            &[YES_OR_NO.to_owned()],
            *scroll,
        ),
        Some(Popup::TypeName {
            title,
            lines,
            name,
            typed,
            scroll,
            ..
        }) => {
            let asked = name_question(name, typed);
            question(frame, area, app, title, lines, &asked, *scroll);
        }
        Some(Popup::Interrupt) => {
            boxed(frame, area, app, "Ctrl-C", &interrupt_lines(app), 0);
        }
        Some(Popup::Text {
            title,
            lines,
            scroll,
        }) => boxed(frame, area, app, title, lines, *scroll),
        Some(Popup::Splits(splits)) => splits::draw(frame, area, app, splits),
        Some(Popup::Data(picker)) => picker::draw(frame, area, app, picker),
        Some(Popup::Open(opener)) => opener::draw(frame, area, app, opener),
        Some(Popup::WriteTo { path }) => {
            let lines = [
                "write the config to".to_owned(),
                format!("> {}", path.shown()),
                "Enter: write   Esc: no".to_owned(),
            ];
            boxed(frame, area, app, "Write", &lines, 0);
        }
    }
}

/// The lines that a name is typed into.
fn name_question(name: &str, typed: &str) -> Vec<String> {
    vec![
        format!("type its name, {name}, and press Enter:"),
        format!("> {typed}_"),
        "Esc: no".to_owned(),
    ]
}

/// What the popup's keys do, for the last line.
pub fn footer(app: &App, popup: &Popup) -> String {
    let [filter, back, up, down] =
        [Action::Filter, Action::Back, Action::Up, Action::Down].map(|action| app.key(action));
    let fixed = match popup {
        Popup::Help { typing: true, .. } => "type to filter   Enter keeps   Esc ends",
        Popup::Help { .. } => {
            return format!("{filter} filter   {up}{down} scroll   {back} closes");
        }
        Popup::Text { .. } => return format!("{up}{down} scroll   {back} closes"),
        Popup::Splits(_) => {
            let [left, right, open] =
                [Action::Left, Action::Right, Action::Open].map(|action| app.key(action));
            let moves = format!("{up}{down} choose   {left}{right} change an axis");
            return format!("{moves}   {open} takes it   {back} closes");
        }
        Popup::Palette { .. } => "type a name   ↑↓ choose   Enter does it   Esc closes",
        Popup::Confirm { .. } => return format!("y yes   n no   {up}{down} scroll"),
        Popup::TypeName { .. } => "type the name   Enter agrees   Esc no",
        Popup::Interrupt if steered(app).is_some() => "l leave   s stop   k kill   Esc nothing",
        Popup::Interrupt => "l leave   Esc nothing",
        Popup::Data(_) => "↑↓ choose   Tab completes   Enter takes it   Esc closes",
        Popup::Open(_) => "↑↓ choose   Tab completes   Enter opens   Esc closes",
        Popup::WriteTo { .. } => "Enter writes   Tab completes   Esc no",
    };
    fixed.to_owned()
}

/// Title and lines of the help.
fn help(app: &App, filter: &str, typing: bool) -> (String, Vec<String>) {
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
        ("", false) => format!("Help: {}", app.screen.title()),
        (filter, _) => format!("Help: {}   / {filter}{cursor}", app.screen.title()),
    };
    (title, lines)
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
            "  before Hopper no NVLink rates; package power is often for root alone".to_owned(),
        );
        lines.push(
            "busy: time in which anything ran on the card, however well. Rates: received/sent"
                .to_owned(),
        );
        lines.push(
            "SM: multiprocessors with work, which Hopper and later tell in the place of busy"
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
            ratatui::style::Style::new()
        };
        lines.push(Line::from(Span::styled(text, style)));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// Draws the lines of a list around the chosen one.
pub fn draw_list(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    lines: impl Iterator<Item = String>,
    chosen: Option<usize>,
) {
    let rows = usize::from(area.height);
    let first = chosen.unwrap_or(0).saturating_sub(rows.saturating_sub(1));
    let lines = lines.enumerate().skip(first).take(rows);
    let lines: Vec<Line<'_>> = lines
        .map(|(index, text)| {
            let style = if Some(index) == chosen {
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

/// A text in a box as large as it needs.
fn boxed(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    title: &str,
    lines: &[String],
    scroll: usize,
) {
    question(frame, area, app, title, lines, &[], scroll);
}

/// A text in a box as large as it needs, the question below it always in sight.
fn question(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    title: &str,
    lines: &[String],
    asked: &[String],
    scroll: usize,
) {
    let laid = laid_out_in(area, title, lines, asked);
    let inner = frame_of(frame, area, app, title, laid.width, laid.height);
    let pinned = u16::try_from(laid.asked.len()).unwrap_or(u16::MAX);
    let [above, below] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(pinned)]).areas(inner);
    let paragraph = |rows: Vec<&str>| {
        let rows = rows.into_iter().map(|row| Line::from(format!(" {row}")));
        Paragraph::new(rows.collect::<Vec<_>>())
    };
    let rows = laid.rows.into_iter().skip(scroll.min(laid.hidden));
    frame.render_widget(paragraph(rows.collect()), above);
    frame.render_widget(paragraph(laid.asked), below);
}

/// Columns of a box that no text is in: its frame, and a blank at either side.
const MARGINS: usize = 4;

/// A text and the question below it, in rows of a box.
struct LaidOut<'a> {
    width: u16,
    height: u16,
    rows: Vec<&'a str>,
    asked: Vec<&'a str>,
    /// Rows of the text that have no place.
    hidden: usize,
}

/// As it is drawn over the whole body.
fn laid_out<'a>(app: &App, title: &str, lines: &'a [String], asked: &'a [String]) -> LaidOut<'a> {
    laid_out_in(body_of(app.size), title, lines, asked)
}

fn laid_out_in<'a>(
    area: Rect,
    title: &str,
    lines: &'a [String],
    asked: &'a [String],
) -> LaidOut<'a> {
    let widths = lines.iter().chain(asked).map(|line| columns(line));
    let widest = widths.chain([columns(title)]).max().unwrap_or(0);
    let width = (widest + MARGINS).min(usize::from(area.width));
    let [rows, asked] = [lines, asked].map(|lines| in_rows(lines, width.saturating_sub(MARGINS)));
    let gap = usize::from(!asked.is_empty());
    let besides = asked.len() + gap + 2;
    let height = (rows.len() + besides).min(usize::from(area.height));
    let narrowed = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    LaidOut {
        width: narrowed(width),
        height: narrowed(height),
        hidden: (rows.len() + besides - gap).saturating_sub(height),
        rows,
        asked,
    }
}

/// Lines in rows of a width.
fn in_rows(lines: &[String], width: usize) -> Vec<&str> {
    let lines = lines.iter();
    lines.flat_map(|line| wrap(line, width.max(1))).collect()
}

/// Asks before an effect.
pub fn confirm(app: &mut App, title: &str, lines: Vec<String>, then: Effect) -> Vec<Effect> {
    app.popup = Some(Popup::confirm(title, lines, then));
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
        scroll: 0,
    });
    Vec::new()
}
