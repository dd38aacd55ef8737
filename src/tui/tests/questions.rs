//! What lies over the screens: questions, their answers, and what comes while one is open.

use std::fs;

use serde_json::Value;

use super::{
    COLOR,
    drafts::{go_to, judge, key, launch, notice, paste},
    picture, press, show, text, verdict, watching,
};
use crate::tui::{
    app::{App, Effect, Msg, Popup, Screen},
    checks::Checked,
    keymap,
    keys::Key,
    update::update,
};

#[test]
fn a_paste_answers_no_question_and_presses_no_key() {
    let mut app = launch();
    press(&mut app, "L");
    assert!(paste(&mut app, "yes\n").is_empty());
    assert!(matches!(app.popup, Some(Popup::Confirm { .. })));
    assert!(notice(&app).contains("nothing was pasted"));
    key(&mut app, Key::Esc);
    let before = app.launch.draft.clone();
    assert!(paste(&mut app, "5wLE").is_empty());
    assert!(app.popup.is_none() && app.screen == Screen::Launch);
    assert_eq!(app.launch.draft, before);
    go_to(&mut app, "name");
    key(&mut app, Key::Enter);
    key(&mut app, Key::Ctrl('u'));
    paste(&mut app, "pasted");
    key(&mut app, Key::Enter);
    assert_eq!(app.launch.draft.root["name"], "pasted");
}

#[test]
fn an_answer_waits_for_the_question_that_is_open() {
    let mut app = launch();
    press(&mut app, "L");
    let question = app.popup.clone();
    update(
        &mut app,
        Msg::Exists {
            path: "/tmp/hello.json".into(),
            root: Value::Null,
        },
    );
    let thorough = Checked {
        is_thorough: true,
        head: Some("To be".to_owned()),
        ..verdict(&app)
    };
    app.launch.draft.thorough = true;
    update(&mut app, Msg::Checked(Box::new(thorough)));
    assert_eq!(app.popup, question);
    assert!(matches!(press(&mut app, "y")[..], [Effect::Launch(_)]));
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("is there already"), "{shown}");
    press(&mut app, "n");
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("the data begins:"), "{shown}");
    key(&mut app, Key::Esc);
    assert!(app.popup.is_none());
    // Nor does it take the keys of what is being typed.
    go_to(&mut app, "name");
    key(&mut app, Key::Enter);
    let (title, words) = ("Sample".to_owned(), "To be".to_owned());
    update(&mut app, Msg::Text { title, text: words });
    press(&mut app, "q");
    assert!(app.popup.is_none());
    key(&mut app, Key::Enter);
    assert_eq!(app.launch.draft.root["name"], "helloq");
    assert!(app.popup.is_some());
}

#[test]
fn a_check_that_was_asked_for_is_answered() {
    let mut app = launch();
    press(&mut app, "d");
    // An answer to a question before it.
    judge(&mut app);
    assert!(app.popup.is_none());
    let thorough = Checked {
        is_thorough: true,
        ..verdict(&app)
    };
    update(&mut app, Msg::Checked(Box::new(thorough.clone())));
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("Checks; nothing was started") && !shown.contains("the data begins"),
        "{shown}"
    );
    key(&mut app, Key::Esc);
    update(&mut app, Msg::Checked(Box::new(thorough)));
    assert!(app.popup.is_none(), "once");
}

#[test]
fn a_question_is_always_in_sight_and_else_not_answered() {
    for (keys, words) in [
        ("1L", "y or Enter: yes"),
        ("5jD", "type its name"),
        ("3K", "Esc: no"),
    ] {
        let mut app = watching(COLOR, 0.5);
        press(&mut app, keys);
        for size in [(40, 10), (30, 8), (80, 24)] {
            app.size = size;
            let shown = text(&picture(&app, size.0, size.1));
            assert!(shown.contains(words), "{size:?} {words}: {shown}");
        }
    }
    let mut app = launch();
    press(&mut app, "L");
    app.size = (30, 2);
    assert!(press(&mut app, "y").is_empty() && app.popup.is_some());
    let shown = text(&picture(&app, 30, 2));
    assert!(shown.contains("enlarge the window"), "{shown}");
    app.size = (80, 24);
    assert_eq!(press(&mut app, "y").len(), 1);
}

#[test]
fn a_long_question_is_scrolled() {
    let mut app = launch();
    let mut checked = app.launch.checked.clone().expect("checked");
    checked.checks = (0..20).map(|n| (false, format!("warning {n}"))).collect();
    app.launch.checked = Some(checked);
    press(&mut app, "L");
    app.size = (40, 10);
    assert!(!text(&picture(&app, 40, 10)).contains("warning 19"));
    for _ in 0..30 {
        key(&mut app, Key::Down);
    }
    let shown = text(&picture(&app, 40, 10));
    assert!(
        shown.contains("warning 19") && shown.contains("y or Enter"),
        "{shown}"
    );
}

#[test]
fn popups_follow_the_users_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    fs::write(&path, r#"{ "help": "F2", "down": ["Down", "Ctrl-N"] }"#).expect("written");
    let mut app = launch();
    app.keys = keymap::load(&path).expect("a map");
    key(&mut app, Key::F(2));
    let before = text(&picture(&app, 80, 12));
    key(&mut app, Key::Ctrl('n'));
    assert_ne!(text(&picture(&app, 80, 12)), before, "it scrolls");
    key(&mut app, Key::F(2));
    assert!(app.popup.is_none());
}

#[test]
fn the_last_line_tells_the_popups_keys() {
    let mut app = launch();
    press(&mut app, "w");
    let shown = text(&picture(&app, 80, 24));
    let last = shown.lines().last().expect("a line");
    assert!(
        last.contains("Enter writes") && !last.contains("LAUNCH"),
        "{last}"
    );
}

#[test]
fn a_text_is_scrolled_to_its_last_row_and_back_at_once() {
    for (width, height) in [(40, 10), (80, 24), (60, 12)] {
        let mut app = launch();
        app.size = (width, height);
        let words = "to be or not to be that is the question ".repeat(40);
        let (title, text_of) = ("Sample".to_owned(), format!("{words}END"));
        update(
            &mut app,
            Msg::Text {
                title,
                text: text_of,
            },
        );
        let first = text(&picture(&app, width, height));
        assert!(first.contains("to be") && !first.contains("END"), "{first}");
        press(&mut app, "G");
        let last = text(&picture(&app, width, height));
        assert!(last.contains("END"), "{last}");
        press(&mut app, "jjj");
        press(&mut app, "k");
        let before = text(&picture(&app, width, height));
        assert_ne!(before, last, "one step up is seen");
        press(&mut app, "g");
        assert_eq!(text(&picture(&app, width, height)), first);
    }
}

#[test]
fn ctrl_c_names_the_run_that_it_can_stop() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Runs);
    key(&mut app, Key::Ctrl('c'));
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("stop recording") && shown.contains("kill recording"),
        "{shown}"
    );
    assert!(press(&mut app, "s").is_empty(), "it asks");
    assert!(matches!(press(&mut app, "y")[..], [Effect::Control(..)]));
    let mut app = watching(COLOR, 1.0);
    key(&mut app, Key::Ctrl('c'));
    let shown = text(&picture(&app, 80, 24));
    assert!(!shown.contains("stop"), "{shown}");
    assert!(press(&mut app, "sk").is_empty());
    assert!(matches!(app.popup, Some(Popup::Interrupt)));
}

/// Types into the palette and takes its first line.
fn command(app: &mut App, words: &str) -> Vec<Effect> {
    press(app, ":");
    press(app, words);
    key(app, Key::Enter)
}

#[test]
fn the_palette_acts_on_what_is_in_sight_alone() {
    let mut app = watching(COLOR, 1.0);
    show(&mut app, Screen::Live);
    let effects = command(&mut app, "resume");
    let [Effect::Resume(folder)] = &effects[..] else {
        unreachable!("a resumption, not {effects:?}")
    };
    assert_eq!(folder.name(), "recording", "the run that Live shows");
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Runs);
    assert!(command(&mut app, "pause").is_empty());
    assert!(app.screen == Screen::Live && notice(&app).starts_with("P here"));
    show(&mut app, Screen::Launch);
    command(&mut app, "open the run in Live");
    assert!(app.screen == Screen::Live && app.launch.editing.is_none());
    show(&mut app, Screen::Runs);
    assert!(command(&mut app, "kill").is_empty());
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("type its name, recording"), "{shown}");
}

#[test]
fn a_long_refusal_is_shown_in_full() {
    let mut app = launch();
    let why = format!(
        "data.text.path: {} does not exist; try another",
        "x".repeat(60)
    );
    update(&mut app, Msg::Started(Err(why)));
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("Not started") && shown.contains("try another"),
        "{shown}"
    );
    key(&mut app, Key::Esc);
    update(&mut app, Msg::Started(Err("no".to_owned())));
    assert!(app.popup.is_none() && notice(&app) == "no");
}

#[test]
fn a_run_that_starts_leaves_what_is_being_typed_alone() {
    let mut app = launch();
    go_to(&mut app, "name");
    key(&mut app, Key::Enter);
    let folder = crate::launch::RunFolder::new("hello-9");
    let effects = update(&mut app, Msg::Started(Ok((folder, None))));
    assert!(matches!(effects[..], [Effect::Watch(..)]), "{effects:?}");
    assert!(app.screen == Screen::Launch && notice(&app).contains("3 shows it"));
    press(&mut app, "P");
    key(&mut app, Key::Enter);
    assert_eq!(app.launch.draft.root["name"], "helloP");
}

#[test]
fn a_changed_config_is_not_left_unasked() {
    let mut app = launch();
    go_to(&mut app, "seed");
    key(&mut app, Key::Enter);
    press(&mut app, "7");
    key(&mut app, Key::Enter);
    for screen in [Screen::Launch, Screen::Live] {
        show(&mut app, screen);
        assert!(press(&mut app, "q").is_empty() && app.leaving.is_none());
        key(&mut app, Key::Esc);
        press(&mut app, "q");
        assert_eq!(press(&mut app, "y"), [Effect::Leave]);
    }
    // A run that was started from it holds it.
    let root = app.launch.draft.root.clone();
    let folder = crate::launch::RunFolder::new("hello-9");
    update(&mut app, Msg::Started(Ok((folder, Some(root)))));
    press(&mut app, "q");
    assert_eq!(app.leaving, Some(0));
}

#[test]
fn the_screen_can_be_suspended_and_redrawn_whatever_is_open() {
    let mut app = launch();
    for keys in ["L", "w", ":", "?", "/", "5jD"] {
        press(&mut app, keys);
        let before = app.popup.clone();
        assert_eq!(key(&mut app, Key::Ctrl('z')), [Effect::Suspend], "{keys}");
        assert_eq!(key(&mut app, Key::Ctrl('l')), [Effect::Redraw], "{keys}");
        assert_eq!(app.popup, before, "{keys}");
        key(&mut app, Key::Esc);
        key(&mut app, Key::Esc);
        show(&mut app, Screen::Launch);
    }
}
