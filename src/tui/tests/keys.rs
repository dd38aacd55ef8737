//! The key map as a table: every line of it, on every screen.

use super::{COLOR, empty, picture, show, text, watching};
use crate::tui::{
    app::{App, Effect, Msg, Popup, SCREENS, Screen},
    keymap,
    keys::{Action, Class, KEYS, Key, find},
    update::update,
};

fn is_order(effect: &Effect) -> bool {
    matches!(effect, Effect::Control(..) | Effect::Delete(_))
}

#[test]
fn no_key_means_two_things_on_one_screen() {
    for screen in SCREENS {
        let mut seen: Vec<(Key, Action)> = Vec::new();
        for binding in KEYS.iter().filter(|binding| binding.is_on(screen)) {
            for &key in binding.keys {
                let other = seen.iter().find(|(known, _)| *known == key);
                assert!(other.is_none(), "{screen:?} {key:?} {other:?}");
                seen.push((key, binding.action));
            }
        }
    }
}

#[test]
fn no_lower_case_key_changes_a_running_run() {
    for screen in SCREENS {
        for key in ('a'..='z').map(Key::Char) {
            let mut app = watching(COLOR, 0.5);
            show(&mut app, screen);
            let effects = update(&mut app, Msg::Key(key));
            assert!(
                !effects.iter().any(is_order),
                "{screen:?} {key:?} {effects:?}"
            );
            assert!(
                !effects
                    .iter()
                    .any(|effect| matches!(effect, Effect::Resume(_)))
            );
        }
    }
}

#[test]
fn escape_never_acts() {
    let mut opened = 0;
    for screen in SCREENS {
        for binding in KEYS.iter().filter(|binding| binding.is_on(screen)) {
            let mut app = watching(COLOR, 0.5);
            show(&mut app, screen);
            update(&mut app, Msg::Key(binding.keys[0]));
            opened += usize::from(app.popup.is_some());
            for _ in 0..5 {
                let effects = update(&mut app, Msg::Key(Key::Esc));
                assert!(!effects.iter().any(is_order), "{screen:?} {binding:?}");
            }
            assert_eq!(app.popup, None, "{screen:?} {binding:?}");
            assert_eq!(app.leaving.is_some(), binding.action == Action::Leave);
        }
    }
    assert!(opened > 20, "{opened} popups were tried");
}

#[test]
fn read_only_refuses_every_act() {
    for screen in SCREENS {
        let acts = KEYS.iter().filter(|binding| binding.class == Class::Act);
        for binding in acts.filter(|binding| binding.is_on(screen)) {
            let mut app = watching(COLOR, 0.5);
            app.readonly = true;
            show(&mut app, screen);
            let effects = update(&mut app, Msg::Key(binding.keys[0]));
            assert!(effects.is_empty() && app.popup.is_none(), "{binding:?}");
            let notice = app.notice.expect("a word");
            assert!(notice.text.starts_with("read-only"), "{}", notice.text);
        }
    }
    for key in ['s', 'k'] {
        let mut app = watching(COLOR, 0.5);
        app.readonly = true;
        update(&mut app, Msg::Key(Key::Ctrl('c')));
        assert!(update(&mut app, Msg::Key(Key::Char(key))).is_empty());
    }
}

#[test]
fn every_act_names_the_command_that_does_the_same() {
    for binding in KEYS.iter().filter(|binding| binding.class == Class::Act) {
        let is_command = ["capstan ", "$EDITOR "].map(|begin| binding.twin.starts_with(begin));
        assert!(is_command.contains(&true), "{binding:?}");
    }
}

#[test]
fn help_lists_exactly_the_keys_of_its_screen() {
    for screen in SCREENS {
        let mut app = empty(COLOR);
        show(&mut app, screen);
        update(&mut app, Msg::Key(Key::Char('?')));
        let shown = text(&picture(&app, 200, 100));
        for binding in KEYS {
            let line = format!("{:<12} {}", binding.names(), binding.words);
            let same = KEYS
                .iter()
                .filter(|other| (other.names(), other.words) == (binding.names(), binding.words));
            let is_here = same.clone().any(|other| other.is_on(screen));
            assert_eq!(shown.contains(&line), is_here, "{screen:?} {line}");
        }
    }
}

#[test]
fn a_key_map_of_the_users_is_obeyed_and_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    std::fs::write(&path, "{\"checkpoint\": \"X\", \"help\": \"F2\"}").expect("written");
    let mut app = watching(COLOR, 0.5);
    app.keys = keymap::load(&path).expect("a map");
    show(&mut app, Screen::Live);
    assert!(update(&mut app, Msg::Key(Key::Char('C'))).is_empty());
    let effects = update(&mut app, Msg::Key(Key::Char('X')));
    assert!(effects.iter().any(is_order), "{effects:?}");
    let last = |app: &App| {
        text(&picture(app, 120, 30))
            .lines()
            .last()
            .map(str::to_owned)
    };
    let footer = last(&app).expect("a footer");
    assert!(
        footer.contains("X ckpt") && footer.contains("F2 help"),
        "{footer}"
    );
    update(&mut app, Msg::Key(Key::F(2)));
    let shown = text(&picture(&app, 120, 60));
    assert!(shown.contains("X            save a checkpoint"), "{shown}");
}

#[test]
fn help_can_be_filtered() {
    let mut app = empty(COLOR);
    show(&mut app, Screen::Live);
    for key in "?/checkpoint".chars() {
        update(&mut app, Msg::Key(Key::Char(key)));
    }
    let shown = text(&picture(&app, 100, 40));
    assert!(
        shown.contains("save a checkpoint after this step") && !shown.contains("next metric"),
        "{shown}"
    );
}

#[test]
fn arrows_and_letters_move_alike_in_every_list() {
    for screen in [Screen::Launch, Screen::Runs, Screen::Logs] {
        for (arrow, letter) in [
            (Key::Up, 'k'),
            (Key::Down, 'j'),
            (Key::Left, 'h'),
            (Key::Right, 'l'),
        ] {
            let action = find(KEYS, arrow, screen).map(|binding| binding.action);
            let other = find(KEYS, Key::Char(letter), screen).map(|binding| binding.action);
            assert!(action.is_some() && action == other, "{screen:?} {letter}");
        }
    }
}

#[test]
fn every_key_of_the_table_does_or_says_something() {
    for screen in SCREENS {
        for binding in KEYS.iter().filter(|binding| binding.is_on(screen)) {
            let mut app = watching(COLOR, 0.5);
            app.show(if screen == Screen::Plan {
                Screen::Runs
            } else {
                Screen::Plan
            });
            show(&mut app, screen);
            settle(&mut app, binding.action);
            let before = picture(&app, 160, 50);
            let effects = update(&mut app, Msg::Key(binding.keys[0]));
            let changed = picture(&app, 160, 50) != before;
            let done = changed || !effects.is_empty() || app.leaving.is_some();
            let stays = matches!(binding.action, Action::Show(other) if other == screen);
            assert!(done || stays, "{screen:?} {binding:?}");
        }
    }
}

/// Puts the app where a key has something to do.
fn settle(app: &mut App, action: Action) {
    if app.screen == Screen::Live {
        // The panel of events has lines to move in.
        update(app, Msg::Key(Key::BackTab));
        update(app, Msg::Key(Key::BackTab));
    }
    let down = [Action::Up, Action::First, Action::PageUp];
    if down.contains(&action) {
        update(app, Msg::Key(Key::Down));
        update(app, Msg::Key(Key::Down));
    }
    if action == Action::Last || action == Action::PageDown || action == Action::Down {
        update(app, Msg::Key(Key::Char('g')));
    }
    if app.screen == Screen::Logs && action == Action::Left {
        update(app, Msg::Key(Key::Right));
    }
}

#[test]
fn the_palette_runs_what_it_shows() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Runs);
    for key in ":kill".chars() {
        update(&mut app, Msg::Key(Key::Char(key)));
    }
    update(&mut app, Msg::Key(Key::Enter));
    assert_eq!(app.screen, Screen::Live);
    assert!(matches!(app.popup, Some(Popup::TypeName { .. })));
}

#[test]
fn the_footer_fits_and_puts_the_useful_first() {
    for screen in SCREENS {
        for width in [40, 80, 160] {
            let mut app = watching(COLOR, 0.5);
            show(&mut app, screen);
            let shown = text(&picture(&app, width, 30));
            let last = shown.lines().last().unwrap_or_default();
            let end = match width {
                40 => "? help  q leave",
                _ => "? help  : cmd  q leave",
            };
            assert!(last.contains(end), "{last}");
            if screen == Screen::Launch {
                assert!(last.contains("Enter edit  L LAUNCH"), "{last}");
            }
            if screen == Screen::Live && width == 80 {
                assert!(last.contains("C ckpt") && last.contains("S stop"), "{last}");
            }
        }
    }
}
