//! The arguments as written.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{
    config::{Assignment, ConfigError, ParallelConfig, layout_from_text},
    hw::sensors::LONGEST_INTERVAL_S,
};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  the run failed, or the command could not do its work
    2  usage or config
    3  the plan does not fit
    4  a driver, device or program is missing
    5  data unreadable
   70  internal error
   75  stopped with a complete checkpoint: capstan resume goes on
  130, 143  killed without one

RUN is a run's name, its folder, or absent: the latest run.";

/// Trains models over the GPUs of one workstation, or its cores.
#[derive(Debug, Parser)]
#[command(name = "capstan", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Folder of the runs [default: $CAPSTAN_RUNS_DIR, else $XDG_DATA_HOME/capstan/runs]
    #[arg(long, global = true, value_name = "DIR")]
    pub runs_dir: Option<PathBuf>,
    /// Absent: the terminal UI
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands, in the order of `--help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Choose, launch, watch and steer runs on the terminal; so does capstan alone
    Tui(TuiArgs),
    /// Play a recorded run on the terminal UI: nothing is trained, nothing can be steered
    Demo(LookArgs),
    /// Start a run and follow it
    Train(TrainArgs),
    /// List the runs, the latest first
    Runs(QueryArgs),
    /// Say how a run stands
    Status(RunArgs),
    /// Follow a run; Ctrl-C leaves it running
    Attach(AttachArgs),
    /// Print what happened, when, on which rank: events and what the worker printed
    Logs(LogsArgs),
    /// Save a checkpoint after the current step
    Checkpoint(RunArgs),
    /// Hold a run after the current step
    Pause(RunArgs),
    /// Let a paused run go on
    Continue(RunArgs),
    /// Finish the step, save a checkpoint, end; a second stop ends at once
    Stop(RunArgs),
    /// End a run at once; what came after its last checkpoint is lost
    Kill(RunArgs),
    /// Go on with a run from its last checkpoint
    Resume(ResumeArgs),
    /// Generate text with a run's last checkpoint
    Sample(SampleArgs),
    /// Evaluate a run's last checkpoint on the whole validation split
    Eval(RunArgs),
    /// Write a run's weights as a Hugging Face folder
    Export(ExportArgs),
    /// Delete a run and its checkpoints
    Delete(DeleteArgs),
    /// Look at data, or tokenize it beforehand
    Data(DataArgs),
    /// Print the JSON Schema of a config
    Schema(QueryArgs),
    /// Print a config as capstan reads it
    Config(ConfigArgs),
    /// Check this machine and this installation
    Doctor(QueryArgs),
    /// Print where capstan keeps things
    Paths(QueryArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Show the machine's sensors, again and again
    Top(TopArgs),
    /// Print the manual page
    Man(ManArgs),
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    #[command(hide = true)]
    Sensors(SensorsArgs),
}

/// Arguments of `tui`.
#[derive(Clone, Debug, Default, Args)]
pub struct TuiArgs {
    /// A config, a JSON file, to begin with
    pub config: Option<PathBuf>,
    /// Name or folder of a run to watch
    #[arg(long, conflicts_with = "config")]
    pub run: Option<String>,
    /// No key changes a run
    #[arg(long)]
    pub readonly: bool,
    /// Print the key map as keys.json in the config folder may change it
    #[arg(long)]
    pub keys: bool,
    #[command(flatten)]
    pub look: LookArgs,
}

/// How the terminal UI looks.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct LookArgs {
    /// Which colours: t turns through those that the terminal has
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub color: ColorArg,
    /// What curves and frames are drawn with
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub glyphs: GlyphsArg,
    /// For slow lines: a frame a second, no braille
    #[arg(long)]
    pub low_bandwidth: bool,
}

/// Which colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// The terminal's sixteen, none where NO_COLOR is set
    #[default]
    Auto,
    /// The terminal's sixteen, whatever NO_COLOR says
    Always,
    Never,
    /// The terminal's sixteen
    #[value(name = "16")]
    Sixteen,
    /// Those of the table of 256
    #[value(name = "256")]
    Indexed,
    /// Those of 24 bits
    True,
}

/// Which characters draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GlyphsArg {
    /// ASCII where the locale is East Asian or not UTF-8 and on the kernel's console, else braille
    #[default]
    Auto,
    Braille,
    /// Without braille, which some fonts lack
    Block,
    Ascii,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The config, a JSON file
    pub config: PathBuf,
    #[command(flatten)]
    pub changes: ChangeArgs,
    /// Name of the run; refused where it exists (the config's own name gets -2, -3, ...)
    #[arg(long)]
    pub name: Option<String>,
    /// Print the plan and start nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub view: ViewArgs,
    /// Return once the run has started
    #[arg(long)]
    pub detach: bool,
}

impl TrainArgs {
    /// Only looks at a config.
    pub fn dry_run(config: PathBuf) -> Self {
        Self {
            config,
            changes: ChangeArgs {
                set: Vec::new(),
                layout: None,
            },
            name: None,
            dry_run: true,
            view: ViewArgs {
                plain: true,
                json: false,
            },
            detach: false,
        }
    }
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Name or folder of the run; absent: the latest
    pub run: Option<String>,
    #[command(flatten)]
    pub changes: ChangeArgs,
    #[command(flatten)]
    pub view: ViewArgs,
    /// Return once the run has started
    #[arg(long)]
    pub detach: bool,
}

/// Changes of a config.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Change a value of the config (JSON, else a string); may be given more than once
    #[arg(long, value_name = "KEY.PATH=VALUE", value_parser = Assignment::parse)]
    pub set: Vec<Assignment>,
    /// Replace the config's split, such as dp=2
    #[arg(long, value_name = "AXIS=N,...", value_parser = layout)]
    pub layout: Option<ParallelConfig>,
}

/// How a run is shown.
#[derive(Clone, Copy, Debug, Args)]
pub struct ViewArgs {
    /// Lines without a progress bar
    #[arg(long, conflicts_with = "json")]
    pub plain: bool,
    /// The run's events, one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Name or folder of the run; absent: the latest
    pub run: Option<String>,
    #[command(flatten)]
    pub view: ViewArgs,
}

/// A run, for commands that need nothing else.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name or folder of the run; absent: the latest
    pub run: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// A question that names no run.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Name or folder of the run; absent: the latest
    pub run: Option<String>,
    /// Wait for more until the run has ended
    #[arg(short, long)]
    pub follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sample`; what is absent is as in the run's config.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Name or folder of the run; absent: the latest
    pub run: Option<String>,
    /// Text to go on from [default: the config's sample.prompt, else a line break]
    #[arg(long, allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Tokens to generate
    #[arg(long)]
    pub tokens: Option<usize>,
    /// 0 takes the likeliest token, 1 samples the model's distribution
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Sample among the K likeliest tokens; 0: among all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    #[arg(long)]
    pub seed: Option<u64>,
    /// From the current weights of a run that is running, as its config's `sample` says; training waits meanwhile
    #[arg(long, conflicts_with_all = ["prompt", "tokens", "temperature", "top_k", "seed"])]
    pub now: bool,
    /// The events, one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Name or folder of the run; its last checkpoint is taken
    pub run: String,
    /// The folder to write: config.json, model.safetensors, tokenizer; refused where it holds something
    pub dir: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Name or folder of the run
    pub run: String,
    /// The run's name once more
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
}

/// What `data` is to do.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    pub command: DataCommand,
}

/// The commands below `data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say what data holds: files, tokens, vocabulary
    Inspect(SourceArgs),
    /// Tokenize data into the cache, as training would
    Tokenize(SourceArgs),
}

/// Data as a config names it, or a path with a tokenizer.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// A config (.json), JSON Lines (.jsonl), or a text file or folder
    pub source: PathBuf,
    /// Change a value of the config
    #[arg(long, value_name = "KEY.PATH=VALUE", value_parser = Assignment::parse)]
    pub set: Vec<Assignment>,
    /// For a text: bytes, char, or a tokenizer.json
    #[arg(long, default_value = "bytes")]
    pub tokenizer: String,
    /// For JSON Lines: the field with the text
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The config, a JSON file
    pub config: PathBuf,
    #[command(flatten)]
    pub changes: ChangeArgs,
    /// One value a line, with who set it
    #[arg(long)]
    pub explain: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder instead
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=LONGEST_INTERVAL_S))]
    pub every_s: u64,
    /// Looks before it ends
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print JSON, a reading a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sensors`, which only capstan itself starts.
#[derive(Debug, Args)]
pub struct SensorsArgs {
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=LONGEST_INTERVAL_S))]
    pub every_s: u64,
    /// Process id of whoever starts it; it ends with that process.
    #[arg(long)]
    pub parent: Option<i32>,
    /// A folder of the disk to look at.
    #[arg(long)]
    pub disk: PathBuf,
}

/// Arguments of `supervise`, which only capstan itself starts.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    pub folder: PathBuf,
    #[arg(long)]
    pub resume: bool,
    #[arg(long)]
    pub warning: Option<String>,
}

fn layout(text: &str) -> Result<ParallelConfig, ConfigError> {
    layout_from_text(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_query_answers_in_json() {
        let queries = [
            "runs", "status", "logs", "schema", "config", "doctor", "paths", "sample", "eval",
            "export", "attach",
        ];
        let cli = Cli::command();
        for query in queries {
            let command = cli.find_subcommand(query).expect(query);
            assert!(
                command
                    .get_arguments()
                    .any(|arg| arg.get_long() == Some("json")),
                "{query}"
            );
        }
    }
}
