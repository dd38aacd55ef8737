//! Launch's choice of data and of a past run's config.

use std::fs;

use serde_json::json;

use super::{COLOR, looked, picture, press, show, text, watching};
use crate::{
    launch::RunFolder,
    tui::{
        app::{App, Effect, Msg, Popup, Screen},
        keys::Key,
        picker::Asked,
        sources,
        update::update,
    },
};

/// Does the looks and completions that the UI's threads would do.
fn obey(app: &mut App, effects: Vec<Effect>) -> Vec<Effect> {
    let mut others = Vec::new();
    for effect in effects {
        let done = match effect {
            Effect::Look(asked) => Msg::Looked(Box::new(sources::look(asked))),
            Effect::Complete(typed) => {
                let (whole, names) = sources::completed(&typed);
                Msg::Completed {
                    typed,
                    whole,
                    names,
                }
            }
            other => {
                others.push(other);
                continue;
            }
        };
        let more = update(app, done);
        others.extend(obey(app, more));
    }
    others
}

fn type_in(app: &mut App, keys: &str) -> Vec<Effect> {
    let effects = press(app, keys);
    obey(app, effects)
}

fn key(app: &mut App, key: Key) -> Vec<Effect> {
    let effects = update(app, Msg::Key(key));
    obey(app, effects)
}

/// Launch with its cursor on a field.
fn on_field(path: &str) -> App {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Launch);
    let fields = app.launch.fields();
    let place = fields.iter().position(|field| field.dotted() == path);
    app.launch.cursor = place.expect("a field");
    app
}

#[test]
fn a_path_is_completed_recognised_and_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("letters.jsonl");
    fs::write(&path, "{\"body\": \"Dear all\"}\n{\"body\": \"Yours\"}\n").expect("written");
    let mut app = on_field("data");
    key(&mut app, Key::Enter);
    type_in(&mut app, &format!("{}/let", folder.path().display()));
    key(&mut app, Key::Tab);
    let shown = text(&picture(&app, 160, 50));
    for part in [
        "letters.jsonl_",
        "1 file, 39 B, field body",
        "│ Dear all",
        "│ Yours",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let effects = key(&mut app, Key::Enter);
    assert!(matches!(effects[..], [Effect::Check(_)]), "{effects:?}");
    assert!(app.popup.is_none());
    let data = &app.launch.draft.root["data"]["jsonl"];
    assert_eq!(
        (&data["path"], &data["field"]),
        (&json!(path), &json!("body"))
    );
    assert_eq!(data["tokenizer"], "bytes", "its defaults are in sight");
}

#[test]
fn what_is_no_data_says_why_and_is_not_taken() {
    let mut app = on_field("data");
    key(&mut app, Key::Enter);
    type_in(&mut app, "/nowhere/at/all");
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("no such file or folder"), "{shown}");
    let before = app.launch.draft.clone();
    assert!(key(&mut app, Key::Enter).is_empty());
    assert_eq!(app.launch.draft, before);
    assert!(matches!(app.popup, Some(Popup::Data(_))));
}

#[test]
fn built_in_data_and_that_of_past_runs_can_be_chosen() {
    let mut app = on_field("data");
    update(&mut app, Msg::Key(Key::Enter));
    let shown = text(&picture(&app, 80, 24));
    for part in [
        "builtin  hello",
        "text     /data/hello-2.txt",
        "looking ...",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    update(&mut app, Msg::Key(Key::Down));
    let wanted = update(&mut app, Msg::Key(Key::Down));
    let data = json!({ "text": { "path": "/data/hello-2.txt" } });
    assert_eq!(wanted, [Effect::Look(Asked::Data(data.clone()))]);
    // An answer to an older question leaves this one open.
    let older = looked(&json!({ "builtin": "hello" }));
    update(&mut app, Msg::Looked(Box::new(older)));
    assert!(update(&mut app, Msg::Key(Key::Enter)).is_empty() && app.popup.is_some());
    // Nor does one that comes late take the place of the right one.
    update(&mut app, Msg::Looked(Box::new(looked(&data))));
    let older = looked(&json!({ "builtin": "hello" }));
    update(&mut app, Msg::Looked(Box::new(older)));
    // Keys that edit nothing leave the choice where it is.
    update(&mut app, Msg::Key(Key::Left));
    update(&mut app, Msg::Key(Key::Enter));
    assert_eq!(
        app.launch.draft.root["data"]["text"]["path"],
        "/data/hello-2.txt"
    );
}

#[test]
fn a_past_runs_config_begins_a_new_one() {
    let mut app = on_field("name");
    let mut config = app.launch.draft.root.clone();
    config["batch"]["global"] = json!(24);
    config["name"] = json!("hello-2");
    press(&mut app, "o");
    update(&mut app, Msg::Key(Key::Down));
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("✓ hello-2"), "{shown}");
    let effects = update(&mut app, Msg::Key(Key::Enter));
    let (folder, name) = (RunFolder::new("hello-2"), "hello".to_owned());
    assert_eq!(effects, [Effect::Reopen { folder, name }]);
    let (from, text) = (None, Ok(config.to_string()));
    let effects = update(&mut app, Msg::Opened { from, text });
    assert!(matches!(effects[..], [Effect::Check(_)]), "{effects:?}");
    assert_eq!(app.launch.draft.root["batch"]["global"], 24);
    show(&mut app, Screen::Runs);
    let effects = press(&mut app, "o");
    assert!(
        matches!(effects[..], [Effect::Reopen { .. }]),
        "{effects:?}"
    );
    assert_eq!(app.screen, Screen::Launch);
}

#[test]
fn a_refused_split_says_why_to_its_last_word() {
    let mut app = on_field("parallel");
    let splits = app.launch.checked.clone().expect("checked").splits;
    let place = splits.iter().position(|split| split.verdict.is_err());
    let place = place.expect("a refused split");
    let reason = splits[place].verdict.clone().expect_err("refused");
    update(&mut app, Msg::Key(Key::Enter));
    for _ in 0..place + 3 {
        update(&mut app, Msg::Key(Key::Down));
    }
    let shown = text(&picture(&app, 80, 24));
    let last = reason.rsplit(' ').next().expect("words");
    assert!(shown.contains(last), "{last}: {shown}");
}

/// A field's own path is completed too, and no key waits for the disk.
#[test]
fn a_field_is_completed_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights.safetensors"), "").expect("written");
    let mut app = on_field("name");
    update(&mut app, Msg::Key(Key::Enter));
    update(&mut app, Msg::Key(Key::Ctrl('u')));
    press(&mut app, &format!("{}/w", folder.path().display()));
    let effects = update(&mut app, Msg::Key(Key::Tab));
    assert!(matches!(effects[..], [Effect::Complete(_)]), "{effects:?}");
    obey(&mut app, effects);
    let typed = app.launch.editing.expect("still typed");
    assert!(typed.ends_with("weights.safetensors"), "{}", &*typed);
}
