//! The one place where the UI changes: a pure function of what was and what happened.

use super::{
    app::{App, Effect, Msg, News, Notice, Popup, Screen},
    keys::{self, Action, Binding, Class, Key},
    launch,
    line::Line,
    live, logs,
    look::Colors,
    origin, palette, picker, popup,
    runs::{self, RunRow},
    written::Replaces,
};
use crate::event::Control;

/// The slowest and the fastest drawing of news, seconds.
const INTERVALS_S: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Takes in what happened, and says what is to be done about it.
pub fn update(app: &mut App, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Key(key) => press(app, key),
        Msg::Pasted(text) => paste(app, &text),
        Msg::Wheel(lines) => wheel(app, lines),
        Msg::Resized => Vec::new(),
        Msg::Tick(now) => {
            app.now = now;
            Vec::new()
        }
        Msg::Runs(rows) => take_runs(app, rows),
        Msg::NoRuns(text) => {
            app.runs.failed = Some(text);
            Vec::new()
        }
        Msg::Details(details) => {
            runs::take_details(app, *details);
            Vec::new()
        }
        Msg::Watched { watch, news } => {
            if app.board.as_ref().is_some_and(|board| board.watch == watch) {
                take_news(app, news);
            }
            Vec::new()
        }
        Msg::Said(Ok(text)) => {
            app.say(text);
            Vec::new()
        }
        Msg::Said(Err(text)) => {
            app.refuse("Not done", &text);
            Vec::new()
        }
        Msg::Text { title, text } => {
            let lines = text.lines().map(str::to_owned).collect();
            app.present(Popup::text(&title, lines));
            Vec::new()
        }
        Msg::Started(Ok((folder, root))) => {
            if let Some(root) = root {
                app.launch.keep_in_run(root);
            }
            // Its log goes on, or begins: it is read anew.
            app.board = None;
            if app.popup.is_some() || app.is_typing() {
                let key = app.key(Action::Show(Screen::Live));
                app.say(format!("{} is running: {key} shows it", folder.name()));
            } else {
                app.say(format!("{} is running", folder.name()));
                app.show(Screen::Live);
            }
            app.watch(folder)
        }
        Msg::Started(Err(text)) => {
            app.refuse("Not started", &text);
            Vec::new()
        }
        Msg::Signal(signal) => {
            app.leaving = Some(u8::try_from(128 + signal).unwrap_or(1));
            Vec::new()
        }
        news => draft_news(app, news),
    }
}

/// Takes in what is about the draft.
fn draft_news(app: &mut App, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Checked(checked) => {
            launch::checked(app, *checked);
            Vec::new()
        }
        Msg::Checking(text) => {
            app.launch.checking = Some(text);
            Vec::new()
        }
        Msg::Looked(looked) => {
            picker::take(app, *looked);
            Vec::new()
        }
        Msg::Completed {
            typed,
            whole,
            names,
        } => picker::complete(app, &typed, whole, &names),
        Msg::Edited(text) => origin::edited(app, text),
        Msg::Opened { from, text } => origin::opened(app, from, text),
        Msg::Written { path, root, done } => {
            match done {
                Ok(()) => {
                    let checked = app.launch.verdict();
                    let n = checked.map_or(0, |checked| checked.problems.len());
                    let wrote = format!("wrote {}", path.display());
                    match n {
                        0 => app.say(wrote),
                        n => app.complain(format!("{wrote}, which has {n} problem(s)")),
                    }
                    app.launch.keep(path, root);
                }
                Err(problem) => {
                    app.refuse("Not written", &format!("{}: {problem}", path.display()))
                }
            }
            Vec::new()
        }
        Msg::Exists { path, root } => {
            let lines = vec![
                format!("{} is there already.", path.display()),
                "Its text is lost with this config in its place.".to_owned(),
            ];
            let replaces = Replaces::Anything;
            let then = Effect::Write {
                path,
                root,
                replaces,
            };
            app.present(Popup::confirm("Replace the file", lines, then));
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Takes in the runs; where one came or went, another name may be the next that is free.
fn take_runs(app: &mut App, rows: Vec<RunRow>) -> Vec<Effect> {
    let names = |rows: &[RunRow]| -> Vec<String> {
        let mut names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        names.sort();
        names
    };
    let before = app.runs.rows.as_deref().map(names);
    let after = names(&rows);
    let mut effects = runs::take(app, rows);
    if before.is_some_and(|before| before != after) {
        effects.push(Effect::Check(Box::new(app.launch.draft.clone())));
    }
    effects
}

fn take_news(app: &mut App, news: News) {
    let Some(board) = &mut app.board else {
        return;
    };
    match news {
        News::Begun => {
            let folder = board.folder.clone();
            *board = board.anew();
            app.live.turn();
            app.logs.turn();
            app.drop_questions(|about| *about == folder);
        }
        News::Records(records) => records.iter().for_each(|record| board.apply(record)),
        News::Output { lines, time } => board.add_output(&lines, time),
        News::Reading(percent) => board.reading = percent,
        News::Damaged(text) => board.add_damage(text),
        News::State(state) => board.state = *state,
        News::Held(held) => {
            board.held = held;
            let name = format!("{}: ", board.folder.name());
            let is_answer = |notice: &mut Notice| notice.text.starts_with(&name);
            if !held {
                // What an order was answered is over with the run.
                app.notice.take_if(is_answer);
            }
        }
        News::Failed(text) => board.failed = Some(text),
        News::Gone => {
            let folder = board.folder.clone();
            app.board = None;
            app.live.turn();
            app.logs.turn();
            app.say(format!("{} was deleted", folder.name()));
            app.drop_questions(|about| *about == folder);
        }
    }
}

fn press(app: &mut App, key: Key) -> Vec<Effect> {
    app.notice = None;
    let binding = keys::find(app.keys, key, app.screen);
    // Nothing that is asked or typed has a use for these.
    let is_terminals = |binding: &&Binding| {
        matches!(binding.action, Action::Suspend | Action::Redraw) && !matches!(key, Key::Char(_))
    };
    let effects = if let Some(binding) = binding.filter(is_terminals) {
        obey(app, binding)
    } else if app.popup.is_some() {
        popup::press(app, key)
    } else if let Some(effects) = typed_into(app, key) {
        effects
    } else {
        binding.map_or_else(Vec::new, |binding| obey(app, binding))
    };
    app.show_waiting();
    effects
}

/// A key for a field that is being typed into, where there is one.
fn typed_into(app: &mut App, key: Key) -> Option<Vec<Effect>> {
    match app.screen {
        Screen::Runs if app.runs.typing => Some(runs::type_filter(app, key)),
        Screen::Logs if app.logs.typing => Some(logs::type_search(app, key)),
        Screen::Launch if app.launch.editing.is_some() => Some(launch::type_value(app, key)),
        Screen::Launch if app.launch.filtering => Some(launch::type_filter(app, key)),
        _ => None,
    }
}

/// A pasted text goes where something is typed, at once; nothing else reads it.
fn paste(app: &mut App, text: &str) -> Vec<Effect> {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if app.popup.is_some() {
        return popup::paste(app, &text);
    }
    if app.screen == Screen::Launch
        && let Some(line) = &mut app.launch.editing
    {
        line.insert(&text);
        return Vec::new();
    }
    let mut effects = Vec::new();
    for c in text.chars() {
        match typed_into(app, Key::Char(c)) {
            // Each is about the text so far: the last is about the whole.
            Some(more) => effects = newest(effects, more),
            None => {
                app.say("nothing is being typed here, so nothing was pasted");
                break;
            }
        }
    }
    effects
}

/// Edits a line of text at its end; whether it is over, and kept.
pub fn edit_line(text: &mut String, key: Key) -> Option<bool> {
    let mut line = Line::new(std::mem::take(text));
    let over = line.press(key);
    *text = line.into_text();
    over
}

/// Does what a line of the key map says.
pub fn obey(app: &mut App, binding: &Binding) -> Vec<Effect> {
    if binding.class == Class::Act && app.readonly {
        app.complain(format!("read-only, not done: {}", binding.words));
        return Vec::new();
    }
    if binding.class == Class::Act && app.recording {
        app.complain(format!("a recording, not done: {}", binding.words));
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
        Action::Leave if app.launch.is_changed() && !app.recording => {
            let lines = vec![
                "The config on Launch was changed, and no file and no run holds it so.".to_owned(),
                "It is lost with the screen.".to_owned(),
            ];
            popup::confirm(app, "Leave", lines, Effect::Leave)
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
        Action::Back => back(app),
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
            let words = match app.look.colors {
                Colors::None => "no colours",
                Colors::Sixteen => "sixteen colours",
                Colors::Indexed => "256 colours",
                Colors::True => "all colours",
            };
            app.say(words);
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
fn back(app: &mut App) -> Vec<Effect> {
    let mut effects = Vec::new();
    let is_done = match app.screen {
        Screen::Runs => {
            let is_done = runs::back(app);
            effects = runs::arrive(app);
            is_done
        }
        Screen::Logs => logs::back(app),
        Screen::Live => live::back(app),
        Screen::Launch => launch::back(app),
        Screen::Plan | Screen::Compare => false,
    };
    if !is_done && let Some(screen) = app.before.pop() {
        app.screen = screen;
        effects = runs::arrive(app);
    }
    effects
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
        let more = press(app, key);
        effects = newest(effects, more);
    }
    effects
}

/// Effects of keys in a row: what is looked at is asked for anew by each, and the last question is the one that counts.
fn newest(mut effects: Vec<Effect>, more: Vec<Effect>) -> Vec<Effect> {
    let is_question = |effect: &Effect| {
        matches!(
            effect,
            Effect::Look(_) | Effect::Details { .. } | Effect::Check(_)
        )
    };
    for effect in more {
        if is_question(&effect) {
            let kind = std::mem::discriminant(&effect);
            effects.retain(|earlier| std::mem::discriminant(earlier) != kind);
        }
        effects.push(effect);
    }
    effects
}

/// Runs a line of the palette: here, if it means something here, else on a screen of its own. What acts there without a
/// question is left to its key, since nobody has seen yet what it would act on.
pub fn choose(app: &mut App, binding: &'static Binding) -> Vec<Effect> {
    // An act of another screen's is the same act here; what a key looks at or moves may be something else.
    let is_same = |other: &Binding| binding.class == Class::Act || other.words == binding.words;
    let is_here = |other: &&Binding| {
        other.action == binding.action && other.is_on(app.screen) && is_same(other)
    };
    if let Some(here) = app.keys.iter().find(is_here) {
        return obey(app, here);
    }
    let Some(&screen) = binding.on.first() else {
        return obey(app, binding);
    };
    app.show(screen);
    let mut effects = runs::arrive(app);
    if binding.class == Class::Act && !binding.action.asks() {
        let key = app.key(binding.action);
        app.say(format!("{key} here: {}", binding.words));
    } else {
        effects.extend(obey(app, binding));
    }
    effects
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
