//! A checkpoint that nobody reported, as the event that its worker did not live to send.

use std::{fs, path::Path};

use serde_json::Value;

use crate::event::Event;

/// The event of the published checkpoint at `path`. How long the save took is not known any more: 0 s.
pub fn checkpoint(step: u64, path: &Path) -> Event {
    let manifest: Value = fs::read(path.join("manifest.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    Event::Checkpoint {
        step,
        path: path.display().to_string(),
        bytes: bytes_in(path),
        seconds: 0.0,
        best: manifest["body"]["best"]["step"] == step,
        deleted: Vec::new(),
    }
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

    #[test]
    fn size_and_rank_among_the_evaluations_come_from_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = r#"{"crc32c":1,"body":{"best":{"step":7,"loss":1.5}}}"#;
        fs::write(folder.path().join("manifest.json"), manifest).expect("written");
        fs::write(folder.path().join("model.safetensors"), [0; 10]).expect("written");
        for (step, is_best) in [(7, true), (8, false)] {
            let Event::Checkpoint { bytes, best, .. } = checkpoint(step, folder.path()) else {
                unreachable!("it is a checkpoint")
            };
            assert_eq!((bytes, best), (manifest.len() as u64 + 10, is_best));
        }
    }
}
