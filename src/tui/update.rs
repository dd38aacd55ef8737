//! The one place where the UI changes: a pure function of what was and what happened.

use super::{
    app::{App, Effect, Msg, News, Popup, Screen},
    board::Board,
    keys::{self, Action, Binding, Class, Key},
    launch, live, logs, palette, picker, popup, runs,
};
use crate::event::Control;

/// The slowest and the fastest drawing of news, seconds.
const INTERVALS_S: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Takes in what happened, and says what is to be done about it.
pub fn update(app: &mut App, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Key(key) => press(app, key),
        Msg::Pasted(text) => text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| typed_into(app, Key::Char(c)).unwrap_or_default())
            .collect(),
        Msg::Wheel(lines) => wheel(app, lines),
        Msg::Resized => Vec::new(),
        Msg::Tick(now) => {
            app.now = now;
            Vec::new()
        }
        Msg::Runs(rows) => runs::take(app, rows),
        Msg::NoRuns(text) => {
            app.runs.failed = Some(text);
            Vec::new()
        }
        Msg::Details(details) => {
            runs::take_details(app, *details);
            Vec::new()
        }
        Msg::Watched { root, news } => {
            if app
                .board
                .as_ref()
                .is_some_and(|board| board.folder.root() == root)
            {
                take_news(app, news);
            }
            Vec::new()
        }
        Msg::Said(Ok(text)) => {
            app.say(text);
            Vec::new()
        }
        Msg::Said(Err(text)) => {
            app.complain(text);
            Vec::new()
        }
        Msg::Text { title, text } => {
            let lines = text.lines().map(str::to_owned).collect();
            let popup = Popup::Text {
                title,
                lines,
                scroll: 0,
            };
            // A dialog that is being answered stays.
            if app.popup.is_some() {
                app.waiting = Some(popup);
            } else {
                app.notice = None;
                app.popup = Some(popup);
            }
            Vec::new()
        }
        Msg::Started(Ok(folder)) => {
            app.say(format!("{} is running", folder.name()));
            // Its log goes on, or begins: it is read anew.
            app.board = None;
            app.show(Screen::Live);
            app.watch(folder)
        }
        Msg::Started(Err(text)) => {
            app.complain(text);
            Vec::new()
        }
        Msg::Checked(checked) => {
            launch::checked(app, *checked);
            Vec::new()
        }
        Msg::Looked(looked) => {
            picker::take(app, *looked);
            Vec::new()
        }
        Msg::Completed { typed, whole } => picker::complete(app, &typed, whole),
        Msg::Edited(text) => launch::edited(app, text),
        Msg::Signal(signal) => {
            app.leaving = Some(u8::try_from(128 + signal).unwrap_or(1));
            Vec::new()
        }
    }
}

fn take_news(app: &mut App, news: News) {
    let Some(board) = &mut app.board else {
        return;
    };
    match news {
        News::Begun => {
            *board = Board::new(board.folder.clone());
            app.live.turn();
            app.logs.turn();
        }
        News::Records(records) => records.iter().for_each(|record| board.apply(record)),
        News::Output { lines, time } => board.add_output(&lines, time),
        News::Reading(percent) => board.reading = percent,
        News::Damaged(text) => board.add_damage(text),
        News::State(state) => board.state = *state,
        News::Held(held) => board.held = held,
        News::Failed(text) => board.failed = Some(text),
        News::Gone => {
            let name = board.folder.name();
            app.board = None;
            app.live.turn();
            app.logs.turn();
            app.say(format!("{name} was deleted"));
        }
    }
}

fn press(app: &mut App, key: Key) -> Vec<Effect> {
    app.notice = None;
    if app.popup.is_some() {
        let effects = popup::press(app, key);
        if app.popup.is_none() {
            app.popup = app.waiting.take();
        }
        return effects;
    }
    if let Some(effects) = typed_into(app, key) {
        return effects;
    }
    match keys::find(app.keys, key, app.screen) {
        Some(binding) => obey(app, binding),
        None => Vec::new(),
    }
}

/// A key for a field that is being typed into, where there is one.
fn typed_into(app: &mut App, key: Key) -> Option<Vec<Effect>> {
    if app.popup.is_some() {
        return Some(popup::press(app, key));
    }
    match app.screen {
        Screen::Runs if app.runs.typing => Some(runs::type_filter(app, key)),
        Screen::Logs if app.logs.typing => Some(logs::type_search(app, key)),
        Screen::Launch if app.launch.editing.is_some() => Some(launch::type_value(app, key)),
        _ => None,
    }
}

/// Edits a line of text at its end; whether it is over, and kept.
pub fn edit_line(text: &mut String, key: Key) -> Option<bool> {
    match key {
        Key::Char(c) => text.push(c),
        Key::Backspace => {
            text.pop();
        }
        Key::Ctrl('u') => text.clear(),
        Key::Enter => return Some(true),
        Key::Esc | Key::Ctrl('c') => return Some(false),
        _ => {}
    }
    None
}

/// Does what a line of the key map says.
pub fn obey(app: &mut App, binding: &Binding) -> Vec<Effect> {
    if binding.class == Class::Act && app.readonly {
        app.complain(format!("read-only: no {}", binding.words));
        return Vec::new();
    }
    if binding.class == Class::Act && app.recording {
        app.complain(format!("this is a recording: no {}", binding.words));
        return Vec::new();
    }
    match binding.action {
        Action::Show(screen) => {
            app.show(screen);
            runs::arrive(app)
        }
        Action::Help => {
            app.popup = Some(Popup::Help {
                filter: String::new(),
                typing: false,
                scroll: 0,
            });
            Vec::new()
        }
        Action::Palette => {
            app.popup = Some(Popup::Palette {
                query: String::new(),
                chosen: 0,
            });
            Vec::new()
        }
        Action::Leave => {
            app.leaving = Some(0);
            Vec::new()
        }
        Action::Interrupt => {
            app.popup = Some(Popup::Interrupt);
            Vec::new()
        }
        Action::Suspend => vec![Effect::Suspend],
        Action::Redraw => vec![Effect::Redraw],
        Action::Back => {
            back(app);
            Vec::new()
        }
        Action::Mouse => {
            app.mouse = !app.mouse;
            let word = if app.mouse {
                "mouse on: the wheel scrolls; most terminals select text with Shift held"
            } else {
                "mouse off: text can be selected"
            };
            app.say(word);
            vec![Effect::Mouse(app.mouse)]
        }
        Action::Theme => {
            app.look.turn();
            vec![Effect::Redraw]
        }
        Action::Faster => pace(app, -1),
        Action::Slower => pace(app, 1),
        action => match app.screen {
            Screen::Runs => runs::act(app, action),
            Screen::Live => live::act(app, action),
            Screen::Logs => logs::act(app, action),
            Screen::Launch => launch::act(app, action),
            Screen::Plan | Screen::Compare => Vec::new(),
        },
    }
}

/// Clears the filter, else collapses, else goes back: never more.
fn back(app: &mut App) {
    let is_done = match app.screen {
        Screen::Runs => runs::back(app),
        Screen::Logs => logs::back(app),
        Screen::Live => live::back(app),
        Screen::Launch | Screen::Plan | Screen::Compare => false,
    };
    if !is_done && let Some(screen) = app.before.pop() {
        app.screen = screen;
    }
}

fn pace(app: &mut App, by: isize) -> Vec<Effect> {
    let place = INTERVALS_S
        .iter()
        .position(|&interval| interval >= app.interval_s)
        .unwrap_or(0);
    let place = place.saturating_add_signed(by).min(INTERVALS_S.len() - 1);
    app.interval_s = INTERVALS_S[place];
    app.say(format!("news every {} s", app.interval_s));
    Vec::new()
}

fn wheel(app: &mut App, lines: i32) -> Vec<Effect> {
    let key = if lines < 0 { Key::Up } else { Key::Down };
    let mut effects = Vec::new();
    for _ in 0..lines.unsigned_abs() {
        effects = press(app, key);
    }
    effects
}

/// Runs a line of the palette, on a screen where it works.
pub fn choose(app: &mut App, binding: &'static Binding) -> Vec<Effect> {
    if !binding.is_on(app.screen)
        && let Some(&screen) = binding.on.first()
    {
        app.show(screen);
    }
    obey(app, binding)
}

/// The palette's lines for what was typed.
pub fn palette_of(app: &App, query: &str) -> Vec<&'static Binding> {
    palette::matching(query, app.keys)
}

/// An order to the watched run, where somebody is there to take it.
pub fn order(app: &mut App, control: Control) -> Vec<Effect> {
    let Some(board) = &app.board else {
        let key = app.key(Action::Show(Screen::Runs));
        app.complain(format!("no run is open; {key} lists the runs"));
        return Vec::new();
    };
    if !board.held {
        let name = board.folder.name();
        let key = app.key(Action::Resume);
        app.complain(format!("{name} is not running; {key} resumes it"));
        return Vec::new();
    }
    vec![Effect::Control(board.folder.clone(), control)]
}
