//! The data floor, with its progress shown.

use std::{sync::Mutex, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{follow::ViewKind, text::say};
use crate::{
    config::DataConfig,
    data::{self, Inspection, Progress},
    launch::dirs,
    plan::DataSummary,
};

const TEMPLATE: &str = "{bar:20} {bytes}/{total_bytes} {wide_msg}";
/// Work that is done sooner needs no bar.
const QUIET_FOR: Duration = Duration::from_millis(300);

/// Makes the tokens that a run will read, or finds them in the cache.
///
/// # Errors
/// As [`data::prepare`].
pub fn prepare(config: &DataConfig, view: ViewKind) -> anyhow::Result<DataSummary> {
    let meter = Meter::new(view, "data");
    let prepared = data::prepare(config, &dirs::cache_dir(), &|progress| meter.show(progress));
    meter.finish();
    Ok(DataSummary::from(&prepared?))
}

/// The data of a run that has begun, whose plan has `own`.
///
/// # Errors
/// As [`data::reopen`].
pub fn reopen(
    config: &DataConfig,
    own: &DataSummary,
    view: ViewKind,
) -> anyhow::Result<DataSummary> {
    let meter = Meter::new(view, "data");
    let (fingerprint, cache_dir) = (&own.fingerprint, dirs::cache_dir());
    let progress = |progress| meter.show(progress);
    let reopened = data::reopen(config, fingerprint, &own.files, &cache_dir, &progress);
    meter.finish();
    reopened?;
    // As the run began: the files may have changed since, and its tokens are in the cache.
    Ok(own.clone())
}

/// As [`prepare`], with a look at the tokens.
///
/// # Errors
/// As [`data::prepare`].
pub fn inspect(config: &DataConfig, view: ViewKind) -> anyhow::Result<Inspection> {
    let meter = Meter::new(view, "data");
    let inspection = data::inspect(config, &dirs::cache_dir(), &|progress| meter.show(progress));
    meter.finish();
    Ok(inspection?)
}

/// A bar on a terminal, a line for each kind of work elsewhere, nothing beside JSON.
pub struct Meter {
    view: ViewKind,
    /// What a line starts with.
    subject: &'static str,
    bar: ProgressBar,
    said: Mutex<Option<&'static str>>,
}

impl Meter {
    /// A meter of work on `subject`.
    pub fn new(view: ViewKind, subject: &'static str) -> Self {
        let target = match view {
            ViewKind::Bar => ProgressDrawTarget::stdout(),
            ViewKind::Lines | ViewKind::Json => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            view,
            subject,
            bar,
            said: Mutex::new(None),
        }
    }

    /// Clears the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Called from several threads, possibly out of order.
    pub fn show(&self, progress: Progress) {
        if self.bar.elapsed() < QUIET_FOR {
            return;
        }
        self.bar.set_length(progress.total);
        self.bar.set_message(progress.what);
        self.bar
            .set_position(progress.done.max(self.bar.position()));
        let Ok(mut said) = self.said.lock() else {
            return;
        };
        if self.view == ViewKind::Lines && *said != Some(progress.what) {
            *said = Some(progress.what);
            let _ = say(&format!("{}: {}", self.subject, progress.what));
        }
    }
}
