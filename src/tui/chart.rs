//! Curves and bars of a panel.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Chart, Dataset, GraphType},
};

use super::{
    draw::cut,
    look::Look,
    series::{self, Series},
};
use crate::base::units;

/// Share of the first steps that a scale does not bend to.
const CLIPPED: f64 = 0.01;
/// Steps below which nothing is clipped.
const CLIPPED_FROM: f64 = 200.0;

/// Beyond it a span of two values is no number.
const LARGEST: f64 = 1e300;

/// A panel with one curve, and single points over it.
pub struct Plot<'a> {
    pub title: String,
    pub series: &'a Series,
    /// Steps that the chart spans; those of the series where there are none.
    pub span: Option<(f64, f64)>,
    /// Such as evaluations.
    pub points: &'a [(f64, f64)],
    pub is_log: bool,
    /// The scale begins at 0.
    pub from_zero: bool,
    pub style: Style,
}

/// Draws a plot with its frame; an empty one says so.
pub fn draw(frame: &mut Frame<'_>, area: Rect, look: Look, plot: &Plot<'_>) {
    if area.width < 4 || area.height < 3 {
        return;
    }
    let block = Block::bordered();
    let Some(scale) = Scale::of(plot) else {
        let title = format!(" {} ", plot.title);
        let block = block.title(cut(&title, usize::from(area.width - 2)));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        frame.render_widget(
            ratatui::widgets::Paragraph::new(Span::styled("no values yet", look.dim())),
            inner,
        );
        return;
    };
    let clipped = match (scale.is_clipped, area.width) {
        (false, _) => "",
        (true, ..60) => " ^",
        (true, _) => "  first steps clipped",
    };
    let log = match (plot.is_log, scale.is_log) {
        (false, _) => "",
        (true, true) => "  log",
        (true, false) => "  not log: a value is not above 0",
    };
    let title = format!(" {}{log}{clipped} ", plot.title);
    let block = block.title(cut(&title, usize::from(area.width - 2)));
    let columns = usize::from(area.width.saturating_sub(8)).max(1);
    // A line to a point far outside would be followed cell by cell.
    let y = |(x, y): (f64, f64)| (x, scale.place(y).clamp(scale.y.0, scale.y.1));
    let buckets = plot.series.columns(columns, scale.x);
    let placed = |points: Vec<(f64, f64)>| points.into_iter().map(y).collect::<Vec<_>>();
    let spread = placed(series::extremes(&buckets));
    let middle = placed(series::means(&buckets));
    let dots = placed(plot.points.to_vec());
    // Cells of a later curve stand instead of an earlier one's: the mean is a line through the spread.
    let mut sets = vec![
        dataset(&spread, look.marker(), GraphType::Line, look.dim()),
        dataset(&middle, look.marker(), GraphType::Line, plot.style),
    ];
    if !dots.is_empty() {
        sets.push(dataset(&dots, look.dot(), GraphType::Scatter, look.warn()));
    }
    let chart = Chart::new(sets)
        .block(block)
        .legend_position(None)
        .x_axis(x_axis(&scale, area.height))
        .y_axis(y_axis(&scale, area.height));
    frame.render_widget(chart, area);
}

fn dataset(points: &[(f64, f64)], marker: Marker, kind: GraphType, style: Style) -> Dataset<'_> {
    Dataset::default()
        .data(points)
        .marker(marker)
        .graph_type(kind)
        .style(style)
}

struct Scale {
    x: (f64, f64),
    /// In the axis's own measure: a logarithm where it is logarithmic.
    y: (f64, f64),
    is_log: bool,
    is_clipped: bool,
}

impl Scale {
    fn of(plot: &Plot<'_>) -> Option<Self> {
        let own = plot.series.span()?;
        let (first, last) = plot.span.unwrap_or((own.0, stepped(own.0, own.1)));
        let from = if last - first > CLIPPED_FROM {
            first + (last - first) * CLIPPED
        } else {
            first
        };
        let extremes = plot.series.extremes(from);
        let (mut min, mut max) = extremes.or_else(|| plot.series.extremes(first))?;
        for &(_, y) in plot.points.iter().filter(|&&(x, _)| x >= from) {
            min = min.min(y);
            max = max.max(y);
        }
        let top = plot.series.extremes(first).map_or(max, |(_, top)| top);
        if plot.from_zero {
            min = min.min(0.0);
        }
        let is_log = plot.is_log && min > 0.0;
        let mut scale = Self {
            x: (first, last),
            y: (min, max),
            is_log,
            is_clipped: false,
        };
        (min, max) = match is_log {
            true => (decade(min, f64::floor), decade(max, f64::ceil)),
            false => rounded(min, max),
        };
        scale.is_clipped = top > max;
        scale.y = (scale.place(min), scale.place(max));
        let room = (scale.y.1 - scale.y.0).abs();
        if room < 1e-12 {
            let around = scale.y.0.abs().max(1e-3) * 0.05;
            scale.y = (scale.y.0 - around, scale.y.1 + around);
        }
        Some(scale)
    }

    fn place(&self, y: f64) -> f64 {
        if self.is_log {
            y.max(f64::MIN_POSITIVE).log10()
        } else {
            y.clamp(-LARGEST, LARGEST)
        }
    }

    fn label(&self, share: f64) -> String {
        let room = self.y.1 - self.y.0;
        let place = self.y.0 + room * share;
        match self.is_log {
            true => number(10f64.powf(place)),
            false => number_of(place, room / 2.0),
        }
    }
}

/// Bounds around two values that are whole multiples of 1, 2 or 5 times a power of ten, so that they are read easily
/// and move seldom.
fn rounded(min: f64, max: f64) -> (f64, f64) {
    let (min, max) = (min.max(-LARGEST), max.min(LARGEST));
    let step = (max - min) / 8.0;
    if step < f64::MIN_POSITIVE {
        return (min, max);
    }
    let power = 10f64.powf(step.log10().floor());
    let multiples = [1.0, 2.0, 5.0, 10.0].into_iter();
    let step = multiples.map(|n| n * power).find(|&n| n >= step);
    let step = step.unwrap_or(10.0 * power);
    ((min / step).floor() * step, (max / step).ceil() * step)
}

/// An end of the axis at `last` or a little later, which moves seldom: a curve that shifts with every step is sent anew with
/// every step.
pub fn stepped(first: f64, last: f64) -> f64 {
    let span = (last - first).max(1.0);
    let step = (span / 16.0).log2().ceil().exp2();
    first + (span / step).ceil() * step
}

/// The next of a few multiples of a power of ten, as `towards` rounds.
fn decade(value: f64, towards: fn(f64) -> f64) -> f64 {
    let value = value.clamp(f64::MIN_POSITIVE, LARGEST);
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0].map(|n| n * power);
    let at = steps.iter().position(|&step| step >= value * (1.0 - 1e-9));
    let above = at.unwrap_or(steps.len() - 1);
    let is_met = (steps[above] / value - 1.0).abs() < 1e-9;
    match towards(0.5) > 0.0 || is_met {
        true => steps[above],
        false => steps[above.saturating_sub(1)],
    }
}

fn y_axis(scale: &Scale, height: u16) -> Axis<'static> {
    let shares: &[f64] = if height >= 9 {
        &[0.0, 0.5, 1.0]
    } else {
        &[0.0, 1.0]
    };
    let labels: Vec<String> = shares.iter().map(|&s| scale.label(s)).collect();
    Axis::default()
        .bounds([scale.y.0, scale.y.1])
        .labels(labels.into_iter().map(|label| format!("{label:>6}")))
}

fn x_axis(scale: &Scale, height: u16) -> Axis<'static> {
    let axis = Axis::default().bounds([scale.x.0, scale.x.1]);
    if height < 9 {
        return axis;
    }
    let middle = (scale.x.0 + scale.x.1) / 2.0;
    let mut labels = [scale.x.0, middle, scale.x.1].map(|x| units::count(x.round()));
    if labels[1] == labels[0] || labels[1] == labels[2] {
        labels[1].clear();
    }
    labels[0].insert_str(0, "step ");
    axis.labels(labels)
}

/// As [`number`], with as many digits as tell values apart that lie `step` from each other.
fn number_of(value: f64, step: f64) -> String {
    let short = number(value);
    let read = |text: &str| text.parse::<f64>().ok();
    let is_near = |text: &str| read(text).is_none_or(|shown| (shown - value).abs() < step / 20.0);
    if step <= 0.0 || is_near(&short) {
        return short;
    }
    let digits = 1..=9;
    let longer = digits.map(|digits| match value.abs() < 0.01 {
        true => format!("{value:.digits$e}"),
        false => format!("{value:.digits$}"),
    });
    let mut longer = longer.filter(|text| is_near(text));
    longer.next().unwrap_or(short)
}

/// A value of a scale, in about five characters.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size >= 1e4 {
        units::count(value.round())
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 0.01 {
        format!("{value:.2}")
    } else {
        format!("{value:.0e}")
    }
}

/// A share of a width in full and empty cells.
pub fn bar(share: f64, width: usize) -> String {
    let full = if share.is_finite() {
        (share.clamp(0.0, 1.0) * width as f64).round() as usize
    } else {
        0
    };
    let full = full.min(width);
    format!("{}{}", "█".repeat(full), "·".repeat(width - full))
}

/// Parts of a whole side by side, each with its own character.
pub fn stacked(parts: &[(f64, char, Style)], width: usize) -> Line<'static> {
    let total: f64 = parts.iter().map(|&(part, ..)| part.max(0.0)).sum();
    if !total.is_finite() || total <= 0.0 {
        return Line::from("n/a");
    }
    let mut spans = Vec::new();
    let (mut done, mut sum) = (0, 0.0);
    for &(part, symbol, style) in parts {
        sum += part.max(0.0);
        let end = (sum / total * width as f64).round() as usize;
        let cells = end.min(width).saturating_sub(done);
        spans.push(Span::styled(symbol.to_string().repeat(cells), style));
        done += cells;
    }
    Line::from(spans)
}

/// The course of a series in one line.
pub fn sparkline(series: &Series, width: usize, look: Look) -> String {
    let means = series.means(width);
    let min = means.iter().copied().fold(f64::INFINITY, f64::min);
    let max = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let room = max - min;
    let share = |value: f64| {
        if room > 0.0 {
            (value - min) / room
        } else {
            0.0
        }
    };
    means
        .iter()
        .map(|&value| look.level(share(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_width_and_nothing_is_no_zero() {
        let style = Style::new();
        let line = stacked(
            &[(1.0, 'a', style), (2.0, 'b', style), (1.0, 'c', style)],
            8,
        );
        assert_eq!(line.to_string(), "aabbbbcc");
        assert_eq!(stacked(&[(0.0, 'a', style)], 8).to_string(), "n/a");
        assert_eq!(bar(f64::NAN, 4), "····");
        assert_eq!(bar(0.5, 4), "██··");
    }

    #[test]
    fn bounds_are_round_and_hold_their_values() {
        assert_eq!(rounded(2.13, 4.91), (2.0, 5.0));
        assert_eq!(rounded(0.0, 20_480.0), (0.0, 25_000.0));
        assert_eq!(rounded(3.0, 3.0), (3.0, 3.0));
        for (min, max) in [(1e-9, 3e-9), (-1e308, 1e308), (0.0, f64::MIN_POSITIVE)] {
            let (low, high) = rounded(min, max);
            assert!(
                low <= min.max(-LARGEST) && high >= max.min(LARGEST),
                "{low} {high}"
            );
            assert!(low.is_finite() && high.is_finite());
        }
        for last in 1..5000 {
            let end = stepped(1.0, f64::from(last));
            let room = f64::from(last - 1).max(1.0) / 8.0;
            assert!(
                end >= f64::from(last) && end <= f64::from(last) + room + 1.0,
                "{last} {end}"
            );
        }
    }

    #[test]
    fn labels_tell_their_values_apart() {
        for (value, step, label) in [
            (1.5e-4, 1.5e-4, "1.5e-4"),
            (2.5e-4, 1.25e-4, "2.5e-4"),
            (3e-4, 1.5e-4, "3e-4"),
            (2.3015, 0.0005, "2.3015"),
            (2.5, 0.5, "2.50"),
            (123.25, 0.25, "123.25"),
            (25_000.0, 12_500.0, "25.0k"),
            (0.0, 1.0, "0"),
        ] {
            assert_eq!(number_of(value, step), label);
        }
    }

    #[test]
    fn scale_labels_stay_short() {
        for value in [0.0, 1e-9, 0.012, 3.5, 250.0, 1e4, 123_456_789.0, 1e15] {
            assert!(number(value).len() <= 6, "{}", number(value));
        }
    }
}
