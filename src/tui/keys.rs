//! The key map: one table, from which handling, help, footer and palette come.

use super::app::Screen;
pub use super::key::Key;

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Help,
    Palette,
    Leave,
    Interrupt,
    Suspend,
    Redraw,
    Back,
    Show(Screen),
    Up,
    Down,
    Left,
    Right,
    First,
    Last,
    PageUp,
    PageDown,
    NextPanel,
    PreviousPanel,
    Open,
    Mark,
    Filter,
    NextMatch,
    PreviousMatch,
    Sort,
    Expand,
    PreviousMetric,
    NextMetric,
    LogAxis,
    Freeze,
    Slower,
    Faster,
    Copy,
    Mouse,
    Theme,
    Level,
    Rank,
    Wrap,
    Checkpoint,
    Pause,
    Stop,
    Kill,
    Sample,
    Resume,
    Delete,
    DryRun,
    Write,
    Edit,
    Launch,
    Reopen,
}

impl Action {
    /// The name in a key map's file: `next_panel`, `show_live`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars().filter(|c| c.is_alphabetic()) {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }

    /// Whether it asks before it does something.
    pub const fn asks(self) -> bool {
        matches!(
            self,
            Self::Launch | Self::Write | Self::Stop | Self::Kill | Self::Delete
        )
    }

    /// The place in a list that ends at `last`; `None` where the action moves nothing.
    pub fn moved(self, place: usize, last: usize, page: usize) -> Option<usize> {
        let to = match self {
            Self::Up => place.saturating_sub(1),
            Self::Down => place + 1,
            Self::PageUp => place.saturating_sub(page),
            Self::PageDown => place + page,
            Self::First => 0,
            Self::Last => last,
            _ => return None,
        };
        Some(to.min(last))
    }
}

/// Whether a key may change something outside the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Move,
    Look,
    /// Starts, changes or writes something; refused under `--readonly`.
    Act,
}

/// One line of the key map.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    pub keys: &'static [Key],
    pub action: Action,
    /// Empty: every screen.
    pub on: &'static [Screen],
    pub class: Class,
    /// In the footer; empty where it has no place there.
    pub brief: &'static str,
    /// In help and palette.
    pub words: &'static str,
    /// The command that does the same; empty where the key only looks.
    pub twin: &'static str,
}

impl Binding {
    /// Whether the key works on that screen.
    pub fn is_on(&self, screen: Screen) -> bool {
        self.on.is_empty() || self.on.contains(&screen)
    }

    /// The keys as help shows them.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.keys.iter().map(|key| key.name()).collect();
        names.join(" ")
    }
}

/// What a key means on a screen.
pub fn find(map: &'static [Binding], key: Key, screen: Screen) -> Option<&'static Binding> {
    map.iter()
        .find(|binding| binding.is_on(screen) && binding.keys.contains(&key))
}

const ALL: &[Screen] = &[];
const LAUNCH: &[Screen] = &[Screen::Launch];
const LIVE: &[Screen] = &[Screen::Live];
const RUNS: &[Screen] = &[Screen::Runs];
const LOGS: &[Screen] = &[Screen::Logs];
const FOUND_IN: &[Screen] = &[Screen::Runs, Screen::Logs];
const LISTS: &[Screen] = &[Screen::Launch, Screen::Runs, Screen::Logs];
const SCROLLED: &[Screen] = &[Screen::Launch, Screen::Live, Screen::Runs, Screen::Logs];

const fn on(
    on: &'static [Screen],
    class: Class,
    keys: &'static [Key],
    action: Action,
    brief: &'static str,
    words: &'static str,
) -> Binding {
    Binding {
        keys,
        action,
        on,
        class,
        brief,
        words,
        twin: "",
    }
}

const fn act(
    places: &'static [Screen],
    keys: &'static [Key],
    action: Action,
    brief: &'static str,
    words: &'static str,
    twin: &'static str,
) -> Binding {
    as_command(on(places, Class::Act, keys, action, brief, words), twin)
}

const fn as_command(mut binding: Binding, twin: &'static str) -> Binding {
    binding.twin = twin;
    binding
}

/// Every key, until `keys.json` says otherwise; the most useful of each screen first.
pub const KEYS: &[Binding] = {
    use Class::{Look, Move};
    use Key::{
        BackTab, Char, Ctrl, Down, End, Enter, Esc, F, Home, Left, PageDown, PageUp, Right, Tab, Up,
    };
    &[
        on(
            LAUNCH,
            Look,
            &[Enter],
            Action::Open,
            "edit",
            "edit or choose the field",
        ),
        act(
            LAUNCH,
            &[Char('L')],
            Action::Launch,
            "LAUNCH",
            "launch, after one confirmation",
            "capstan train FILE",
        ),
        on(
            LAUNCH,
            Move,
            &[Tab],
            Action::NextPanel,
            "group",
            "next group of fields",
        ),
        on(
            LAUNCH,
            Move,
            &[BackTab],
            Action::PreviousPanel,
            "",
            "previous group of fields",
        ),
        as_command(
            on(
                LAUNCH,
                Look,
                &[Char('d')],
                Action::DryRun,
                "check",
                "check everything again, data included",
            ),
            "capstan train FILE --dry-run",
        ),
        act(
            LAUNCH,
            &[Char('w')],
            Action::Write,
            "write",
            "write the config to a file",
            "capstan config FILE --set KEY=VALUE > OTHER",
        ),
        act(
            LAUNCH,
            &[Char('E')],
            Action::Edit,
            "",
            "edit the config in $EDITOR",
            "$EDITOR FILE",
        ),
        on(
            LAUNCH,
            Look,
            &[Char('e')],
            Action::Expand,
            "",
            "all checks in full",
        ),
        on(
            RUNS,
            Look,
            &[Enter],
            Action::Open,
            "open",
            "open the run in Live",
        ),
        on(
            RUNS,
            Look,
            &[Char('s')],
            Action::Sort,
            "sort",
            "sort: the same column reversed, then the next",
        ),
        on(
            RUNS,
            Look,
            &[Char(' ')],
            Action::Mark,
            "mark",
            "mark: configs are compared against it",
        ),
        act(
            RUNS,
            &[Char('r')],
            Action::Resume,
            "resume",
            "resume the run from its last checkpoint",
            "capstan resume RUN",
        ),
        act(
            RUNS,
            &[Char('D')],
            Action::Delete,
            "delete",
            "delete the run: asks for its name",
            "capstan delete RUN --confirm RUN",
        ),
        on(
            &[Screen::Launch, Screen::Runs],
            Look,
            &[Char('o')],
            Action::Reopen,
            "open",
            "begin with a file's or a past run's config",
        ),
        on(
            RUNS,
            Move,
            &[Tab],
            Action::NextPanel,
            "",
            "between the list and the details",
        ),
        on(
            RUNS,
            Move,
            &[BackTab],
            Action::PreviousPanel,
            "",
            "between the details and the list",
        ),
        on(
            LIVE,
            Look,
            &[Char('f')],
            Action::Freeze,
            "freeze",
            "freeze the picture; the run goes on",
        ),
        on(
            LIVE,
            Look,
            &[Char('e')],
            Action::Expand,
            "expand",
            "expand the panel, and undo that",
        ),
        act(
            LIVE,
            &[Char('C')],
            Action::Checkpoint,
            "ckpt",
            "save a checkpoint after this step",
            "capstan checkpoint RUN",
        ),
        act(
            LIVE,
            &[Char('P')],
            Action::Pause,
            "pause",
            "pause after this step, or go on",
            "capstan pause RUN",
        ),
        act(
            LIVE,
            &[Char('S')],
            Action::Stop,
            "stop",
            "save a checkpoint, then stop: asks",
            "capstan stop RUN",
        ),
        act(
            LIVE,
            &[Char('K')],
            Action::Kill,
            "kill",
            "kill: says what is lost, asks for the run's name",
            "capstan kill RUN",
        ),
        act(
            LIVE,
            &[Char('r')],
            Action::Resume,
            "resume",
            "resume a run that is not running",
            "capstan resume RUN",
        ),
        on(
            LIVE,
            Look,
            &[Char(']')],
            Action::NextMetric,
            "metric",
            "next metric",
        ),
        on(
            LIVE,
            Look,
            &[Char('[')],
            Action::PreviousMetric,
            "",
            "previous metric",
        ),
        on(
            LIVE,
            Look,
            &[Char('a')],
            Action::LogAxis,
            "axis",
            "loss axis: linear or logarithmic",
        ),
        act(
            LIVE,
            &[Char('T')],
            Action::Sample,
            "sample",
            "text from the current weights",
            "capstan sample RUN --now",
        ),
        on(LIVE, Move, &[Tab], Action::NextPanel, "", "next panel"),
        on(
            LIVE,
            Move,
            &[BackTab],
            Action::PreviousPanel,
            "",
            "previous panel",
        ),
        on(
            LOGS,
            Look,
            &[Enter],
            Action::Open,
            "detail",
            "the whole line, since when, how often, what to try",
        ),
        on(
            LOGS,
            Look,
            &[Char('v')],
            Action::Level,
            "level",
            "least level that is shown",
        ),
        on(
            LOGS,
            Look,
            &[Char('#')],
            Action::Rank,
            "rank",
            "lines of one rank only; those of the run as a whole show with all",
        ),
        on(
            LOGS,
            Look,
            &[Char('w')],
            Action::Wrap,
            "wrap",
            "wrap long lines",
        ),
        on(
            LOGS,
            Look,
            &[Char('f')],
            Action::Freeze,
            "",
            "freeze the picture; the run goes on",
        ),
        on(
            FOUND_IN,
            Look,
            &[Char('/')],
            Action::Filter,
            "filter",
            "filter or search: word, !word, /regex/, key:value",
        ),
        on(
            LAUNCH,
            Look,
            &[Char('/')],
            Action::Filter,
            "filter",
            "only fields whose path holds what is typed",
        ),
        on(
            LOGS,
            Look,
            &[Char('n')],
            Action::NextMatch,
            "next",
            "next match",
        ),
        on(
            LOGS,
            Look,
            &[Char('N')],
            Action::PreviousMatch,
            "",
            "previous match",
        ),
        on(
            ALL,
            Look,
            &[Char('+')],
            Action::Slower,
            "",
            "draw less often",
        ),
        on(
            ALL,
            Look,
            &[Char('-')],
            Action::Faster,
            "",
            "draw more often",
        ),
        on(
            SCROLLED,
            Look,
            &[Char('y')],
            Action::Copy,
            "copy",
            "copy the command line, or the line of the log",
        ),
        on(SCROLLED, Move, &[Up, Char('k')], Action::Up, "", "up"),
        on(SCROLLED, Move, &[Down, Char('j')], Action::Down, "", "down"),
        on(
            LISTS,
            Move,
            &[Left, Char('h')],
            Action::Left,
            "",
            "previous choice, or to the left",
        ),
        on(
            LISTS,
            Move,
            &[Right, Char('l')],
            Action::Right,
            "",
            "next choice, or to the right",
        ),
        on(
            SCROLLED,
            Move,
            &[Char('g'), Home],
            Action::First,
            "",
            "first",
        ),
        on(
            SCROLLED,
            Move,
            &[Char('G'), End],
            Action::Last,
            "",
            "last; in Logs also: follow",
        ),
        on(
            SCROLLED,
            Move,
            &[PageUp, Ctrl('u')],
            Action::PageUp,
            "",
            "a page up",
        ),
        on(
            SCROLLED,
            Move,
            &[PageDown, Ctrl('d')],
            Action::PageDown,
            "",
            "a page down",
        ),
        on(
            ALL,
            Move,
            &[Char('1')],
            Action::Show(Screen::Launch),
            "",
            "Launch",
        ),
        on(
            ALL,
            Move,
            &[Char('2')],
            Action::Show(Screen::Plan),
            "",
            "Plan (comes later)",
        ),
        on(
            ALL,
            Move,
            &[Char('3')],
            Action::Show(Screen::Live),
            "",
            "Live",
        ),
        on(
            ALL,
            Move,
            &[Char('4')],
            Action::Show(Screen::Compare),
            "",
            "Compare (comes later)",
        ),
        on(
            ALL,
            Move,
            &[Char('5')],
            Action::Show(Screen::Runs),
            "",
            "Runs",
        ),
        on(
            ALL,
            Move,
            &[Char('6')],
            Action::Show(Screen::Logs),
            "",
            "Logs",
        ),
        on(
            ALL,
            Look,
            &[Char('?'), F(1)],
            Action::Help,
            "",
            "the keys of this screen",
        ),
        on(
            ALL,
            Look,
            &[Char(':')],
            Action::Palette,
            "",
            "every action by name",
        ),
        on(
            ALL,
            Look,
            &[Esc],
            Action::Back,
            "",
            "back; a run is never touched",
        ),
        on(
            ALL,
            Look,
            &[Char('q')],
            Action::Leave,
            "",
            "leave; runs go on",
        ),
        on(
            ALL,
            Look,
            &[Ctrl('c')],
            Action::Interrupt,
            "",
            "leave, stop or kill: asks which",
        ),
        on(
            ALL,
            Look,
            &[Ctrl('z')],
            Action::Suspend,
            "",
            "suspend the UI; fg returns",
        ),
        on(
            ALL,
            Look,
            &[Ctrl('l')],
            Action::Redraw,
            "",
            "draw everything again",
        ),
        on(
            ALL,
            Look,
            &[Char('m')],
            Action::Mouse,
            "",
            "mouse on or off; off, text can be selected",
        ),
        on(
            ALL,
            Look,
            &[Char('t')],
            Action::Theme,
            "",
            "next colours: sixteen, more where there are more, none",
        ),
    ]
};
