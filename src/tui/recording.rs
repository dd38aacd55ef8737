//! A recorded run, played as if it ran: for a look at the screens without training anything.
//!
//! The events are those of a real run of this program on two CPU ranks, `configs/hello.json` shortened to 300 steps
//! (`capstan train assets/demo/config.json`); only the folder of its checkpoints is left out.

use std::{
    sync::mpsc::SyncSender,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    app::{App, Effect, Msg, News, Screen},
    board::Board,
    launch,
    runs::{Details, RunRow},
    sources,
};
use crate::{base::clock::unix_seconds, event::Record, launch::RunFolder, plan::RunPlan};

const EVENTS: &str = include_str!("../../assets/demo/events.jsonl");
const PLAN: &str = include_str!("../../assets/demo/plan.json");
const CONFIG: &str = include_str!("../../assets/demo/config.json");
/// It plays this many times faster than it ran.
pub const SPEED: f64 = 3.0;
/// Pauses longer than this are not waited out.
const LONGEST: f64 = 2.0;

/// All records of the run.
pub fn records() -> Vec<Record> {
    let lines = EVENTS.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The run's board before its first event.
pub fn board() -> Board {
    let mut board = Board::new(RunFolder::new("recording"));
    board.plan = serde_json::from_str::<RunPlan>(PLAN).ok().map(Box::new);
    board.config = serde_json::from_str(CONFIG).ok();
    board
}

/// Sets the UI on the recording.
pub fn begin(app: &mut App) -> Vec<Effect> {
    let mut whole = board();
    for record in records() {
        whole.apply(&record);
    }
    let folder = RunFolder::new("recording");
    app.recording = true;
    app.screen = Screen::Live;
    let mut row: RunRow = sources::row(&folder, SystemTime::now(), false);
    row.word = "completed";
    row.fault = None;
    row.model = whole
        .plan
        .as_ref()
        .map_or_else(String::new, |plan| sources::model(plan));
    row.state = Ok(Box::new(whole.state));
    app.runs.rows = Some(vec![row]);
    app.runs.details = Some(Details {
        name: folder.name(),
        loss: whole.loss,
        ..Details::default()
    });
    app.board = Some(board());
    let mut first = launch::check(app);
    first.push(Effect::Play);
    first
}

/// All records with the seconds after which they play.
pub fn paced() -> Vec<(f64, Record)> {
    let mut before: Option<f64> = None;
    let mut at = 0.0;
    let paced = records().into_iter().map(|record| {
        let pause = before.map_or(0.0, |before| record.time - before);
        before = Some(record.time);
        at += (pause / SPEED).clamp(0.0, LONGEST);
        (at, record)
    });
    paced.collect()
}

/// Sends the records as they came, faster and with the times of today.
pub fn play(to: &SyncSender<Msg>) {
    let tell = |news: News| to.send(Msg::Watched { watch: 0, news }).is_ok();
    if !tell(News::Held(true)) {
        return;
    }
    let begin = Instant::now();
    for (at, mut record) in paced() {
        let pause = Duration::from_secs_f64(at).saturating_sub(begin.elapsed());
        thread::sleep(pause);
        record.time = unix_seconds();
        if !tell(News::Records(vec![record])) {
            return;
        }
    }
    tell(News::Held(false));
}
