//! No size, no state and no popup makes the drawing panic.

use super::{ASCII, COLOR, MONO, empty, picture, show, watching};
use crate::{
    event::{Event, Phases, RankStep, Record, Traffic},
    tui::{
        app::{App, Msg, News, SCREENS},
        keys::Key,
        update::update,
    },
};

/// Sixteen ranks, a million steps, and values that are no numbers.
fn wild() -> App {
    let mut app = watching(MONO, 0.3);
    let ranks = (0..16)
        .map(|rank| RankStep {
            rank,
            phases: Phases {
                forward: f64::NAN,
                comm: f64::INFINITY,
                ..Phases::default()
            },
            bytes: Traffic {
                all_reduce: u64::MAX / 2,
                ..Traffic::default()
            },
            ..RankStep::default()
        })
        .collect();
    let step = |step: u64, loss: f64| Record {
        seq: step,
        time: 1e9 + step as f64,
        event: Event::Step {
            step,
            loss,
            lr: f64::MIN_POSITIVE,
            grad_norm: f64::INFINITY,
            tokens: u64::MAX / 2,
            step_time_s: 1e9,
            tokens_per_sec: 1e300,
            mfu: Some(f64::NAN),
            phases: Phases::default(),
            ranks: Vec::clone(&ranks),
        },
    };
    let run = Record {
        seq: 0,
        time: 1e9,
        event: Event::Run {
            version: 1,
            name: "w".repeat(300),
            pid: 1,
            world: 16,
            strategy: "pipeline + tensor + zero1".to_owned(),
            total_steps: Some(u64::MAX),
            log_every: 1,
        },
    };
    let mut records = vec![
        run,
        step(1, f64::NAN),
        step(2, 1e308),
        step(1_000_000, -1e308),
    ];
    records.push(Record {
        seq: 9,
        time: f64::MAX,
        event: Event::Warning {
            text: "语言\u{301}\u{200b}\n".repeat(100),
            rank: Some(15),
        },
    });
    update(
        &mut app,
        Msg::Watched {
            watch: 0,
            news: News::Records(records),
        },
    );
    app
}

/// From nothing to 200 columns and 60 rows, every small size and some of the large.
pub fn sizes() -> impl Iterator<Item = (u16, u16)> {
    let widths = (0..=44).chain((45..=200).step_by(17)).chain([200]);
    let heights = (0..=13).chain((14..=60).step_by(7)).chain([60]);
    let heights: Vec<u16> = heights.collect();
    widths.flat_map(move |width| {
        heights
            .clone()
            .into_iter()
            .map(move |height| (width, height))
    })
}

#[test]
fn every_screen_survives_every_size_in_every_state() {
    for mut app in [
        empty(COLOR),
        watching(ASCII, 0.7),
        watching(COLOR, 1.0),
        wild(),
    ] {
        for screen in SCREENS {
            show(&mut app, screen);
            for (width, height) in sizes() {
                picture(&app, width, height);
            }
        }
    }
}

#[test]
fn every_popup_and_panel_survives_every_size() {
    for keys in [
        "3?", ":", "3K", "3S", "5D", "1L", "1w", "3e", "3]e", "6/x", "5/x", "3\u{3}",
    ] {
        let mut app = watching(COLOR, 0.5);
        for c in keys.chars() {
            let key = if c == '\u{3}' {
                Key::Ctrl('c')
            } else {
                Key::Char(c)
            };
            update(&mut app, Msg::Key(key));
        }
        for (width, height) in sizes().filter(|(width, height)| (width + height) % 3 == 0) {
            picture(&app, width, height);
        }
    }
}
