//! Logs (6): what happened, when, on which rank, what to do?

use super::{
    app::{App, Effect, Popup},
    board::LogLine,
    draw::wrap,
    filter::{Field, Filter, Words},
    keys::{Action, Key},
    live::{freeze, shown},
};
use crate::store::lines::Level;

/// Characters that a key moves the lines by.
const SHIFT: usize = 16;
/// Longest that lines are followed to the right.
const MOST_SHIFT: usize = 4096;
/// Columns of the text in a line's details.
const DETAIL_WIDTH: usize = 70;
/// What a filter can name.
const FIELDS: &[Field] = &[
    Field {
        name: "level",
        is_whole: false,
    },
    Field {
        name: "rank",
        is_whole: true,
    },
];

/// The screen's own state.
#[derive(Debug)]
pub struct Logs {
    pub level: Level,
    pub rank: Option<usize>,
    pub wrap: bool,
    /// Characters of the lines that are to the left of the picture.
    pub shift: usize,
    pub filter: Filter,
    pub typing: bool,
    /// The number of the line under the cursor; `None` follows the end.
    pub at: Option<u64>,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            level: Level::Info,
            rank: None,
            wrap: false,
            shift: 0,
            filter: Filter::new(FIELDS, Words::Together),
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

    /// Whether a line passes level, rank and the filter's keys. Lines of the run as a whole are no rank's.
    pub fn passes(&self, line: &LogLine) -> bool {
        let entry = &line.entry;
        let of = |field: &str| match field {
            "level" => entry.level.name().to_owned(),
            _ => entry.rank.map_or_else(String::new, |rank| rank.to_string()),
        };
        entry.level >= self.level
            && (self.rank.is_none() || entry.rank == self.rank)
            && self.filter.narrows_to(of)
    }

    /// Whether a line holds what is searched for.
    pub fn matches(&self, line: &LogLine) -> bool {
        self.filter.finds(|| line.entry.text.clone())
    }
}

/// The lines that pass, oldest first.
pub fn visible(app: &App) -> Vec<&LogLine> {
    let lines = shown(app).map(|board| &board.entries);
    let lines = lines.into_iter().flatten();
    lines.filter(|line| app.logs.passes(line)).collect()
}

/// Where the cursor is among the lines that pass: on its line, or the next where that does not pass.
pub fn place(app: &App, lines: &[&LogLine]) -> usize {
    let last = lines.len().saturating_sub(1);
    app.logs.at.map_or(last, |at| {
        lines.partition_point(|line| line.number < at).min(last)
    })
}

/// A key of the map.
pub fn act(app: &mut App, action: Action) -> Vec<Effect> {
    let lines = visible(app);
    let last = lines.len().saturating_sub(1);
    let place = place(app, &lines);
    // The last line is followed.
    let moved = action
        .moved(place, last, app.rows.max(1))
        .filter(|_| action != Action::Last);
    if let Some(to) = moved {
        app.logs.at = lines.get(to).map(|line| line.number);
        return Vec::new();
    }
    match action {
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
        Action::Filter => {
            app.logs.filter.clear();
            app.logs.typing = true;
        }
        Action::NextMatch => find(app, true, 1),
        Action::PreviousMatch => find(app, false, 1),
        Action::Open => app.popup = lines.get(place).map(|line| detail(app, line)),
        Action::Copy => {
            let line = lines.get(place).map(|line| line.entry.text.clone());
            return line.map(Effect::Copy).into_iter().collect();
        }
        _ => {}
    }
    Vec::new()
}

/// The whole of a line, since when, how often.
fn detail(app: &App, line: &LogLine) -> Popup {
    let entry = &line.entry;
    let time = entry
        .time
        .map_or_else(String::new, |time| format!("{}  ", app.clock(time)));
    let rank = entry
        .rank
        .map_or_else(String::new, |rank| format!("r{rank}  "));
    let mut lines = Vec::new();
    // What is wrong and what to try stand apart.
    let text = entry.text.replace("; ", ";\n");
    for part in text.lines() {
        lines.extend(wrap(part, DETAIL_WIDTH).into_iter().map(str::to_owned));
    }
    lines.push(String::new());
    match (line.first, entry.time) {
        (Some(first), Some(last)) if line.times > 1 => lines.extend([
            format!("{} times in a row", line.times),
            format!("first {}", app.date(first)),
            format!("last  {}", app.date(last)),
        ]),
        (_, Some(time)) => lines.push(format!("once, {}", app.date(time))),
        _ if line.times > 1 => lines.push(format!("{} times in a row", line.times)),
        _ => lines.push("once".to_owned()),
    }
    lines.push(match (line.is_output, entry.time) {
        (true, None) => "printed by the worker before this was opened: worker.log".to_owned(),
        (true, Some(_)) => "printed by the worker: worker.log".to_owned(),
        (false, _) => "an event of the run: events.jsonl".to_owned(),
    });
    Popup::Text {
        title: format!("{time}{rank}{}", entry.level.name()),
        lines,
        scroll: 0,
    }
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

/// Goes to the next line that matches, from `from` lines further on and around the end.
fn find(app: &mut App, forward: bool, from: usize) {
    let lines = visible(app);
    let n = lines.len();
    let place = place(app, &lines);
    let mut order = (from..from + n).map(|by| {
        if forward {
            (place + by) % n
        } else {
            (place + n - by % n) % n
        }
    });
    let found = order.find(|&index| app.logs.matches(lines[index]));
    match found.map(|index| lines[index].number) {
        Some(number) => app.logs.at = Some(number),
        None if !app.logs.filter.searches() => {
            let key = app.key(Action::Filter);
            app.say(format!("{key} searches"));
        }
        None => {
            let text = format!("no line with {}", app.logs.filter.text());
            app.complain(text);
        }
    }
}

/// A key for the filter: its keys narrow at once, its text is searched for from Enter on.
pub fn type_search(app: &mut App, key: Key) -> Vec<Effect> {
    let over = app.logs.filter.type_key(key);
    app.logs.typing = over.is_none();
    if over == Some(true) && app.logs.filter.searches() {
        find(app, false, 0);
    }
    Vec::new()
}

/// Esc: ends the search, else follows again; false where there was neither.
pub fn back(app: &mut App) -> bool {
    if !app.logs.filter.is_empty() {
        app.logs.filter.clear();
    } else if app.logs.at.is_some() {
        app.logs.at = None;
    } else {
        return false;
    }
    true
}
