//! What the UI knows, what can happen to it, and what it can ask for.

use std::{collections::VecDeque, path::PathBuf};

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    board::Board,
    checks::Checked,
    draft::Draft,
    keys::{Action, Binding, KEYS, Key},
    launch::Launch,
    line::Line,
    live::Live,
    logs::Logs,
    look::Look,
    opener::Opener,
    picker::{Asked, Looked, Picker},
    runs::{Details, RunRow, Runs},
    splits::Splits,
    written::Replaces,
};
use crate::{
    base::{clock, text::columns},
    event::{Control, Record},
    launch::RunFolder,
    store::RunState,
};

/// The screens, in the order of their numbers.
pub const SCREENS: [Screen; 6] = [
    Screen::Launch,
    Screen::Plan,
    Screen::Live,
    Screen::Compare,
    Screen::Runs,
    Screen::Logs,
];

/// One screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    Launch,
    Plan,
    Live,
    Compare,
    Runs,
    Logs,
}

impl Screen {
    /// From 1: the key that shows it.
    pub fn number(self) -> usize {
        let place = SCREENS.iter().position(|screen| *screen == self);
        place.map_or(0, |index| index + 1)
    }

    /// The name in the tab bar.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Launch => "Launch",
            Self::Plan => "Plan",
            Self::Live => "Live",
            Self::Compare => "Compare",
            Self::Runs => "Runs",
            Self::Logs => "Logs",
        }
    }
}

/// Everything that the screen shows comes from here.
pub struct App {
    pub runs_dir: PathBuf,
    pub readonly: bool,
    pub keys: &'static [Binding],
    pub look: Look,
    /// Unix seconds, as of the last tick.
    pub now: f64,
    pub zone: TimeZone,
    pub screen: Screen,
    /// Where Esc goes back to.
    pub before: Vec<Screen>,
    pub popup: Option<Popup>,
    /// What shows once the popup is closed.
    pub waiting: VecDeque<Popup>,
    /// The last line's word until the next key.
    pub notice: Option<Notice>,
    /// Seconds between two drawings of news.
    pub interval_s: f64,
    pub mouse: bool,
    /// Columns and rows of the terminal; the drawing fits them.
    pub size: (u16, u16),
    /// Rows that the screen's main list has; the drawing fits them, the keys page by them.
    pub rows: usize,
    pub runs: Runs,
    pub board: Option<Board>,
    /// Runs that were turned to, also when it was the same again.
    watches: u64,
    pub live: Live,
    pub logs: Logs,
    pub launch: Launch,
    /// The exit code, once the UI is to end.
    pub leaving: Option<u8>,
    /// A recording plays, and nothing can be steered.
    pub recording: bool,
}

/// Something said on the last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub text: String,
    pub is_error: bool,
}

/// What lies over the screen and takes the keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Popup {
    /// The keys of the screen; with a filter that is being typed or not.
    Help {
        filter: String,
        typing: bool,
        scroll: usize,
    },
    Palette {
        query: String,
        chosen: usize,
    },
    /// y or n.
    Confirm {
        title: String,
        lines: Vec<String>,
        then: Box<Effect>,
        scroll: usize,
    },
    /// Goes on only where `name` is typed.
    TypeName {
        title: String,
        lines: Vec<String>,
        name: String,
        typed: String,
        then: Box<Effect>,
        scroll: usize,
    },
    /// Leave, stop or kill.
    Interrupt,
    /// A text to read.
    Text {
        title: String,
        lines: Vec<String>,
        scroll: usize,
    },
    /// The ways to share the work.
    Splits(Splits),
    /// Where the data comes from.
    Data(Picker),
    /// Which config a new run begins with.
    Open(Opener),
    /// A file name to write to.
    WriteTo {
        path: Line,
    },
}

impl Popup {
    /// A text to read.
    pub fn text(title: &str, lines: Vec<String>) -> Self {
        Self::Text {
            title: title.to_owned(),
            lines,
            scroll: 0,
        }
    }

    /// A question before an effect.
    pub fn confirm(title: &str, lines: Vec<String>, then: Effect) -> Self {
        Self::Confirm {
            title: title.to_owned(),
            lines,
            then: Box::new(then),
            scroll: 0,
        }
    }

    /// The run that a question is about.
    fn run(&self) -> Option<&RunFolder> {
        match self {
            Self::Confirm { then, .. } | Self::TypeName { then, .. } => then.run(),
            _ => None,
        }
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Msg {
    Key(Key),
    Pasted(String),
    Wheel(i32),
    Resized,
    /// Unix seconds.
    Tick(f64),
    /// The runs of the folder, all of them.
    Runs(Vec<RunRow>),
    /// The folder of runs can't be read.
    NoRuns(String),
    Details(Box<Details>),
    /// News of the watched run.
    Watched {
        /// That of the effect.
        watch: u64,
        news: News,
    },
    /// An effect's outcome in words.
    Said(Result<String, String>),
    Text {
        title: String,
        text: String,
    },
    /// A run that was started here, from that draft, or gone on with.
    Started(Result<(RunFolder, Option<Value>), String>),
    Checked(Box<Checked>),
    /// What a check waits for.
    Checking(String),
    Looked(Box<Looked>),
    /// The names that a path may go on with, and what they have in common.
    Completed {
        typed: String,
        whole: String,
        names: Vec<String>,
    },
    /// The text of a config, out of `$EDITOR`.
    Edited(Result<String, String>),
    /// The text of a config to begin with, of a file or (without one) a past run.
    Opened {
        from: Option<PathBuf>,
        text: Result<String, String>,
    },
    /// A file holds the config, or why not.
    Written {
        path: PathBuf,
        root: Value,
        done: Result<(), String>,
    },
    /// A config was to be written where there is a file already.
    Exists {
        path: PathBuf,
        root: Value,
    },
    /// The process is asked to end.
    Signal(i32),
}

/// News of a run.
#[derive(Debug)]
pub enum News {
    /// What follows is another run's, which took this one's place.
    Begun,
    Records(Vec<Record>),
    /// Lines of the worker's own output, with the Unix seconds at which they came where that was seen.
    Output {
        lines: Vec<String>,
        time: Option<f64>,
    },
    /// How much of the log as it was found is read, in percent; `None`: all.
    Reading(Option<u64>),
    /// A line of the log is no record.
    Damaged(String),
    /// The state as written down, there being no log.
    State(Box<RunState>),
    /// Whether a supervisor holds the run.
    Held(bool),
    /// Nothing more comes.
    Failed(String),
    /// The run was deleted.
    Gone,
}

/// What the update function asks for; none of it happens inside it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Suspend,
    /// Ends the UI.
    Leave,
    Redraw,
    Copy(String),
    Mouse(bool),
    /// The number is that of what comes of it.
    Watch(RunFolder, u64),
    /// The recording, from its beginning.
    Play,
    Control(RunFolder, Control),
    Resume(RunFolder),
    Delete(RunFolder),
    Details {
        folder: RunFolder,
        against: Option<RunFolder>,
    },
    /// From a running run's current weights, else from the newest checkpoint.
    Sample {
        folder: RunFolder,
        is_running: bool,
    },
    Check(Box<Draft>),
    /// Looks at data's beginning.
    Look(Asked),
    /// Completes a path.
    Complete(String),
    /// Begins with a past run's config, under a name that need not be free.
    Reopen {
        folder: RunFolder,
        name: String,
    },
    /// Reads a config to begin with.
    OpenFile(PathBuf),
    /// Writes a config.
    Write {
        path: PathBuf,
        root: Value,
        replaces: Replaces,
    },
    Edit(String),
    Launch(Box<Draft>),
}

impl Effect {
    /// The run that it changes.
    pub const fn run(&self) -> Option<&RunFolder> {
        match self {
            Self::Control(folder, _) | Self::Resume(folder) | Self::Delete(folder) => Some(folder),
            _ => None,
        }
    }
}

impl App {
    /// The first picture: nothing is known yet.
    pub fn new(runs_dir: PathBuf, look: Look) -> Self {
        Self {
            runs_dir,
            readonly: false,
            keys: KEYS,
            look,
            now: 0.0,
            zone: TimeZone::UTC,
            screen: Screen::Launch,
            before: Vec::new(),
            popup: None,
            waiting: VecDeque::new(),
            notice: None,
            interval_s: 0.25,
            mouse: false,
            size: (80, 24),
            rows: 10,
            runs: Runs::default(),
            board: None,
            watches: 0,
            live: Live::default(),
            logs: Logs::default(),
            launch: Launch::default(),
            leaving: None,
            recording: false,
        }
    }

    /// For slow lines: draws once a second, and curves in as few characters as can be.
    pub fn save_bandwidth(&mut self) {
        self.interval_s = 1.0;
        self.look.is_coarse = true;
    }

    /// The first key of an action, as a hint names it.
    pub fn key(&self, action: Action) -> String {
        let mut bindings = self.keys.iter();
        let binding = bindings.find(|binding| binding.action == action);
        let key = binding.and_then(|binding| binding.keys.first());
        key.map_or_else(String::new, |key| key.name())
    }

    /// Puts a word on the last line.
    pub fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice {
            text: text.into(),
            is_error: false,
        });
    }

    /// Puts an error on the last line.
    pub fn complain(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice {
            text: text.into(),
            is_error: true,
        });
    }

    /// Shows what comes by itself, once nothing else is being answered or typed.
    pub fn present(&mut self, popup: Popup) {
        self.waiting.push_back(popup);
        self.show_waiting();
        if self.waiting.is_empty() {
            // It was about what shows now.
            self.notice = None;
        }
    }

    /// Shows what waits, where nothing is being answered or typed any more.
    pub fn show_waiting(&mut self) {
        if self.popup.is_none() && !self.is_typing() {
            self.popup = self.waiting.pop_front();
        }
    }

    /// Whether keys go into a field of the screen.
    pub fn is_typing(&self) -> bool {
        match self.screen {
            Screen::Launch => self.launch.editing.is_some() || self.launch.filtering,
            Screen::Runs => self.runs.typing,
            Screen::Logs => self.logs.typing,
            Screen::Plan | Screen::Live | Screen::Compare => false,
        }
    }

    /// Takes back questions about runs that are no longer what was asked about.
    pub fn drop_questions(&mut self, is_gone: impl Fn(&RunFolder) -> bool) {
        let is_dropped = |popup: &Popup| popup.run().is_some_and(&is_gone);
        self.waiting.retain(|popup| !is_dropped(popup));
        if let Some(run) = self
            .popup
            .as_ref()
            .filter(|popup| is_dropped(popup))
            .and_then(Popup::run)
        {
            let words = format!(
                "{} is not the run that was asked about: nothing was done",
                run.name()
            );
            self.popup = None;
            self.show_waiting();
            self.complain(words);
        }
    }

    /// As [`Self::complain`], in full where the last line has no room for it.
    pub fn refuse(&mut self, title: &str, text: &str) {
        let has_room = columns(text) + 3 <= usize::from(self.size.0);
        if has_room && !text.contains('\n') {
            self.complain(text);
        } else {
            let lines = text.lines().map(str::to_owned).collect();
            self.present(Popup::text(title, lines));
        }
    }

    /// Goes to a screen; Esc comes back.
    pub fn show(&mut self, screen: Screen) {
        if self.screen != screen {
            self.before.push(self.screen);
            if self.before.len() > 16 {
                self.before.remove(0);
            }
            self.screen = screen;
        }
    }

    /// Turns to a run: what Live and Logs show. One that could not be read is read again.
    pub fn watch(&mut self, folder: RunFolder) -> Vec<Effect> {
        let is_same = self
            .board
            .as_ref()
            .is_some_and(|board| board.folder == folder && board.failed.is_none());
        if is_same {
            return Vec::new();
        }
        let mut board = Board::new(folder.clone());
        self.watches += 1;
        board.watch = self.watches;
        self.board = Some(board);
        self.live.turn();
        self.logs.turn();
        vec![Effect::Watch(folder, self.watches)]
    }

    /// The wall clock's time of an event, `14:03:12`.
    pub fn clock(&self, unix_seconds: f64) -> String {
        let time = clock::told(unix_seconds, &self.zone, "%H:%M:%S");
        time.unwrap_or_else(|| "--:--:--".to_owned())
    }

    /// As [`Self::clock`], with date and zone.
    pub fn date(&self, unix_seconds: f64) -> String {
        let time = clock::told(unix_seconds, &self.zone, "%Y-%m-%d %H:%M:%S %Z");
        time.unwrap_or_else(|| "--:--:--".to_owned())
    }

    /// Seconds after which the picture grows old by itself.
    pub fn ages_after_s(&self) -> f64 {
        let is_moving = matches!(self.screen, Screen::Live)
            && self.board.as_ref().is_some_and(|board| board.held);
        if is_moving { 1.0 } else { 30.0 }
    }
}
