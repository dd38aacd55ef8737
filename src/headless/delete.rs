//! `delete`: a run and all that is in its folder.

use std::path::Path;

use super::{
    cli::DeleteArgs,
    find::find,
    outcome::{USAGE, refusal},
    text::say,
};
use crate::launch::runs;

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
    runs::delete(&folder)?;
    say(&format!("deleted {}", folder.root().display()))?;
    Ok(0)
}
