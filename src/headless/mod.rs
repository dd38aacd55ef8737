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
    io::{self, IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use self::cli::{AttachArgs, Command, QueryArgs, TrainArgs, ViewArgs};
pub use self::{
    cli::{Cli, ColorArg, GlyphsArg, TuiArgs},
    follow::print,
};
use crate::{
    base::fs::absolute,
    event::Control,
    launch::{RunFolder, dirs},
};

/// What opens the terminal UI; it lies on no lower floor, so `main` hands it in.
pub type OpenTui = fn(Opening) -> anyhow::Result<u8>;

/// What the terminal UI begins with.
#[derive(Clone, Debug)]
pub struct Opening {
    pub runs_dir: PathBuf,
    pub args: TuiArgs,
    /// The run that `args.run` means.
    pub run: Option<RunFolder>,
    /// A recording plays instead.
    pub demo: bool,
    /// There is a terminal to draw on.
    pub has_screen: bool,
}

/// Runs the command that argv names.
pub fn main(open_tui: OpenTui) -> ExitCode {
    let cli = Cli::parse();
    let code = catch_unwind(AssertUnwindSafe(|| match run(cli, open_tui) {
        Ok(code) => code,
        Err(error) => outcome::report(&error),
    }));
    // The panic's own message is on stderr.
    ExitCode::from(code.unwrap_or(outcome::INTERNAL))
}

fn run(cli: Cli, open_tui: OpenTui) -> anyhow::Result<u8> {
    let runs_dir = runs_dir(cli.runs_dir);
    let runs_dir = runs_dir.as_path();
    let command = cli
        .command
        .unwrap_or_else(|| Command::Tui(TuiArgs::default()));
    match command {
        Command::Tui(args) => tui(runs_dir, args, false, open_tui),
        Command::Demo(look) => {
            let args = TuiArgs {
                look,
                ..TuiArgs::default()
            };
            tui(runs_dir, args, true, open_tui)
        }
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
        Command::Top(args) => top::top(runs_dir, &args),
        Command::Sensors(args) => Ok(top::sensors(&args)),
        Command::Supervise(args) => Ok(train::supervise(args)),
    }
}

/// The terminal UI where there is a terminal for it, else what the other commands are.
fn tui(runs_dir: &Path, args: TuiArgs, demo: bool, open: OpenTui) -> anyhow::Result<u8> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let has_screen = !is_dumb && io::stdout().is_terminal() && io::stdin().is_terminal();
    if !has_screen && !args.keys && !demo {
        return without_screen(runs_dir, args);
    }
    let run = args.run.as_deref();
    let run = run.map(|run| find::find(runs_dir, Some(run))).transpose()?;
    open(Opening {
        runs_dir: runs_dir.to_owned(),
        args,
        run,
        demo,
        has_screen,
    })
}

/// What the screens would show, in lines: the run, the config's plan, or the runs.
fn without_screen(runs_dir: &Path, args: TuiArgs) -> anyhow::Result<u8> {
    let mut stderr = io::stderr();
    writeln!(
        stderr,
        "no terminal to draw on; capstan help lists the commands"
    )?;
    if let Some(config) = args.config {
        return train::train(runs_dir, TrainArgs::dry_run(config));
    }
    match args.run {
        None => query::runs(runs_dir, &QueryArgs { json: false }),
        run => {
            let view = ViewArgs {
                plain: true,
                json: false,
            };
            follow::attach(runs_dir, &AttachArgs { run, view })
        }
    }
}

fn runs_dir(given: Option<PathBuf>) -> PathBuf {
    let folder = given.unwrap_or_else(dirs::runs_dir);
    absolute(
        &std::env::current_dir().unwrap_or_default(),
        Path::new(&folder),
    )
}
