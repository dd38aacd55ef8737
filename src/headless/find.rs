//! Which run a RUN means.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::outcome::{USAGE, refusal};
pub use crate::launch::runs::{listed, shortly};
use crate::launch::{
    RunFolder,
    runs::{all, is_run},
};

/// The run of that name or folder; absent: the one whose log was written last.
///
/// # Errors
/// There is none, or the runs folder can't be read.
pub fn find(runs_dir: &Path, run: Option<&str>) -> anyhow::Result<RunFolder> {
    let Some(run) = run else {
        let latest = listed(runs_dir)?.into_iter().next();
        return latest.map(|(_, folder)| folder).ok_or_else(|| {
            refusal(
                USAGE,
                format!("there are no runs in {}", runs_dir.display()),
            )
        });
    };
    let named = RunFolder::new(runs_dir.join(run));
    let here = RunFolder::new(fs::canonicalize(run).unwrap_or_else(|_| PathBuf::from(run)));
    let is_path = run.contains('/') || run == "." || run == "..";
    let found = if is_path {
        [here, named]
    } else {
        [named, here]
    };
    found
        .into_iter()
        .find(is_run)
        .ok_or_else(|| refusal(USAGE, missing(runs_dir, run)))
}

fn missing(runs_dir: &Path, run: &str) -> String {
    let names: Vec<String> = all(runs_dir).iter().map(RunFolder::name).collect();
    let nearest = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(run, name), name))
        .min()
        .filter(|&(distance, _)| distance <= 3)
        .map(|(_, name)| format!("; did you mean {name}?"));
    let remedy = nearest.unwrap_or_else(|| "; capstan runs lists them".to_owned());
    format!("there is no run {run} in {}{remedy}", runs_dir.display())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn make(runs: &Path, name: &str) {
        fs::create_dir(runs.join(name)).expect("made");
        fs::write(runs.join(name).join("config.json"), "{}").expect("written");
    }

    #[test]
    fn a_run_is_a_name_a_folder_or_the_latest() {
        let runs = tempfile::tempdir().expect("a folder");
        assert!(find(runs.path(), None).is_err());
        make(runs.path(), "old");
        make(runs.path(), "new");
        let past = SystemTime::now() - std::time::Duration::from_secs(60);
        let file = fs::File::open(runs.path().join("old/config.json")).expect("open");
        file.set_modified(past).expect("set");
        assert_eq!(find(runs.path(), None).expect("found").name(), "new");
        assert_eq!(find(runs.path(), Some("old")).expect("found").name(), "old");
        let folder = runs.path().join("old");
        let found = find(Path::new("/nowhere"), folder.to_str()).expect("found");
        assert_eq!(found.name(), "old");
    }

    #[test]
    fn a_misspelt_name_is_corrected() {
        let runs = tempfile::tempdir().expect("a folder");
        make(runs.path(), "hello");
        let refusal = find(runs.path(), Some("helo"))
            .expect_err("none")
            .to_string();
        assert!(refusal.contains("did you mean hello?"), "{refusal}");
    }
}
