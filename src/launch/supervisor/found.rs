//! A checkpoint that nobody reported, as the event that its worker did not live to send.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{event::Event, store::RunState};

/// The event of the published checkpoint at `path`, which `deleted` gave way to. How long the save took is not known any
/// more: 0 s.
pub fn checkpoint(step: u64, path: &Path, deleted: Vec<u64>) -> Event {
    let manifest: Value =
        crate::base::read::bytes(&path.join("manifest.json"), crate::base::read::Bound::TOLD)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
    Event::Checkpoint {
        step,
        path: path.display().to_string(),
        bytes: bytes_in(path),
        seconds: 0.0,
        best: manifest["body"]["best"]["step"] == step,
        deleted,
    }
}

/// The published checkpoints that the state does not know.
pub fn unreported(published: &[(u64, PathBuf)], state: &RunState) -> Vec<(u64, PathBuf)> {
    let known = state.newest_checkpoint().map(|checkpoint| checkpoint.step);
    let is_new = |step: u64| known.is_none_or(|known| step > known) && step <= state.step;
    let published = published.iter().filter(|(step, _)| is_new(*step));
    published.cloned().collect()
}

/// Steps whose checkpoints the state knows and that are published no more.
pub fn deleted(published: &[(u64, PathBuf)], state: &RunState) -> Vec<u64> {
    let is_there = |step| published.iter().any(|(published, _)| *published == step);
    let known = state.checkpoints.iter().map(|checkpoint| checkpoint.step);
    known.filter(|step| !is_there(*step)).collect()
}

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CheckpointSeen;

    #[test]
    fn what_gave_way_is_deleted_with_what_was_found() {
        let seen = |step| CheckpointSeen {
            step,
            path: String::new(),
            bytes: 1,
            best: false,
        };
        let state = RunState {
            step: 9,
            checkpoints: vec![seen(2), seen(4), seen(6)],
            ..RunState::default()
        };
        let published = [4, 8, 12].map(|step| (step, PathBuf::new()));
        assert_eq!(unreported(&published, &state), published[1..2]);
        assert_eq!(deleted(&published, &state), [2, 6]);
    }

    #[test]
    fn size_and_rank_among_the_evaluations_come_from_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = r#"{"crc32c":1,"body":{"best":{"step":7,"loss":1.5}}}"#;
        fs::write(folder.path().join("manifest.json"), manifest).expect("written");
        fs::write(folder.path().join("model.safetensors"), [0; 10]).expect("written");
        for (step, is_best) in [(7, true), (8, false)] {
            let Event::Checkpoint { bytes, best, .. } = checkpoint(step, folder.path(), Vec::new())
            else {
                unreachable!("it is a checkpoint")
            };
            assert_eq!((bytes, best), (manifest.len() as u64 + 10, is_best));
        }
    }
}
