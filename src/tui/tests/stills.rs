//! The README's pictures, made from the same frames as the snapshots (`make stills`).

use std::{fmt::Write, fs, path::Path};

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

use super::{COLOR, picture, show, watching};
use crate::tui::app::Screen;

/// Pixels of a cell.
const CELL: (f64, f64) = (8.0, 17.0);
const PAPER: &str = "#16181d";
const INK: &str = "#d8dade";
/// Where the stills lie, below the repository.
const FOLDER: &str = "assets/stills";
/// Set, the stills are written instead of compared.
const WRITE_VARIABLE: &str = "CAPSTAN_WRITE_STILLS";

fn color(color: Color) -> &'static str {
    match color {
        Color::Cyan => "#5ec4d4",
        Color::Green => "#8bc474",
        Color::Yellow => "#dfb95f",
        Color::Red => "#e8716d",
        _ => INK,
    }
}

/// A buffer as an image of its text: no script, no network.
fn svg(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let (w, h) = (
        width as f64 * CELL.0,
        f64::from(buffer.area.height) * CELL.1 + 4.0,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"monospace\" font-size=\"13\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"{PAPER}\"/>\n"
    );
    for (row, cells) in buffer.content.chunks(width.max(1)).enumerate() {
        let mut column = 0;
        for run in cells.chunk_by(|a, b| (a.fg, a.modifier) == (b.fg, b.modifier)) {
            draw_run(&mut out, run, row, column);
            column += run.len();
        }
    }
    out.push_str("</svg>\n");
    out
}

fn draw_run(out: &mut String, run: &[Cell], row: usize, column: usize) {
    let text: String = run.iter().map(Cell::symbol).collect();
    let style = &run[0];
    let is_reversed = style.modifier.contains(Modifier::REVERSED);
    if text.trim().is_empty() && !is_reversed {
        return;
    }
    let (x, y) = (column as f64 * CELL.0, row as f64 * CELL.1);
    let width = run.len() as f64 * CELL.0;
    let mut ink = color(style.fg);
    if is_reversed {
        let height = CELL.1;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{ink}\"/>"
        );
        ink = PAPER;
    }
    let weight = if style.modifier.contains(Modifier::BOLD) {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let opacity = if style.modifier.contains(Modifier::DIM) {
        " opacity=\"0.6\""
    } else {
        ""
    };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let base = y + 13.0;
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{base}\" fill=\"{ink}\" textLength=\"{width}\" xml:space=\"preserve\"{weight}{opacity}>{text}</text>"
    );
}

#[test]
fn the_stills_are_of_this_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    for screen in [Screen::Launch, Screen::Live] {
        let mut app = watching(COLOR, 0.7);
        show(&mut app, screen);
        let still = svg(&picture(&app, 120, 40));
        let path = folder.join(format!("{}.svg", screen.title().to_lowercase()));
        if std::env::var_os(WRITE_VARIABLE).is_some() {
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(&path, &still).expect("written");
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == still,
            "{}: `make stills` makes it anew",
            path.display()
        );
    }
}
