//! `delete`: a run and all that is in its folder.

use std::{fs, path::Path};

use anyhow::Context;

use super::{
    cli::DeleteArgs,
    find::find,
    outcome::{USAGE, refusal},
    text::say,
};
use crate::launch::{RunFolder, lock::RunLock};

/// `capstan delete`.
pub fn delete(runs_dir: &Path, args: &DeleteArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, Some(&args.run))?;
    let name = folder.name();
    if args.confirm.as_deref() != Some(name.as_str()) {
        let message = format!(
            "this deletes {} with all checkpoints; to do so: capstan delete {} --confirm {name}",
            folder.root().display(),
            args.run
        );
        return Err(refusal(USAGE, message));
    }
    let _lock = RunLock::acquire(&folder)?;
    remove(&folder).with_context(|| format!("deleting {}", folder.root().display()))?;
    say(&format!("deleted {}", folder.root().display()))?;
    Ok(0)
}

/// Out of sight first: a half-deleted run is none.
fn remove(folder: &RunFolder) -> std::io::Result<()> {
    let hidden = format!(".del-{}-{}", folder.name(), std::process::id());
    let hidden = folder.root().with_file_name(hidden);
    fs::rename(folder.root(), &hidden)?;
    fs::remove_dir_all(hidden)
}
