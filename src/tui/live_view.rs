//! The picture of Live.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use super::{
    alarm, anatomy,
    app::{App, Screen},
    board::Board,
    chart::{self, Plot, bar},
    devices,
    draw::cut,
    keys::Action,
    live::{Panel, now, shown},
    logs_view::entry_line,
    metric::Metric,
};
use crate::{
    base::{text::columns, units},
    store::{RunState, Status, told},
};

/// Draws the run that is watched.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(board) = shown(app) else {
        let text = match &app.runs.rows {
            None => "reading the runs ...".to_owned(),
            Some(rows) if rows.is_empty() => no_run(app),
            Some(_) => format!(
                "No run is open: {} lists the runs, {} opens one.",
                app.key(Action::Show(Screen::Runs)),
                app.key(Action::Open)
            ),
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    };
    let (style, words) = last_words(app, board, area);
    let [progress, body, last] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(words.len() as u16),
    ])
    .areas(area);
    draw_progress(frame, progress, app, board);
    let words: Vec<Line<'_>> = words.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(words).style(style), last);
    if app.live.expanded {
        draw_panel(frame, body, app, board, app.live.panel);
    } else if body.width >= 120 && body.height >= 32 {
        draw_wide(frame, body, app, board);
    } else if body.width >= 70 {
        draw_usual(frame, body, app, board);
    } else {
        draw_narrow(frame, body, app, board);
    }
}

/// The alarm, or that all is well.
fn last_words(app: &App, board: &Board, area: Rect) -> (Style, Vec<String>) {
    let width = usize::from(area.width);
    match alarm::of(app, board) {
        Some(alarm) => {
            let style = if alarm.is_grave {
                app.look.bad()
            } else {
                app.look.warn()
            };
            (style, alarm.rows(width, area.height))
        }
        None => {
            let text = format!(" {}", alarm::well(app, board));
            (app.look.good(), vec![cut(&text, width)])
        }
    }
}

/// What there is to do where there is no run.
pub fn no_run(app: &App) -> String {
    let [launch, start] =
        [Action::Show(Screen::Launch), Action::Launch].map(|action| app.key(action));
    format!("There is no run yet: {launch} shows Launch, {start} starts one.")
}

fn draw_wide(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let ranks = board.state.world.clamp(1, 8) as u16;
    let [devices, charts, middle, events] = Layout::vertical([
        Constraint::Length(devices::rows(board, 8)),
        Constraint::Fill(3),
        Constraint::Length(ranks + 4),
        Constraint::Fill(2),
    ])
    .areas(area);
    let thirds = [
        Constraint::Percentage(50),
        Constraint::Percentage(25),
        Constraint::Percentage(25),
    ];
    let [loss, speed, metric] = Layout::horizontal(thirds).areas(charts);
    let [anatomy, saved] =
        Layout::horizontal([Constraint::Percentage(65), Constraint::Percentage(35)]).areas(middle);
    draw_panel(frame, devices, app, board, Panel::Devices);
    draw_panel(frame, loss, app, board, Panel::Loss);
    draw_panel(frame, speed, app, board, Panel::Metric);
    let next = app.live.metric.turned(board, 1);
    draw_metric(frame, metric, app, board, next);
    draw_panel(frame, anatomy, app, board, Panel::Anatomy);
    draw_panel(frame, saved, app, board, Panel::Checkpoints);
    draw_panel(frame, events, app, board, Panel::Events);
}

/// Two charts between devices and anatomy; what has no place takes that of the right chart while it is in focus.
fn draw_usual(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let ranks = board.state.world.clamp(1, 4) as u16;
    let room = area.height;
    let devices = if room >= 16 {
        devices::rows(board, 4)
    } else {
        0
    };
    let anatomy = if room >= 12 { ranks + 3 } else { 0 };
    let [top, charts, bottom] = Layout::vertical([
        Constraint::Length(devices),
        Constraint::Min(0),
        Constraint::Length(anatomy),
    ])
    .areas(area);
    let halves = [Constraint::Percentage(50), Constraint::Percentage(50)];
    let [loss, metric] = Layout::horizontal(halves).areas(charts);
    let right = match app.live.panel {
        Panel::Devices if devices > 0 => Panel::Metric,
        Panel::Anatomy if anatomy > 0 => Panel::Metric,
        Panel::Loss => Panel::Metric,
        panel => panel,
    };
    draw_panel(frame, top, app, board, Panel::Devices);
    draw_panel(frame, loss, app, board, Panel::Loss);
    draw_panel(frame, metric, app, board, right);
    draw_panel(frame, bottom, app, board, Panel::Anatomy);
}

/// The panel in focus below the numbers and the devices.
fn draw_narrow(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let devices = if area.height >= 12 {
        devices::rows(board, 4)
    } else {
        0
    };
    let [numbers, devices, rest] = Layout::vertical([
        Constraint::Length(if devices == 0 { 2 } else { 1 }),
        Constraint::Length(devices),
        Constraint::Min(0),
    ])
    .areas(area);
    let width = usize::from(area.width);
    let mut lines = vec![Line::from(cut(&speed_words(&board.state), width))];
    if devices.height == 0 {
        lines.push(Line::from(cut(&devices::host_words(app, board), width)));
    }
    frame.render_widget(Paragraph::new(lines), numbers);
    let panel = match app.live.panel {
        Panel::Devices if devices.height > 0 => Panel::Loss,
        panel => panel,
    };
    draw_panel(frame, devices, app, board, Panel::Devices);
    draw_panel(frame, rest, app, board, panel);
}

fn draw_panel(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board, panel: Panel) {
    if area.width < 4 || area.height < 3 {
        return;
    }
    match panel {
        Panel::Devices => devices::draw(frame, area, app, board),
        Panel::Loss => draw_loss(frame, area, app, board),
        Panel::Metric => draw_metric(frame, area, app, board, app.live.metric),
        Panel::Anatomy => anatomy::draw(frame, area, app, board, app.live.offset(panel)),
        Panel::Checkpoints => draw_checkpoints(frame, area, app, board),
        Panel::Events => draw_events(frame, area, app, board),
    }
    if panel == app.live.panel {
        let end = Rect {
            width: 1,
            height: 1,
            ..area
        };
        frame.render_widget(Span::styled("▶", app.look.bold()), end);
    }
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let state = &board.state;
    let mut parts = Vec::new();
    if let Some(work) = &state.preparation {
        parts.push(format!(" {} ", told::work(work)));
    }
    parts.push(format!(" {}", told_step(state)));
    if let Some(total) = state.total_steps.filter(|&total| total > 0) {
        let share = state.step as f64 / total as f64;
        parts.push(format!("  {:>5.1} %", share * 100.0));
    }
    if board.held && state.ended.is_none() {
        let left = state.remaining_s();
        let told = left.map_or_else(|| "n/a".to_owned(), units::seconds);
        parts.push(format!("  ETA {told:>7}"));
        let is_moving = area.width >= 100 && state.status != Status::Paused;
        if let Some(seconds) = left.filter(|_| is_moving) {
            parts.push(format!(" ({})", app.clock(now(app) + seconds)));
        }
    }
    parts.push(format!("  up {:>7}", units::seconds(state.elapsed_s())));
    if area.width >= 120 {
        let tokens = units::count(state.tokens as f64);
        let split = &state.strategy;
        parts.push(format!("  {tokens:>5} tok"));
        parts.push(format!("  {split} on {} rank(s)", state.world));
    }
    // What has no room is left out: half a number reads as another.
    let width = usize::from(area.width).saturating_sub(6);
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() && columns(&text) + columns(&part) > width {
            break;
        }
        text.push_str(&part);
    }
    let room = usize::from(area.width).saturating_sub(columns(&text) + 7);
    let share = state
        .total_steps
        .map(|total| state.step as f64 / total.max(1) as f64);
    let mut spans = vec![Span::raw(" step ")];
    if let Some(share) = share.filter(|_| room >= 6) {
        spans.push(Span::styled(bar(share, room), app.look.accent()));
    }
    spans.push(Span::raw(text));
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn told_step(state: &RunState) -> String {
    match state.total_steps {
        Some(total) => {
            let width = total.to_string().len();
            format!("{:>width$}/{total}", state.step)
        }
        None => state.step.to_string(),
    }
}

fn speed_words(state: &RunState) -> String {
    let Some(last) = state.last else {
        return "no step yet".to_owned();
    };
    let mfu = last
        .mfu
        .map_or_else(String::new, |mfu| format!("  MFU {:.1} %", mfu * 100.0));
    let speed = units::count(last.tokens_per_sec.round());
    format!("loss {:>7}  {speed:>5} tok/s{mfu}", units::loss(last.loss))
}

/// The steps that all charts of a run span, so that a step is at the same place in each; a run that has ended fills them.
fn span(board: &Board) -> Option<(f64, f64)> {
    let (first, last) = board.loss.span()?;
    let end = chart::stepped(first, last);
    let total = board.state.total_steps.map_or(end, |total| total as f64);
    Some((first, end.min(total.max(last)).max(first + 1.0)))
}

fn draw_loss(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let mut title = "loss".to_owned();
    if let Some(last) = board.loss.last() {
        title = format!("{title}  train {:>7}", units::loss(last));
    }
    if let Some(eval) = board.state.evals.last() {
        let is_told = eval.is_final && area.width >= 60;
        let whole = if is_told { " of the whole split" } else { "" };
        title = format!("{title}  val{whole} {:>7}", units::loss(eval.loss));
    }
    if let Some(best) = board.state.best_eval().filter(|_| area.width >= 60) {
        // The last one reads other text, and is not compared with the periodic ones.
        let last = board.state.evals.last();
        let periodic = match last.is_some_and(|eval| eval.is_final) {
            true => "periodic ",
            false => "",
        };
        title = format!(
            "{title}  {periodic}best {} @ {}",
            units::loss(best.loss),
            best.step
        );
    }
    let plot = Plot {
        title,
        series: &board.loss,
        span: span(board),
        points: &board.validation,
        is_log: app.live.is_log,
        from_zero: false,
        style: app.look.accent(),
    };
    chart::draw(frame, area, app.look, &plot);
}

fn draw_metric(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board, metric: Metric) {
    let series = metric.series(board);
    let last = series
        .last()
        .map_or_else(|| "n/a".to_owned(), |v| metric.told(v));
    let mut title = format!("{}  {last}", metric.title(board));
    if metric == Metric::Throughput && area.width >= 36 {
        let mfu = board.mfu.last();
        let mfu = mfu.map_or_else(|| "n/a".to_owned(), |mfu| Metric::Mfu.told(mfu));
        title = format!("{title}  MFU {mfu}");
    }
    let plot = Plot {
        title,
        series,
        span: span(board),
        points: &[],
        is_log: false,
        from_zero: !matches!(metric, Metric::GradNorm),
        style: app.look.curve(metric as usize),
    };
    chart::draw(frame, area, app.look, &plot);
}

fn draw_checkpoints(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let state = &board.state;
    let mut lines: Vec<Line<'_>> = state
        .checkpoints
        .iter()
        .rev()
        .map(|checkpoint| {
            let best = if checkpoint.best { "  best" } else { "" };
            let size = units::bytes(checkpoint.bytes);
            Line::from(format!(" step {:<9} {size:>10}{best}", checkpoint.step))
        })
        .collect();
    if lines.is_empty() {
        lines.push(Line::from(Span::styled(" none yet", app.look.dim())));
    }
    lines.drain(..app.live.offset(Panel::Checkpoints).min(lines.len()));
    let every = board.config.as_ref().map(|config| config.checkpoint.every);
    if let (Some(every), Some(seconds), true) = (every, state.seconds_per_step, board.held)
        && every > 0
    {
        let next = (state.step / every).saturating_add(1).saturating_mul(every);
        // The last step saves too.
        let next = next.min(state.total_steps.unwrap_or(next)).max(state.step);
        let wait = units::seconds(((next - state.step) as f64 * seconds).max(1.0));
        lines.insert(
            0,
            Line::from(format!(" next at step {next:<5} in {wait:>7}")),
        );
    }
    let keep = match board.config.as_ref() {
        Some(config) => format!(": keep {} + best", config.checkpoint.keep),
        None => String::new(),
    };
    let host = devices::sensors(app, board).map(|reading| &reading.host);
    let free = match host.and_then(|host| host.disk_free_bytes) {
        Some(free) => format!(", {} free", units::bytes(free)),
        None => String::new(),
    };
    let title = format!(" checkpoints{keep}{free} ");
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(title)),
        area,
    );
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let rows = usize::from(area.height.saturating_sub(2));
    let told = board.events().skip(app.live.offset(Panel::Events));
    let width = usize::from(area.width.saturating_sub(2));
    let lines: Vec<Line<'_>> = told
        .take(rows)
        .map(|entry| entry_line(app, entry, width))
        .collect();
    let key = app.key(Action::Show(Screen::Logs));
    let title = format!(" events, the latest first: {key} shows all ");
    let block = Block::bordered().title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
