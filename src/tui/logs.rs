//! Logs (6): what happened, when, on which rank, what to do?

use super::{
    app::{App, Effect},
    board::{Entry, Level},
    keys::{Action, Key},
    live::{freeze, shown},
    update::edit_line,
};

/// Characters that a key moves the lines by.
const SHIFT: usize = 16;
/// Longest that lines are followed to the right.
const MOST_SHIFT: usize = 4096;

/// The screen's own state.
#[derive(Debug)]
pub struct Logs {
    pub level: Level,
    pub rank: Option<usize>,
    pub wrap: bool,
    /// Characters of the lines that are to the left of the picture.
    pub shift: usize,
    pub search: String,
    pub typing: bool,
    /// The line under the cursor, among those shown; `None` follows the end.
    pub at: Option<usize>,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            level: Level::Info,
            rank: None,
            wrap: false,
            shift: 0,
            search: String::new(),
            typing: false,
            at: None,
        }
    }
}

impl Logs {
    /// Another run is shown.
    pub fn turn(&mut self) {
        self.rank = None;
        self.at = None;
    }

    /// Whether a line passes level and rank.
    pub fn passes(&self, entry: &Entry) -> bool {
        entry.level >= self.level && (self.rank.is_none() || entry.rank == self.rank)
    }

    /// Whether a line holds what is searched for; `!` before it inverts.
    pub fn matches(&self, entry: &Entry) -> bool {
        let text = format!("{} {}", entry.level.name(), entry.text).to_lowercase();
        match self.search.strip_prefix('!') {
            Some(word) => !word.is_empty() && !text.contains(&word.to_lowercase()),
            None => !self.search.is_empty() && text.contains(&self.search.to_lowercase()),
        }
    }
}

/// The lines that pass, oldest first.
pub fn visible(app: &App) -> Vec<&Entry> {
    let entries = shown(app).map(|board| &board.entries);
    let entries = entries.into_iter().flatten();
    entries.filter(|entry| app.logs.passes(entry)).collect()
}

/// A key of the map.
pub fn act(app: &mut App, action: Action) -> Vec<Effect> {
    let last = visible(app).len().saturating_sub(1);
    let place = app.logs.at.unwrap_or(last).min(last);
    let page = app.rows.max(1);
    match action {
        Action::Up => app.logs.at = Some(place.saturating_sub(1)),
        Action::Down => app.logs.at = Some((place + 1).min(last)),
        Action::PageUp => app.logs.at = Some(place.saturating_sub(page)),
        Action::PageDown => app.logs.at = Some((place + page).min(last)),
        Action::First => app.logs.at = Some(0),
        Action::Last => app.logs.at = None,
        Action::Left => app.logs.shift = app.logs.shift.saturating_sub(SHIFT),
        Action::Right => app.logs.shift = (app.logs.shift + SHIFT).min(MOST_SHIFT),
        Action::Level => {
            app.logs.level = match app.logs.level {
                Level::Info => Level::Warn,
                Level::Warn => Level::Error,
                Level::Error => Level::Info,
            };
            app.logs.at = None;
        }
        Action::Rank => next_rank(app),
        Action::Wrap => app.logs.wrap = !app.logs.wrap,
        Action::Freeze => freeze(app),
        Action::Filter => app.logs.typing = true,
        Action::NextMatch => find(app, place, true),
        Action::PreviousMatch => find(app, place, false),
        Action::Copy => {
            let line = visible(app).get(place).map(|entry| entry.text.clone());
            return line.map(Effect::Copy).into_iter().collect();
        }
        _ => {}
    }
    Vec::new()
}

fn next_rank(app: &mut App) {
    let world = shown(app).map_or(0, |board| board.state.world);
    app.logs.rank = match app.logs.rank {
        None if world > 0 => Some(0),
        Some(rank) if rank + 1 < world => Some(rank + 1),
        _ => None,
    };
    app.logs.at = None;
}

/// Goes to the next line that matches, around the end.
fn find(app: &mut App, place: usize, forward: bool) {
    let found = {
        let lines = visible(app);
        let n = lines.len();
        let order = (1..=n).map(|by| {
            if forward {
                (place + by) % n
            } else {
                (place + n - by % n) % n
            }
        });
        let mut order = order.into_iter();
        order.find(|&index| {
            lines
                .get(index)
                .is_some_and(|entry| app.logs.matches(entry))
        })
    };
    match found {
        Some(index) => app.logs.at = Some(index),
        None if app.logs.search.is_empty() => app.say("/ searches"),
        None => {
            let text = format!("no line with {}", app.logs.search);
            app.complain(text);
        }
    }
}

/// A key for the search.
pub fn type_search(app: &mut App, key: Key) -> Vec<Effect> {
    match edit_line(&mut app.logs.search, key) {
        Some(true) => {
            app.logs.typing = false;
            let last = visible(app).len().saturating_sub(1);
            let place = app.logs.at.unwrap_or(last);
            find(app, place, false);
        }
        Some(false) => {
            app.logs.typing = false;
            app.logs.search.clear();
        }
        None => {}
    }
    Vec::new()
}

/// Esc: ends the search, else follows again; false where there was neither.
pub fn back(app: &mut App) -> bool {
    if !app.logs.search.is_empty() {
        app.logs.search.clear();
    } else if app.logs.at.is_some() {
        app.logs.at = None;
    } else {
        return false;
    }
    true
}
