//! The command line: one file a group of commands, plain text or JSON out.

mod ask;
mod cli;
mod control;
mod data;
mod delete;
mod doctor;
mod explain;
mod export;
mod find;
mod follow;
mod install;
mod logs;
mod outcome;
mod plan_text;
mod prepare;
mod query;
mod resume;
mod text;
mod top;
mod train;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use self::cli::{Cli, Command};
use crate::{base::fs::absolute, event::Control, launch::dirs};

/// Runs the command that argv names.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let code = catch_unwind(AssertUnwindSafe(|| match run(cli) {
        Ok(code) => code,
        Err(error) => outcome::report(&error),
    }));
    // The panic's own message is on stderr.
    ExitCode::from(code.unwrap_or(outcome::INTERNAL))
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let runs_dir = runs_dir(cli.runs_dir);
    let runs_dir = runs_dir.as_path();
    match cli.command {
        Command::Train(args) => train::train(runs_dir, args),
        Command::Resume(args) => resume::resume(runs_dir, args),
        Command::Attach(args) => follow::attach(runs_dir, &args),
        Command::Runs(args) => query::runs(runs_dir, &args),
        Command::Status(args) => query::status(runs_dir, &args),
        Command::Logs(args) => logs::logs(runs_dir, &args),
        Command::Checkpoint(args) => control::control(runs_dir, &args, Control::Checkpoint),
        Command::Pause(args) => control::control(runs_dir, &args, Control::Pause),
        Command::Continue(args) => control::control(runs_dir, &args, Control::Continue),
        Command::Stop(args) => control::control(runs_dir, &args, Control::Stop),
        Command::Kill(args) => control::control(runs_dir, &args, Control::Kill),
        Command::Sample(args) => ask::sample(runs_dir, &args),
        Command::Eval(args) => ask::eval(runs_dir, &args),
        Command::Export(args) => export::export(runs_dir, &args),
        Command::Delete(args) => delete::delete(runs_dir, &args),
        Command::Data(args) => data::data(&args.command),
        Command::Schema(_) => explain::schema(),
        Command::Config(args) => explain::config(&args),
        Command::Doctor(args) => doctor::doctor(runs_dir, &args),
        Command::Paths(args) => install::paths(runs_dir, &args),
        Command::Completions(args) => install::completions(args.shell),
        Command::Man(args) => install::man(args.out.as_deref()),
        Command::Top(args) => top::top(&args),
        Command::Sensors(args) => Ok(top::sensors(&args)),
        Command::Supervise(args) => Ok(train::supervise(&args)),
    }
}

fn runs_dir(given: Option<PathBuf>) -> PathBuf {
    let folder = given.unwrap_or_else(dirs::runs_dir);
    absolute(
        &std::env::current_dir().unwrap_or_default(),
        Path::new(&folder),
    )
}
