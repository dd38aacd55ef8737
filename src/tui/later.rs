//! Plan (2) and Compare (4): their places, and what does their work until they are there.

use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Block, Paragraph, Wrap},
};

use super::app::{App, Screen};

/// Says that the screen comes later, and what to use meanwhile.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let lines: &[&str] = match app.screen {
        Screen::Plan => &[
            "This screen is not there yet.",
            "",
            "It is to say which split is fastest or roomiest on this machine, and why.",
            "",
            "Until then: 1 Launch shows for every split whether it works here and what a rank holds;",
            "capstan train FILE --dry-run prints the plan of one.",
        ],
        _ => &[
            "This screen is not there yet.",
            "",
            "It is to say which run wins, by how much, and whether the training is the same.",
            "",
            "Until then: 5 Runs shows what a run's config has else than another's (Space marks the other);",
            "capstan runs --json gives losses and speeds of all runs.",
        ],
    };
    let title = format!(" {}: comes later ", app.screen.title());
    let block = Block::bordered().title(title);
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::from(*line)).collect();
    let paragraph = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    frame.render_widget(paragraph, area);
}
