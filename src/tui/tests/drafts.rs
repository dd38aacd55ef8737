//! Launch's form: what typing, turning, pasting, writing and opening make of a draft.

use std::fs;

use serde_json::{Value, json};

use super::{COLOR, picture, press, show, text, verdict, watching};
use crate::tui::{
    app::{App, Effect, Msg, Popup, Screen},
    checks::Checked,
    keys::Key,
    picker::Asked,
    update::update,
    written::Replaces,
};

/// Launch with the draft that the program begins with.
pub fn launch() -> App {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Launch);
    app
}

/// Launch with its cursor on a field.
fn on_field(path: &str) -> App {
    let mut app = launch();
    go_to(&mut app, path);
    app
}

/// Puts the cursor on a field.
pub fn go_to(app: &mut App, path: &str) {
    let fields = app.launch.fields();
    let place = fields.iter().position(|field| field.dotted() == path);
    app.launch.cursor = place.expect("a field");
}

/// Presses a key.
pub fn key(app: &mut App, key: Key) -> Vec<Effect> {
    update(app, Msg::Key(key))
}

/// Types a value into the field under the cursor.
fn fill(app: &mut App, value: &str) -> Vec<Effect> {
    key(app, Key::Enter);
    key(app, Key::Ctrl('u'));
    press(app, value);
    key(app, Key::Enter)
}

/// Lets the draft be checked.
pub fn judge(app: &mut App) {
    let checked = verdict(app);
    update(app, Msg::Checked(Box::new(checked)));
}

/// Pastes a text.
pub fn paste(app: &mut App, text: &str) -> Vec<Effect> {
    update(app, Msg::Pasted(text.to_owned()))
}

/// What the last line says.
pub fn notice(app: &App) -> &str {
    app.notice.as_ref().map_or("", |notice| &notice.text)
}

#[test]
fn a_mistyped_number_can_be_corrected() {
    let mut app = on_field("model.gpt.n_head");
    fill(&mut app, "abc");
    assert_eq!(app.launch.draft.root["model"]["gpt"]["n_head"], "abc");
    fill(&mut app, "4");
    assert_eq!(app.launch.draft.root["model"]["gpt"]["n_head"], 4);
    go_to(&mut app, "name");
    fill(&mut app, "12");
    assert_eq!(app.launch.draft.root["name"], "12", "a text stays one");
    assert!(app.launch.draft.config().is_ok());
}

#[test]
fn a_pasted_path_is_one_edit_and_one_look() {
    let mut app = on_field("data");
    key(&mut app, Key::Enter);
    let long = format!("/data/{}\n", "x".repeat(100_000));
    let effects = paste(&mut app, &long);
    let asked = Asked::Path(long.trim().to_owned());
    assert_eq!(effects, [Effect::Look(asked)]);
}

/// The effect of `w` and Enter.
fn write(app: &mut App) -> Effect {
    press(app, "w");
    let mut effects = key(app, Key::Enter);
    assert_eq!(effects.len(), 1, "{effects:?}");
    effects.remove(0)
}

#[test]
fn a_file_holds_the_draft_only_once_it_was_written() {
    let mut app = launch();
    let Effect::Write {
        path,
        root,
        replaces,
    } = write(&mut app)
    else {
        unreachable!("a write")
    };
    assert_eq!(replaces, Replaces::Nothing);
    assert!(path.is_absolute() && path.ends_with("hello.json"));
    let done = Err("no space left".to_owned());
    let (failed, held) = (path.clone(), root.clone());
    update(
        &mut app,
        Msg::Written {
            path: failed,
            root: held,
            done,
        },
    );
    assert!(!app.launch.is_saved() && notice(&app).contains("no space left"));
    // A file of somebody else's is asked about, once.
    let (other, held) = (path.clone(), root.clone());
    update(
        &mut app,
        Msg::Exists {
            path: other,
            root: held,
        },
    );
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("is there already"), "{shown}");
    let effects = press(&mut app, "y");
    assert!(
        matches!(
            effects[..],
            [Effect::Write {
                replaces: Replaces::Anything,
                ..
            }]
        ),
        "{effects:?}"
    );
    update(
        &mut app,
        Msg::Written {
            path,
            root,
            done: Ok(()),
        },
    );
    assert!(app.launch.is_saved());
    // Its own file it writes again without a word.
    go_to(&mut app, "seed");
    fill(&mut app, "7");
    assert!(!app.launch.is_saved());
    assert!(matches!(
        write(&mut app),
        Effect::Write {
            replaces: Replaces::Text(_),
            ..
        }
    ));
}

#[test]
fn the_command_is_one_that_a_shell_can_run() {
    let mut app = launch();
    assert!(press(&mut app, "y").is_empty());
    assert!(
        notice(&app).contains("no file holds this config yet"),
        "{}",
        notice(&app)
    );
    let (path, root) = ("/tmp/my run's.json".into(), app.launch.draft.root.clone());
    update(
        &mut app,
        Msg::Written {
            path,
            root,
            done: Ok(()),
        },
    );
    app.launch.elsewhere = Some("/big disk/runs".into());
    let command = r"capstan train '/tmp/my run'\''s.json' --runs-dir '/big disk/runs'";
    assert_eq!(press(&mut app, "y"), [Effect::Copy(command.to_owned())]);
}

#[test]
fn a_choice_comes_back_as_it_was_left() {
    for field in ["model", "data", "optimizer", "schedule", "stop", "init"] {
        let mut app = on_field("optimizer.adamw.lr");
        fill(&mut app, "0.5");
        let before = app.launch.draft.root.clone();
        for turn in [Key::Right, Key::Left, Key::Left, Key::Right] {
            go_to(&mut app, field);
            key(&mut app, turn);
        }
        assert_eq!(app.launch.draft.root, before, "{field}");
    }
}

#[test]
fn recognised_data_keeps_the_settings_that_were_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.txt");
    fs::write(&path, "some text\n").expect("written");
    let mut app = on_field("data");
    let own =
        json!({ "text": { "path": "/data/old.txt", "tokenizer": "char", "val_fraction": 0.3 } });
    app.launch.draft.set(&["data".to_owned()], own);
    key(&mut app, Key::Enter);
    paste(&mut app, &path.display().to_string());
    let asked = Asked::Path(path.display().to_string());
    let looked = crate::tui::sources::look(asked);
    update(&mut app, Msg::Looked(Box::new(looked)));
    key(&mut app, Key::Enter);
    let data = &app.launch.draft.root["data"]["text"];
    assert_eq!(data["path"], json!(path));
    assert_eq!(
        (&data["tokenizer"], &data["val_fraction"]),
        (&json!("char"), &json!(0.3))
    );
    assert!(notice(&app).contains("tokenizer char"), "{}", notice(&app));
}

#[test]
fn a_changed_draft_is_not_replaced_unasked() {
    let mut app = on_field("seed");
    fill(&mut app, "7");
    press(&mut app, "o");
    assert!(key(&mut app, Key::Enter).is_empty());
    assert!(
        matches!(app.popup, Some(Popup::Confirm { .. })),
        "{:?}",
        app.popup
    );
    let effects = press(&mut app, "y");
    assert!(
        matches!(effects[..], [Effect::Reopen { .. }]),
        "{effects:?}"
    );
}

#[test]
fn another_config_is_not_written_over_the_opened_file_unasked() {
    let mut app = launch();
    let config = app.launch.draft.root.to_string();
    let (from, text) = (Some("/tmp/mine.json".into()), Ok(config.clone()));
    update(&mut app, Msg::Opened { from, text });
    let Effect::Write { path, replaces, .. } = write(&mut app) else {
        unreachable!("a write")
    };
    assert!(path.ends_with("mine.json"), "{}", path.display());
    assert_eq!(replaces, Replaces::Text(config.clone()), "as it was read");
    let (from, text) = (None, Ok(config));
    update(&mut app, Msg::Opened { from, text });
    press(&mut app, "w");
    key(&mut app, Key::Ctrl('u'));
    press(&mut app, "/tmp/mine.json");
    let effects = key(&mut app, Key::Enter);
    let [Effect::Write { replaces, .. }] = &effects[..] else {
        unreachable!("a write, not {effects:?}")
    };
    assert_eq!(*replaces, Replaces::Nothing);
}

#[test]
fn a_typed_path_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = launch().launch.draft.root;
    config["seed"] = json!(99);
    let path = folder.path().join("mine.json");
    let mut app = launch();
    press(&mut app, "o");
    paste(&mut app, &path.display().to_string());
    let effects = key(&mut app, Key::Enter);
    assert_eq!(effects, [Effect::OpenFile(path.clone())]);
    let (from, opened) = (Some(path.clone()), Ok(config.to_string()));
    update(&mut app, Msg::Opened { from, text: opened });
    assert_eq!(app.launch.draft.root["seed"], 99);
    assert!(app.launch.is_saved() && app.launch.command().contains("mine.json"));
}

#[test]
fn an_edited_text_is_kept_whatever_is_wrong_with_it() {
    let mut app = launch();
    let before = app.launch.draft.root.clone();
    let broken = "{ \"model\": ".to_owned();
    update(&mut app, Msg::Edited(Ok(broken.clone())));
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("That text is no config") && shown.contains("EOF"),
        "{shown}"
    );
    assert_eq!(app.launch.draft.root, before);
    key(&mut app, Key::Esc);
    assert_eq!(press(&mut app, "E"), [Effect::Edit(broken)]);
    // A text of JSON with problems is the draft, and still the text.
    let mut config = before;
    config["batch"] = json!({ "globl": 8 });
    let odd = config.to_string();
    update(&mut app, Msg::Edited(Ok(odd.clone())));
    assert_eq!(press(&mut app, "E"), [Effect::Edit(odd)]);
    judge(&mut app);
    assert!(press(&mut app, "L").is_empty() && app.popup.is_none());
    go_to(&mut app, "batch.global");
    fill(&mut app, "8");
    let [Effect::Edit(now)] = &press(&mut app, "E")[..] else {
        unreachable!("an edit")
    };
    assert!(now.contains("\"global\": 8"), "the form has gone on: {now}");
}

#[test]
fn relative_paths_of_a_file_with_problems_start_from_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let real = fs::canonicalize(folder.path()).expect("a folder");
    let path = real.join("bad.json");
    let text = |global: &str| {
        format!(
            r#"{{ "model": {{ "gpt": {{ "preset": "gpt-nano" }} }}, "data": {{ "text": {{ "path": "own.txt" }} }},
            "batch": {{ "global": {global} }}, "stop": {{ "steps": 10 }} }}"#
        )
    };
    fs::write(&path, text("\"many\"")).expect("written");
    let own = |app: &App| app.launch.draft.root["data"]["text"]["path"].clone();
    let mut app = launch();
    app.launch.open(&path).expect("a draft");
    assert_eq!(own(&app), json!(real.join("own.txt")));
    // Also where the text was opened again and again before it was right.
    for edited in [text("-1"), "{ \"model\": ".to_owned(), text("8")] {
        assert!(matches!(press(&mut app, "E")[..], [Effect::Edit(_)]));
        update(&mut app, Msg::Edited(Ok(edited)));
        key(&mut app, Key::Esc);
        assert_eq!(own(&app), json!(real.join("own.txt")));
    }
    assert!(app.launch.draft.config().is_ok());
    // What is typed into a config that was read starts from where the user is.
    update(&mut app, Msg::Edited(Ok(text("8"))));
    let here = std::env::current_dir().expect("a folder");
    assert_eq!(own(&app), json!(here.join("own.txt")));
}

#[test]
fn a_file_with_problems_opens_and_can_not_be_launched() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.json");
    let own = r#"{ "model": { "gpt": { "preset": "gpt-nano" } }, "data": { "builtin": "hello" },
        "batch": { "globl": 8 }, "stop": { "steps": "ten" } }"#;
    fs::write(&path, own).expect("written");
    let mut app = launch();
    app.launch.open(&path).expect("a draft");
    judge(&mut app);
    let shown = text(&picture(&app, 160, 50));
    for part in [
        "3 problem(s)",
        "batch.globl: unknown field `globl`",
        "did you mean `global`",
        "batch.global: `global` is missing",
        "stop.steps: expected a whole number of at least 0",
    ] {
        assert!(
            shown.replace("\n", " ").contains(part) || flat(&app).contains(part),
            "{part}: {shown}"
        );
    }
    assert!(press(&mut app, "L").is_empty() && app.popup.is_none());
    assert_eq!(press(&mut app, "E"), [Effect::Edit(own.to_owned())]);
    for (name, text) in [
        ("none.json", None),
        ("empty.json", Some("")),
        ("list.json", Some("[]")),
    ] {
        let path = folder.path().join(name);
        if let Some(text) = text {
            fs::write(&path, text).expect("written");
        }
        assert!(app.launch.open(&path).is_err(), "{name}");
    }
    assert!(app.launch.open(folder.path()).is_err(), "a folder");
}

/// The problems in a line.
fn flat(app: &App) -> String {
    let problems = app
        .launch
        .checked
        .iter()
        .flat_map(|checked| &checked.problems);
    problems
        .map(|(at, words)| format!("{at}: {words} "))
        .collect()
}

#[test]
fn a_preset_means_its_own_sizes() {
    let mut app = on_field("model.gpt.preset");
    let before = app.launch.draft.root.clone();
    assert!(before["model"]["gpt"]["n_layer"].is_u64());
    key(&mut app, Key::Right);
    assert_eq!(app.launch.draft.root["model"]["gpt"]["preset"], "gpt2");
    for size in ["n_layer", "n_head", "d_model", "seq_len"] {
        assert!(
            app.launch.draft.root["model"]["gpt"].get(size).is_none(),
            "{size}"
        );
    }
    assert!(notice(&app).contains("n_layer"), "{}", notice(&app));
    key(&mut app, Key::Left);
    assert_eq!(
        app.launch.draft.root, before,
        "and without one they are back"
    );
}

#[test]
fn a_taken_name_is_told_beside_its_field_and_in_the_question() {
    let mut app = on_field("name");
    let checked = Checked {
        run_name: "hello-2".to_owned(),
        ..app.launch.checked.clone().expect("checked")
    };
    update(&mut app, Msg::Checked(Box::new(checked)));
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("hello → hello-2"), "{shown}");
    press(&mut app, "L");
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("run    hello-2"), "{shown}");
}

#[test]
fn narrow_windows_show_what_is_wrong() {
    let mut app = on_field("batch.global");
    fill(&mut app, "x");
    judge(&mut app);
    go_to(&mut app, "seed");
    for (width, height) in [(40, 10), (60, 24)] {
        let shown = text(&picture(&app, width, height));
        assert!(shown.contains("1 problem(s)"), "{shown}");
        assert!(shown.contains("✗ batch.global"), "{shown}");
    }
    go_to(&mut app, "parallel");
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains(" Checks"), "{shown}");
    press(&mut app, "e");
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("✗ batch.global: expected a whole number"),
        "{shown}"
    );
}

#[test]
fn the_form_is_filtered() {
    let mut app = launch();
    press(&mut app, "/warmup");
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("/ warmup_") && shown.contains("warmup "),
        "{shown}"
    );
    assert!(
        app.launch
            .fields()
            .iter()
            .all(|field| field.dotted().contains("warmup"))
    );
    key(&mut app, Key::Enter);
    fill(&mut app, "3");
    assert_eq!(
        app.launch.draft.root.pointer("/schedule/cosine/warmup"),
        Some(&json!(3))
    );
    key(&mut app, Key::Esc);
    assert!(app.launch.fields().len() > 30);
}

/// Degrees of the draft.
fn split(app: &App) -> Vec<u64> {
    let parallel = &app.launch.draft.root["parallel"];
    ["dp", "tp", "pp"]
        .iter()
        .filter_map(|axis| parallel[axis].as_u64())
        .collect()
}

#[test]
fn ranks_are_moved_from_axis_to_axis() {
    let mut app = on_field("parallel");
    let four = json!(["cpu", "cpu", "cpu", "cpu"]);
    app.launch.draft.set(&["devices".to_owned()], four);
    judge(&mut app);
    key(&mut app, Key::Enter);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("dp ←→") && shown.contains("[4]"), "{shown}");
    // All four are taken: another axis can grow only once this one has shrunk.
    key(&mut app, Key::Down);
    key(&mut app, Key::Right);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("all 4 devices are taken"), "{shown}");
    key(&mut app, Key::Up);
    key(&mut app, Key::Left);
    key(&mut app, Key::Down);
    key(&mut app, Key::Right);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("3 cpu    dp 1 tp 1 pp 0"), "{shown}");
    let effects = key(&mut app, Key::Enter);
    assert!(matches!(effects[..], [Effect::Check(_), ..]), "{effects:?}");
    assert_eq!(split(&app), [2, 2, 1]);
}

#[test]
fn a_step_that_the_model_refuses_says_why() {
    let mut app = on_field("parallel");
    let three = json!(["cpu", "cpu", "cpu"]);
    app.launch.draft.set(&["devices".to_owned()], three);
    app.launch
        .draft
        .set(&["parallel".to_owned()], json!({ "dp": 1 }));
    app.launch.draft.set(
        &["model".to_owned()],
        json!({ "gpt": { "n_layer": 4, "n_head": 1, "d_model": 32, "seq_len": 32 } }),
    );
    judge(&mut app);
    key(&mut app, Key::Enter);
    key(&mut app, Key::Down);
    key(&mut app, Key::Right);
    let shown = text(&picture(&app, 160, 50));
    assert!(
        shown.contains("✗2") && shown.contains("can't share n_head 1 evenly"),
        "{shown}"
    );
    assert!(matches!(app.popup, Some(Popup::Splits(_))));
}

#[test]
fn splits_are_told_beside_a_mistyped_value_or_why_there_are_none() {
    let mut app = on_field("parallel");
    app.launch.draft.set(&["seed".to_owned()], json!("x"));
    let mut checked = verdict(&app);
    checked.splits = Vec::new();
    update(&mut app, Msg::Checked(Box::new(checked)));
    key(&mut app, Key::Enter);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("no split works: seed: expected"), "{shown}");
}

#[test]
fn several_completions_are_shown() {
    let mut app = on_field("data");
    key(&mut app, Key::Enter);
    paste(&mut app, "/d");
    let (typed, whole) = ("/d".to_owned(), "/data".to_owned());
    let names = ["data-1/", "data-2/"].map(str::to_owned).to_vec();
    let effects = update(
        &mut app,
        Msg::Completed {
            typed,
            whole,
            names,
        },
    );
    assert_eq!(effects, [Effect::Look(Asked::Path("/data".to_owned()))]);
    assert_eq!(notice(&app), "data-1/  data-2/");
}

#[test]
fn a_run_that_came_or_went_is_looked_at_anew() {
    let mut app = launch();
    let mut rows = app.runs.rows.clone().expect("rows");
    assert!(!is_checked(&update(&mut app, Msg::Runs(rows.clone()))));
    rows.pop();
    assert!(is_checked(&update(&mut app, Msg::Runs(rows))));
}

fn is_checked(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Check(_)))
}

#[test]
fn a_field_takes_its_value_by_its_own_type() {
    let mut app = on_field("optimizer.adamw.clip");
    fill(&mut app, "");
    assert_eq!(
        app.launch.draft.root["optimizer"]["adamw"]["clip"],
        Value::Null
    );
    go_to(&mut app, "devices");
    fill(&mut app, "[\"cpu\", \"cpu\"]");
    assert_eq!(app.launch.draft.root["devices"], json!(["cpu", "cpu"]));
    fill(&mut app, "auto");
    assert_eq!(app.launch.draft.root["devices"], "auto");
}

#[test]
fn typed_paths_are_absolute_wherever_they_are_typed() {
    let mut app = on_field("init");
    key(&mut app, Key::Right);
    assert!(
        app.launch.draft.config().is_err(),
        "an empty path is a problem"
    );
    go_to(&mut app, "init.pretrained");
    let folder = std::env::current_dir().expect("a folder");
    let home = std::env::home_dir().expect("a folder");
    for (typed, path) in [
        ("a/w.safetensors", folder.join("a/w.safetensors")),
        ("./w", folder.join("w")),
        ("~/w", home.join("w")),
        ("/w", "/w".into()),
    ] {
        fill(&mut app, typed);
        assert_eq!(app.launch.draft.root["init"]["pretrained"], json!(path));
    }
    assert!(app.launch.draft.config().is_ok());
}

#[test]
fn a_note_on_a_field_stands_beside_it() {
    let mut app = on_field("schedule.cosine.warmup");
    let checked = app.launch.checked.as_mut().expect("checked");
    let note = "schedule.cosine.warmup: 100 steps in a run of 10, so lr is never reached";
    checked.checks.push((false, note.to_owned()));
    let shown = text(&picture(&app, 160, 50));
    let line = shown.lines().find(|line| line.contains("▶    warmup"));
    let line = line.expect("the field");
    assert!(line.contains("100  ! 100 steps in a run"), "{line}");
}

#[test]
fn a_split_that_is_left_comes_back_with_its_settings() {
    let mut app = on_field("parallel");
    let before = app.launch.draft.root.clone();
    key(&mut app, Key::Right);
    assert_eq!(split(&app), [4, 1, 1]);
    key(&mut app, Key::Left);
    assert_eq!(app.launch.draft.root, before, "none is named");
    key(&mut app, Key::Right);
    go_to(&mut app, "parallel.zero");
    fill(&mut app, "1");
    for turn in [Key::Left, Key::Right] {
        go_to(&mut app, "parallel");
        key(&mut app, turn);
    }
    assert_eq!(split(&app), [4, 1, 1]);
    assert_eq!(app.launch.draft.root["parallel"]["zero"], 1);
}
