//! Numbers keep their place from frame to frame.

use std::{collections::BTreeMap, path::PathBuf};

use super::{COLOR, empty, picture, text};
use crate::tui::{
    app::{Msg, News},
    recording,
    update::update,
};

/// Words that stand beside a number that changes.
const WORDS: [&str; 14] = [
    "ETA", "up", "tok ", "tok/s", "train", "val", "MFU", "forward", "backward", "comm ", "optim ",
    "other ", "compute", "in ",
];

/// Row, word and column of what stands beside numbers in the upper lines, which no log scrolls through.
fn places(shown: &str) -> BTreeMap<(usize, &'static str), usize> {
    let mut places = BTreeMap::new();
    let rows = shown.lines().enumerate();
    for (row, line) in rows.take_while(|(_, line)| !line.contains("events, the latest")) {
        for word in WORDS {
            if let Some(at) = line.find(word) {
                places.insert((row, word), line[..at].chars().count());
            }
        }
    }
    places
}

#[test]
fn numbers_keep_their_columns_while_a_run_plays() {
    for (width, height) in [(40, 10), (80, 24), (160, 50)] {
        let mut app = empty(COLOR);
        recording::begin(&mut app);
        let root = PathBuf::from("recording");
        let tell = |app: &mut _, news| {
            let root = root.clone();
            update(app, Msg::Watched { root, news });
        };
        tell(&mut app, News::Held(true));
        let mut before = BTreeMap::new();
        let mut compared = 0;
        for (at, mut record) in recording::paced() {
            record.time = 1e9 + at;
            tell(&mut app, News::Records(vec![record]));
            let running = app.board.as_ref().is_some_and(|board| {
                let state = &board.state;
                state.last.is_some() && state.ended.is_none() && state.preparation.is_none()
            });
            if !running {
                continue;
            }
            let now = places(&text(&picture(&app, width, height)));
            for (word, column) in &now {
                if let Some(was) = before.get(word) {
                    assert_eq!(was, column, "{word:?} at {width}x{height}, {at} s");
                    compared += 1;
                }
            }
            before = now;
        }
        assert!(compared > 500, "{compared} places were compared");
    }
}
