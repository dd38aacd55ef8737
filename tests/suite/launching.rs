//! Launch on a real pseudo-terminal: configs that can't be read, files in the way, pastes, `$EDITOR`.

use std::{fs, os::unix::fs::PermissionsExt, thread, time::Duration};

use libtest_mimic::{Failed, Trial};

use super::{
    screen::Seen,
    support::{Workplace, check},
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("launching::what_is_no_config_opens_no_screen", no_config),
        Trial::test(
            "launching::a_config_with_problems_is_not_launched",
            problems,
        ),
        Trial::test("launching::a_paste_starts_nothing", pasted),
        Trial::test("launching::a_long_paste_is_one_look", long_paste),
        Trial::test("launching::a_file_in_the_way_is_asked_about", written),
        Trial::test("launching::an_edited_text_is_never_lost", edited),
        Trial::test("launching::an_editor_has_the_keys_to_itself", typed_ahead),
        Trial::test("launching::ctrl_c_in_an_editor_is_the_editors", interrupted),
    ]
}

fn ui(place: &Workplace, config: &str) -> Result<Seen, Failed> {
    Seen::start(place, env!("CARGO_BIN_EXE_capstan"), &["tui", config])
}

/// The UI with the workplace's own config, checked.
fn ready(place: &Workplace) -> Result<Seen, Failed> {
    let ui = ui(place, &place.config.display().to_string())?;
    ui.until("ready to launch")?;
    Ok(ui)
}

fn no_config() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    fs::write(place.folder().join("torn.json"), "{ \"model\": ")?;
    for name in ["nothere.json", "torn.json", "."] {
        let path = place.folder().join(name).display().to_string();
        let said = place.capstan(&["train", &path])?.ended_with(2)?;
        let mut ui = ui(&place, &path)?;
        ui.until("error: ")?;
        let code = ui.end()?;
        check(code == 2, format!("{name}: {code}"))?;
        // A terminal breaks long lines.
        let words: String = said.err.chars().filter(|c| !c.is_whitespace()).collect();
        let shown: String = ui.screen().chars().filter(|c| !c.is_whitespace()).collect();
        check(shown.contains(&words), format!("{words}: {shown}"))?;
    }
    Ok(())
}

fn problems() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.write_config(serde_json::json!({ "batch": { "globl": 4 }, "seed": "x" }))?;
    let mut ui = ui(&place, &place.config.display().to_string())?;
    ui.until("3 problem(s)")?;
    ui.press("L")?;
    ui.until("3 problem(s), first ")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    check(!place.run("tiny").exists(), "nothing was launched")
}

fn pasted() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut ui = ready(&place)?;
    ui.press("L")?;
    ui.until("y or Enter: yes")?;
    ui.press("\x1b[200~yes\r\x1b[201~")?;
    ui.until("nothing was pasted")?;
    ui.press("n")?;
    ui.until("New run: ready")?;
    ui.press("\x1b[200~wLq\x1b[201~")?;
    ui.until("nothing was pasted")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    check(!place.run("tiny").exists(), "nothing was launched")
}

fn long_paste() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut ui = ready(&place)?;
    ui.press("/data\r\r")?;
    ui.until("Data: Enter takes it")?;
    let long = "x".repeat(40_000);
    ui.press(&format!("\x1b[200~{long}\x1b[201~"))?;
    ui.until("File name too long")?;
    ui.press("\x1b")?;
    ui.until("New run: ready")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")
}

fn written() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let theirs = place.folder().join("tiny.json");
    fs::write(&theirs, "mine")?;
    let mut ui = ready(&place)?;
    let there = format!("\x15{}\r", theirs.display());
    ui.press("w")?;
    ui.until("write the config to")?;
    ui.press(&there)?;
    ui.until("is there already")?;
    ui.press("n")?;
    ui.until("New run: ready")?;
    check(fs::read_to_string(&theirs)? == "mine", "untouched")?;
    ui.press("w")?;
    ui.until("write the config to")?;
    ui.press(&there)?;
    ui.until("is there already")?;
    ui.press("y")?;
    ui.until("wrote ")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    let text = fs::read_to_string(&theirs)?;
    check(text.contains("\"name\": \"tiny\""), text)
}

/// A workplace with a file that its editor, a script, may write to.
fn with_editor(script: impl Fn(&str) -> String) -> Result<(Workplace, std::path::PathBuf), Failed> {
    let place = Workplace::new("well")?;
    let editor = place.folder().join("editor");
    let seen = place.folder().join("seen");
    let script = script(&seen.display().to_string());
    fs::write(&editor, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755))?;
    let place = place.with("VISUAL", &editor.display().to_string());
    Ok((place, seen))
}

fn edited() -> Result<(), Failed> {
    let (place, seen) =
        with_editor(|seen| format!("cat \"$1\" >> {seen}\nprintf 'half a te' > \"$1\""))?;
    let mut ui = ready(&place)?;
    ui.press("E")?;
    ui.until("That text is no config")?;
    ui.press("\r")?;
    ui.until("New run: ready")?;
    ui.press("E")?;
    ui.until("That text is no config")?;
    ui.press("\r")?;
    ui.until("New run: ready")?;
    ui.press("q")?;
    ui.until("lost with the screen")?;
    ui.press("y")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    let seen = fs::read_to_string(seen)?;
    check(seen.ends_with("half a te"), seen)
}

/// Keys that come at once and all along; none is read, and obeyed, behind the editor's back.
fn typed_ahead() -> Result<(), Failed> {
    const KEYS: &str = "561236LwqLwq";
    const TIMES: usize = 4;
    let (place, seen) = with_editor(|seen| {
        let n = KEYS.len();
        format!(
            "stty raw -echo\nprintf 'the editor'\ndd bs=1 count={n} >> {seen} 2>/dev/null\nstty sane\nprintf '\\033[2J'"
        )
    })?;
    let mut ui = ready(&place)?;
    for _ in 0..TIMES {
        ui.press("E")?;
        ui.until("the editor")?;
        for key in KEYS.chars() {
            ui.press(&key.to_string())?;
            thread::sleep(Duration::from_millis(20));
        }
        ui.until("New run: ready")?;
    }
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    let seen = fs::read_to_string(seen)?;
    check(seen == KEYS.repeat(TIMES), seen)?;
    check(!place.run("tiny").exists(), "nothing was launched")
}

/// An editor that goes on after Ctrl-C, as vim does; so does the screen.
fn interrupted() -> Result<(), Failed> {
    let (place, seen) = with_editor(|seen| {
        format!(
            "trap 'echo heard >> {seen}' INT\nprintf 'the editor'\nuntil [ -s {seen} ]; do sleep 0.1; done"
        )
    })?;
    let mut ui = ready(&place)?;
    ui.press("E")?;
    ui.until("the editor")?;
    ui.press("\x03")?;
    ui.until("New run: ready")?;
    ui.press("5")?;
    ui.until("[5 Runs]")?;
    ui.press("q")?;
    let code = ui.end()?;
    check(code == 0, format!("{code}"))?;
    check(
        fs::read_to_string(seen)? == "heard\n",
        "the editor heard it",
    )
}
