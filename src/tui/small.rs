//! A window too small for a screen: the three lines that matter most.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::{
    alarm,
    app::App,
    draw::{LEAST, RECORDING, cut},
    keys::Action,
};
use crate::base::units;

/// Draws what fits.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut lines = Vec::new();
    if app.recording {
        lines.push(Line::from(RECORDING));
    }
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
        let width = usize::from(area.width);
        let step = format!("step {}{total}{left}", state.step);
        lines.push(Line::from(cut(&step, width)));
        if let Some(last) = state.last {
            let speed = units::count(last.tokens_per_sec.round());
            let loss = format!("loss {}  {speed} tok/s", units::loss(last.loss));
            lines.push(Line::from(cut(&loss, width)));
        }
        let word = board.word();
        let last = match alarm::of(app, board) {
            Some(alarm) => alarm.rows(width, area.height).remove(0),
            None => cut(&format!("{} {word}", board.folder.name()), width),
        };
        lines.push(Line::from(last));
    } else {
        lines.push(Line::from("no run is open"));
    }
    let (width, height) = LEAST;
    let key = app.key(Action::Leave);
    let hint = format!("more from {width}x{height} on; {key} leaves");
    lines.push(Line::from(
        app.notice
            .as_ref()
            .map_or(hint, |notice| cut(&notice.text, usize::from(area.width))),
    ));
    frame.render_widget(Paragraph::new(lines), area);
}
