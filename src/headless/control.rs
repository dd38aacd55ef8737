//! `checkpoint`, `pause`, `continue`, `stop`, `kill`: one order to a running run.

use std::path::Path;

use serde_json::json;

use super::{
    cli::RunArgs,
    find::find,
    outcome::FAILED,
    text::{say, say_json},
};
use crate::{event::Control, launch::control::send};

/// `capstan checkpoint`, `pause`, `continue`, `stop`, `kill`.
pub fn control(runs_dir: &Path, args: &RunArgs, control: Control) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    let reply = send(&folder, control)?;
    if args.json {
        say_json(
            json!({ "run": folder.name(), "accepted": reply.accepted, "message": reply.message }),
        )?;
    } else {
        say(&format!("{}: {}", folder.name(), reply.message))?;
    }
    Ok(if reply.accepted { 0 } else { FAILED })
}
