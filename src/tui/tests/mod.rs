//! The UI without a terminal: keys in, pictures out.

mod bandwidth;
mod devices;
mod drafts;
mod keys;
mod launch;
mod lists;
mod live;
mod pictures;
mod questions;
mod sizes;
mod still_numbers;
mod stills;
mod watched;

use std::path::PathBuf;

use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};
use serde_json::Value;

use super::{
    app::{App, Effect, Msg, News, SCREENS, Screen},
    checks::{self, Checked},
    draw::draw,
    keys::Key,
    look::{Colors, Glyphs, Look},
    picker::{Asked, Looked},
    recording,
    runs::{Details, RunRow},
    update::update,
};
use crate::{
    data::Preview,
    event::{Event, HostReading, Reading, Record},
    hw::Machine,
    launch::RunFolder,
    plan::{self, DataSummary},
};

const COLOR: Look = Look {
    colors: Colors::Sixteen,
    most: Colors::Sixteen,
    glyphs: Glyphs::Braille,
    is_coarse: false,
};
const MONO: Look = Look {
    colors: Colors::None,
    most: Colors::Sixteen,
    glyphs: Glyphs::Braille,
    is_coarse: false,
};
const ASCII: Look = Look {
    colors: Colors::None,
    most: Colors::Sixteen,
    glyphs: Glyphs::Ascii,
    is_coarse: false,
};

/// An app that knows nothing yet.
fn empty(look: Look) -> App {
    App::new(PathBuf::from("/runs"), look)
}

/// An app that watches the recorded run, `share` of its events in, with two ended runs beside it.
fn watching(look: Look, share: f64) -> App {
    let mut app = empty(look);
    let records = recording::records();
    let n = (records.len() as f64 * share) as usize;
    let end = records[n - 1].time;
    app.board = Some(recording::board());
    let host = HostReading {
        cores: Some(4),
        cpu_busy: Some(0.97),
        memory_used_bytes: Some(1 << 30),
        memory_total_bytes: Some(16 << 30),
        ..HostReading::default()
    };
    let news = [
        News::Held(share < 1.0),
        News::Output {
            lines: vec!["libtorch 2.11 says hello".to_owned()],
            time: None,
        },
        News::Records(records[..n].to_vec()),
        News::Records(vec![sensed(n as u64, end, host)]),
    ];
    for news in news {
        update(&mut app, Msg::Watched { watch: 0, news });
    }
    update(&mut app, Msg::Tick(end + 90.0));
    look_anew(&mut app);
    let rows = vec![
        row(&app, "recording", "running", true, end),
        row(&app, "hello-2", "completed", false, end - 7_200.0),
        row(&app, "hello", "interrupted", false, end - 200_000.0),
        row(&app, "broken", "failed", false, end - 900_000.0),
    ];
    update(&mut app, Msg::Runs(rows));
    let loss = app.board.as_ref().map(|board| board.loss.clone());
    let details = Details {
        name: "recording".to_owned(),
        against: Some("hello-2".to_owned()),
        differences: vec!["batch.global: 16 → 32".to_owned()],
        checkpoints: vec![(100, 10_049_139), (200, 10_049_141)],
        files: vec![
            ("config.json".to_owned(), 900),
            ("events.jsonl".to_owned(), 99_000),
        ],
        loss: loss.unwrap_or_default(),
        next_seq: u64::MAX,
        trained_s: 31.4,
        started: app.board.as_ref().and_then(|board| board.state.started),
    };
    update(&mut app, Msg::Details(Box::new(details)));
    let checked = verdict(&app);
    update(&mut app, Msg::Checked(Box::new(checked)));
    let looked = looked(&app.launch.draft.root["data"]);
    update(&mut app, Msg::Looked(Box::new(looked)));
    app
}

/// Makes the latest look at the sensors one that holds, without an event that would change the picture.
fn look_anew(app: &mut App) {
    let now = app.now;
    if let Some(board) = &mut app.board {
        board.state.sensed = Some(now);
    }
}

/// A look at data that a config names.
fn looked(data: &Value) -> Looked {
    let seen = Preview {
        n_files: 1,
        bytes: 1_120_000,
        is_whole: true,
        samples: vec![
            "To be, or not to be, that is the question:".to_owned(),
            "Whether 'tis nobler in the mind to suffer".to_owned(),
            "The slings and arrows of outrageous fortune,".to_owned(),
        ],
    };
    Looked {
        asked: Asked::Data(data.clone()),
        found: Ok((data.clone(), seen)),
    }
}

fn sensed(seq: u64, time: f64, host: HostReading) -> Record {
    let reading = Reading {
        host,
        ..Reading::default()
    };
    Record {
        seq,
        time,
        event: Event::Sensors { reading },
    }
}

fn row(app: &App, name: &str, word: &'static str, held: bool, written: f64) -> RunRow {
    let state = app.board.as_ref().map(|board| board.state.clone());
    RunRow {
        folder: RunFolder::new(name),
        name: name.to_owned(),
        word,
        held,
        has_checkpoint: word != "failed",
        fault: None,
        state: Ok(Box::new(state.unwrap_or_default())),
        written,
        model: "gpt 837k, seq 128".to_owned(),
        data: serde_json::json!({ "text": { "path": format!("/data/{name}.txt") } }),
    }
}

/// What a machine of four cores would say of the draft.
fn verdict(app: &App) -> Checked {
    let machine = Machine {
        cores: 4,
        memory_bytes: 16 << 30,
        shm_bytes: None,
        gpus: Vec::new(),
        left_out: Vec::new(),
        links: Vec::new(),
        no_gpus_because: Some("no NVIDIA driver is loaded".to_owned()),
    };
    let data = DataSummary {
        train_tokens: 1_000_000,
        val_tokens: 110_000,
        vocab_size: 256,
        fingerprint: "x".to_owned(),
        files: Vec::new(),
    };
    let draft = &app.launch.draft;
    let mut checked = Checked {
        run_name: draft.name(),
        revision: draft.revision,
        machine: checks::told(&machine),
        checks: vec![(true, "data: 1.00M tokens to train on".to_owned())],
        ..Checked::default()
    };
    match draft.config() {
        Err(problems) => checked.problems = problems,
        Ok(config) => {
            checked.splits = checks::splits(&config, &machine, &data);
            match plan::resolve(&config, &machine, &data) {
                Ok(plan) => checked.plan = Some(Box::new(plan)),
                Err(error) => checked.problems = checks::words(&error),
            }
        }
    }
    checked
}

fn press(app: &mut App, keys: &str) -> Vec<Effect> {
    keys.chars()
        .flat_map(|c| update(app, Msg::Key(Key::Char(c))))
        .collect()
}

fn show(app: &mut App, screen: Screen) {
    update(app, Msg::Key(Key::Char(number(screen))));
    assert_eq!(app.screen, screen);
}

fn number(screen: Screen) -> char {
    char::from_digit(screen.number() as u32, 10).expect("a digit")
}

fn picture(app: &App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, app)).expect("drawn");
    terminal.backend().buffer().clone()
}

/// The characters, a line a row, without blanks at the end.
fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width).map(|row| {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn problems_stand_beside_their_field_and_go_with_it() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Launch);
    app.launch.draft.root["devices"] = serde_json::json!(["cpu", "cpu"]);
    let fields = app.launch.fields();
    let place = fields
        .iter()
        .position(|field| field.dotted() == "batch.global");
    app.launch.cursor = place.expect("a field");
    update(&mut app, Msg::Key(Key::Enter));
    update(&mut app, Msg::Key(Key::Ctrl('u')));
    press(&mut app, "7");
    let effects = update(&mut app, Msg::Key(Key::Enter));
    assert!(matches!(effects[..], [Effect::Check(_)]), "{effects:?}");
    let checked = verdict(&app);
    update(&mut app, Msg::Checked(Box::new(checked)));
    let shown = text(&picture(&app, 160, 50));
    let line = shown
        .lines()
        .find(|line| line.contains("▶    global") || line.contains("▶  global"));
    let line = line.expect("the field");
    assert!(line.contains("! 7 is not divisible by"), "{line}");
    assert!(press(&mut app, "L").is_empty() && app.popup.is_none());
    assert!(
        app.notice
            .as_ref()
            .is_some_and(|notice| notice.text.contains("batch.global"))
    );
}

#[test]
fn launching_asks_once_with_the_plan() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Launch);
    assert!(press(&mut app, "L").is_empty());
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("837k parameters") && shown.contains("1500 steps"),
        "{shown}"
    );
    let effects = press(&mut app, "y");
    assert!(matches!(effects[..], [Effect::Launch(_)]), "{effects:?}");
}

#[test]
fn the_split_moves_over_what_works_and_says_why_not() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Launch);
    let checked = app.launch.checked.clone().expect("checked");
    let refused = checked.splits.iter().filter(|split| split.verdict.is_err());
    let place = app
        .launch
        .fields()
        .iter()
        .position(|field| field.path == ["parallel"]);
    app.launch.cursor = place.expect("a field");
    let mut seen = Vec::new();
    for _ in 0..checked.splits.len() {
        update(&mut app, Msg::Key(Key::Right));
        let checked = verdict(&app);
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        seen.push(super::splits::named(&app.launch.draft.root));
        update(&mut app, Msg::Checked(Box::new(checked)));
    }
    for split in refused {
        assert!(!seen.contains(&Some([split.dp, split.tp, split.pp])));
    }
    update(&mut app, Msg::Key(Key::Enter));
    let shown = text(&picture(&app, 160, 50));
    assert!(
        shown.contains("dp 1  tp 2  pp 1") && shown.contains("a rank"),
        "{shown}"
    );
}

#[test]
fn a_dead_supervisor_is_shown_with_what_to_do() {
    let mut app = watching(COLOR, 0.6);
    update(
        &mut app,
        Msg::Watched {
            watch: 0,
            news: News::Held(false),
        },
    );
    show(&mut app, Screen::Live);
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("interrupted after step") && shown.contains("r resumes"),
        "{shown}"
    );
    let effects = press(&mut app, "r");
    assert!(matches!(effects[..], [Effect::Resume(_)]), "{effects:?}");
}

#[test]
fn a_kill_says_what_is_lost_and_wants_the_name() {
    let mut app = watching(COLOR, 0.6);
    show(&mut app, Screen::Live);
    assert!(press(&mut app, "K").is_empty());
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("Lost: ") && shown.contains("back to the checkpoint"),
        "{shown}"
    );
    assert!(press(&mut app, "record").is_empty());
    assert!(update(&mut app, Msg::Key(Key::Enter)).is_empty());
    press(&mut app, "ing");
    let effects = update(&mut app, Msg::Key(Key::Enter));
    let kill = crate::event::Control::Kill;
    assert!(matches!(&effects[..], [Effect::Control(_, control)] if *control == kill));
}

#[test]
fn a_frozen_picture_stays_while_the_run_goes_on() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Live);
    press(&mut app, "f");
    let before = text(&picture(&app, 160, 50));
    let more = recording::records().split_off(200);
    update(
        &mut app,
        Msg::Watched {
            watch: 0,
            news: News::Records(more),
        },
    );
    assert_eq!(text(&picture(&app, 160, 50)), before);
    press(&mut app, "f");
    assert_ne!(text(&picture(&app, 160, 50)), before);
}

#[test]
fn the_log_is_searched_and_filtered() {
    let mut app = watching(COLOR, 1.0);
    show(&mut app, Screen::Logs);
    press(&mut app, "/eval after");
    update(&mut app, Msg::Key(Key::Enter));
    let first = app.logs.at.expect("found");
    press(&mut app, "N");
    assert!(app.logs.at.expect("another") < first);
    press(&mut app, "v");
    assert!(super::logs::visible(&app).is_empty());
    update(&mut app, Msg::Key(Key::Esc));
    press(&mut app, "vv");
    assert!(super::logs::visible(&app).len() > 5);
}

#[test]
fn runs_are_filtered_sorted_and_never_deleted_while_they_run() {
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Runs);
    assert!(press(&mut app, "D").is_empty() && app.popup.is_none());
    press(&mut app, "/status:compl");
    update(&mut app, Msg::Key(Key::Enter));
    let names: Vec<&str> = app
        .runs
        .visible()
        .iter()
        .map(|row| row.name.as_str())
        .collect();
    assert_eq!(names, ["hello-2"]);
    press(&mut app, "D");
    press(&mut app, "hello-2");
    let effects = update(&mut app, Msg::Key(Key::Enter));
    assert!(matches!(effects[..], [Effect::Delete(_)]), "{effects:?}");
    update(&mut app, Msg::Key(Key::Esc));
    press(&mut app, "s");
    let names: Vec<&str> = app
        .runs
        .visible()
        .iter()
        .map(|row| row.name.as_str())
        .collect();
    assert_eq!(names, ["broken", "hello", "hello-2", "recording"]);
}

#[test]
fn nothing_unknown_is_shown_as_zero() {
    let mut app = watching(COLOR, 0.5);
    let news = News::Records(vec![sensed(500, 1e9, HostReading::default())]);
    update(&mut app, Msg::Watched { watch: 0, news });
    look_anew(&mut app);
    show(&mut app, Screen::Live);
    let shown = text(&picture(&app, 160, 50));
    assert!(
        shown.contains("host: n/a busy, memory n/a, package power n/a"),
        "{shown}"
    );
    assert!(shown.contains("MFU n/a"), "{shown}");
}

#[test]
fn a_recording_says_so_on_every_screen_and_takes_no_order() {
    let mut app = empty(COLOR);
    recording::begin(&mut app);
    for screen in SCREENS {
        show(&mut app, screen);
        let shown = text(&picture(&app, 80, 24));
        assert!(shown.contains("RECORDING"), "{shown}");
    }
    show(&mut app, Screen::Live);
    for key in "CPSKTr".chars() {
        assert!(press(&mut app, &key.to_string()).is_empty(), "{key}");
    }
}
