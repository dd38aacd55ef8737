//! `paths`, `completions`, `man`: what an installation needs to know.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::{
    cli::{Cli, QueryArgs},
    text::{facts, say, say_json},
};
use crate::launch::{dirs, worker_program};

/// `capstan paths`.
pub fn paths(runs_dir: &Path, args: &QueryArgs) -> anyhow::Result<u8> {
    let program = std::env::current_exe()?;
    let worker = worker_program::find().ok();
    let (config, cache) = (dirs::config_dir(), dirs::cache_dir());
    if args.json {
        say_json(
            json!({ "runs": runs_dir, "config": config, "cache": cache, "program": program, "worker": worker }),
        )?;
        return Ok(0);
    }
    let rows = [
        ("runs", runs_dir.display().to_string()),
        ("config", config.display().to_string()),
        ("cache", cache.display().to_string()),
        ("program", program.display().to_string()),
        (
            "worker",
            worker.map_or_else(|| "not found".to_owned(), |path| path.display().to_string()),
        ),
    ];
    for line in facts(&rows) {
        say(&line)?;
    }
    Ok(0)
}

/// `capstan completions`.
pub fn completions(shell: Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "capstan", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(0)
}

/// `capstan man`.
pub fn man(out: Option<&Path>) -> anyhow::Result<u8> {
    match out {
        Some(folder) => {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            clap_mangen::generate_to(Cli::command(), folder)
                .with_context(|| format!("writing pages into {}", folder.display()))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            io::stdout().lock().write_all(&page)?;
        }
    }
    Ok(0)
}
