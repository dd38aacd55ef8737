//! Everything that is read answers within a second, whatever its name stands for, and nothing of a run folder is written
//! through a link.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::support::{Said, Workplace, check};

/// Longer than any refusal takes on a busy machine, far shorter than for ever.
const PATIENCE: Duration = Duration::from_secs(20);
/// What stands in a reader's way: each would hold a reader up, or feed it without end.
const STRANGE: [&str; 3] = ["fifo", "zero", "folder"];
/// Every file of a run folder, and the temporary names beside those that are replaced.
const OF_A_RUN: [&str; 8] = [
    "config.json",
    "plan.json",
    "events.jsonl",
    "state.json",
    ".state.json.tmp",
    "worker.log",
    "lock",
    "control.sock",
];

/// A file that a command reads.
struct Reader {
    name: &'static str,
    /// Below the workplace; `DIR` of [`Workplace::config`].
    file: &'static str,
    command: &'static [&'static str],
    /// What of the config leads there.
    config: fn() -> serde_json::Value,
}

fn nothing() -> serde_json::Value {
    json!({})
}

const READERS: &[Reader] = &[
    Reader {
        name: "the config",
        file: "strange",
        command: &["train", "strange", "--dry-run"],
        config: nothing,
    },
    Reader {
        name: "a run's config, listed",
        file: "runs/tiny/config.json",
        command: &["runs"],
        config: nothing,
    },
    Reader {
        name: "a run's plan, listed",
        file: "runs/tiny/plan.json",
        command: &["runs"],
        config: nothing,
    },
    Reader {
        name: "a run's state, listed",
        file: "runs/tiny/state.json",
        command: &["runs"],
        config: nothing,
    },
    Reader {
        name: "a run's events, listed",
        file: "runs/tiny/events.jsonl",
        command: &["runs"],
        config: nothing,
    },
    Reader {
        name: "a run's lock, listed",
        file: "runs/tiny/lock",
        command: &["runs"],
        config: nothing,
    },
    Reader {
        name: "a run's state, asked for",
        file: "runs/tiny/state.json",
        command: &["status", "tiny"],
        config: nothing,
    },
    Reader {
        name: "a run's config, resumed",
        file: "runs/tiny/config.json",
        command: &["resume", "tiny", "--plain"],
        config: nothing,
    },
    Reader {
        name: "a run's plan, resumed",
        file: "runs/tiny/plan.json",
        command: &["resume", "tiny", "--plain"],
        config: nothing,
    },
    Reader {
        name: "a run's log",
        file: "runs/tiny/worker.log",
        command: &["logs", "tiny"],
        config: nothing,
    },
    Reader {
        name: "a run's events, followed",
        file: "runs/tiny/events.jsonl",
        command: &["logs", "tiny"],
        config: nothing,
    },
    Reader {
        name: "a checkpoint's manifest",
        file: "runs/tiny/checkpoints/step-00000004/manifest.json",
        command: &["export", "tiny", "out"],
        config: nothing,
    },
    Reader {
        name: "a checkpoint's weights",
        file: "runs/tiny/checkpoints/step-00000004/model.safetensors",
        command: &["export", "tiny", "out"],
        config: nothing,
    },
    Reader {
        name: "pretrained weights",
        file: "strange",
        command: TRAIN,
        config: || json!({ "init": { "pretrained": "strange" } }),
    },
    Reader {
        name: "weights in a folder",
        file: "base/model.safetensors",
        command: TRAIN,
        config: || json!({ "init": { "pretrained": "base" } }),
    },
    Reader {
        name: "an index of weights",
        file: "base/model.safetensors.index.json",
        command: TRAIN,
        config: || json!({ "init": { "pretrained": "base" } }),
    },
    Reader {
        name: "sizes of weights",
        file: "base/config.json",
        command: TRAIN,
        config: || json!({ "init": { "pretrained": "base" } }),
    },
    Reader {
        name: "a text",
        file: "strange",
        command: TRAIN,
        config: || json!({ "data": { "text": { "path": "strange" } } }),
    },
    Reader {
        name: "JSON Lines",
        file: "strange",
        command: TRAIN,
        config: || json!({ "data": { "jsonl": { "path": "strange" } } }),
    },
    Reader {
        name: "token ids",
        file: "strange",
        command: TRAIN,
        config: || json!({ "data": { "tokens": { "train": "strange", "vocab_size": 65 } } }),
    },
    Reader {
        name: "a tokenizer",
        file: "strange",
        command: TRAIN,
        config: || json!({ "data": { "text": { "path": "text.txt", "tokenizer": { "file": "strange" } } } }),
    },
    Reader {
        name: "a vocabulary",
        file: "strange",
        command: TRAIN,
        config: || json!({ "data": { "text": { "path": "text.txt", "tokenizer": { "vocab_merges": { "vocab": "strange", "merges": "text.txt" } } } } }),
    },
];
const TRAIN: &[&str] = &["train", "config.json", "--dry-run"];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = READERS
        .iter()
        .map(|reader| {
            Trial::test(
                format!("readers::{} may be anything", reader.name),
                move || strange(reader),
            )
        })
        .collect();
    trials.extend([
        Trial::test("readers::a_config_may_come_through_a_pipe", piped),
        Trial::test("readers::a_million_names_are_refused_at_once", many_names),
        Trial::test("readers::no_file_of_a_run_is_written_through_a_link", links),
        Trial::test(
            "readers::files_of_a_run_are_private_under_any_umask",
            private,
        ),
    ]);
    trials
}

/// Runs a command to its end; one that takes too long is ended and told.
fn answer(mut command: Command) -> Result<(Said, Duration), Failed> {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    while child.try_wait()?.is_none() {
        if began.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("{command:?} did not end").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((Said::from(child.wait_with_output()?), began.elapsed()))
}

fn put(kind: &str, path: &Path) -> Result<(), Failed> {
    match path.is_dir() {
        true => fs::remove_dir_all(path)?,
        false if path.exists() => fs::remove_file(path)?,
        false => fs::create_dir_all(path.parent().ok_or("a folder")?)?,
    }
    match kind {
        "fifo" => {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, path, mode)?;
        }
        "zero" => symlink("/dev/zero", path)?,
        _ => fs::create_dir(path)?,
    }
    Ok(())
}

fn strange(reader: &Reader) -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.train(&["--plain"])?.ended_with(0)?;
    let folder = place.config.parent().ok_or("a folder")?.to_owned();
    fs::write(folder.join("text.txt"), "some text\n".repeat(500))?;
    if reader.file.starts_with("base/") {
        fs::create_dir(folder.join("base"))?;
        if reader.file.ends_with("config.json") {
            fs::write(folder.join("base/model.safetensors"), [0; 8])?;
        }
    }
    place.write_config((reader.config)())?;
    for kind in STRANGE {
        let path = match reader.file.strip_prefix("runs/") {
            Some(file) => place.runs().join(file),
            None => folder.join(reader.file),
        };
        put(kind, &path)?;
        let arguments: Vec<String> = reader
            .command
            .iter()
            .map(|argument| match *argument {
                "config.json" => place.config.display().to_string(),
                other => other.to_owned(),
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        command.current_dir(&folder);
        let (said, took) = answer(command)?;
        let is_refused = said.code != Some(0) || reader.command[0] != "train";
        check(
            took < PATIENCE && is_refused && said.code != Some(101),
            format!("{kind}: {took:?}, {said:?}"),
        )?;
    }
    Ok(())
}

/// A shell's `<(…)` and the standard input are read to their end; one without an end is refused.
fn piped() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let text = fs::read(&place.config)?;
    let start = || -> Result<std::process::Child, Failed> {
        let mut command = place.command(&["train", "/dev/stdin", "--dry-run"]);
        command.current_dir(place.config.parent().ok_or("a folder")?);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command.stderr(Stdio::piped()).spawn()?)
    };
    let mut child = start()?;
    let mut input = child.stdin.take().ok_or("an input")?;
    input.write_all(&text)?;
    drop(input);
    Said::from(child.wait_with_output()?).ended_with(0)?;
    let mut child = start()?;
    let mut input = child.stdin.take().ok_or("an input")?;
    while input.write_all(&[b' '; 1 << 16]).is_ok() {}
    let said = Said::from(child.wait_with_output()?);
    check(said.code != Some(0), "refused")?;
    said.says(&["it has more than the 4"])?;
    Ok(())
}

/// A header of a million names, and one of the most names that are read.
fn many_names() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.write_config(json!({ "init": { "pretrained": "weights.safetensors" } }))?;
    let path = place.config.with_file_name("weights.safetensors");
    for n in [1_000_000, 180_000] {
        let names = (0..n).map(|i| {
            format!("\"x.{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}")
        });
        let header = format!("{{{}}}", names.collect::<Vec<_>>().join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.into_bytes());
        fs::write(&path, file)?;
        let mut command =
            place.command(&["train", &place.config.display().to_string(), "--dry-run"]);
        command.current_dir(place.config.parent().ok_or("a folder")?);
        let (said, took) = answer(command)?;
        check(took < PATIENCE / 2, format!("{n} names took {took:?}"))?;
        check(said.code != Some(0), "refused")?;
        if n == 1_000_000 {
            check(said.err.contains("has a header of "), said.err)?;
        }
    }
    Ok(())
}

/// Each name of a run folder as a link to a file outside, before the run starts, and before it is resumed.
fn links() -> Result<(), Failed> {
    for name in OF_A_RUN {
        let place = Workplace::real()?;
        place.train(&["--plain"])?.ended_with(0)?;
        let victim = place.config.with_file_name("victim");
        let planted: PathBuf = place.run("tiny").join(name);
        let before = fs::read(&planted).unwrap_or_default();
        fs::write(&victim, &before)?;
        if planted.exists() {
            fs::remove_file(&planted)?;
        }
        symlink(&victim, &planted)?;
        let (said, _) =
            answer(place.command(&["resume", "tiny", "--plain", "--set", "stop.steps=8"]))?;
        let after = fs::read(&victim)?;
        check(
            after == before,
            format!("{name}: written through; {said:?}"),
        )?;
    }
    Ok(())
}

fn private() -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt;
    let place = Workplace::real()?;
    let train = place.train_command(&["--plain"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "umask 0; exec \"$0\" \"$@\""])
        .arg(train.get_program())
        .args(train.get_args());
    shell.envs(
        train
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    answer(shell)?.0.ended_with(0)?;
    for name in OF_A_RUN {
        let Ok(meta) = fs::metadata(place.run("tiny").join(name)) else {
            continue;
        };
        let mode = meta.permissions().mode() & 0o777;
        check(mode & 0o077 == 0, format!("{name} has mode {mode:o}"))?;
    }
    Ok(())
}
