//! Numbers keep their place from frame to frame, and have their units.

use serde_json::Value;

use super::{COLOR, devices::on, empty, picture, show, text, watching};
use crate::{
    event::Reading,
    hw::recorded,
    tui::{
        app::{App, Msg, News, Screen},
        recording,
        update::update,
    },
};

const SIZES: [(u16, u16); 3] = [(40, 10), (80, 24), (160, 50)];
/// Units, which are part of their numbers.
const UNITS: [&str; 3] = ["GiB", "MiB", "KiB"];

/// The words of a line that are no unit, each with its column.
fn words(line: &str) -> Vec<(String, usize)> {
    let mut words: Vec<(String, usize)> = Vec::new();
    let mut is_within = false;
    for (column, c) in line.chars().enumerate() {
        match (c.is_alphabetic(), is_within) {
            (true, true) => words.iter_mut().last().expect("begun").0.push(c),
            (true, false) => words.push((c.to_string(), column)),
            _ => {}
        }
        is_within = c.is_alphabetic();
    }
    words.retain(|(word, _)| word.len() >= 3 && !UNITS.contains(&word.as_str()));
    words
}

/// Rows with the same words have them in the same columns; how many words that were. Events scroll.
fn compare(before: &str, now: &str) -> usize {
    let rows = before.lines().zip(now.lines());
    let rows = rows.take_while(|(line, _)| !line.contains("events, the latest"));
    let mut compared = 0;
    for (before, now) in rows {
        let (a, b) = (words(before), words(now));
        let spoken = |words: &[(String, usize)]| -> Vec<String> {
            words.iter().map(|(word, _)| word.clone()).collect()
        };
        if spoken(&a) == spoken(&b) {
            assert_eq!(a, b, "\n{before}\n{now}");
            compared += a.len();
        }
    }
    compared
}

#[test]
fn numbers_keep_their_columns_while_a_run_plays() {
    for (width, height) in SIZES {
        let mut app = empty(COLOR);
        recording::begin(&mut app);
        let tell = |app: &mut App, news| {
            update(app, Msg::Watched { watch: 0, news });
        };
        tell(&mut app, News::Held(true));
        let mut before = String::new();
        let mut compared = 0;
        for (at, mut record) in recording::paced() {
            record.time = 1e9 + at;
            app.now = record.time;
            tell(&mut app, News::Records(vec![record]));
            let running = app.board.as_ref().is_some_and(|board| {
                let state = &board.state;
                state.last.is_some() && state.ended.is_none() && state.preparation.is_none()
            });
            if running {
                let now = text(&picture(&app, width, height));
                compared += compare(&before, &now);
                before = now;
            }
        }
        assert!(compared > 1_000, "{compared} words were compared");
    }
}

/// All that is a number, a share of what it is, but for what never changes of a card.
fn scaled(value: &Value, share: f64) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let is_fixed = ["total", "limit", "max", "pcie_gen", "pcie_width"]
                    .iter()
                    .any(|part| name.contains(part));
                let value = if is_fixed {
                    value.clone()
                } else {
                    scaled(value, share)
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            items.iter().map(|item| scaled(item, share)).collect()
        }
        Value::Number(number) if number.is_u64() => {
            ((number.as_f64().unwrap_or(0.0) * share) as u64).into()
        }
        Value::Number(number) => (number.as_f64().unwrap_or(0.0) * share).into(),
        value => value.clone(),
    }
}

#[test]
fn numbers_keep_their_columns_on_every_machine() {
    for name in recorded::ALL {
        for (width, height) in SIZES {
            let mut app = on(recorded::machine(name), COLOR);
            let board = app.board.as_ref().expect("a run");
            let reading = board.state.sensors.clone().expect("a reading");
            let whole = serde_json::to_value(reading).expect("JSON");
            let mut before = String::new();
            let mut compared = 0;
            for share in [1.0, 0.5, 0.09, 0.0, 0.7, 0.01] {
                let reading: Reading =
                    serde_json::from_value(scaled(&whole, share)).expect("a reading");
                let board = app.board.as_mut().expect("a run");
                board.state.sensors = Some(reading);
                let now = text(&picture(&app, width, height));
                compared += compare(&before, &now);
                before = now;
            }
            assert!(compared > 20, "{name}: {compared} words were compared");
        }
    }
}

#[test]
fn numbers_keep_their_columns_in_the_list_of_runs() {
    let shown = |share: f64| {
        let mut app = watching(COLOR, share);
        show(&mut app, Screen::Runs);
        text(&picture(&app, 160, 50))
    };
    let pictures = [0.1, 0.5, 0.99].map(shown);
    let compared: usize = pictures.windows(2).map(|it| compare(&it[0], &it[1])).sum();
    assert!(compared > 20, "{compared} words were compared");
}

/// A number has its unit beside it, or the word for what it counts before it; those of charts and of tables have theirs
/// in title and heading.
#[test]
fn every_number_has_its_unit() {
    const UNITS: [&str; 12] = [
        "GiB", "MiB", "KiB", "%", "W", "Wh", "kWh", "J", "tok", "rank", "thread", "of",
    ];
    const COUNTED: [&str; 16] = [
        "rank", "dp", "tp", "pp", "step", "keep", "loss", "train", "val", "best", "@", "rate",
        "norm", "GPU", "warnings", "of",
    ];
    let mut seen = 0;
    let machines = recorded::ALL.map(|name| on(recorded::machine(name), COLOR));
    let mut on_cpu = watching(COLOR, 0.7);
    show(&mut on_cpu, Screen::Live);
    for app in machines.iter().chain([&on_cpu]) {
        let shown = text(&picture(app, 160, 50));
        let mut within = "";
        let rows = shown.lines().skip(1);
        for row in rows.take_while(|row| !row.contains("events, the latest")) {
            let is_value = !matches!(within, "chart" | "table");
            within = match within {
                _ if row.starts_with('└') => "",
                _ if row.contains("train ") => "chart",
                _ if row.contains("rank  device") => "table",
                within => within,
            };
            if !is_value || within == "table" {
                continue;
            }
            let tokens: Vec<&str> = row
                .split(|c: char| c.is_whitespace() || "│─┌┐▶(),;".contains(c))
                .filter(|token| !token.is_empty())
                .collect();
            for (index, token) in tokens.iter().enumerate() {
                let is_bare = token.starts_with(|c: char| c.is_ascii_digit())
                    && !token.contains(|c: char| c.is_alphabetic() || "/:%°".contains(c));
                let next = tokens.get(index + 1).unwrap_or(&"");
                let before = index.checked_sub(1).map_or("", |index| tokens[index]);
                let unit = next.split('/').next().unwrap_or_default();
                let is_told = UNITS.contains(&unit) || COUNTED.contains(&before);
                assert!(!is_bare || is_told, "{token}: {row}");
                seen += usize::from(is_bare);
            }
        }
        assert!(
            !shown.to_lowercase().contains("utili"),
            "busy is no utilisation"
        );
    }
    assert!(seen > 60, "{seen} numbers");
}
