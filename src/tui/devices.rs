//! The devices panel of Live: what each rank's device does, takes and suffers.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use super::{
    app::App,
    board::Board,
    curves::LOOKS,
    draw::cut,
    keys::Action,
    live::{self, Panel},
    look::Look,
};
use crate::{
    base::units,
    event::{GpuReading, RankStep, Reading},
    hw::Device,
    plan::RunPlan,
    store::cards::{UNKNOWN, columns},
};

/// Rows that the panel asks for, its border included; a rank takes one, and at most `most` of them count.
pub fn rows(board: &Board, most: u16) -> u16 {
    let is_on_gpus = board.plan.as_deref().is_some_and(is_on_gpus);
    // On CPU all ranks say the same.
    let most = if is_on_gpus { most } else { most / 2 };
    let ranks = u16::try_from(board.state.world).unwrap_or(most);
    // Above the ranks: the heading of the table, or the host.
    ranks.clamp(1, most) + 3
}

/// Draws the panel.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, board: &Board) {
    let width = usize::from(area.width.saturating_sub(2));
    let rows = usize::from(area.height.saturating_sub(2));
    let host = format!(" {}", host_words(app, board));
    let mut lines = match board.plan.as_deref() {
        Some(plan) if is_on_gpus(plan) => cards(app, board, plan, width),
        Some(plan) => {
            let ranks = cpu_ranks(board, plan);
            std::iter::once(host.clone()).chain(ranks).collect()
        }
        None => vec![host.clone(), " plan.json: n/a".to_owned()],
    };
    let is_table = lines.first() != Some(&host);
    if lines.len() > rows && rows > 1 {
        // The heading, or the host, stays; the last row tells how many there are.
        let ranks = lines.len() - 1;
        let shown = rows.saturating_sub(2);
        let first = app.live.offset(Panel::Devices).min(ranks - shown);
        lines.drain(1..=first);
        lines.truncate(1 + shown);
        let [down, expand] = [Action::Down, Action::Expand].map(|action| app.key(action));
        let key = match (app.live.panel == Panel::Devices, app.live.expanded) {
            (true, true) => format!("{down} scrolls"),
            (true, false) => format!("{down} scrolls, {expand} expands"),
            (false, _) => {
                let [next, previous] =
                    [Action::NextPanel, Action::PreviousPanel].map(|action| app.key(action));
                format!("{next} or {previous} turns to them")
            }
        };
        let those = match shown {
            0 | 1 => format!("rank {first}"),
            _ => format!("ranks {first} to {}", first + shown - 1),
        };
        lines.push(format!(" {those} of {ranks}: {key}"));
    } else if is_table {
        lines.push(host);
    }
    let lines = lines.into_iter().map(|line| styled(app, cut(&line, width)));
    let lines: Vec<Line<'_>> = lines.collect();
    let block = Block::bordered().title(cut(&title(app, board), width));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// What needs attention stands out, with its word or sign.
fn styled<'a>(app: &App, line: String) -> Line<'a> {
    let style = if line.contains(LOST) {
        app.look.bad()
    } else if line.starts_with(HEADING) {
        app.look.dim()
    } else {
        ratatui::style::Style::new()
    };
    Line::from(Span::styled(line, style))
}

const HEADING: &str = " rank  device";
const LOST: &str = "LOST";

/// The latest look at the sensors, unless it is too old to tell what is.
///
/// A run that nobody holds stands still: its last look tells how it ended.
pub fn sensors<'a>(app: &App, board: &'a Board) -> Option<&'a Reading> {
    let every_s = board
        .config
        .as_ref()
        .and_then(|config| config.log.sensors_every_s);
    board
        .state
        .sensors_at(now(app, board), every_s.unwrap_or(0) as f64)
}

fn now(app: &App, board: &Board) -> f64 {
    if board.held {
        live::now(app).max(board.state.updated)
    } else {
        board.state.updated
    }
}

/// Seconds since the latest look at the sensors, where it is too old.
fn silent_s(app: &App, board: &Board) -> Option<f64> {
    let age = now(app, board) - board.state.sensed?;
    sensors(app, board).is_none().then_some(age)
}

fn title(app: &App, board: &Board) -> String {
    let state = &board.state;
    let gpus = board.plan.as_deref().map(RunPlan::gpus);
    let power = gpus.and_then(|gpus| {
        let reading = sensors(app, board)?;
        let power = reading.power_of(&gpus)?;
        let cards = gpus.iter().map(|&index| reading.gpus.get(index));
        let limits = cards.map(|card| card?.power_limit_w);
        let limit = limits.sum::<Option<f64>>().filter(|_| !gpus.is_empty());
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit:.0}"));
        Some(format!("  {power:>4.0}{limit} W"))
    });
    // The host's line, which says so too, may be out of sight.
    let power = power.or_else(|| {
        let silent = silent_s(app, board)?;
        Some(format!("  sensors silent for {}", units::seconds(silent)))
    });
    let energy = state.energy.words();
    let energy = energy.map_or_else(String::new, |words| format!("  {words}"));
    format!(
        " devices: {} rank(s), {}{}{energy} ",
        state.world,
        state.strategy,
        power.unwrap_or_default()
    )
}

fn is_on_gpus(plan: &RunPlan) -> bool {
    plan.ranks.iter().any(|rank| rank.device != Device::Cpu)
}

/// A table of the ranks' cards under its heading: as many columns as fit, the most important first.
fn cards(app: &App, board: &Board, plan: &RunPlan, width: usize) -> Vec<String> {
    let gpus: &[GpuReading] = sensors(app, board).map_or(&[], |reading| &reading.gpus);
    let silent = GpuReading::default();
    let card = |rank: usize| match plan.ranks[rank].device {
        Device::Cuda(index) => gpus.get(index).unwrap_or(&silent),
        Device::Cpu => &silent,
    };
    let ranks = 0..plan.ranks.len();
    let mut lines = vec![HEADING.to_owned()];
    lines.extend(ranks.clone().map(|rank| {
        let name = plan.ranks[rank].device.to_string();
        format!(" {rank:>4}  {name:<6}")
    }));
    let mut add = |title: &str, room: usize, cell: &dyn Fn(usize) -> String| {
        if lines[0].chars().count() + 2 + room > width {
            return;
        }
        lines[0] = format!("{}  {title:<room$}", lines[0]);
        for rank in ranks.clone() {
            let cell = if card(rank).is_lost {
                String::new()
            } else {
                cut(&cell(rank), room)
            };
            lines[rank + 1] = format!("{}  {cell:<room$}", lines[rank + 1]);
        }
    };
    for column in columns(gpus) {
        add(column.title, column.width, &|rank| column.cell(card(rank)));
    }
    let own = board.mean_ranks();
    add("peak", 9, &|rank| {
        peak(&own, rank).map_or_else(|| UNKNOWN.to_owned(), units::bytes)
    });
    add("dp tp pp", 8, &|rank| {
        let at = plan.split.mesh.at(rank);
        format!("{:<2} {:<2} {:<2}", at.replica, at.shard, at.stage)
    });
    add(
        "busy lately",
        LOOKS,
        &|rank| match plan.ranks[rank].device {
            Device::Cuda(index) if !gpus.is_empty() => lately(app.look, board, index),
            _ => UNKNOWN.to_owned(),
        },
    );
    add("name", 23, &|rank| card(rank).name.clone());
    for rank in ranks.filter(|&rank| card(rank).is_lost) {
        let name = plan.ranks[rank].device.to_string();
        let text =
            format!(" {rank:>4}  {name:<6}  {LOST}: the driver no longer answers for the card");
        lines[rank + 1] = cut(&text, width);
    }
    lines
}

/// A mark a look of how busy a card was, the latest last; blank where that was not known.
fn lately(look: Look, board: &Board, index: usize) -> String {
    let shares = board.devices.busy_of(index);
    shares
        .map(|share| share.map_or(' ', |share| look.level(share)))
        .collect()
}

/// Bytes of the rank's tensors at their most.
fn peak(own: &[RankStep], rank: usize) -> Option<u64> {
    let own = own.iter().find(|own| own.rank == rank)?;
    own.memory_peak_bytes
}

fn cpu_ranks(board: &Board, plan: &RunPlan) -> Vec<String> {
    let own = board.mean_ranks();
    let line = |(rank, place): (usize, &crate::plan::RankPlan)| {
        let at = plan.split.mesh.at(rank);
        let memory = match peak(&own, rank) {
            Some(bytes) => format!("tensors at most {}", units::bytes(bytes)),
            None => format!("planned {}", units::bytes(plan.memory.total())),
        };
        format!(
            " rank {rank:<3} {:<7} dp {} tp {} pp {}  {memory}  {} thread(s)",
            place.device.to_string(),
            at.replica,
            at.shard,
            at.stage,
            place.threads
        )
    };
    plan.ranks.iter().enumerate().map(line).collect()
}

/// Cores, memory and the processor packages' power.
pub fn host_words(app: &App, board: &Board) -> String {
    let Some(reading) = sensors(app, board) else {
        return match silent_s(app, board) {
            Some(seconds) => format!("host: n/a, sensors silent for {}", units::seconds(seconds)),
            None => "host: n/a, the log holds no look at the sensors".to_owned(),
        };
    };
    let host = &reading.host;
    let power = host
        .package_power_w
        .map_or_else(|| UNKNOWN.to_owned(), |watts| format!("{watts:>4.0} W"));
    let gib = |bytes: u64| bytes as f64 / units::GIB as f64;
    let busy = host.cpu_busy.map_or_else(
        || UNKNOWN.to_owned(),
        |share| format!("{:>3.0} %", share * 100.0),
    );
    let memory = match (host.memory_used_bytes, host.memory_total_bytes) {
        (Some(used), Some(total)) => {
            format!("{:>6.2} of {:.2} GiB", gib(used), gib(total))
        }
        _ => UNKNOWN.to_owned(),
    };
    let cores = host
        .cores
        .map_or_else(String::new, |cores| format!(" of {cores} cores"));
    format!("host: {busy}{cores} busy, memory {memory}, package power {power}")
}
