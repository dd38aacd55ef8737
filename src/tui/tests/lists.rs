//! Runs and Logs as lists: filters, order, details, long and wide lines.

use std::{fs, sync::atomic::AtomicBool};

use super::{COLOR, MONO, picture, press, row, show, text, watching};
use crate::{
    event::{Event, LogWriter, Phases, Record},
    launch::RunFolder,
    tui::{
        app::{App, Effect, Msg, News, Popup, Screen},
        keys::Key,
        runs::{Details, RunRow},
        sources,
        update::update,
    },
};

fn many(app: &App, n: usize) -> Vec<RunRow> {
    let rows = (0..n).map(|n| row(app, &format!("run-{n}"), "completed", false, 1e9 - n as f64));
    rows.collect()
}

fn names(app: &App) -> Vec<String> {
    app.runs
        .visible()
        .iter()
        .map(|row| row.name.clone())
        .collect()
}

fn filter(app: &mut App, typed: &str) {
    press(app, "/");
    update(app, Msg::Key(Key::Ctrl('u')));
    press(app, typed);
    update(app, Msg::Key(Key::Enter));
}

fn warn(app: &mut App, texts: &[&str]) {
    let seq = app.board.as_ref().map_or(0, |board| board.state.next_seq);
    let records = texts.iter().enumerate().map(|(n, text)| Record {
        seq: seq + n as u64,
        time: 1e9 + n as f64,
        event: Event::Warning {
            text: (*text).to_owned(),
            rank: Some(1),
        },
    });
    let news = News::Records(records.collect());
    update(app, Msg::Watched { watch: 0, news });
}

#[test]
fn runs_are_filtered_by_regex_key_and_inverse() {
    let mut app = watching(COLOR, 0.5);
    let rows = many(&app, 300);
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    filter(&mut app, "/run-2[0-3]$/");
    assert_eq!(names(&app), ["run-20", "run-21", "run-22", "run-23"]);
    filter(&mut app, "name:run-12");
    assert_eq!(names(&app).len(), 11);
    filter(&mut app, "name:/12$/ !run-1");
    assert_eq!(names(&app), ["run-212"]);
    for (typed, problem) in [
        ("nme:run", "! nme: is no key"),
        ("/run-2[/", "! /run-2[/: unclosed"),
    ] {
        filter(&mut app, typed);
        let shown = text(&picture(&app, 80, 24));
        assert!(shown.contains(problem), "{shown}");
    }
}

#[test]
fn the_log_is_narrowed_by_key_and_searched_by_regex() {
    let mut app = watching(COLOR, 1.0);
    let n_all = app.board.as_ref().map_or(0, |board| board.entries.len());
    warn(&mut app, &["line 21", "line 22", "line 3"]);
    show(&mut app, Screen::Logs);
    filter(&mut app, "level:warn /line 2[0-9]$/");
    assert_eq!(crate::tui::logs::visible(&app).len(), 3);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("3 of "), "{shown}");
    assert_eq!(app.logs.at, Some(n_all as u64 + 1), "on line 22");
    press(&mut app, "n");
    assert_eq!(app.logs.at, Some(n_all as u64));
    filter(&mut app, "/line [/");
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("! /line [/: unclosed"), "{shown}");
}

#[test]
fn enter_shows_a_line_whole_with_when_and_how_often() {
    let mut app = watching(COLOR, 1.0);
    let long = format!("GPU 1 {}is slowed; try more air", "very ".repeat(30));
    warn(&mut app, &[&long, &long, &long]);
    show(&mut app, Screen::Logs);
    assert!(update(&mut app, Msg::Key(Key::Enter)).is_empty());
    let text_of = |popup: &Popup| match popup {
        Popup::Text { title, lines, .. } => Some((title.clone(), lines.clone())),
        _ => None,
    };
    let (title, lines) = app.popup.as_ref().and_then(text_of).expect("a text");
    assert!(title.ends_with("r1  warn"), "{title}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 70),
        "{lines:?}"
    );
    assert!(lines.contains(&"try more air".to_owned()), "{lines:?}");
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("3 times in a row") && shown.contains("first 2001-09-09 01:46:40 UTC"),
        "{shown}"
    );
    update(&mut app, Msg::Key(Key::Esc));
    assert_eq!(app.popup, None);
}

#[test]
fn a_wrapped_line_is_in_sight_however_long_and_keeps_its_colour() {
    let mut app = watching(COLOR, 0.1);
    show(&mut app, Screen::Logs);
    let long = format!("begin {}", "0123456789".repeat(20_000));
    warn(&mut app, &["before", &long, "after"]);
    press(&mut app, "wGkk");
    update(&mut app, Msg::Key(Key::Down));
    for (width, height) in [(80, 24), (40, 10)] {
        let buffer = picture(&app, width, height);
        let shown = text(&buffer);
        assert!(shown.contains("begin 0123"), "{shown}");
        assert!(shown.contains('…'), "its rest is hidden: {shown}");
    }
    press(&mut app, "k");
    let buffer = picture(&app, 80, 24);
    let shown = text(&buffer);
    assert!(
        shown.contains("before") && shown.contains("begin 0123"),
        "{shown}"
    );
    let is_coloured = |cell: &&ratatui::buffer::Cell| cell.fg != ratatui::style::Color::Reset;
    assert!(buffer.content.iter().filter(is_coloured).count() > 200);
}

#[test]
fn wide_characters_lose_nothing_and_shift_no_column() {
    let mut app = watching(MONO, 0.1);
    let wide = "语言模型".repeat(40);
    warn(&mut app, &[&wide]);
    show(&mut app, Screen::Logs);
    press(&mut app, "w");
    let shown = text(&picture(&app, 80, 24));
    let seen = shown.matches(['语', '言', '模', '型']).count();
    assert_eq!(seen, wide.chars().count(), "{shown}");

    let mut rows = many(&app, 1);
    rows.push(row(&app, "语言模型", "completed", false, 1.0));
    rows.push(row(&app, "esc\x1b[31mred", "completed", false, 1.0));
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    let buffer = picture(&app, 80, 24);
    let column = |y: u16| {
        (0..80).find(|&x| {
            let word: String = (x..(x + 9).min(80))
                .map(|x| buffer[(x, y)].symbol())
                .collect();
            word == "completed"
        })
    };
    let rows: Vec<u16> = (0..24).filter_map(column).collect();
    assert!(rows.len() >= 3 && rows[..3] == [rows[0]; 3], "{rows:?}");
}

#[test]
fn sorting_again_reverses_before_it_goes_on() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Runs);
    let arrow = |app: &App| {
        let shown = text(&picture(app, 80, 24));
        let words = ["when ↓", "when ↑", "name ↑", "name ↓", "status ↑"];
        words.into_iter().find(|word| shown.contains(word))
    };
    let mut seen = vec![arrow(&app)];
    for _ in 0..4 {
        press(&mut app, "s");
        seen.push(arrow(&app));
    }
    let expected = ["when ↓", "when ↑", "name ↑", "name ↓", "status ↑"];
    assert_eq!(seen, expected.map(Some));
}

#[test]
fn the_cursor_begins_on_the_run_that_is_watched() {
    let mut app = watching(COLOR, 0.5);
    let mut rows = many(&app, 5);
    rows.push(row(&app, "recording", "running", true, 1.0));
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    assert_eq!(
        app.runs.chosen().map(|row| row.name.as_str()),
        Some("recording")
    );
}

/// The effects that ask for details.
fn asked(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Details { .. }))
        .count()
}

#[test]
fn details_are_asked_for_once_and_late_ones_dropped() {
    let mut app = watching(COLOR, 0.5);
    let rows = many(&app, 5);
    app.runs.details = None;
    update(&mut app, Msg::Runs(rows.clone()));
    let arrive = update(&mut app, Msg::Key(Key::Char('5')));
    assert_eq!(asked(&arrive), 1);
    assert_eq!(
        asked(&update(&mut app, Msg::Runs(rows.clone()))),
        0,
        "under way"
    );
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("reading its log ..."), "{shown}");
    assert_eq!(asked(&press(&mut app, "j")), 1);
    let answer = |name: &str, against: &str| {
        Msg::Details(Box::new(Details {
            name: name.to_owned(),
            against: Some(against.to_owned()),
            next_seq: u64::MAX,
            started: rows[0].state.as_ref().ok().and_then(|state| state.started),
            ..Details::default()
        }))
    };
    update(&mut app, answer("run-0", "run-1"));
    assert_eq!(app.runs.details, None, "no longer asked for");
    update(&mut app, answer("run-1", "run-2"));
    assert!(app.runs.details.is_some() && app.runs.pending.is_none());
    assert_eq!(asked(&update(&mut app, Msg::Runs(rows.clone()))), 0);
    let mut anew = rows;
    if let Ok(state) = &mut anew[1].state {
        state.started = Some(2e9);
    }
    assert_eq!(
        asked(&update(&mut app, Msg::Runs(anew))),
        1,
        "another run of the name"
    );
}

fn step(step: u64) -> Event {
    Event::Step {
        step,
        loss: 1.0,
        lr: 0.1,
        grad_norm: 1.0,
        tokens: step,
        step_time_s: 60.0,
        tokens_per_sec: 1.0,
        mfu: None,
        phases: Phases::default(),
        ranks: Vec::new(),
    }
}

#[test]
fn details_stop_when_told_and_sum_all_sessions() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = RunFolder::new(root.path());
    let mut log = LogWriter::open(&folder.events()).expect("a log");
    for n in 1..=10 {
        log.append(step(n)).expect("written");
    }
    let details = sources::details(&folder, None, &AtomicBool::new(false));
    assert_eq!(details.map(|details| details.trained_s), Some(600.0));
    assert_eq!(
        sources::details(&folder, None, &AtomicBool::new(true)),
        None
    );
}

#[test]
fn a_deletion_names_all_that_is_lost() {
    let mut app = watching(COLOR, 0.5);
    let mut rows = many(&app, 1);
    if let Ok(state) = &mut rows[0].state {
        state.started = Some(0.0);
        state.taken = Some(state.updated - 60.0);
    }
    let first_to_last = rows[0].state.as_ref().map_or(0.0, |state| state.updated);
    app.runs.details = None;
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    press(&mut app, "D");
    let shown = text(&picture(&app, 80, 24));
    let time = crate::base::units::seconds(first_to_last);
    assert!(
        shown.contains(&format!("{time} from its first event to its last")),
        "{shown}"
    );
}

#[test]
fn details_tell_what_matters_first_and_how_much_is_hidden() {
    let mut app = watching(COLOR, 0.7);
    let mut details = app.runs.details.clone().expect("details");
    details.differences = (0..8).map(|n| format!("key{n}: 1 → 2")).collect();
    update(&mut app, Msg::Details(Box::new(details)));
    show(&mut app, Screen::Runs);
    let shown = text(&picture(&app, 80, 24));
    for part in [
        "state",
        " do ",
        "capstan ",
        "saved",
        "events.jsonl 96.7 KiB",
        "loss",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.contains("more line(s): Tab, then"), "{shown}");
    let blank = shown.lines().filter(|line| line.is_empty()).count();
    assert_eq!(blank, 0, "the details take what the list leaves: {shown}");
    update(&mut app, Msg::Key(Key::Tab));
    press(&mut app, &"j".repeat(20));
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("key7") && !shown.contains("more line(s)"),
        "{shown}"
    );
}

#[test]
fn energy_has_a_column_where_there_is_room() {
    let mut app = watching(COLOR, 0.7);
    let mut rows = many(&app, 2);
    if let Ok(state) = &mut rows[0].state {
        state.energy.joules = Some(9e6);
    }
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    let shown = text(&picture(&app, 160, 50));
    assert!(shown.contains("kWh") && shown.contains("2.500"), "{shown}");
}

#[test]
fn a_damaged_run_says_why_and_offers_no_resume() {
    let mut app = watching(COLOR, 0.7);
    let mut rows = many(&app, 2);
    rows[0].fault = Some("config.json: No such file".to_owned());
    rows[1].state = Err("events.jsonl: Is a directory".to_owned());
    rows[1].word = "unreadable";
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("unreadable: config.json: No such file"),
        "{shown}"
    );
    assert!(press(&mut app, "r").is_empty());
    press(&mut app, "j");
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("unreadable: events.jsonl: Is a directory"),
        "{shown}"
    );
    press(&mut app, "D");
    assert!(matches!(app.popup, Some(Popup::TypeName { .. })));
}

#[test]
fn an_unreadable_runs_folder_is_said_until_it_can_be_read() {
    let mut app = watching(COLOR, 0.7);
    let root = tempfile::tempdir().expect("a folder");
    let place = root.path().join("runs");
    fs::write(&place, "").expect("written");
    let mut scan = sources::Scan::default();
    let said = scan.look(&place).expect("an error");
    update(&mut app, said);
    show(&mut app, Screen::Runs);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("! the runs folder"), "{shown}");
    assert!(scan.look(&place).is_none(), "said once");
    fs::remove_file(&place).expect("removed");
    let said = scan.look(&place).expect("it can be read");
    update(&mut app, said);
    assert_eq!(app.runs.failed, None);
}

#[test]
fn a_look_at_the_runs_tells_only_what_changed() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = RunFolder::new(root.path().join("run"));
    fs::create_dir(folder.root()).expect("made");
    let mut log = LogWriter::open(&folder.events()).expect("a log");
    log.append(step(1)).expect("written");
    let mut scan = sources::Scan::default();
    let word = |said: Option<Msg>| match said {
        Some(Msg::Runs(rows)) => Some(rows[0].word),
        _ => None,
    };
    assert_eq!(word(scan.look(root.path())), Some("interrupted"));
    assert_eq!(word(scan.look(root.path())), None);
    let lock = crate::launch::lock::RunLock::acquire(&folder).expect("free");
    log.append(step(2)).expect("written");
    assert_eq!(word(scan.look(root.path())), Some("running"));
    // Nothing is written when a supervisor is killed.
    drop(lock);
    assert_eq!(word(scan.look(root.path())), Some("interrupted"));
    // One that comes writes; until then its lock is not looked at.
    let _lock = crate::launch::lock::RunLock::acquire(&folder).expect("free");
    assert_eq!(word(scan.look(root.path())), None);
    fs::remove_dir_all(folder.root()).expect("deleted");
    let said = scan.look(root.path());
    assert!(matches!(said, Some(Msg::Runs(rows)) if rows.is_empty()));
}

#[test]
fn details_are_scrolled_wherever_the_cursor_is_in_the_list() {
    for n in [1, 3] {
        let mut app = watching(COLOR, 0.5);
        app.size = (80, 24);
        let rows = many(&app, n);
        update(&mut app, Msg::Runs(rows));
        show(&mut app, Screen::Runs);
        let mut details = app.runs.details.clone().expect("details");
        details.name = "run-0".to_owned();
        details.differences = (0..40).map(|n| format!("line {n}.")).collect();
        app.runs.details = Some(details);
        assert!(!text(&picture(&app, 80, 24)).contains("line 39."));
        press(&mut app, "l");
        let first = text(&picture(&app, 80, 24));
        press(&mut app, "j");
        assert_ne!(text(&picture(&app, 80, 24)), first);
        press(&mut app, "k");
        assert_eq!(text(&picture(&app, 80, 24)), first);
        press(&mut app, "G");
        assert!(text(&picture(&app, 80, 24)).contains("line 39."));
        // Where they have no room, the keys stay with the list.
        app.size = (80, 16);
        press(&mut app, "j");
        assert!(!app.runs.in_details);
        press(&mut app, "l");
        assert!(!app.runs.in_details);
    }
}

#[test]
fn a_turn_of_the_wheel_asks_for_what_it_ends_on() {
    let mut app = watching(COLOR, 0.5);
    app.runs.pending = None;
    let rows = many(&app, 3);
    update(&mut app, Msg::Runs(rows));
    show(&mut app, Screen::Runs);
    press(&mut app, "gj");
    let effects = update(&mut app, Msg::Wheel(3));
    let [Effect::Details { folder, .. }] = &effects[..] else {
        unreachable!("one question, not {effects:?}")
    };
    assert_eq!(folder.name(), "run-2");
}

#[test]
fn a_search_begins_at_the_newest_line() {
    let mut app = watching(COLOR, 1.0);
    warn(&mut app, &["the needle", "hay", "the needle again"]);
    show(&mut app, Screen::Logs);
    let newest = app.board.as_ref().and_then(|board| board.entries.back());
    let newest = newest.map(|line| line.number);
    filter(&mut app, "needle");
    assert_eq!(app.logs.at, newest);
    press(&mut app, "N");
    assert_eq!(app.logs.at, newest.map(|number| number - 2));
}

#[test]
fn the_next_run_takes_the_place_of_one_that_is_deleted() {
    let mut app = watching(COLOR, 0.5);
    let mut rows = many(&app, 5);
    update(&mut app, Msg::Runs(rows.clone()));
    show(&mut app, Screen::Runs);
    press(&mut app, "gjj");
    assert_eq!(app.runs.selected.as_deref(), Some("run-2"));
    rows.remove(2);
    update(&mut app, Msg::Runs(rows.clone()));
    assert_eq!(app.runs.selected.as_deref(), Some("run-3"));
    press(&mut app, "G");
    rows.pop();
    update(&mut app, Msg::Runs(rows));
    assert_eq!(app.runs.selected.as_deref(), Some("run-3"));
}

#[test]
fn a_config_is_compared_with_the_run_before_or_else_after() {
    let mut app = watching(COLOR, 0.5);
    let rows = many(&app, 3);
    update(&mut app, Msg::Runs(rows));
    app.runs.details = None;
    app.runs.pending = None;
    show(&mut app, Screen::Runs);
    let mut asked = Vec::new();
    for key in ["g", "j", "j"] {
        for effect in press(&mut app, key) {
            if let Effect::Details { folder, against } = effect {
                asked.push((folder.name(), against.map(|folder| folder.name())));
            }
        }
    }
    let pair = |name: &str, other: &str| (name.to_owned(), Some(other.to_owned()));
    assert!(asked.contains(&pair("run-1", "run-2")), "{asked:?}");
    assert!(asked.contains(&pair("run-2", "run-1")), "{asked:?}");
    let of_first = crate::tui::runs::arrive(&mut app);
    assert!(of_first.is_empty());
    press(&mut app, "g");
    let shown = text(&picture(&app, 80, 24));
    assert!(!shown.contains("no other run"), "{shown}");
}
