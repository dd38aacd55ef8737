//! Where the step goes: the parts of every rank's step.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use super::{app::App, board::Board, chart::stacked, look::Look};
use crate::{
    base::units,
    event::{Phases, RankStep},
};

/// A part of a step: its word, its character in the bars, how it looks, and its seconds.
type Part = (&'static str, char, fn(Look) -> Style, fn(&Phases) -> f64);

const PARTS: [Part; 7] = [
    ("data", '░', Look::warn, |p| p.data),
    ("forward", '█', Look::accent, |p| p.forward),
    ("backward", '▓', Look::accent, |p| p.backward),
    ("comm", '▒', Look::warn, |p| p.comm),
    ("bubble", '╌', Look::dim, |p| p.bubble),
    ("optim", '▚', Look::good, |p| p.optimizer),
    ("other", '·', Look::dim, |p| p.other),
];

/// Draws the means over all ranks in words, which are the bars' legend, and a bar a rank from `offset` on.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board, offset: usize) {
    let look = app.look;
    let block = Block::bordered();
    let Some(phases) = board.mean_phases() else {
        let text = Span::styled(" no step yet", look.dim());
        let block = block.title(" where the step goes ");
        frame.render_widget(Paragraph::new(text).block(block), area);
        return;
    };
    let mut lines = vec![words(look, &phases, area.width >= 90)];
    let ranks = board.mean_ranks();
    let rows = usize::from(area.height.saturating_sub(3));
    let width = usize::from(area.width.saturating_sub(2));
    let hidden = ranks.len().saturating_sub(rows);
    let shown = ranks.iter().skip(offset.min(hidden)).take(rows);
    lines.extend(shown.map(|rank| bar_of(look, rank, width)));
    let more = match hidden {
        0 => String::new(),
        _ => format!("  {} of {} ranks", rows.min(ranks.len()), ranks.len()),
    };
    let time = format!("{:>7}", units::seconds(phases.total()));
    let title = format!(" where the step goes  {time}{more} ");
    frame.render_widget(Paragraph::new(lines).block(block.title(title)), area);
}

fn words(look: Look, phases: &Phases, has_room: bool) -> Line<'static> {
    let total = phases.total().max(f64::MIN_POSITIVE);
    let mut spans = Vec::new();
    for (word, sign, style, seconds) in PARTS {
        let seconds = seconds(phases);
        if word == "bubble" && seconds == 0.0 {
            continue;
        }
        spans.push(Span::styled(format!(" {sign}"), style(look)));
        let share = 100.0 * seconds / total;
        spans.push(Span::raw(match has_room {
            true => format!(" {word} {share:>2.0}% "),
            false => format!("{word}{share:>3.0}%"),
        }));
    }
    Line::from(spans)
}

fn bar_of(look: Look, rank: &RankStep, width: usize) -> Line<'static> {
    let label = format!(" rank {:<3}", rank.rank);
    let moved = format!(" {:>9}/step", units::bytes(rank.bytes.total()));
    let room = width.saturating_sub(label.chars().count() + moved.chars().count());
    let parts = PARTS.map(|(_, sign, style, seconds)| (seconds(&rank.phases), sign, style(look)));
    let mut line = Line::from(label);
    line.extend(stacked(&parts, room).spans);
    line.push_span(Span::raw(moved));
    line
}
