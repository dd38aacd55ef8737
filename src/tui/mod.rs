//! The terminal UI: choose, launch, watch and steer runs.
//!
//! It is a client of the run folders: what it shows is a fold of events, what it does goes through
//! [`launch`](crate::launch). Nothing of a run depends on it.

mod alarm;
mod anatomy;
mod app;
mod board;
mod chart;
mod checks;
mod curves;
mod devices;
mod draft;
mod draw;
mod effects;
mod fields;
mod filter;
mod key;
mod keymap;
mod keys;
mod later;
mod launch;
mod launch_view;
mod line;
mod live;
mod live_view;
mod logs;
mod logs_view;
mod look;
mod metric;
mod opener;
mod origin;
mod palette;
mod picker;
mod popup;
mod recording;
mod run;
mod runs;
mod runs_view;
mod series;
mod small;
mod sources;
mod splits;
mod stamps;
mod tail;
mod terminal;
#[cfg(test)]
mod tests;
mod update;
mod written;

use std::path::PathBuf;

use jiff::tz::TimeZone;

use self::app::{App, Screen};
pub use self::{
    draw::RECORDING,
    keymap::text as keys_text,
    look::{Colors, Glyphs, Look},
    recording::records as recording,
};
use crate::launch::{RunFolder, dirs};

/// How the UI begins.
#[derive(Clone, Debug)]
pub struct Options {
    pub runs_dir: PathBuf,
    /// A run to watch.
    pub run: Option<RunFolder>,
    /// A config to begin with.
    pub config: Option<PathBuf>,
    /// The user's own key map; it need not be there.
    pub keys: PathBuf,
    /// A recording plays, and no run is touched.
    pub demo: bool,
    /// No key changes a run.
    pub readonly: bool,
    /// Absent: the terminal's sixteen, unless `NO_COLOR` is set.
    pub color: Option<Colors>,
    /// Absent: braille, where the terminal's variables tell nothing against it.
    pub glyphs: Option<Glyphs>,
    /// A frame a second, no braille.
    pub low_bandwidth: bool,
}

/// Takes the terminal until the user leaves; returns the exit code.
///
/// # Errors
/// The key map is at fault; the config can't be read; the terminal can't be taken or written to.
pub fn open(options: Options) -> anyhow::Result<u8> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let look = Look::of_terminal(options.color, options.glyphs, variable);
    let mut app = App::new(options.runs_dir, look);
    app.keys = keymap::load(&options.keys)?;
    app.launch.elsewhere = Some(&app.runs_dir)
        .filter(|folder| **folder != dirs::runs_dir())
        .cloned();
    if options.low_bandwidth {
        app.save_bandwidth();
    }
    app.readonly = options.readonly;
    app.zone = TimeZone::system();
    if options.demo {
        let first = recording::begin(&mut app);
        return run::run(app, first);
    }
    if let Some(path) = &options.config {
        app.launch.open(path)?;
    }
    let mut first = launch::check(&app);
    if let Some(folder) = options.run {
        app.screen = Screen::Live;
        first.extend(app.watch(folder));
    }
    run::run(app, first)
}
