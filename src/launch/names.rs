//! Names of runs, taken atomically.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{LaunchError, RunFolder};

/// A file name may take 255 bytes; `-2` and temporary names need some of them.
const LONGEST: usize = 200;

/// How a new run is to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This, or the next free of `-2`, `-3`, ...
    Base(String),
    /// This and no other.
    Exact(String),
}

/// Makes the folder of a new run, mode 0700; two callers never get the same one.
///
/// # Errors
/// A name that can't be one, an exact name that exists, a folder that can't be made.
pub fn take(runs_dir: &Path, wanted: &Wanted) -> Result<RunFolder, LaunchError> {
    let (Wanted::Base(base) | Wanted::Exact(base)) = wanted;
    check(base)?;
    private()
        .recursive(true)
        .create(runs_dir)
        .map_err(LaunchError::io("the runs folder", runs_dir))?;
    for name in candidates(base) {
        let root: PathBuf = runs_dir.join(&name);
        match private().create(&root) {
            Ok(()) => return Ok(RunFolder::new(root)),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LaunchError::io("the run folder", root)(error));
            }
            Err(_) if matches!(wanted, Wanted::Exact(_)) => break,
            Err(_) => {}
        }
    }
    Err(LaunchError::NameTaken {
        name: base.clone(),
        runs_dir: runs_dir.to_owned(),
    })
}

/// Checks that a text can name a run: one visible path component that no option can be mistaken for.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), LaunchError> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > LONGEST {
        "it is longer than 200 bytes"
    } else if name.starts_with(['.', '-']) {
        "it starts with . or -"
    } else if name.contains('/') || name.chars().any(char::is_control) {
        "it holds / or a control character"
    } else {
        return Ok(());
    };
    Err(LaunchError::BadName {
        name: name.escape_default().to_string(),
        problem,
    })
}

/// The name that [`take`] would give a run of this base as the folder stands.
pub fn next_free(runs_dir: &Path, base: &str) -> Option<String> {
    candidates(base).find(|name| runs_dir.join(name).symlink_metadata().is_err())
}

/// The nearest text that can name a run: what [`check`] refuses is replaced or left out.
pub fn cleaned(name: &str) -> String {
    let plain = |c: char| match c {
        '/' => '-',
        c if c.is_control() => '-',
        c => c,
    };
    let mut clean: String = name.trim().chars().map(plain).collect();
    let begin = clean.len() - clean.trim_start_matches(['.', '-']).len();
    clean.drain(..begin);
    while clean.len() > LONGEST {
        clean.pop();
    }
    if clean.is_empty() {
        clean.push_str("run");
    }
    clean
}

fn candidates(base: &str) -> impl Iterator<Item = String> {
    std::iter::once(base.to_owned()).chain((2..=u32::MAX).map(move |n| format!("{base}-{n}")))
}

/// Makes folders that only their owner may enter.
pub(super) fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, thread};

    use super::*;

    fn base(name: &str) -> Wanted {
        Wanted::Base(name.to_owned())
    }

    #[test]
    fn a_base_takes_the_next_free_name() {
        let runs = tempfile::tempdir().expect("a folder");
        let names: Vec<_> = (0..3)
            .map(|_| take(runs.path(), &base("gpt")).expect("free").name())
            .collect();
        assert_eq!(names, ["gpt", "gpt-2", "gpt-3"]);
        let mode = fs::metadata(runs.path().join("gpt"))
            .expect("made")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn an_exact_name_that_exists_is_refused_and_points_to_resume() {
        let runs = tempfile::tempdir().expect("a folder");
        let exact = Wanted::Exact("gpt".to_owned());
        take(runs.path(), &exact).expect("free");
        let refusal = take(runs.path(), &exact).expect_err("taken").to_string();
        assert!(refusal.contains("capstan resume gpt"), "{refusal}");
    }

    #[test]
    fn names_are_single_visible_components() {
        let runs = tempfile::tempdir().expect("a folder");
        let long = "x".repeat(201);
        for name in ["", ".", "..", ".x", "-x", "a/b", "a\nb", long.as_str()] {
            assert!(take(runs.path(), &base(name)).is_err(), "{name:?}");
        }
        assert_eq!(fs::read_dir(runs.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_refused_name_has_a_neighbour_that_works() {
        let long = "é".repeat(150);
        for name in ["", "..", "-x", "a/b", "a\nb", "/", long.as_str()] {
            let clean = cleaned(name);
            assert!(check(name).is_err() && check(&clean).is_ok(), "{name:?}");
        }
        assert_eq!(cleaned("runs/a b"), "runs-a b");
    }

    #[test]
    fn the_name_that_comes_next_is_the_one_that_is_taken() {
        let runs = tempfile::tempdir().expect("a folder");
        for _ in 0..3 {
            let next = next_free(runs.path(), "gpt").expect("a name");
            let taken = take(runs.path(), &base("gpt")).expect("free").name();
            assert_eq!(taken, next);
        }
    }

    #[test]
    fn racing_callers_get_different_names() {
        let runs = tempfile::tempdir().expect("a folder");
        let names: BTreeSet<String> = thread::scope(|scope| {
            let racers: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| take(runs.path(), &base("r")).expect("free").name()))
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().expect("no panic"))
                .collect()
        });
        assert_eq!(names.len(), 16);
    }
}
