//! Live: its panels, metrics and dialogs.

use super::{COLOR, empty, picture, press, show, text, watching};
use crate::{
    event::{Event, Outcome, Record},
    tui::{
        app::{App, Msg, News, Popup, Screen},
        keys::Key,
        recording,
        update::update,
    },
};

fn tell(app: &mut App, seq: u64, time: f64, event: Event) {
    let records = vec![Record { seq, time, event }];
    let news = News::Records(records);
    update(app, Msg::Watched { watch: 0, news });
}

#[test]
fn tab_reaches_every_panel_at_every_size() {
    let titles = [
        " loss ",
        " throughput ",
        " where the step goes ",
        " checkpoints",
        " events, ",
        " devices",
    ];
    for (width, height) in [(44, 16), (80, 24), (160, 50)] {
        let mut app = watching(COLOR, 0.7);
        show(&mut app, Screen::Live);
        for title in titles {
            let shown = text(&picture(&app, width, height));
            let focused = format!("▶{title}");
            assert!(shown.contains(&focused), "{focused:?} {width}:\n{shown}");
            update(&mut app, Msg::Key(Key::Tab));
        }
        let shown = text(&picture(&app, width, height));
        assert!(shown.contains("▶ loss "), "{shown}");
    }
}

#[test]
fn a_panel_in_focus_scrolls() {
    let mut app = watching(COLOR, 0.9);
    show(&mut app, Screen::Live);
    for _ in 0..4 {
        update(&mut app, Msg::Key(Key::Tab));
    }
    press(&mut app, "e");
    let first = |app: &App| {
        let shown = text(&picture(app, 80, 24));
        shown.lines().nth(3).map(str::to_owned)
    };
    let newest = first(&app);
    press(&mut app, "j");
    assert_ne!(first(&app), newest);
    press(&mut app, "k");
    assert_eq!(first(&app), newest);
    press(&mut app, "G");
    let shown = text(&picture(&app, 80, 24));
    assert!(shown.contains("starting"), "{shown}");
    press(&mut app, "g");
    assert_eq!(first(&app), newest);
}

#[test]
fn metrics_turn_over_what_is_known() {
    let mut app = watching(COLOR, 0.7);
    show(&mut app, Screen::Live);
    let mut seen = Vec::new();
    for _ in 0..6 {
        let shown = text(&picture(&app, 80, 24));
        let names = ["throughput", "learning rate", "grad norm", "step time"];
        let devices = ["MFU  ", "host busy", "host memory", "package power"];
        let mut names = names.into_iter().chain(devices);
        let name = names.find(|name| shown.contains(&format!("┌ {name}")));
        seen.extend(name);
        press(&mut app, "]");
    }
    let known = [
        "throughput",
        "learning rate",
        "grad norm",
        "step time",
        "host busy",
        "host memory",
    ];
    assert_eq!(seen, known, "what a CPU does not tell is left out");
}

#[test]
fn a_text_waits_for_the_dialog_that_is_being_answered() {
    let mut app = watching(COLOR, 0.6);
    show(&mut app, Screen::Live);
    press(&mut app, "Krec");
    let dialog = app.popup.clone();
    let (title, text) = ("sample".to_owned(), "To be".to_owned());
    update(&mut app, Msg::Text { title, text });
    assert!(app.popup == dialog && dialog.is_some());
    update(&mut app, Msg::Key(Key::Esc));
    assert!(matches!(app.popup, Some(Popup::Text { .. })));
    update(&mut app, Msg::Key(Key::Esc));
    assert_eq!(app.popup, None);
}

#[test]
fn a_restart_alarms_until_something_is_saved() {
    let mut app = watching(COLOR, 0.6);
    show(&mut app, Screen::Live);
    let (seq, now) = (100_000, app.now);
    let cause = "killed by signal 9 (SIGKILL)".to_owned();
    tell(
        &mut app,
        seq,
        now,
        Event::Restart {
            from_step: 150,
            cause,
            without_cudnn_attention: false,
        },
    );
    let shown = text(&picture(&app, 80, 24));
    assert!(
        shown.contains("SIGKILL") && shown.contains("6 shows"),
        "{shown}"
    );
    let saved = Event::Checkpoint {
        step: 160,
        path: String::new(),
        bytes: 1,
        seconds: 0.1,
        best: false,
        deleted: vec![100],
    };
    tell(&mut app, seq + 1, now + 1.0, saved);
    let shown = text(&picture(&app, 160, 50));
    assert!(!shown.contains("! restarted"), "{shown}");
    let board = app.board.expect("a run");
    let mut steps = board.state.checkpoints.iter().map(|it| it.step);
    assert!(steps.all(|step| step != 100), "it made way");
}

#[test]
fn the_keys_below_suit_the_run() {
    let footer = |share: f64| {
        let mut app = watching(COLOR, share);
        show(&mut app, Screen::Live);
        let shown = text(&picture(&app, 160, 50));
        shown.lines().last().map(str::to_owned).unwrap_or_default()
    };
    let (running, ended) = (footer(0.7), footer(1.0));
    assert!(
        running.contains("K kill") && !running.contains("r resume"),
        "{running}"
    );
    assert!(
        ended.contains("r resume") && !ended.contains("K kill"),
        "{ended}"
    );
    assert!(running.contains("run goes on") && !ended.contains("run goes on"));
}

#[test]
fn a_recording_is_marked_at_every_size() {
    let mut app = empty(COLOR);
    recording::begin(&mut app);
    for (width, height) in [(30, 8), (40, 10), (80, 24), (160, 50)] {
        let shown = text(&picture(&app, width, height));
        assert!(shown.contains("RECORDING"), "{width}x{height}:\n{shown}");
    }
}

#[test]
fn a_frozen_picture_does_not_grow_old() {
    let mut app = watching(COLOR, 0.6);
    show(&mut app, Screen::Live);
    press(&mut app, "f");
    let before = text(&picture(&app, 160, 50));
    assert!(!before.contains("sensors silent"), "{before}");
    let later = app.now + 500.0;
    update(&mut app, Msg::Tick(later));
    assert_eq!(text(&picture(&app, 160, 50)), before);
}

#[test]
fn the_next_checkpoint_is_not_after_the_end() {
    let mut app = watching(COLOR, 0.95);
    show(&mut app, Screen::Live);
    let board = app.board.as_mut().expect("a run");
    let total = board.state.total_steps.expect("an end");
    let config = board.config.as_mut().expect("a config");
    config.checkpoint.every = total * 2 / 3;
    let shown = text(&picture(&app, 160, 50));
    assert!(shown.contains(&format!("next at step {total}")), "{shown}");
}

#[test]
fn how_a_run_ended_is_told_above_what_it_was_warned_of() {
    let mut app = watching(COLOR, 0.7);
    let board = app.board.as_ref().expect("a run");
    let (seq, time, step) = (board.state.next_seq, app.now, board.state.step);
    let saved = board.state.newest_checkpoint().expect("one").step;
    let warning = Event::Warning {
        text: "GPU 3 is hot".to_owned(),
        rank: None,
    };
    show(&mut app, Screen::Live);
    tell(&mut app, seq, time, warning);
    assert!(text(&picture(&app, 160, 50)).contains("! GPU 3 is hot"));
    let ended = Event::Ended {
        outcome: Outcome::Killed,
        step,
        reason: "killed on request".to_owned(),
    };
    tell(&mut app, seq + 1, time, ended);
    let news = News::Held(false);
    update(&mut app, Msg::Watched { watch: 0, news });
    let shown = text(&picture(&app, 80, 24));
    let lost = format!(
        "killed on request after step {step}, {} step(s) lost",
        step - saved
    );
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.contains(&lost) && flat.contains(&format!("r resumes from step {saved}")),
        "{shown}"
    );
    assert!(
        shown.contains("r resume "),
        "in sight at 80 columns: {shown}"
    );
}

#[test]
fn a_warning_is_over_with_the_restart_that_follows_it() {
    let mut app = watching(COLOR, 0.7);
    let board = app.board.as_ref().expect("a run");
    let (seq, time) = (board.state.next_seq, app.now);
    show(&mut app, Screen::Live);
    let warning = Event::Warning {
        text: "the worker died".to_owned(),
        rank: None,
    };
    tell(&mut app, seq, time, warning);
    let restart = Event::Restart {
        from_step: 200,
        cause: "killed by signal 9".to_owned(),
        without_cudnn_attention: false,
    };
    tell(&mut app, seq + 1, time, restart);
    let shown = text(&picture(&app, 160, 50));
    assert!(
        shown.contains("restarted 1 time(s), last: killed by signal 9"),
        "{shown}"
    );
    let saved = Event::Checkpoint {
        step: 210,
        path: "checkpoints/step-210".to_owned(),
        bytes: 1,
        seconds: 0.1,
        best: false,
        deleted: Vec::new(),
    };
    tell(&mut app, seq + 2, time + 1.0, saved);
    let shown = text(&picture(&app, 160, 50));
    assert!(shown.contains("no alarm"), "{shown}");
}

#[test]
fn what_to_try_after_a_failure_is_in_sight() {
    let mut app = watching(COLOR, 0.7);
    let board = app.board.as_ref().expect("a run");
    let (seq, time) = (board.state.next_seq, app.now);
    let ended = Event::Ended {
        outcome: Outcome::Failed,
        step: 2,
        reason: format!(
            "rank 0 failed at step 2 in optimizer: the loss is no finite number; {}; a smaller learning rate helps",
            "it appeared in the forward pass of a layer with a long name ".repeat(3)
        ),
    };
    tell(&mut app, seq, time, ended);
    show(&mut app, Screen::Live);
    let shown = text(&picture(&app, 80, 24));
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.contains("a smaller learning rate helps; r resumes"),
        "{shown}"
    );
}
