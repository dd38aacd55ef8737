//! Live (3): is it healthy, how fast, what limits it, when is it done?

use super::{
    app::{App, Effect},
    board::Board,
    keys::Action,
    metric::Metric,
    popup::{ask_name, confirm},
    update::order,
};
use crate::{
    base::units,
    event::Control,
    launch::runs::shortly,
    store::{RunState, Status},
};

/// The parts of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panel {
    Devices,
    #[default]
    Loss,
    Metric,
    Anatomy,
    Checkpoints,
    Events,
}

const PANELS: [Panel; 6] = [
    Panel::Devices,
    Panel::Loss,
    Panel::Metric,
    Panel::Anatomy,
    Panel::Checkpoints,
    Panel::Events,
];

/// The screen's own state.
#[derive(Default)]
pub struct Live {
    pub panel: Panel,
    pub expanded: bool,
    pub metric: Metric,
    pub is_log: bool,
    /// Lines of the panel in focus that lie above it.
    offset: usize,
    /// The picture when it was frozen.
    pub frozen: Option<Box<Frozen>>,
}

/// A picture that stands still.
pub struct Frozen {
    board: Board,
    /// Unix seconds at which it was frozen.
    now: f64,
}

impl Live {
    /// Another run is shown.
    pub fn turn(&mut self) {
        self.frozen = None;
        self.expanded = false;
        self.offset = 0;
    }

    /// Lines of a panel that lie above it: the one in focus moves.
    pub fn offset(&self, panel: Panel) -> usize {
        if panel == self.panel { self.offset } else { 0 }
    }
}

/// The run as it is shown: frozen, or as it is.
pub fn shown(app: &App) -> Option<&Board> {
    let frozen = app.live.frozen.as_ref().map(|frozen| &frozen.board);
    frozen.or(app.board.as_ref())
}

/// The time of the run as it is shown.
pub fn now(app: &App) -> f64 {
    let frozen = app.live.frozen.as_ref();
    frozen.map_or(app.now, |frozen| frozen.now)
}

/// The item of a list that lies `by` after the present one, over its ends.
pub fn turned<T: Copy + PartialEq>(list: &[T], present: T, by: isize) -> T {
    let place = list.iter().position(|item| *item == present).unwrap_or(0);
    let n = list.len() as isize;
    list[(place as isize + by).rem_euclid(n) as usize]
}

/// Lines that the panel in focus has.
fn lines(app: &App) -> usize {
    shown(app).map_or(0, |board| match app.live.panel {
        Panel::Devices | Panel::Anatomy => board.state.world,
        Panel::Checkpoints => board.state.checkpoints.len(),
        Panel::Events => board.events().count(),
        Panel::Loss | Panel::Metric => 0,
    })
}

/// Moves within the panel in focus.
fn scroll(app: &mut App, action: Action) {
    let n = lines(app);
    if n == 0 {
        let key = app.key(Action::NextPanel);
        app.say(format!("nothing to move in; {key} turns to the next panel"));
        return;
    }
    let moved = action.moved(app.live.offset, n - 1, app.rows / 2);
    app.live.offset = moved.unwrap_or(app.live.offset);
}

fn focus(live: &mut Live, by: isize) {
    live.panel = turned(&PANELS, live.panel, by);
    live.offset = 0;
}

fn turn_metric(app: &mut App, by: isize) {
    if let Some(board) = shown(app) {
        app.live.metric = app.live.metric.turned(board, by);
    }
}

/// A key of the map.
pub fn act(app: &mut App, action: Action) -> Vec<Effect> {
    let live = &mut app.live;
    match action {
        Action::NextPanel => focus(live, 1),
        Action::PreviousPanel => focus(live, -1),
        Action::Up
        | Action::Down
        | Action::First
        | Action::Last
        | Action::PageUp
        | Action::PageDown => scroll(app, action),
        Action::Expand => live.expanded = !live.expanded,
        Action::NextMetric => turn_metric(app, 1),
        Action::PreviousMetric => turn_metric(app, -1),
        Action::LogAxis => live.is_log = !live.is_log,
        Action::Freeze => freeze(app),
        Action::Checkpoint => return order(app, Control::Checkpoint),
        Action::Pause => return pause(app),
        Action::Stop => return ask_stop(app),
        Action::Kill => return ask_kill(app),
        Action::Resume => return resume(app),
        Action::Sample => return sample(app),
        Action::Copy => return copy(app),
        _ => {}
    }
    Vec::new()
}

/// Freezes the picture, or lets it go on; the run goes on either way.
pub fn freeze(app: &mut App) {
    app.live.frozen = match (app.live.frozen.take(), &app.board) {
        (None, Some(board)) => Some(Box::new(Frozen {
            board: board.clone(),
            now: app.now,
        })),
        _ => None,
    };
}

/// Esc: undoes the expansion, else the freezing; false where there was neither.
pub fn back(app: &mut App) -> bool {
    if app.live.expanded {
        app.live.expanded = false;
    } else if app.live.frozen.is_some() {
        app.live.frozen = None;
    } else {
        return false;
    }
    true
}

fn pause(app: &mut App) -> Vec<Effect> {
    let is_paused = app
        .board
        .as_ref()
        .is_some_and(|board| board.state.status == Status::Paused);
    let control = if is_paused {
        Control::Continue
    } else {
        Control::Pause
    };
    order(app, control)
}

/// Asks before a stop.
pub fn ask_stop(app: &mut App) -> Vec<Effect> {
    let effects = order(app, Control::Stop);
    let Some(then) = effects.into_iter().next() else {
        return Vec::new();
    };
    let name = app
        .board
        .as_ref()
        .map_or_else(String::new, |board| board.folder.name());
    let lines = vec![
        format!("{name} finishes its step, saves a checkpoint and ends."),
        format!("Nothing is lost; {} resumes it.", app.key(Action::Resume)),
    ];
    confirm(app, "Stop", lines, then)
}

/// Asks before a kill, with what is lost.
pub fn ask_kill(app: &mut App) -> Vec<Effect> {
    let effects = order(app, Control::Kill);
    let Some(then) = effects.into_iter().next() else {
        return Vec::new();
    };
    let Some(board) = &app.board else {
        return Vec::new();
    };
    let name = board.folder.name();
    let lines = vec![format!("{name} ends at once."), lost(&board.state)];
    ask_name(app, "Kill", lines, &name, then)
}

/// What a kill costs, in steps and time.
pub fn lost(state: &RunState) -> String {
    let saved = state.newest_checkpoint().map(|checkpoint| checkpoint.step);
    let steps = state.step.saturating_sub(saved.unwrap_or(0));
    let time = state
        .seconds_per_step
        .map(|seconds| format!(", {}", units::seconds(seconds * steps as f64)))
        .unwrap_or_default();
    match saved {
        Some(saved) => {
            format!(
                "Lost: {steps} steps{time}, back to the checkpoint at step {saved}; as of step {}.",
                state.step
            )
        }
        None => {
            let now = state.step;
            format!("Lost: all {steps} steps{time}, as of step {now}; there is no checkpoint yet.")
        }
    }
}

fn resume(app: &mut App) -> Vec<Effect> {
    let Some(board) = &app.board else {
        return Vec::new();
    };
    if board.held {
        let name = board.folder.name();
        app.complain(format!("{name} is running"));
        return Vec::new();
    }
    vec![Effect::Resume(board.folder.clone())]
}

fn sample(app: &mut App) -> Vec<Effect> {
    let Some(board) = &app.board else {
        return Vec::new();
    };
    let (folder, is_running) = (board.folder.clone(), board.held);
    if !is_running && board.state.checkpoints.is_empty() {
        app.complain("no checkpoint to sample from".to_owned());
        return Vec::new();
    }
    app.say(match is_running {
        true => "sampling from the current weights; training waits meanwhile ...",
        false => "sampling from the newest checkpoint ...",
    });
    vec![Effect::Sample { folder, is_running }]
}

fn copy(app: &App) -> Vec<Effect> {
    app.board
        .iter()
        .map(|board| {
            let run = shortly(&app.runs_dir, &board.folder);
            Effect::Copy(format!("capstan attach {run}"))
        })
        .collect()
}
