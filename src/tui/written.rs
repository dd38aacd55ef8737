//! Config files: read to begin with, written without harm to what is there.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::app::Msg;
use crate::base::fs::replace;

/// Reads a config's text.
pub fn read(path: PathBuf) -> Msg {
    let text = crate::base::read::text(&path, crate::base::read::Bound::WRITTEN);
    let text = text.map_err(|error| format!("{}: {error}", path.display()));
    Msg::Opened {
        from: Some(path),
        text,
    }
}

/// What a written config may take the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaces {
    Nothing,
    /// A file that holds this text.
    Text(String),
    Anything,
}

/// A config as a file holds it.
pub fn text_of(root: &Value) -> String {
    let mut text = serde_json::to_string_pretty(root).unwrap_or_default();
    text.push('\n');
    text
}

/// Writes a config.
pub fn write(path: PathBuf, root: Value, replaces: Replaces) -> Msg {
    let text = text_of(&root);
    match create(&path, &text) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let may_replace = match replaces {
                Replaces::Nothing => false,
                Replaces::Text(own) => {
                    crate::base::read::text(&path, crate::base::read::Bound::WRITTEN)
                        .is_ok_and(|held| held == own)
                }
                Replaces::Anything => true,
            };
            if !may_replace && !path.is_dir() {
                return Msg::Exists { path, root };
            }
            let done = overwrite(&path, &text).map_err(|error| error.to_string());
            Msg::Written { path, root, done }
        }
        done => {
            let done = done.map_err(|error| error.to_string());
            Msg::Written { path, root, done }
        }
    }
}

/// Makes a file with the permissions that the user's mask leaves.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// Replaces a file's text; links to it and its permissions stay.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let real = fs::canonicalize(path)?;
    let meta = fs::metadata(&real)?;
    if meta.is_dir() {
        return Err(io::Error::other("is a folder"));
    }
    replace(&real, text.as_bytes())?;
    fs::set_permissions(&real, meta.permissions())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;

    fn done(msg: Msg) -> Result<(), String> {
        match msg {
            Msg::Written { done, .. } => done,
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn another_file_is_replaced_only_where_that_was_agreed_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        done(write(path.clone(), json!(1), Replaces::Nothing)).expect("a new file");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_ne!(mode & 0o777, 0o600, "as the mask leaves it");
        for replaces in [Replaces::Nothing, Replaces::Text("another\n".to_owned())] {
            let written = write(path.clone(), json!(2), replaces);
            assert!(matches!(written, Msg::Exists { .. }));
        }
        assert_eq!(fs::read_to_string(&path).expect("a text"), "1\n");
        let own = Replaces::Text(text_of(&json!(1)));
        done(write(path.clone(), json!(2), own)).expect("replaced");
        let link = folder.path().join("link.json");
        symlink(&path, &link).expect("a link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        done(write(link.clone(), json!(3), Replaces::Anything)).expect("replaced");
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        assert_eq!(fs::read_to_string(&path).expect("a text"), "3\n");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_failed_write_says_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = folder.path().to_owned();
        assert!(done(write(here, json!(1), Replaces::Nothing)).is_err());
        let nowhere = folder.path().join("no/such/a.json");
        assert!(done(write(nowhere, json!(1), Replaces::Nothing)).is_err());
    }
}
