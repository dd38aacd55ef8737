//! The choice of a config to begin with: a file whose path is typed, or a past run's.

use std::path::PathBuf;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line as Row, Span},
    widgets::Paragraph,
};

use super::{
    app::{App, Effect, Popup, Screen},
    draft::working_folder,
    draw::{cut, cut_start},
    keys::Key,
    launch,
    launch_view::recent_line,
    line::Line,
    popup::{PAGE, confirm, draw_list, frame_of},
    sources::at_home,
};
use crate::{base::fs::absolute, launch::RunFolder};

/// The state of the choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opener {
    pub typed: Line,
    /// 0: the typed path; from 1: past runs.
    chosen: usize,
    /// In the order of when it was opened: runs that go on would change it.
    folders: Vec<RunFolder>,
}

impl Opener {
    /// Opens at the latest run, if there is one.
    pub fn new(app: &App) -> Self {
        let rows = app.runs.rows.iter().flatten();
        let folders: Vec<RunFolder> = rows.map(|row| row.folder.clone()).collect();
        Self {
            typed: Line::default(),
            chosen: usize::from(!folders.is_empty()),
            folders,
        }
    }

    /// A text that was pasted.
    pub fn paste(&mut self, text: &str) {
        self.typed.insert(text);
        self.chosen = 0;
    }
}

/// A key for the choice.
pub fn press(app: &mut App, mut opener: Opener, key: Key) -> Vec<Effect> {
    let mut effects = Vec::new();
    match key {
        Key::Up | Key::BackTab => opener.chosen = opener.chosen.saturating_sub(1),
        Key::Down => opener.chosen = (opener.chosen + 1).min(opener.folders.len()),
        Key::Tab => {
            opener.chosen = 0;
            effects.push(Effect::Complete(opener.typed.to_string()));
        }
        Key::Enter => match opener.chosen.checked_sub(1) {
            None if opener.typed.trim().is_empty() => {
                app.say("type the path of a config, or choose a run with the arrows");
            }
            None => return ask(app, Effect::OpenFile(path_of(&opener.typed))),
            Some(index) => {
                let folder = opener.folders.get(index).cloned();
                return folder.map_or_else(Vec::new, |folder| launch::reopen(app, folder));
            }
        },
        Key::PageUp => opener.chosen = opener.chosen.saturating_sub(PAGE),
        Key::PageDown => opener.chosen = (opener.chosen + PAGE).min(opener.folders.len()),
        key => {
            let typed = opener.typed.to_string();
            if opener.typed.press(key).is_some() {
                return Vec::new();
            }
            if *opener.typed != *typed {
                opener.chosen = 0;
            }
        }
    }
    app.popup = Some(Popup::Open(opener));
    effects
}

/// A typed path, as the shell would take it.
pub fn path_of(typed: &str) -> PathBuf {
    absolute(&working_folder(), &at_home(typed.trim()))
}

/// Takes another config, after a question where the present one would be lost.
pub fn ask(app: &mut App, then: Effect) -> Vec<Effect> {
    app.show(Screen::Launch);
    if !app.launch.is_changed() {
        return vec![then];
    }
    let lines = vec![
        "The config on the screen was changed, and no file holds it so.".to_owned(),
        "It is lost with another in its place.".to_owned(),
    ];
    confirm(app, "Take another config", lines, then)
}

/// Draws the choice over `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, opener: &Opener) {
    let title = "Open a config: Enter begins with it, Esc closes";
    let height = u16::try_from(opener.folders.len()).unwrap_or(u16::MAX);
    let inner = frame_of(frame, area, app, title, 76, height.clamp(1, 16) + 4);
    let [path, rule, list] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
    ])
    .areas(inner);
    let width = usize::from(inner.width);
    let style = match opener.chosen {
        0 => app.look.selected(),
        _ => ratatui::style::Style::new(),
    };
    let hint = match opener.typed.is_empty() {
        true => "  the path of a config; Tab completes it",
        false => "",
    };
    let typed = cut_start(&opener.typed.shown(), width.saturating_sub(3));
    let typed = cut(&format!(" > {typed}{hint}"), width);
    frame.render_widget(Span::styled(typed, style), path);
    let heading = match opener.folders.is_empty() {
        true => " past runs: none yet",
        false => " past runs",
    };
    let heading = Row::styled(heading, app.look.dim());
    frame.render_widget(Paragraph::new(heading), rule);
    let row = |folder: &RunFolder| {
        let mut rows = app.runs.rows.iter().flatten();
        rows.find(|row| row.folder == *folder)
    };
    let lines = opener.folders.iter().map(|folder| match row(folder) {
        Some(row) => recent_line(app, row, width),
        None => format!("{} is gone", folder.name()),
    });
    draw_list(frame, list, app, lines, opener.chosen.checked_sub(1));
}
