//! Where the draft's text comes from, and which file holds it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    app::{App, Effect, Popup},
    draft::{Draft, Problem, working_folder},
    keys::Action,
    launch::{Launch, check},
    written::{Replaces, text_of},
};
use crate::{
    base::{fs::absolute, text::shell_quoted},
    config::ConfigError,
    launch::names,
};

/// Where a draft comes from.
#[derive(Debug, Default)]
pub struct Origin {
    /// The file that a config was read from or written to last.
    saved: Option<Saved>,
    /// The draft as it was begun or saved last; `None`: as the program begins it.
    kept: Option<Value>,
    rough: Option<Rough>,
}

/// A file with a config.
#[derive(Debug)]
struct Saved {
    path: PathBuf,
    /// What it held then.
    text: String,
    /// As a draft.
    root: Value,
}

/// A text that is no config, and the draft's revision beside it.
#[derive(Debug)]
struct Rough {
    revision: u64,
    text: String,
    /// Where its relative paths start from.
    folder: PathBuf,
    /// It was typed here, and no file or run holds it.
    is_typed: bool,
}

impl Launch {
    /// Begins with a file's config, which may have problems.
    ///
    /// # Errors
    /// An unreadable file; a text that is no JSON object.
    pub fn open(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text =
            crate::base::read::text(path, crate::base::read::Bound::WRITTEN).map_err(unreadable)?;
        self.open_text(path, text)
    }

    /// Begins with the text of a file's config.
    ///
    /// # Errors
    /// The text is no JSON object.
    pub fn open_text(&mut self, path: &Path, text: String) -> Result<(), ConfigError> {
        let whole = absolute(&working_folder(), path);
        let real = std::fs::canonicalize(&whole).unwrap_or(whole);
        let folder = real.parent().map(Path::to_owned).unwrap_or_default();
        let root = self
            .draft
            .parse(&text, &path.display().to_string(), &folder)?;
        self.begin(root, text.clone(), folder);
        self.origin.saved = Some(Saved {
            path: path.to_owned(),
            text,
            root: self.draft.root.clone(),
        });
        Ok(())
    }

    /// Takes another draft, of this text.
    fn begin(&mut self, root: Value, text: String, folder: PathBuf) {
        self.draft.replace(root);
        let is_config = self.draft.config().is_ok();
        self.origin.rough = (!is_config).then(|| self.rough(text, folder, false));
        self.origin.kept = Some(self.draft.root.clone());
        self.origin.saved = None;
        self.left.clear();
        self.cursor = 0;
        self.editing = None;
        self.filtering = false;
        self.filter.clear();
    }

    fn rough(&self, text: String, folder: PathBuf, is_typed: bool) -> Rough {
        Rough {
            revision: self.draft.revision,
            text,
            folder,
            is_typed,
        }
    }

    /// The text that stands for the draft, where it could not be read.
    fn rough_text(&self) -> Option<&Rough> {
        let revision = self.draft.revision;
        self.origin
            .rough
            .as_ref()
            .filter(|rough| rough.revision == revision)
    }

    /// The draft is what a file holds now.
    pub fn keep(&mut self, path: PathBuf, root: Value) {
        self.origin.kept = Some(root.clone());
        self.origin.saved = Some(Saved {
            path,
            text: text_of(&root),
            root,
        });
    }

    /// A run holds this draft.
    pub fn keep_in_run(&mut self, root: Value) {
        self.origin.kept = Some(root);
    }

    /// What a config that is written there may take the place of.
    pub fn replaces(&self, path: &Path) -> Replaces {
        let here = |saved: &&Saved| absolute(&working_folder(), &saved.path) == path;
        match self.origin.saved.as_ref().filter(here) {
            Some(saved) => Replaces::Text(saved.text.clone()),
            None => Replaces::Nothing,
        }
    }

    /// Whether something would be lost with the draft.
    pub fn is_changed(&self) -> bool {
        let is_typed = self.rough_text().is_some_and(|rough| rough.is_typed);
        is_typed
            || match &self.origin.kept {
                Some(kept) => *kept != self.draft.root,
                None => Draft::default().root != self.draft.root,
            }
    }

    /// What `$EDITOR` is given: a text that could not be read, else the draft.
    pub fn text(&self) -> String {
        self.rough_text()
            .map_or_else(|| self.draft.text(), |rough| rough.text.clone())
    }

    /// The command that does the same without a screen.
    pub fn command(&self) -> String {
        let mut command = format!("capstan train {}", shell_quoted(&self.target()));
        if let Some(runs_dir) = &self.elsewhere {
            let runs_dir = runs_dir.to_string_lossy();
            command = format!("{command} --runs-dir {}", shell_quoted(&runs_dir));
        }
        command
    }

    /// Whether the command's file holds the draft as it stands.
    pub fn is_saved(&self) -> bool {
        let root = &self.draft.root;
        self.origin
            .saved
            .as_ref()
            .is_some_and(|saved| saved.root == *root)
    }

    /// The file that holds the draft, or is proposed to.
    pub fn target(&self) -> String {
        let saved = self.origin.saved.as_ref();
        saved.map_or_else(
            || self.file_name(),
            |saved| saved.path.display().to_string(),
        )
    }

    /// A file's name for the draft.
    fn file_name(&self) -> String {
        format!("{}.json", names::cleaned(&self.draft.name()))
    }
}

/// Takes in what was opened: a file's text, or a past run's, which no file of the user's holds.
pub fn opened(app: &mut App, from: Option<PathBuf>, text: Result<String, String>) -> Vec<Effect> {
    let taken = text.and_then(|text| match &from {
        Some(path) => app
            .launch
            .open_text(path, text)
            .map_err(|error| error.to_string()),
        None => {
            let folder = working_folder();
            let root = app.launch.draft.parse(&text, "config", &folder);
            let root = root.map_err(|error| error.to_string())?;
            app.launch.begin(root, text, folder);
            Ok(())
        }
    });
    match taken {
        Ok(()) => check(app),
        Err(text) => {
            app.refuse("The config stays as it was", &text);
            Vec::new()
        }
    }
}

/// Takes in the text that `$EDITOR` left. One that can't be read is kept: nobody types it a second time.
pub fn edited(app: &mut App, text: Result<String, String>) -> Vec<Effect> {
    let text = match text {
        Ok(text) => text,
        Err(problem) => {
            app.complain(format!("the config stays as it was: {problem}"));
            return Vec::new();
        }
    };
    let given = app.launch.rough_text();
    let folder = given.map_or_else(working_folder, |rough| rough.folder.clone());
    let parsed = app.launch.draft.parse(&text, "config", &folder);
    let key = app.key(Action::Edit);
    match parsed {
        Ok(root) => {
            let launch = &mut app.launch;
            launch.draft.replace(root);
            let problems: Vec<Problem> = launch.draft.read().problems;
            launch.origin.rough = (!problems.is_empty()).then(|| launch.rough(text, folder, true));
            launch.cursor = 0;
            if !problems.is_empty() {
                let n = problems.len();
                app.complain(format!("{n} problem(s); {key} opens the same text again"));
            }
            check(app)
        }
        Err(error) => {
            app.launch.origin.rough = Some(app.launch.rough(text, folder, true));
            let lines = error.to_string();
            let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
            lines.extend([
                String::new(),
                format!("The config stays as it was; {key} opens the edited text again."),
            ]);
            app.present(Popup::text("That text is no config", lines));
            Vec::new()
        }
    }
}
