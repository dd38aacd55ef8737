//! Pictures of every screen, kept in `tests/snapshots`: look at each when it changes.

use std::collections::BTreeSet;

use insta::{assert_snapshot, with_settings};
use ratatui::{buffer::Buffer, style::Color};
use unicode_width::UnicodeWidthChar;

use super::{ASCII, COLOR, MONO, picture, show, text, watching};
use crate::tui::{
    app::{Msg, SCREENS},
    keys::Key,
    look::{Colors, Look},
    update::update,
};

const SIZES: [(u16, u16); 3] = [(40, 10), (80, 24), (160, 50)];
const LOOKS: [(&str, Look); 3] = [("color", COLOR), ("mono", MONO), ("ascii", ASCII)];

/// Compares a picture with the one that is kept under its name.
pub fn keep(name: &str, picture: &str) {
    with_settings!({ snapshot_path => "../../../tests/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        assert_snapshot!(name, picture);
    });
}

/// Where colours and attributes change, a line a change.
fn styles(buffer: &Buffer) -> String {
    let mut lines = Vec::new();
    let mut before = None;
    for (index, cell) in buffer.content.iter().enumerate() {
        let style = (cell.fg, cell.bg, cell.modifier);
        if before != Some(style) {
            before = Some(style);
            let (x, y) = buffer.pos_of(index);
            lines.push(format!(
                "{y:>2},{x:<3} {:?} on {:?} {:?}",
                cell.fg, cell.bg, cell.modifier
            ));
        }
    }
    lines.join("\n")
}

#[test]
fn every_screen_at_three_sizes_in_three_looks() {
    for (look_name, look) in LOOKS {
        for screen in SCREENS {
            let mut app = watching(look, 0.7);
            show(&mut app, screen);
            for (width, height) in SIZES {
                let buffer = picture(&app, width, height);
                let name = format!(
                    "{}-{width}x{height}-{look_name}",
                    screen.title().to_lowercase()
                );
                keep(&name, &text(&buffer));
                if (width, height) == (80, 24) && look_name != "ascii" {
                    keep(&format!("{name}-styles"), &styles(&buffer));
                }
            }
        }
    }
}

#[test]
fn help_palette_and_questions() {
    for (name, keys) in [
        ("help", "3?"),
        ("palette", ":"),
        ("stop", "3S"),
        ("kill", "3K"),
        ("delete", "5jD"),
        ("launching", "1L"),
        ("past-runs", "1o"),
    ] {
        let mut app = watching(COLOR, 0.7);
        for key in keys.chars() {
            update(&mut app, Msg::Key(Key::Char(key)));
        }
        keep(&format!("{name}-80x24"), &text(&picture(&app, 80, 24)));
    }
}

#[test]
fn only_the_sixteen_colours_and_neither_black_nor_white_by_name() {
    let shy = [
        Color::Reset,
        Color::Cyan,
        Color::Green,
        Color::Yellow,
        Color::Red,
    ];
    for screen in SCREENS {
        let mut app = watching(COLOR, 0.7);
        show(&mut app, screen);
        for cell in &picture(&app, 160, 50).content {
            assert!(
                shy.contains(&cell.fg) && cell.bg == Color::Reset,
                "{cell:?}"
            );
        }
    }
}

#[test]
fn the_rich_themes_draw_the_same_in_more_colours() {
    for colors in [Colors::Indexed, Colors::True] {
        let mut seen = BTreeSet::new();
        for screen in SCREENS {
            let mut app = watching(Look { colors, ..COLOR }, 0.7);
            show(&mut app, screen);
            let rich = picture(&app, 160, 50);
            app.look = COLOR;
            assert_eq!(text(&rich), text(&picture(&app, 160, 50)));
            for cell in &rich.content {
                let fits = match cell.fg {
                    Color::Reset => true,
                    Color::Indexed(_) => colors == Colors::Indexed,
                    Color::Rgb(..) => colors == Colors::True,
                    _ => false,
                };
                assert!(fits, "{cell:?}");
                seen.insert(format!("{:?}", cell.fg));
            }
        }
        assert!(seen.len() > 5, "{seen:?}");
    }
}

#[test]
fn mono_has_no_colour_and_ascii_nothing_else() {
    for screen in SCREENS {
        let mut app = watching(MONO, 0.7);
        show(&mut app, screen);
        let mono = picture(&app, 160, 50);
        let plain =
            |cell: &ratatui::buffer::Cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset);
        assert!(mono.content.iter().all(plain));
        let mut app = watching(ASCII, 0.7);
        show(&mut app, screen);
        let shown = text(&picture(&app, 160, 50));
        assert!(shown.is_ascii(), "{shown}");
        // The footer's own; another would stand for a character without its ASCII form.
        assert_eq!(shown.matches('?').count(), 1, "{shown}");
    }
}

/// No private-use characters and no emoji. What a terminal set for East Asian text may draw two columns wide is frames,
/// bars, arrows and the signs below; with `--glyphs ascii` there is none of it.
#[test]
fn glyphs_are_of_one_column_and_in_every_font() {
    for screen in SCREENS {
        let mut app = watching(COLOR, 0.7);
        show(&mut app, screen);
        for c in text(&picture(&app, 160, 50)).chars().filter(|c| *c != '\n') {
            let private = ('\u{e000}'..='\u{f8ff}').contains(&c) || c >= '\u{1f000}';
            assert!(!private && c.width() == Some(1), "{c:?}");
            let is_frame_or_bar = ('\u{2500}'..='\u{259f}').contains(&c);
            let is_sign = "·×≥…–→←↑↓●■▶◆°".contains(c);
            let is_wide = c.width_cjk() != Some(1);
            assert!(!is_wide || is_frame_or_bar || is_sign, "{c:?}");
        }
    }
}
