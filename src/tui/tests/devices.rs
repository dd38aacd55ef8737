//! Live on every machine of `tests/fixtures/machines`: what cards tell, what they don't, and a card that is lost.

use std::path::Path;

use super::{
    ASCII, COLOR, MONO, look_anew, picture, pictures::keep, press, show, sizes::sizes, text,
    watching,
};
use crate::{
    config,
    event::{Event, Record},
    hw::{
        recorded::{self, Recorded},
        sensors::Alarms,
    },
    plan::{self, DataSummary},
    tui::{
        app::{App, Msg, News, Screen},
        keys::Key,
        look::Look,
        update::update,
    },
};

/// The recorded run as if it ran on all of a machine, with its readings and alarms so far.
pub fn on(recorded: Recorded, look: Look) -> App {
    let mut app = watching(look, 0.7);
    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hello.json");
    let config = config::load_file(&hello, &[], None)
        .expect("a good config")
        .config;
    let data = DataSummary {
        train_tokens: 1_000_000,
        val_tokens: 100_000,
        vocab_size: 256,
        fingerprint: "f".to_owned(),
        files: Vec::new(),
    };
    let plan = plan::resolve(&config, &recorded.machine, &data).expect("a plan");
    let board = app.board.as_mut().expect("a run");
    board.state.world = plan.world();
    board.state.strategy = plan.split.name();
    board.state.sensors = None;
    board.state.sensed = None;
    let gpus = plan.gpus();
    board.plan = Some(Box::new(plan));
    let (mut seq, begin) = (board.state.next_seq, board.state.updated);
    let mut alarms = Alarms::default();
    let mut records = Vec::new();
    for (index, mut reading) in recorded.readings.into_iter().enumerate() {
        reading.run_energy = reading.energy_of(&gpus);
        let passed = index as f64 * recorded.every_s;
        let heard = alarms.hear(passed, &reading);
        let warnings = heard.into_iter().map(|alarm| Event::Warning {
            text: alarm.text,
            rank: Some(alarm.gpu),
        });
        for event in std::iter::once(Event::Sensors { reading }).chain(warnings) {
            records.push(Record {
                seq,
                time: begin + passed,
                event,
            });
            seq += 1;
        }
    }
    update(
        &mut app,
        Msg::Watched {
            watch: 0,
            news: News::Records(records),
        },
    );
    look_anew(&mut app);
    show(&mut app, Screen::Live);
    app
}

#[test]
fn live_on_every_machine() {
    for name in recorded::ALL {
        let app = on(recorded::machine(name), COLOR);
        for (width, height) in [(80, 24), (160, 50)] {
            keep(
                &format!("live-{name}-{width}x{height}"),
                &text(&picture(&app, width, height)),
            );
        }
    }
    for (look_name, look) in [("mono", MONO), ("ascii", ASCII)] {
        let app = on(recorded::machine("lost-card"), look);
        keep(
            &format!("live-lost-card-80x24-{look_name}"),
            &text(&picture(&app, 80, 24)),
        );
    }
}

#[test]
fn a_lost_card_is_shown_and_logged_once() {
    let mut app = on(recorded::machine("lost-card"), COLOR);
    let shown = text(&picture(&app, 160, 50));
    let line = shown
        .lines()
        .find(|line| line.contains("cuda:1"))
        .expect("a card");
    assert!(
        line.contains("LOST: the driver no longer answers") && !line.contains('0'),
        "{line}"
    );
    assert!(shown.contains("! GPU 1 (GPU-c81a0601) is lost"), "{shown}");
    let small = text(&picture(&app, 39, 9));
    assert!(small.contains("! GPU 1 (GPU-c81a0601) is lost"), "{small}");
    show(&mut app, Screen::Logs);
    let shown = text(&picture(&app, 160, 50));
    assert_eq!(shown.matches("is lost").count(), 1, "{shown}");
}

#[test]
fn what_a_laptop_does_not_tell_is_not_shown_as_zero() {
    let app = on(recorded::machine("laptop"), COLOR);
    let shown = text(&picture(&app, 160, 50));
    let heading = shown
        .lines()
        .find(|line| line.contains("busy %"))
        .expect("a heading");
    let line = shown
        .lines()
        .find(|line| line.contains("cuda:0"))
        .expect("a card");
    for (title, cell) in [(" W ", "n/a"), ("GiB", "6.1/8.0"), ("link", "4 x8")] {
        let at = heading.find(title).expect(title) + title.len() - title.trim_start().len();
        let at = heading[..at].chars().count();
        let found: String = line.chars().skip(at).collect();
        assert!(found.starts_with(cell), "{title}: {line}");
    }
    assert!(
        !heading.contains("mem °C") && !heading.contains("NVLink"),
        "{heading}"
    );
}

#[test]
fn an_old_look_is_not_shown_as_the_present() {
    let seen = |app: &App| {
        let shown = text(&picture(app, 160, 50));
        let title = shown.lines().find(|line| line.contains(" devices: "));
        (title.expect("a title").to_owned(), shown)
    };
    for (name, told) in [("geforce-4", " 1312 of 1800 W "), ("no-driver", "")] {
        let mut app = on(recorded::machine(name), COLOR);
        let now = app.now;
        let (title, shown) = seen(&app);
        assert!(title.contains(told) && !shown.contains("silent"), "{shown}");
        update(&mut app, Msg::Tick(now + 42.0));
        let (title, shown) = seen(&app);
        assert!(title.contains("  sensors silent for 42.0s "), "{title}");
        assert!(
            !title.contains(" W ") && !shown.contains(" busy, "),
            "{shown}"
        );
        let mut cards = shown.lines().filter(|line| line.contains("  cuda:"));
        assert!(
            cards.all(|line| line.matches("n/a").count() >= 8),
            "{shown}"
        );
        let board = app.board.as_mut().expect("a run");
        board.held = false;
        board.state.sensed = Some(board.state.updated);
        let (title, shown) = seen(&app);
        assert!(
            title.contains(told) && !shown.contains("silent"),
            "what is over stays as it was: {shown}"
        );
    }
}

/// Values with a column of their own at 160 columns.
const SHOWN: [&str; 19] = [
    "busy",
    "sm_active",
    "tensor_active",
    "dram_active",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_w",
    "temperature_c",
    "memory_temperature_c",
    "sm_clock_mhz",
    "fan",
    "pcie_gen",
    "pcie_width",
    "pcie_tx_bytes_per_sec",
    "pcie_rx_bytes_per_sec",
    "nvlink_tx_bytes_per_sec",
    "nvlink_rx_bytes_per_sec",
    "ecc_uncorrected",
    "limited_by",
];

#[test]
fn any_value_may_be_missing() {
    for name in ["geforce-4", "nvlink-8"] {
        let mut recorded = recorded::machine(name);
        recorded.readings.truncate(1);
        let whole = serde_json::to_value(&recorded.readings[0].gpus[0]).expect("JSON");
        for key in whole.as_object().expect("an object").keys() {
            let mut less = whole.clone();
            less.as_object_mut().expect("an object").remove(key);
            recorded.readings[0].gpus[0] = serde_json::from_value(less).expect(key);
            let shown = text(&picture(&on(recorded.clone(), COLOR), 160, 50));
            let line = shown
                .lines()
                .find(|line| line.contains("cuda:0"))
                .expect("a card");
            // Multiprocessors at work stand for it.
            let is_replaced = key == "busy" && name == "nvlink-8";
            assert_eq!(
                line.contains("n/a"),
                SHOWN.contains(&key.as_str()) && !is_replaced,
                "{key}: {line}"
            );
        }
    }
}

#[test]
fn sixteen_cards_survive_every_size() {
    for name in ["nvlink-8", "lost-card"] {
        let mut app = on(recorded::with_gpus(name, 16), COLOR);
        for _ in 0..2 {
            for (width, height) in sizes() {
                picture(&app, width, height);
            }
            app.live.expanded = true;
        }
    }
    let mut app = on(recorded::machine("nvlink-8"), COLOR);
    app.board.as_mut().expect("a run").state.sensors = None;
    let shown = text(&picture(&app, 160, 50));
    let line = shown
        .lines()
        .find(|line| line.contains("cuda:7"))
        .expect("a rank");
    assert!(line.contains("n/a") && !line.contains("LOST"), "{line}");
}

#[test]
fn every_rank_is_reached_by_scrolling() {
    let mut app = on(recorded::machine("nvlink-8"), COLOR);
    for _ in 0..5 {
        update(&mut app, Msg::Key(Key::Tab));
    }
    for keys in ["", "e"] {
        press(&mut app, keys);
        press(&mut app, "g");
        let mut seen = String::new();
        for _ in 0..8 {
            seen.push_str(&text(&picture(&app, 80, 14)));
            press(&mut app, "j");
        }
        for index in 0..8 {
            let card = format!("cuda:{index}");
            assert!(seen.contains(&card), "{card} {keys}: {seen}");
        }
    }
}
