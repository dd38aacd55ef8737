//! The picture of Live.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use super::{
    app::{App, Screen},
    board::Board,
    chart::{self, Plot, bar, number, stacked},
    devices,
    draw::{ago, cut},
    keys::Action,
    live::{Metric, Panel, shown},
    logs_view::entry_line,
};
use crate::{
    base::{text::printable, units},
    launch::runs::word,
    store::{RunState, told},
};

/// The cause of a start that somebody asked for.
const RESUMED: &str = "resumed";

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
    let [progress, body, alarm] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_progress(frame, progress, app, board);
    draw_alarm(frame, alarm, app, board);
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
    draw_metric(frame, speed, app, board, Metric::Throughput);
    let second = match app.live.metric {
        Metric::Throughput => Metric::LearningRate,
        metric => metric,
    };
    draw_metric(frame, metric, app, board, second);
    draw_panel(frame, anatomy, app, board, Panel::Anatomy);
    draw_panel(frame, saved, app, board, Panel::Checkpoints);
    draw_panel(frame, events, app, board, Panel::Events);
}

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
    draw_panel(frame, top, app, board, Panel::Devices);
    draw_panel(frame, loss, app, board, Panel::Loss);
    draw_panel(frame, metric, app, board, Panel::Metric);
    draw_panel(frame, bottom, app, board, Panel::Anatomy);
}

fn draw_narrow(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let devices = if area.height >= 12 {
        devices::rows(board, 4)
    } else {
        0
    };
    let [numbers, devices, loss] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(devices),
        Constraint::Min(0),
    ])
    .areas(area);
    let lines = vec![
        Line::from(cut(&speed_words(&board.state), usize::from(area.width))),
        Line::from(cut(&devices::host_words(board), usize::from(area.width))),
    ];
    frame.render_widget(Paragraph::new(lines), numbers);
    draw_panel(frame, devices, app, board, Panel::Devices);
    draw_panel(frame, loss, app, board, Panel::Loss);
}

fn draw_panel(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board, panel: Panel) {
    if area.width < 4 || area.height < 3 {
        return;
    }
    match panel {
        Panel::Devices => devices::draw(frame, area, app, board),
        Panel::Loss => draw_loss(frame, area, app, board),
        Panel::Metric => draw_metric(frame, area, app, board, app.live.metric),
        Panel::Anatomy => draw_anatomy(frame, area, app, board),
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
    let mut text = format!(" {}", told_step(state));
    if let Some(total) = state.total_steps.filter(|&total| total > 0) {
        let share = state.step as f64 / total as f64;
        text = format!("{text}  {:>5.1} %", share * 100.0);
    }
    if board.held && state.ended.is_none() {
        let left = state.remaining_s();
        let left = left.map_or_else(|| "n/a".to_owned(), units::seconds);
        text = format!("{text}  ETA {left:>7}");
        if let Some(seconds) = state.remaining_s().filter(|_| area.width >= 100) {
            text = format!("{text} ({})", app.clock(app.now + seconds));
        }
    }
    text = format!("{text}  up {:>7}", units::seconds(state.elapsed_s()));
    if area.width >= 120 {
        let tokens = units::count(state.tokens as f64);
        text = format!(
            "{text}  {tokens:>5} tok  {} on {} rank(s)",
            state.strategy, state.world
        );
    }
    if let Some(work) = &state.preparation {
        text = format!(" {}  {}", told::work(work), text.trim_start());
    }
    let room = usize::from(area.width).saturating_sub(text.chars().count() + 7);
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

/// The gravest thing there is to say, and what to do about it.
fn draw_alarm(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let (style, text) = match alarm(app, board) {
        Some((true, text)) => (app.look.bad(), format!(" ! {text}")),
        Some((false, text)) => (app.look.warn(), format!(" ! {text}")),
        None => (app.look.good(), format!(" {}", well(app, board))),
    };
    let text = cut(&text, usize::from(area.width));
    frame.render_widget(Paragraph::new(Span::styled(text, style)), area);
}

/// Whether it is grave, and the words.
pub fn alarm(app: &App, board: &Board) -> Option<(bool, String)> {
    let state = &board.state;
    if board.reading.is_some() {
        return None;
    }
    if let Some(text) = &board.failed {
        return Some((true, text.clone()));
    }
    match &state.ended {
        Some(ending) if ending.outcome == crate::event::Outcome::Failed => {
            let remedy = if state.checkpoints.is_empty() {
                format!("{} shows the log", app.key(Action::Show(Screen::Logs)))
            } else {
                let key = app.key(Action::Resume);
                format!("{key} resumes from the last checkpoint")
            };
            let reason = printable(&ending.reason);
            return Some((
                true,
                format!("failed after step {}: {reason}; {remedy}", ending.step),
            ));
        }
        None if !board.held && state.next_seq > 0 => {
            let cause = board
                .fault
                .clone()
                .unwrap_or_else(|| "its supervisor is gone".to_owned());
            let remedy = match state.newest_checkpoint() {
                Some(checkpoint) => {
                    let key = app.key(Action::Resume);
                    format!("{key} resumes from step {}", checkpoint.step)
                }
                None => "it left no checkpoint".to_owned(),
            };
            let step = state.step;
            return Some((
                true,
                format!("interrupted after step {step}: {cause}; {remedy}"),
            ));
        }
        _ => {}
    }
    if let Some(text) = &board.damage {
        return Some((false, format!("left out: {text}")));
    }
    if board.loss.non_finite > 0 {
        let n = board.loss.non_finite;
        return Some((
            true,
            format!("{n} loss(es) were no number: a smaller lr or clip may help"),
        ));
    }
    if let Some(cause) = state
        .last_restart
        .as_ref()
        .filter(|cause| *cause != RESUMED)
    {
        return Some((
            false,
            format!(
                "restarted {} time(s), last: {}",
                state.restarts,
                printable(cause)
            ),
        ));
    }
    let warning = printable(state.last_warning.as_ref()?);
    let more = match state.warnings {
        ..=1 => String::new(),
        n => format!("  ({n} warnings: 6 shows all)"),
    };
    Some((false, format!("{warning}{more}")))
}

fn well(app: &App, board: &Board) -> String {
    if let Some(percent) = board.reading {
        return format!("reading the log, {percent} %");
    }
    let state = &board.state;
    let standing = word(state, board.held);
    let saved = match (state.newest_checkpoint(), board.saved_at) {
        (Some(checkpoint), Some(at)) => format!(
            "checkpoint step {} saved {}",
            checkpoint.step,
            match ago(app.now, at).as_str() {
                "now" => "just now".to_owned(),
                time => format!("{time} ago"),
            }
        ),
        _ => "no checkpoint yet".to_owned(),
    };
    match &state.ended {
        Some(ending) => format!("{standing}: {}.  {saved}", printable(&ending.reason)),
        None => format!("{standing}, no alarm.  {saved}"),
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
    format!("loss {:>7.4}  {speed:>5} tok/s{mfu}", last.loss)
}

fn draw_loss(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let mut title = "loss".to_owned();
    if let Some(last) = board.loss.last() {
        title = format!("{title}  train {last:>7.4}");
    }
    if let Some((_, loss)) = board.validation.last() {
        title = format!("{title}  val {loss:>7.4}");
    }
    if let Some(best) = board.state.best_eval().filter(|_| area.width >= 60) {
        title = format!("{title}  best {:.4} @ {}", best.loss, best.step);
    }
    let plot = Plot {
        title,
        series: &board.loss,
        points: &board.validation,
        is_log: app.live.is_log,
        from_zero: false,
        style: app.look.accent(),
    };
    chart::draw(frame, area, app.look, &plot);
}

fn draw_metric(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board, metric: Metric) {
    let (series, name, value): (_, _, fn(f64) -> String) = match metric {
        Metric::Throughput => (&board.tokens_per_sec, "throughput", |v| {
            format!("{:>5} tok/s", units::count(v.round()))
        }),
        Metric::StepTime => (&board.step_time, "step time", |v| {
            format!("{:>7}", units::seconds(v))
        }),
        Metric::LearningRate => (&board.lr, "learning rate", |v| format!("{v:.3e}")),
        Metric::GradNorm => (&board.grad_norm, "grad norm", |v| {
            format!("{:>6}", number(v))
        }),
        Metric::Mfu => (&board.mfu, "MFU", |v| format!("{:>4.1} %", v * 100.0)),
    };
    let last = series.last().map_or_else(|| "n/a".to_owned(), value);
    let mut title = format!("{name}  {last}");
    if metric == Metric::Throughput && area.width >= 36 {
        let mfu = board.mfu.last();
        let mfu = mfu.map_or_else(|| "n/a".to_owned(), |mfu| format!("{:>4.1} %", mfu * 100.0));
        title = format!("{title}  MFU {mfu}");
    }
    let plot = Plot {
        title,
        series,
        points: &[],
        is_log: false,
        from_zero: !matches!(metric, Metric::GradNorm),
        style: app.look.curve(metric as usize),
    };
    chart::draw(frame, area, app.look, &plot);
}

/// Where the step goes: phases of rank 0 in words, parts of every rank as a bar.
fn draw_anatomy(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let look = app.look;
    let block = Block::bordered();
    let Some(phases) = board.mean_phases() else {
        let text = Span::styled(" no step yet", look.dim());
        let block = block.title(" where the step goes ");
        frame.render_widget(Paragraph::new(text).block(block), area);
        return;
    };
    let total = phases.total();
    let share = |part: f64| format!("{:>2.0}%", 100.0 * part / total.max(f64::MIN_POSITIVE));
    let mut words = format!(
        " rank 0: data {} forward {} backward {} comm {} optim {} other {}",
        share(phases.data),
        share(phases.forward),
        share(phases.backward),
        share(phases.comm),
        share(phases.optimizer),
        share(phases.other),
    );
    if phases.bubble > 0.0 {
        words = format!("{words} bubble {}", share(phases.bubble));
    }
    let mut lines = vec![Line::from(words)];
    let ranks = board.mean_ranks();
    let rows = usize::from(area.height.saturating_sub(3));
    for rank in ranks.iter().take(rows) {
        let moved = {
            let bytes = rank.bytes;
            bytes.all_reduce
                + bytes.reduce_scatter
                + bytes.all_gather
                + bytes.reduce
                + bytes.broadcast
                + bytes.send
        };
        let label = format!(" rank {:<3}", rank.rank);
        let moved = format!(" {:>9}/step", units::bytes(moved));
        let width = usize::from(area.width.saturating_sub(2))
            .saturating_sub(label.chars().count() + moved.chars().count());
        let parts = [
            (rank.compute, '█', look.accent()),
            (rank.comm, '▒', look.warn()),
            (rank.bubble, '░', look.dim()),
            (rank.optimizer, '▓', look.good()),
            (rank.other, '·', look.dim()),
        ];
        let mut line = Line::from(label);
        line.extend(stacked(&parts, width).spans);
        line.push_span(Span::raw(moved));
        lines.push(line);
    }
    let time = format!("{:>7}", units::seconds(total));
    let legend = if area.width >= 78 {
        "  █ compute ▒ comm ░ bubble ▓ optimizer · other"
    } else {
        ""
    };
    let title = format!(" where the step goes  {time}{legend} ");
    frame.render_widget(Paragraph::new(lines).block(block.title(title)), area);
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
    let every = board.config.as_ref().map(|config| config.checkpoint.every);
    if let (Some(every), Some(seconds), true) = (every, state.seconds_per_step, board.held)
        && every > 0
    {
        let next = (state.step / every).saturating_add(1).saturating_mul(every);
        let wait = units::seconds((next - state.step) as f64 * seconds);
        lines.insert(
            0,
            Line::from(format!(" next at step {next:<5} in {wait:>7}")),
        );
    }
    let keep = match board.config.as_ref() {
        Some(config) => format!(": keep {} + best", config.checkpoint.keep),
        None => String::new(),
    };
    let host = state.sensors.as_ref().map(|reading| &reading.host);
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
    let told = board.entries.iter().rev().filter(|line| !line.is_output);
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
