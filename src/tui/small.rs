//! A window too small for a screen: the three lines that matter most.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::{
    app::App,
    draw::{LEAST, cut},
    live_view,
};
use crate::base::units;

/// Draws what fits.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut lines = Vec::new();
    if let Some(board) = &app.board {
        let state = &board.state;
        let total = state
            .total_steps
            .map_or_else(String::new, |total| format!("/{total}"));
        let left = state
            .remaining_s()
            .filter(|_| board.held)
            .map_or_else(String::new, |left| {
                format!("  left {}", units::seconds(left))
            });
        lines.push(Line::from(format!("step {}{total}{left}", state.step)));
        if let Some(last) = state.last {
            let speed = units::count(last.tokens_per_sec.round());
            lines.push(Line::from(format!("loss {:.4}  {speed} tok/s", last.loss)));
        }
        let word = board.word();
        let last = live_view::alarm(app, board).map_or_else(
            || format!("{} {word}", board.folder.name()),
            |(_, text)| format!("! {text}"),
        );
        lines.push(Line::from(cut(&last, usize::from(area.width))));
    } else {
        lines.push(Line::from("no run is open"));
    }
    let (width, height) = LEAST;
    lines.push(Line::from(format!(
        "more from {width}x{height} on; q leaves"
    )));
    frame.render_widget(Paragraph::new(lines), area);
}
