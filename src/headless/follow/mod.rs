//! Following a run: its log as it grows, shown in one of three ways.

mod bar;
mod interrupts;
mod json;
mod lines;
mod summary;
mod tail;

use std::{
    env,
    io::{self, IsTerminal},
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use self::{bar::Bar, json::Json, lines::Lines};
pub use self::{
    interrupts::Interrupts,
    tail::{History, Tail},
};
use super::{
    cli::{AttachArgs, ViewArgs},
    find::{find, shortly},
    outcome::{FAILED, code_of_outcome},
    text::say,
};
use crate::{
    event::Record,
    launch::{RunFolder, lock},
    store::RunState,
};

const POLL: Duration = Duration::from_millis(20);
/// Looking after another's supervisor touches its lock file.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// A progress bar, with lines above it.
    Bar,
    /// One line per log interval, without escape sequences.
    Lines,
    /// The events themselves.
    Json,
}

impl ViewKind {
    /// A bar only where one can be drawn.
    pub fn choose(args: ViewArgs) -> Self {
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        if args.json {
            Self::Json
        } else if args.plain || is_dumb || !io::stdout().is_terminal() {
            Self::Lines
        } else {
            Self::Bar
        }
    }
}

/// One way to show a run.
trait View {
    /// Shows a record; `state` holds it already.
    fn record(&mut self, record: &Record, state: &RunState) -> io::Result<()>;
    /// Says something that is not the run's.
    fn note(&mut self, text: &str) -> io::Result<()>;
    /// Leaves the screen as it is to stay.
    fn close(&mut self) {}
}

/// Whose supervisor it is.
enum Supervisor {
    /// Its exit code is ours, signals are passed on to it.
    Own(Child),
    Other {
        looked_at: Instant,
    },
}

impl Supervisor {
    fn is_gone(&mut self, folder: &RunFolder) -> bool {
        match self {
            Self::Own(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Other { looked_at } if looked_at.elapsed() < LOOK_AFTER => false,
            Self::Other { looked_at } => {
                *looked_at = Instant::now();
                !lock::is_held(folder)
            }
        }
    }
}

struct Follow<'a> {
    runs_dir: &'a Path,
    folder: &'a RunFolder,
    tail: Tail,
    view: Box<dyn View>,
    is_json: bool,
    supervisor: Supervisor,
    interrupts: Interrupts,
}

enum End {
    /// The run's last event.
    Ended,
    /// The supervisor is gone without one.
    Lost,
    /// What lies there is not that run.
    Replaced,
    /// The user has seen enough.
    Left,
}

/// Prints the lines of a run whose records are at hand.
///
/// # Errors
/// stdout is closed.
pub fn print(records: &[Record]) -> io::Result<()> {
    let (mut lines, mut state) = (Lines::default(), RunState::default());
    for record in records {
        state.apply(record);
        lines.record(record, &state)?;
    }
    Ok(())
}

/// Follows the run of a supervisor that this process started, and returns its exit code.
///
/// # Errors
/// The log can't be read, or stdout is closed: the run goes on all the same.
pub fn own(
    runs_dir: &Path,
    folder: &RunFolder,
    view: ViewKind,
    supervisor: Child,
    mut interrupts: Interrupts,
    history: Option<History>,
) -> anyhow::Result<u8> {
    interrupts.pass_on_to(&supervisor)?;
    let tail = Tail::open(folder, history)?;
    Follow {
        runs_dir,
        folder,
        tail,
        view: show(view),
        is_json: view == ViewKind::Json,
        supervisor: Supervisor::Own(supervisor),
        interrupts,
    }
    .finish()
}

/// `capstan attach`.
pub fn attach(runs_dir: &Path, args: &AttachArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    let kind = ViewKind::choose(args.view);
    let is_json = kind == ViewKind::Json;
    let interrupts = Interrupts::listen()?;
    let history = if is_json {
        None
    } else {
        Some(History::read(&folder)?)
    };
    if let Some(history) = history.as_ref().filter(|_| lock::is_held(&folder)) {
        let step = history.state().step;
        say(&format!(
            "attached to {} after step {step}; Ctrl-C leaves it running",
            folder.name()
        ))?;
    }
    Follow {
        runs_dir,
        folder: &folder,
        tail: Tail::open(&folder, history)?,
        view: show(kind),
        is_json,
        supervisor: Supervisor::Other {
            looked_at: Instant::now(),
        },
        interrupts,
    }
    .finish()
}

fn show(kind: ViewKind) -> Box<dyn View> {
    match kind {
        ViewKind::Bar => Box::new(Bar::new()),
        ViewKind::Lines => Box::new(Lines::default()),
        ViewKind::Json => Box::new(Json),
    }
}

impl Follow<'_> {
    fn finish(mut self) -> anyhow::Result<u8> {
        let end = self.watch();
        self.view.close();
        match end? {
            End::Ended => self.ended(),
            End::Lost => self.lost(),
            End::Replaced => {
                let run = shortly(self.runs_dir, self.folder);
                self.view.note(&format!(
                    "{run} was deleted, or another run took its place; what there is: capstan runs"
                ))?;
                Ok(FAILED)
            }
            End::Left => {
                self.view.note(&format!(
                    "left {}, which goes on; follow it again: capstan attach {}",
                    self.folder.name(),
                    shortly(self.runs_dir, self.folder)
                ))?;
                Ok(0)
            }
        }
    }

    fn watch(&mut self) -> anyhow::Result<End> {
        // A run that had ended before stays ended unless somebody resumes it.
        let mut over = self.tail.state().ended.is_some() && !lock::is_held(self.folder);
        loop {
            // Asked before the log is read: what a dead supervisor wrote is in it.
            let gone = self.supervisor.is_gone(self.folder);
            while let Some(record) = self.tail.next_record()? {
                self.view.record(&record, self.tail.state())?;
                over = self.tail.state().ended.is_some();
                if self.heed_interrupts()? {
                    return Ok(End::Left);
                }
            }
            if over || (gone && self.tail.state().ended.is_some()) {
                return Ok(End::Ended);
            }
            if self.is_replaced() {
                return Ok(End::Replaced);
            }
            if gone {
                return Ok(End::Lost);
            }
            if self.heed_interrupts()? {
                return Ok(End::Left);
            }
            thread::sleep(POLL);
        }
    }

    /// Whether the run of another front is not the one at its path any more.
    fn is_replaced(&self) -> bool {
        matches!(self.supervisor, Supervisor::Other { .. }) && self.tail.is_replaced()
    }

    /// Whether this front is to leave.
    fn heed_interrupts(&mut self) -> anyhow::Result<bool> {
        let Some(words) = self.interrupts.heed(self.tail.state()) else {
            return Ok(false);
        };
        if matches!(self.supervisor, Supervisor::Other { .. }) {
            return Ok(true);
        }
        self.view.note(&words)?;
        Ok(false)
    }

    fn ended(self) -> anyhow::Result<u8> {
        if !self.is_json {
            let run = shortly(self.runs_dir, self.folder);
            for line in summary::lines(self.folder, &run, self.tail.state()) {
                say(&line)?;
            }
        }
        let outcome = self
            .tail
            .state()
            .ended
            .as_ref()
            .map(|ending| ending.outcome);
        let code = outcome.map_or(FAILED, code_of_outcome);
        Ok(match self.supervisor {
            Supervisor::Own(mut child) => exit_code(&mut child).unwrap_or(code),
            Supervisor::Other { .. } => code,
        })
    }

    fn lost(mut self) -> anyhow::Result<u8> {
        let run = shortly(self.runs_dir, self.folder);
        let remedy = if self.folder.has_checkpoint() {
            format!("go on from the last checkpoint: capstan resume {run}")
        } else {
            "it left no checkpoint to resume from".to_owned()
        };
        let step = self.tail.state().step;
        self.view.note(&format!(
            "the supervisor of {run} died after step {step}; {remedy}"
        ))?;
        Ok(FAILED)
    }
}

fn exit_code(supervisor: &mut Child) -> Option<u8> {
    let status = supervisor.wait().ok()?;
    status.code().and_then(|code| u8::try_from(code).ok())
}
