//! The picture of Launch.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Paragraph, Wrap},
};

use super::{
    app::App,
    chart::bar,
    draw::cut,
    fields::{Field, Kind},
    launch::{SplitRow, split_of, summary},
};
use crate::base::units;

/// Draws the form, what will happen, the splits and the command line.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let [body, command] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    let sign = if app.launch.is_saved() {
        "(y copies)"
    } else {
        "(w writes the file first)"
    };
    let line = format!(" $ {}   {sign}", app.launch.command());
    let line = cut(&line, usize::from(area.width));
    frame.render_widget(Paragraph::new(Span::styled(line, app.look.dim())), command);
    if body.width >= 120 {
        let [form, splits, outlook] = Layout::horizontal([
            Constraint::Fill(2),
            Constraint::Fill(2),
            Constraint::Fill(2),
        ])
        .areas(body);
        let [splits, who] =
            Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(splits);
        let [outlook, checks] =
            Layout::vertical([Constraint::Length(14), Constraint::Min(0)]).areas(outlook);
        draw_form(frame, form, app);
        draw_splits(frame, splits, app);
        draw_who(frame, who, app);
        draw_outlook(frame, outlook, app);
        draw_checks(frame, checks, app);
    } else if body.width >= 70 {
        let [form, side] =
            Layout::horizontal([Constraint::Percentage(56), Constraint::Percentage(44)])
                .areas(body);
        draw_form(frame, form, app);
        let on_split = app
            .launch
            .fields()
            .get(app.launch.cursor)
            .is_some_and(|field| matches!(field.path[0].as_str(), "parallel" | "devices"));
        let [above, below] =
            Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(side);
        if on_split {
            draw_splits(frame, above, app);
            draw_who(frame, below, app);
        } else {
            draw_outlook(frame, above, app);
            draw_checks(frame, below, app);
        }
    } else {
        draw_form(frame, body, app);
    }
}

fn draw_form(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let fields = app.launch.fields();
    let problems = app
        .launch
        .checked
        .as_ref()
        .map(|checked| checked.problems.len());
    let state = match (app.launch.verdict(), problems) {
        (None, _) => "checking ...".to_owned(),
        (Some(_), Some(0)) => "ready to launch".to_owned(),
        (Some(_), n) => format!("{} problem(s)", n.unwrap_or(0)),
    };
    let block = Block::bordered().title(format!(" New run: {} ", state));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let foot = 3.min(inner.height / 3);
    let [list, help] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(foot)]).areas(inner);
    let rows = usize::from(list.height);
    let width = usize::from(list.width);
    let cursor = app.launch.cursor.min(fields.len().saturating_sub(1));
    let first = cursor.saturating_sub(rows.saturating_sub(1).min(rows * 2 / 3));
    let lines: Vec<Line<'_>> = fields
        .iter()
        .enumerate()
        .skip(first)
        .take(rows)
        .map(|(index, field)| field_line(app, field, index == cursor, width))
        .collect();
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
        (Some(typed), true) => format!("{typed}_"),
        _ => field.value.replace('\n', "\\n"),
    };
    if let Kind::Choice(_) = &field.kind
        && is_here
    {
        value = format!("← {value} →");
    }
    if field.path == ["parallel"]
        && let Some([dp, tp, pp]) = split_of(&app.launch.draft.root)
    {
        let split = format!("dp {dp} · tp {tp} · pp {pp}");
        value = if is_here {
            format!("← {split} →")
        } else {
            split
        };
    }
    let problem = app.launch.problem(field);
    let column = 22.min(width / 2);
    let mut text = format!("{label:<column$} {value}");
    if let Some(problem) = problem {
        text = format!("{text}  ! {problem}");
    }
    let style = if is_here {
        app.look.selected()
    } else if problem.is_some() {
        app.look.bad()
    } else if field.kind == Kind::Heading || field.depth() == 0 {
        app.look.bold()
    } else {
        ratatui::style::Style::new()
    };
    Line::from(Span::styled(cut(&text, width), style))
}

/// The field's own words, or what is wrong with it in full.
fn draw_help(frame: &mut Frame<'_>, area: Rect, app: &App, field: &Field) {
    let (text, style) = match app.launch.problem(field) {
        Some(problem) => (format!("! {problem}"), app.look.bad()),
        None if field.path == ["parallel"] => (
            "Left and right move the ranks between the axes; Enter lists all splits.".to_owned(),
            app.look.dim(),
        ),
        None => (field.description.clone(), app.look.dim()),
    };
    let text = format!("{}: {text}", field.dotted());
    let paragraph = Paragraph::new(Span::styled(text, style)).wrap(Wrap { trim: true });
    frame.render_widget(paragraph, area);
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
        None if app.launch.verdict().is_none() => lines.push("checking ...".to_owned()),
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
    let block = Block::bordered().title(" Checks ");
    let mut lines: Vec<Line<'_>> = Vec::new();
    if let Some(refused) = &app.launch.refused {
        lines.push(Line::from(Span::styled(
            format!("✗ {refused}"),
            app.look.bad(),
        )));
    }
    let none = Vec::new();
    let checked = app.launch.checked.as_ref();
    for (path, problem) in checked.map_or(&none, |checked| &checked.problems) {
        let text = format!("✗ {path}: {problem}");
        lines.push(Line::from(Span::styled(text, app.look.bad())));
    }
    for (is_well, text) in checked.map_or(&[][..], |checked| &checked.checks) {
        let (sign, style) = if *is_well {
            ("✓", app.look.good())
        } else {
            ("!", app.look.warn())
        };
        lines.push(Line::from(vec![
            Span::styled(format!("{sign} "), style),
            Span::raw(text.clone()),
        ]));
    }
    if lines.is_empty() {
        lines.push(Line::from(Span::styled("checking ...", app.look.dim())));
    }
    let paragraph = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    frame.render_widget(paragraph, area);
}

/// One split in a line: degrees, bytes of a rank or the reason why not.
pub fn split_line(app: &App, split: &SplitRow, width: usize) -> String {
    let here = split_of(&app.launch.draft.root) == Some([split.dp, split.tp, split.pp]);
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
    let present = split_of(&app.launch.draft.root);
    let place = splits
        .iter()
        .position(|split| present == Some([split.dp, split.tp, split.pp]))
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

/// Which rank does what on which device.
fn draw_who(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::bordered().title(" Who does what ");
    let plan = app
        .launch
        .checked
        .as_ref()
        .and_then(|checked| checked.plan.as_ref());
    let mut lines = Vec::new();
    if let Some(plan) = plan {
        let mesh = plan.split.mesh;
        for (rank, place) in plan.ranks.iter().enumerate() {
            let at = mesh.at(rank);
            let batch = bar(
                (at.replica + 1) as f64 / mesh.dp.max(1) as f64,
                mesh.dp.min(8),
            );
            lines.push(Line::from(format!(
                " rank {rank:<3} {:<7} batch part {}/{} {batch}  tensor part {}/{}  stage {}/{}",
                place.device.to_string(),
                at.replica + 1,
                mesh.dp,
                at.shard + 1,
                mesh.tp,
                at.stage + 1,
                mesh.pp
            )));
        }
    } else {
        lines.push(Line::from(Span::styled(" no plan", app.look.dim())));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
