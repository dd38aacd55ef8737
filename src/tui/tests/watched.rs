//! A run that is watched, with its files: what becomes of the picture when they change, go or are damaged.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{COLOR, empty, picture, press, show, text, watching};
use crate::{
    event::{Control, Event, LogWriter},
    launch::{RunFolder, lock::RunLock},
    tui::{
        app::{App, Effect, Msg, News, Popup, Screen},
        keys::Key,
        recording,
        tail::tail,
        update::update,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A run's folder that is followed.
struct Followed {
    root: tempfile::TempDir,
    folder: RunFolder,
    stop: Arc<AtomicBool>,
    news: Receiver<Msg>,
    thread: Option<JoinHandle<()>>,
}

impl Followed {
    /// `make` puts the first files into the folder.
    fn new(make: impl FnOnce(&RunFolder)) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::new(root.path().join("run"));
        fs::create_dir(folder.root()).expect("made");
        make(&folder);
        let (to, news) = mpsc::sync_channel(16);
        let stop = Arc::<AtomicBool>::default();
        let (there, stops) = (folder.clone(), Arc::clone(&stop));
        let thread = thread::spawn(move || tail(&there, 1, &stops, &to));
        Self {
            root,
            folder,
            stop,
            news,
            thread: Some(thread),
        }
    }

    /// An app that watches it, and knows nothing of it yet.
    fn app(&self) -> App {
        let mut app = empty(COLOR);
        app.watch(self.folder.clone());
        app
    }

    /// Gives the app what comes, until something holds of it.
    fn until(&self, app: &mut App, holds: impl Fn(&App) -> bool) {
        while !holds(app) {
            let said = self.news.recv_timeout(PATIENCE).expect("news");
            update(app, said);
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.news.try_recv().is_ok() {}
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()));
    }
}

fn paused(folder: &RunFolder, steps: &[u64]) {
    let mut log = LogWriter::open(&folder.events()).expect("a log");
    for &step in steps {
        log.append(Event::Paused { step }).expect("written");
    }
}

fn add(path: PathBuf, text: &str) {
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("written");
}

fn step(app: &App) -> u64 {
    app.board.as_ref().map_or(0, |board| board.state.step)
}

fn is_read(app: &App) -> bool {
    let board = app.board.as_ref();
    board.is_some_and(|board| board.reading.is_none() && board.state.next_seq > 0)
}

#[test]
fn another_run_of_the_name_takes_the_place_of_a_deleted_one() {
    let followed = Followed::new(|folder| paused(folder, &[7, 8, 9]));
    let mut app = followed.app();
    followed.until(&mut app, |app| step(app) == 9);
    // Made aside, so that there is no moment without a folder.
    let other = RunFolder::new(followed.root.path().join("other"));
    fs::create_dir(other.root()).expect("made");
    paused(&other, &[1]);
    fs::rename(followed.folder.root(), followed.root.path().join("gone")).expect("moved");
    fs::rename(other.root(), followed.folder.root()).expect("moved");
    followed.until(&mut app, |app| step(app) == 1 && is_read(app));
    let board = app.board.as_ref().expect("a board");
    assert_eq!(board.state.next_seq, 1);
    assert_eq!(board.entries.len(), 1, "nothing of the old one is left");
}

#[test]
fn a_deleted_run_leaves_live_and_no_other_takes_its_keys() {
    let followed = Followed::new(|folder| paused(folder, &[7]));
    let mut app = followed.app();
    let others = vec![super::row(&app, "another", "running", true, 1.0)];
    update(&mut app, Msg::Runs(others.clone()));
    followed.until(&mut app, |app| step(app) == 7);
    fs::remove_dir_all(followed.folder.root()).expect("deleted");
    followed.until(&mut app, |app| app.board.is_none());
    update(&mut app, Msg::Runs(others));
    show(&mut app, Screen::Live);
    assert!(press(&mut app, "P").is_empty(), "no order to another run");
    assert!(app.board.is_none());
}

#[test]
fn a_line_that_is_no_record_costs_no_other() {
    let followed = Followed::new(|folder| {
        paused(folder, &[1, 2, 3]);
        let text = fs::read_to_string(folder.events()).expect("a log");
        let lines: Vec<&str> = text.lines().collect();
        let damaged = format!("{}\ngarbage\n{}\n{}\n", lines[0], lines[1], lines[2]);
        fs::write(folder.events(), damaged).expect("written");
    });
    let mut app = followed.app();
    followed.until(&mut app, |app| step(app) == 3 && is_read(app));
    let board = app.board.as_ref().expect("a board");
    assert_eq!(board.state.next_seq, 3);
    assert!(
        board
            .damage
            .as_ref()
            .is_some_and(|text| text.contains("line 2"))
    );
    let errors = board
        .entries
        .iter()
        .filter(|line| line.entry.text.contains("line 2"));
    assert_eq!(errors.count(), 1);
}

#[test]
fn a_run_without_a_log_is_shown_as_written_down_and_can_be_opened_again() {
    let followed = Followed::new(|folder| {
        let mut state = crate::store::RunState {
            step: 5,
            next_seq: 9,
            ..Default::default()
        };
        state.name = "run".to_owned();
        let text = serde_json::to_vec(&state).expect("a state");
        fs::write(folder.state(), text).expect("written");
    });
    let mut app = followed.app();
    let failed = |app: &App| app.board.as_ref().and_then(|board| board.failed.clone());
    followed.until(&mut app, |app| failed(app).is_some());
    assert_eq!(step(&app), 5);
    assert!(failed(&app).is_some_and(|text| text.contains("events.jsonl is gone")));
    let again = app.watch(followed.folder.clone());
    assert!(matches!(again[..], [Effect::Watch(..)]), "{again:?}");
}

#[test]
fn a_log_that_appears_late_is_read_with_all_that_belongs_to_it() {
    let followed = Followed::new(|folder| {
        let text = serde_json::to_vec(&crate::store::RunState::default()).expect("a state");
        fs::write(folder.state(), text).expect("written");
        add(folder.worker_log(), "said by the worker\n");
    });
    let _lock = RunLock::acquire(&followed.folder).expect("free");
    let mut app = followed.app();
    followed.until(&mut app, |app| {
        let board = app.board.as_ref();
        board.is_some_and(|board| board.held && board.failed.is_some())
    });
    paused(&followed.folder, &[7]);
    followed.until(&mut app, |app| step(app) == 7 && is_read(app));
    let is_whole = |app: &App| {
        let board = app.board.as_ref().expect("a board");
        board.held && board.entries.len() == 2
    };
    followed.until(&mut app, is_whole);
}

#[test]
fn a_question_about_a_run_does_not_outlive_it() {
    for (keys, news) in [
        ("K", News::Begun),
        ("K", News::Gone),
        ("S", News::Begun),
        ("S", News::Gone),
    ] {
        let mut app = watching(COLOR, 0.5);
        show(&mut app, Screen::Live);
        press(&mut app, keys);
        assert!(app.popup.is_some(), "{keys} asks");
        app.present(Popup::text("Sample", vec!["To be".to_owned()]));
        update(&mut app, Msg::Watched { watch: 0, news });
        let notice = app.notice.as_ref().map_or("", |notice| &notice.text);
        assert!(notice.contains("recording is not the run"), "{notice}");
        assert!(
            matches!(app.popup, Some(Popup::Text { .. })),
            "what waited shows"
        );
        assert!(update(&mut app, Msg::Key(Key::Enter)).is_empty());
        assert!(app.popup.is_none());
    }
    let mut app = watching(COLOR, 0.5);
    show(&mut app, Screen::Runs);
    press(&mut app, "jD");
    assert!(app.popup.is_some());
    let news = News::Begun;
    update(&mut app, Msg::Watched { watch: 0, news });
    assert!(app.popup.is_some(), "one about another run stays");
}

#[test]
fn a_log_that_is_none_fails_once_and_is_opened_again() {
    let followed = Followed::new(|folder| fs::create_dir(folder.events()).expect("made"));
    let mut app = followed.app();
    followed.until(&mut app, |app| {
        app.board
            .as_ref()
            .is_some_and(|board| board.failed.is_some())
    });
    assert!(!app.watch(followed.folder.clone()).is_empty());
}

#[test]
fn output_that_arrives_stands_at_its_time_and_older_has_none() {
    let followed = Followed::new(|folder| {
        paused(folder, &[7]);
        add(folder.worker_log(), "before\n");
    });
    let mut app = followed.app();
    let n_lines = |app: &App| app.board.as_ref().map_or(0, |board| board.entries.len());
    followed.until(&mut app, |app| n_lines(app) == 2);
    add(followed.folder.worker_log(), "rank 1: after\n");
    followed.until(&mut app, |app| n_lines(app) == 3);
    let lines = app.board.as_ref().map(|board| board.entries.clone());
    let lines = lines.expect("a board");
    assert_eq!(
        (lines[1].entry.text.as_str(), lines[1].entry.time),
        ("before", None)
    );
    let event_time = lines[0].entry.time.expect("an event's");
    assert!(lines[2].entry.time.is_some_and(|time| time >= event_time));
    assert_eq!(lines[2].entry.rank, Some(1));
}

#[test]
fn a_supervisor_is_seen_to_come_and_go() {
    let followed = Followed::new(|folder| paused(folder, &[7]));
    let mut app = followed.app();
    let held = |app: &App| app.board.as_ref().is_some_and(|board| board.held);
    let lock = RunLock::acquire(&followed.folder).expect("free");
    followed.until(&mut app, held);
    drop(lock);
    followed.until(&mut app, |app| !held(app));
}

#[test]
fn no_alarm_is_raised_while_the_log_is_being_read() {
    let mut app = watching(COLOR, 0.6);
    let tell = |app: &mut App, news: News| {
        update(app, Msg::Watched { watch: 0, news });
    };
    tell(&mut app, News::Held(false));
    tell(&mut app, News::Reading(Some(37)));
    show(&mut app, Screen::Live);
    for (width, height) in [(80, 24), (160, 50), (30, 5)] {
        let shown = text(&picture(&app, width, height));
        assert!(!shown.contains("interrupted"), "{shown}");
        assert!(
            width == 30 || shown.contains("reading the log, 37 %"),
            "{shown}"
        );
    }
    show(&mut app, Screen::Logs);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("reading the log, 37 %"), "{shown}");
    tell(&mut app, News::Reading(None));
    show(&mut app, Screen::Live);
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("! interrupted after step"), "{shown}");
}

#[test]
fn a_log_in_the_making_is_read_to_its_end_before_it_counts_as_read() {
    let steps: Vec<u64> = (1..=5000).collect();
    let followed = Followed::new(|folder| paused(folder, &steps));
    let mut app = followed.app();
    let mut seen = Vec::new();
    while step(&app) < 5000 || !is_read(&app) {
        let said = followed.news.recv_timeout(PATIENCE).expect("news");
        if let Msg::Watched {
            news: News::Reading(percent),
            ..
        } = &said
        {
            seen.push(*percent);
        }
        update(&mut app, said);
    }
    assert!(
        seen.len() >= 3 && seen.first() == Some(&Some(0)),
        "{seen:?}"
    );
    assert!(
        seen.is_sorted_by_key(|percent| percent.unwrap_or(100)),
        "{seen:?}"
    );
}

#[test]
fn lines_of_a_rank_are_those_that_it_told() {
    let mut app = watching(COLOR, 1.0);
    let news = News::Output {
        lines: vec!["rank 1: the reason".to_owned()],
        time: Some(1.0),
    };
    update(&mut app, Msg::Watched { watch: 0, news });
    show(&mut app, Screen::Logs);
    let texts = |app: &App| -> Vec<String> {
        let lines = crate::tui::logs::visible(app).into_iter();
        lines.map(|line| line.entry.text.clone()).collect()
    };
    press(&mut app, "#");
    let of_zero = texts(&app);
    for begins in ["step 1/300", "eval after step", "checkpoint after step"] {
        assert!(
            of_zero.iter().any(|text| text.starts_with(begins)),
            "{begins} {of_zero:?}"
        );
    }
    press(&mut app, "#");
    assert_eq!(texts(&app), ["rank 1: the reason"]);
    press(&mut app, "#");
    let all = texts(&app);
    assert!(all.iter().any(|text| text.contains("starting")), "{all:?}");
    press(&mut app, "/rank:1 level:info");
    update(&mut app, Msg::Key(Key::Enter));
    assert_eq!(texts(&app), ["rank 1: the reason"]);
}

#[test]
fn a_frozen_cursor_stays_on_its_line_when_older_ones_go() {
    let mut app = watching(COLOR, 1.0);
    show(&mut app, Screen::Logs);
    press(&mut app, "kk");
    let line = |app: &App| {
        let lines = crate::tui::logs::visible(app);
        let place = crate::tui::logs::place(app, &lines);
        lines[place].entry.text.clone()
    };
    let before = line(&app);
    let more: Vec<String> = (0..19_990).map(|n| format!("line {n}")).collect();
    let board = app.board.as_mut().expect("a board");
    board.add_output(&more, None);
    assert!(board.dropped() > 0);
    assert_eq!(line(&app), before);
}

#[test]
fn text_in_memory_is_bounded() {
    let mut app = watching(COLOR, 0.1);
    let board = app.board.as_mut().expect("a board");
    let n_before = board.entries.len();
    for n in 0..1000 {
        board.add_output(&[format!("{n} {}", "x".repeat(64 << 10))], None);
    }
    let bytes: usize = board.entries.iter().map(|line| line.entry.text.len()).sum();
    assert!(bytes <= 32 << 20 && board.entries.len() > n_before);
}

#[test]
fn a_replaced_run_takes_orders_only_as_itself() {
    let mut app = watching(COLOR, 0.5);
    let n = recording::records().len();
    for news in [News::Begun, News::Held(true)] {
        update(&mut app, Msg::Watched { watch: 0, news });
    }
    let board = app.board.as_ref().expect("a board");
    assert!(board.state.next_seq == 0 && board.entries.is_empty() && n > 0);
    show(&mut app, Screen::Live);
    let effects = press(&mut app, "P");
    assert!(matches!(effects[..], [Effect::Control(_, Control::Pause)]));
}

#[test]
fn what_an_earlier_watch_still_tells_is_left_out() {
    let folder = RunFolder::new("run");
    let mut app = empty(COLOR);
    app.watch(folder.clone());
    let tell = |app: &mut App, watch: u64| {
        let records = vec![recording::records().remove(0)];
        let news = News::Records(records);
        update(app, Msg::Watched { watch, news });
        app.board.as_ref().map_or(0, |board| board.entries.len())
    };
    assert_eq!(tell(&mut app, 1), 1);
    let effects = update(&mut app, Msg::Started(Ok((folder, None))));
    assert!(matches!(effects[..], [Effect::Watch(_, 2)]), "{effects:?}");
    assert_eq!(tell(&mut app, 1), 0);
    assert_eq!(tell(&mut app, 2), 1);
}
