//! The picture of Launch.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Paragraph, Wrap},
};

use super::{
    app::App,
    checks::SplitRow,
    draw::{ago, cut, first_rows, wrap},
    fields::{Field, Kind},
    keys::Action,
    launch::{all_lines, summary},
    picker,
    runs::RunRow,
    splits::{self, degrees_of},
};
use crate::{base::units, plan::Mesh};

/// Rows of what will happen, its frame included.
const OUTLOOK_ROWS: u16 = 11;

/// From this height on there is room for checks that are well.
const ROOMY: u16 = 15;

/// Draws the form, what will happen, the splits and the command line.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let [body, command] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    let sign = if app.launch.is_saved() {
        format!("({} copies)", app.key(Action::Copy))
    } else {
        format!("({} writes the file first)", app.key(Action::Write))
    };
    let line = format!(" $ {}   {sign}", app.launch.command());
    let line = cut(&line, usize::from(area.width));
    frame.render_widget(Paragraph::new(Span::styled(line, app.look.dim())), command);
    let fields = app.launch.fields();
    let root = fields
        .get(app.launch.cursor)
        .map_or("", |field| field.path[0].as_str());
    if body.width >= 120 {
        let [form, middle, side] = Layout::horizontal([Constraint::Fill(2); 3]).areas(body);
        let [splits, who, data] = Layout::vertical([
            Constraint::Fill(3),
            Constraint::Fill(2),
            Constraint::Fill(2),
        ])
        .areas(middle);
        let [outlook, checks, recent] = Layout::vertical([
            Constraint::Length(OUTLOOK_ROWS),
            Constraint::Fill(3),
            Constraint::Fill(2),
        ])
        .areas(side);
        draw_form(frame, form, app);
        draw_splits(frame, splits, app);
        draw_who(frame, who, app);
        draw_data(frame, data, app);
        draw_outlook(frame, outlook, app);
        draw_checks(frame, checks, app);
        draw_recent(frame, recent, app);
    } else if body.width >= 70 {
        let [form, side] =
            Layout::horizontal([Constraint::Percentage(56), Constraint::Percentage(44)])
                .areas(body);
        draw_form(frame, form, app);
        draw_side(frame, side, app, root);
    } else {
        let mut lines = all_lines(&app.launch);
        if body.height < ROOMY {
            lines.retain(|line| !line.starts_with('✓'));
        }
        let rows = usize::from(body.height / 5).min(lines.len());
        let [form, worst] = Layout::vertical([
            Constraint::Min(0),
            Constraint::Length(u16::try_from(rows).unwrap_or(0)),
        ])
        .areas(body);
        draw_form(frame, form, app);
        let width = usize::from(worst.width);
        let lines: Vec<Line<'_>> = lines
            .iter()
            .take(rows)
            .map(|line| check_line(app, &cut(line, width)))
            .collect();
        frame.render_widget(Paragraph::new(lines), worst);
    }
}

/// The column beside the form at 80 columns: what belongs to the field under the cursor, and the checks.
fn draw_side(frame: &mut Frame<'_>, area: Rect, app: &App, root: &str) {
    if ["parallel", "devices"].contains(&root) {
        let [splits, who, checks] = Layout::vertical([
            Constraint::Fill(2),
            Constraint::Fill(1),
            Constraint::Fill(1),
        ])
        .areas(area);
        draw_splits(frame, splits, app);
        draw_who(frame, who, app);
        draw_checks(frame, checks, app);
        return;
    }
    let [above, checks, recent] = Layout::vertical([
        Constraint::Length(OUTLOOK_ROWS),
        Constraint::Min(0),
        Constraint::Length(if area.height >= 20 { 4 } else { 0 }),
    ])
    .areas(area);
    match root {
        "data" => draw_data(frame, above, app),
        _ => draw_outlook(frame, above, app),
    }
    draw_checks(frame, checks, app);
    draw_recent(frame, recent, app);
}

/// A line of the checks in the colour of its sign.
fn check_line<'a>(app: &App, line: &str) -> Line<'a> {
    let (sign, text) = line.split_at(line.chars().next().map_or(0, char::len_utf8));
    let (sign, text) = (sign.to_owned(), text.to_owned());
    let style = match sign.as_str() {
        "✗" => return Line::from(Span::styled(sign + &text, app.look.bad())),
        "✓" => app.look.good(),
        "!" => app.look.warn(),
        _ => ratatui::style::Style::new(),
    };
    Line::from(vec![Span::styled(sign, style), Span::raw(text)])
}

/// Whether the draft can be launched, and what is to be known before.
fn state(app: &App) -> String {
    let Some(checked) = app.launch.verdict() else {
        return app.launch.checking_words();
    };
    let warnings = checked.checks.iter().filter(|(is_well, _)| !is_well);
    match (checked.problems.len(), warnings.count()) {
        (0, 0) => "ready to launch".to_owned(),
        (0, n) => format!("ready to launch, {n} warning(s)"),
        (n, _) => format!("{n} problem(s)"),
    }
}

fn draw_form(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let fields = app.launch.fields();
    let mut title = format!(" New run: {} ", state(app));
    if app.launch.filtering || !app.launch.filter.is_empty() {
        let cursor = if app.launch.filtering { "_" } else { "" };
        title = format!(" / {}{cursor}  {}", app.launch.filter, title.trim_start());
    }
    let title = cut(&title, usize::from(area.width.saturating_sub(2)));
    let mut block = Block::bordered().title(title);
    let inner = block.inner(area);
    let foot = 3.min(inner.height / 3);
    let [list, help] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(foot)]).areas(inner);
    let rows = usize::from(list.height);
    let width = usize::from(list.width);
    let cursor = app.launch.cursor.min(fields.len().saturating_sub(1));
    let first = cursor.saturating_sub(rows.saturating_sub(1).min(rows * 2 / 3));
    let below = fields.len().saturating_sub(first + rows);
    if first + below > 0 {
        block = block.title_bottom(format!(" {first} field(s) above, {below} below "));
    }
    frame.render_widget(block, area);
    let mut lines: Vec<Line<'_>> = fields
        .iter()
        .enumerate()
        .skip(first)
        .take(rows)
        .map(|(index, field)| field_line(app, field, index == cursor, width))
        .collect();
    if lines.is_empty() {
        let words = format!(" no field's path holds {}", app.launch.filter);
        lines.push(Line::from(Span::styled(cut(&words, width), app.look.dim())));
    }
    frame.render_widget(Paragraph::new(lines), list);
    if let Some(field) = fields.get(cursor) {
        draw_help(frame, help, app, field);
    }
}

fn field_line<'a>(app: &App, field: &Field, is_here: bool, width: usize) -> Line<'a> {
    let cursor = if is_here { '▶' } else { ' ' };
    let indent = "  ".repeat(field.depth());
    let label = format!("{cursor}{indent}{}", field.label());
    let mut value = match (&app.launch.editing, is_here) {
        (Some(typed), true) => typed.shown(),
        _ => field.value.replace('\n', "\\n"),
    };
    if let Kind::Choice(_) = &field.kind
        && is_here
    {
        value = format!("← {value} →");
    }
    if field.path == ["parallel"]
        && let Some([dp, tp, pp]) = splits::named(&app.launch.draft.root)
    {
        let split = format!("dp {dp} · tp {tp} · pp {pp}");
        value = if is_here {
            format!("← {split} →")
        } else {
            split
        };
    }
    if field.path == ["name"]
        && let Some(checked) = app.launch.verdict()
        && !checked.run_name.is_empty()
        && checked.run_name != field.value
        && app.launch.editing.is_none()
    {
        value = format!("{value} → {}", checked.run_name);
    }
    let problem = app.launch.problem(field);
    let column = 22.min(width / 2);
    let mut text = format!("{label:<column$} {value}");
    let warning = app.launch.warning(field);
    if let Some(problem) = problem.or(warning) {
        text = format!("{text}  ! {problem}");
    }
    let style = if is_here {
        app.look.selected()
    } else if problem.is_some() {
        app.look.bad()
    } else if warning.is_some() {
        app.look.warn()
    } else if field.kind == Kind::Heading || field.depth() == 0 {
        app.look.bold()
    } else {
        ratatui::style::Style::new()
    };
    Line::from(Span::styled(cut(&text, width), style))
}

/// The field's own words, or what is wrong with it in full.
fn draw_help(frame: &mut Frame<'_>, area: Rect, app: &App, field: &Field) {
    let warning = app.launch.warning(field);
    let (text, style) = match app.launch.problem(field) {
        Some(problem) => (format!("! {problem}"), app.look.bad()),
        None if warning.is_some() => (
            format!("! {}", warning.unwrap_or_default()),
            app.look.warn(),
        ),
        None if field.path == ["data"] => (
            format!(
                "Left and right change the kind; {} chooses a built-in text, that of a past run, or a path.",
                app.key(Action::Open)
            ),
            app.look.dim(),
        ),
        None if field.path == ["parallel"] => (
            format!(
                "Left and right move the ranks between the axes; {} lists all splits.",
                app.key(Action::Open)
            ),
            app.look.dim(),
        ),
        None => (field.description.clone(), app.look.dim()),
    };
    let text = match text.as_str() {
        "" => field.dotted(),
        text => format!("{}: {text}", field.dotted()),
    };
    let width = usize::from(area.width).max(1);
    let rows = first_rows(wrap(&text, width), width, usize::from(area.height));
    let rows = rows
        .into_iter()
        .map(|row| Line::from(Span::styled(row, style)));
    frame.render_widget(Paragraph::new(rows.collect::<Vec<_>>()), area);
}

fn draw_outlook(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::bordered().title(" What will happen ");
    let width = usize::from(area.width.saturating_sub(4));
    let mut lines: Vec<String> = Vec::new();
    let plan = app
        .launch
        .checked
        .as_ref()
        .and_then(|checked| checked.plan.as_ref());
    match plan {
        None if app.launch.verdict().is_none() => lines.push(app.launch.checking_words()),
        None => lines.push("nothing: the config has problems".to_owned()),
        Some(plan) => {
            let memory = plan.memory;
            lines.extend(
                summary(&app.launch.draft.name(), plan)
                    .into_iter()
                    .skip(1)
                    .take(4),
            );
            lines.push("bytes of a rank".to_owned());
            lines.push(format!(
                "  weights          {:>10}",
                units::bytes(memory.params_bytes)
            ));
            lines.push(format!(
                "  gradients        {:>10}",
                units::bytes(memory.grads_bytes)
            ));
            lines.push(format!(
                "  optimizer state  {:>10}",
                units::bytes(memory.optim_state_bytes)
            ));
            lines.push(format!(
                "  together         {:>10}",
                units::bytes(memory.total())
            ));
            lines.push("  activations come on top: n/a".to_owned());
        }
    }
    let lines: Vec<Line<'_>> = lines
        .iter()
        .map(|line| Line::from(format!(" {}", cut(line, width))))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_checks(frame: &mut Frame<'_>, area: Rect, app: &App) {
    if area.height < 3 {
        return;
    }
    let lines = all_lines(&app.launch);
    let width = usize::from(area.width.saturating_sub(2)).max(1);
    let room = usize::from(area.height.saturating_sub(2));
    let rows: Vec<&str> = lines.iter().flat_map(|line| wrap(line, width)).collect();
    let title = match rows.len() > room {
        true => format!(
            " Checks: {} shows all {} ",
            app.key(Action::Expand),
            lines.len()
        ),
        false => " Checks ".to_owned(),
    };
    let shown = first_rows(rows, width, room).into_iter();
    let mut lines: Vec<Line<'_>> = shown.map(|row| check_line(app, &row)).collect();
    if lines.is_empty() {
        lines.push(Line::from(Span::styled(
            app.launch.checking_words(),
            app.look.dim(),
        )));
    }
    let paragraph = Paragraph::new(lines).block(Block::bordered().title(title));
    frame.render_widget(paragraph, area);
}

/// The beginning of the draft's data.
fn draw_data(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::bordered().title(" Data begins ");
    let inner = block.inner(area);
    let (width, rows) = (usize::from(inner.width), usize::from(inner.height));
    let looked = app.launch.looked.as_ref();
    let lines = match looked.filter(|looked| looked.asked == app.launch.data()) {
        Some(looked) => picker::told(&looked.found, width.saturating_sub(2), rows),
        None => vec!["looking ...".to_owned()],
    };
    let lines: Vec<Line<'_>> = lines
        .iter()
        .map(|line| Line::from(format!(" {line}")))
        .collect();
    let paragraph = Paragraph::new(lines).wrap(Wrap { trim: false });
    frame.render_widget(paragraph.block(block), area);
}

/// The latest runs, whose configs may begin a new one.
fn draw_recent(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let title = format!(" Past runs: {} begins with one ", app.key(Action::Reopen));
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    let rows = app.runs.rows.as_deref();
    let mut lines: Vec<Line<'_>> = rows
        .unwrap_or_default()
        .iter()
        .take(usize::from(inner.height))
        .map(|row| Line::from(recent_line(app, row, usize::from(inner.width))))
        .collect();
    if lines.is_empty() {
        let text = if rows.is_some() {
            " none yet"
        } else {
            " reading the runs ..."
        };
        lines.push(Line::from(Span::styled(text, app.look.dim())));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A past run in a line: how it stands, how far it came.
pub fn recent_line(app: &App, row: &RunRow, width: usize) -> String {
    let best = row.state.as_ref().ok().and_then(|state| state.best_eval());
    let best = best.map_or_else(String::new, |best| {
        format!("val {}", units::loss(best.loss))
    });
    let age = ago(app.now, row.written);
    let mut end = format!("{best:<10} {age:>4} ");
    if width >= 44 {
        end = format!("{:<11} {end}", row.word);
    }
    let room = width.saturating_sub(end.chars().count() + 4);
    let name = cut(&row.name, room);
    cut(&format!(" {} {name:<room$} {end}", row.sign()), width)
}

/// One split in a line: degrees, bytes of a rank or the reason why not.
pub fn split_line(app: &App, split: &SplitRow, width: usize) -> String {
    let here = splits::present(app) == Some(degrees_of(split));
    let cursor = if here { '▶' } else { ' ' };
    let degrees = format!("dp {:<2} tp {:<2} pp {:<2}", split.dp, split.tp, split.pp);
    let verdict = match &split.verdict {
        Ok(bytes) => format!("✓ {:>9} a rank", units::bytes(*bytes)),
        Err(reason) => format!("✗ {reason}"),
    };
    cut(&format!("{cursor}{degrees} {verdict}"), width)
}

fn draw_splits(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::bordered().title(" Splits: which work here ");
    let rows = usize::from(area.height.saturating_sub(2));
    let width = usize::from(area.width.saturating_sub(2));
    let splits = app
        .launch
        .checked
        .iter()
        .flat_map(|checked| &checked.splits);
    let splits: Vec<&SplitRow> = splits.collect();
    let present = splits::present(app);
    let place = splits
        .iter()
        .position(|split| present == Some(degrees_of(split)))
        .unwrap_or(0);
    let first = place.saturating_sub(rows.saturating_sub(1));
    let lines: Vec<Line<'_>> = splits
        .into_iter()
        .skip(first)
        .take(rows)
        .map(|split| {
            let style = match &split.verdict {
                Ok(_) => ratatui::style::Style::new(),
                Err(_) => app.look.dim(),
            };
            Line::from(Span::styled(split_line(app, split, width), style))
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Which part of each axis a rank has, and on which device.
fn draw_who(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::bordered().title(" Which rank has which part ");
    let plan = app
        .launch
        .checked
        .as_ref()
        .and_then(|checked| checked.plan.as_ref());
    let mut lines = Vec::new();
    if let Some(plan) = plan {
        let mesh = plan.split.mesh;
        let ranks = plan.ranks.iter().enumerate();
        lines.extend(
            ranks.map(|(rank, place)| Line::from(who_line(mesh, rank, &place.device.to_string()))),
        );
    } else {
        lines.push(Line::from(Span::styled(" no plan", app.look.dim())));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A rank, its device, and its part of each axis.
pub fn who_line(mesh: Mesh, rank: usize, device: &str) -> String {
    let at = mesh.at(rank);
    let cells = mesh.dp.min(8);
    let own = at.replica * cells / mesh.dp.max(1);
    let batch: String = (0..cells)
        .map(|cell| if cell == own { '█' } else { '·' })
        .collect();
    format!(
        "{rank:>3} {device:<6} dp {} tp {} pp {}  of the batch {batch}",
        at.replica, at.shard, at.stage
    )
}
