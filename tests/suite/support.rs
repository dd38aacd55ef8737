//! A workplace for tests of the two programs: its own runs, cache and data.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use capstan::launch::{RunFolder, lock};
use libtest_mimic::{Failed, Trial};
use rustix::process::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A trial that is ignored where the stand-in worker can't run.
pub fn with_stand_in(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    let has_python = Command::new("python3").arg("--version").output().is_ok();
    Trial::test(name, test).with_ignored_flag(!has_python)
}

/// Whether the long forms are run, as `make soak` does.
pub fn is_soak() -> bool {
    std::env::var_os("CAPSTAN_SOAK").is_some_and(|value| !value.is_empty())
}

/// Fails with a message.
pub fn check(holds: bool, message: impl Into<String>) -> Result<(), Failed> {
    if holds {
        Ok(())
    } else {
        Err(message.into().into())
    }
}

/// Folders that vanish with it; runs that still go on are killed first.
pub struct Workplace {
    root: TempDir,
    pub config: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Workplace {
    /// `behaviour` is the stand-in worker's, life by life; see `stand_in.py`.
    pub fn new(behaviour: &str) -> Result<Self, Failed> {
        let root = tempfile::tempdir()?;
        let text = "To be, or not to be, that is the question.\n".repeat(100);
        fs::write(root.path().join("input.txt"), text)?;
        let config = root.path().join("config.json");
        let workplace = Self {
            root,
            config,
            variables: vec![("STAND_IN", behaviour.to_owned())],
        };
        workplace.write_config(json!({}))?;
        Ok(workplace)
    }

    /// With the real worker instead of the stand-in.
    pub fn real() -> Result<Self, Failed> {
        Ok(Self::new("")?.with("CAPSTAN_WORKER", env!("CARGO_BIN_EXE_capstan-worker")))
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// A run that goes on until it is told otherwise.
    pub fn long(behaviour: &str) -> Result<Self, Failed> {
        Ok(Self::new(behaviour)?
            .with("STAND_IN_STEPS", "100000")
            .with("STAND_IN_DELAY", "0.02"))
    }

    /// The config of a tiny run, with some keys replaced.
    pub fn write_config(&self, changes: Value) -> Result<(), Failed> {
        let mut config = json!({
            "name": "tiny",
            "model": { "gpt": { "preset": "gpt-nano" } },
            "data": { "text": { "path": "input.txt" } },
            "batch": { "global": 4 },
            "stop": { "steps": 4 },
            "devices": ["cpu", "cpu"],
            "log": { "every": 2 },
        });
        if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
            config.extend(changes);
        }
        fs::write(&self.config, config.to_string())?;
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        self.root.path()
    }

    pub fn runs(&self) -> PathBuf {
        self.root.path().join("runs")
    }

    pub fn run(&self, name: &str) -> PathBuf {
        self.runs().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_capstan"));
        command.args(arguments);
        command
    }

    /// A program in this workplace's environment.
    fn program(&self, program: &str) -> Command {
        let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/stand_in.py");
        let mut command = Command::new(program);
        command
            .env("CAPSTAN_RUNS_DIR", self.runs())
            .env("XDG_CACHE_HOME", self.root.path().join("cache"))
            .env("XDG_CONFIG_HOME", self.root.path().join("config"))
            .env("CAPSTAN_WORKER", worker)
            .env_remove("WORLD_SIZE")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Trains on a terminal, which `script` (util-linux) provides.
    pub fn train_on_terminal(&self, term: &str) -> Result<Said, Failed> {
        let line = format!(
            "{} train {}",
            env!("CARGO_BIN_EXE_capstan"),
            self.config.display()
        );
        let mut script = self.program("script");
        script.env("TERM", term).args(["-qec", &line, "/dev/null"]);
        Ok(Said::from(script.output()?))
    }

    pub fn capstan(&self, arguments: &[&str]) -> Result<Said, Failed> {
        Ok(Said::from(self.command(arguments).output()?))
    }

    pub fn train(&self, arguments: &[&str]) -> Result<Said, Failed> {
        Ok(Said::from(self.train_command(arguments).output()?))
    }

    pub fn train_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["train"]);
        command.arg(&self.config).args(arguments);
        command
    }

    /// A front in the background, its output in a file.
    pub fn train_aside(&self, arguments: &[&str]) -> Result<Front, Failed> {
        self.aside(self.train_command(arguments))
    }

    /// As [`Self::train_aside`], with a front that SIGHUP ends even where this program was started to ignore it, as by
    /// nohup: what is ignored stays so in other programs.
    pub fn train_with_hangup(&self, arguments: &[&str]) -> Result<Front, Failed> {
        let script = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); \
                      os.execv(sys.argv[1], sys.argv[1:])";
        let mut command = self.program("python3");
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_capstan"), "train"])
            .arg(&self.config)
            .args(arguments);
        self.aside(command)
    }

    fn aside(&self, mut command: Command) -> Result<Front, Failed> {
        let output = self.root.path().join("front.txt");
        let child = command
            .stdout(File::create(&output)?)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Front { child, output })
    }

    /// The run's log so far, a whole record an entry.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.run(name).join("events.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub fn events_named(&self, name: &str, event: &str) -> Vec<Value> {
        let mut events = self.events(name);
        events.retain(|record| record["event"] == event);
        events
    }

    /// What the worker was started with, life by life.
    pub fn lives(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.run(name).join("lives")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What a run's events say of its training: losses and gradient norms by step, evaluations, the sample.
    pub fn training(&self, name: &str) -> BTreeMap<String, Value> {
        let told = |event: &Value| {
            let keys = ["loss", "grad_norm", "targets", "text"];
            let values: Vec<&Value> = keys.iter().map(|key| &event[*key]).collect();
            let title = format!("{} {}", event["event"], event["step"]);
            (title, json!(values))
        };
        ["step", "eval", "sample"]
            .iter()
            .flat_map(|kind| self.events_named(name, kind))
            .map(|event| told(&event))
            .collect()
    }

    /// The files of a run's checkpoint at a step, to the byte.
    pub fn checkpoint(&self, name: &str, step: u64) -> Result<Vec<Vec<u8>>, Failed> {
        let folder = self.run(name).join(format!("checkpoints/step-{step:08}"));
        let read = |file: &str| fs::read(folder.join(file));
        Ok(vec![
            read("model.safetensors")?,
            read("optimizer.safetensors")?,
        ])
    }

    /// The process that hosts one rank of a run of several workers.
    pub fn worker(&self, name: &str, rank: usize) -> Result<Pid, Failed> {
        let (folder, number) = (self.run(name), format!("--worker={rank}"));
        let folder = folder.display().to_string();
        let mut found = None;
        wait("the worker", || {
            let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
            found = processes
                .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
                .find(|pid| {
                    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let mut arguments = line.split(|&byte| byte == 0);
                    let names = |text: &str| arguments.clone().any(|part| part == text.as_bytes());
                    names(&folder) && names(&number) && arguments.next().is_some()
                })
                .and_then(Pid::from_raw);
            found.is_some()
        })?;
        found.ok_or_else(|| "no worker".into())
    }

    pub fn step(&self, name: &str) -> u64 {
        let steps = self.events_named(name, "step");
        steps
            .last()
            .and_then(|record| record["step"].as_u64())
            .unwrap_or(0)
    }

    pub fn wait_for_step(&self, name: &str, step: u64) -> Result<(), Failed> {
        wait(&format!("step {step} of {name}"), || {
            self.step(name) >= step
        })
    }

    /// The outcome and reason of the run's last event, once it has ended.
    pub fn wait_for_end(&self, name: &str) -> Result<(String, String), Failed> {
        wait(&format!("the end of {name}"), || {
            !self.events_named(name, "ended").is_empty()
        })?;
        let ended = self.events_named(name, "ended").pop().unwrap_or_default();
        let field = |key: &str| ended[key].as_str().unwrap_or_default().to_owned();
        Ok((field("outcome"), field("reason")))
    }

    pub fn supervisor(&self, name: &str) -> Result<rustix::process::Pid, Failed> {
        wait("the supervisor", || {
            !self.events_named(name, "run").is_empty()
        })?;
        let run = self.events_named(name, "run").pop().unwrap_or_default();
        let pid = run["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(rustix::process::Pid::from_raw)
            .ok_or_else(|| "no process id".into())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        for run in fs::read_dir(self.runs()).into_iter().flatten().flatten() {
            let folder = RunFolder::new(run.path());
            if lock::is_held(&folder) {
                let _ = self.command(&["kill"]).arg(run.path()).output();
                // Until then it writes into the folder.
                let _ = wait("the supervisor's end", || !lock::is_held(&folder));
            }
        }
    }
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    pub fn ended_with(self, code: i32) -> Result<Self, Failed> {
        check(
            self.code == Some(code),
            format!("exit code {code} expected: {self:#?}"),
        )?;
        Ok(self)
    }

    /// Every part stands somewhere in what was printed.
    pub fn says(self, parts: &[&str]) -> Result<Self, Failed> {
        for part in parts {
            let said = self.out.contains(part) || self.err.contains(part);
            check(said, format!("{part:?} expected: {self:#?}"))?;
        }
        Ok(self)
    }

    pub fn json(&self) -> Result<Value, Failed> {
        Ok(serde_json::from_str(&self.out)?)
    }
}

/// A front that follows a run.
pub struct Front {
    pub child: Child,
    output: PathBuf,
}

impl Front {
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    pub fn code(&mut self) -> Result<Option<i32>, Failed> {
        let child = &mut self.child;
        wait("the front's end", || {
            matches!(child.try_wait(), Ok(Some(_)))
        })?;
        Ok(self.child.wait()?.code())
    }
}

/// Polls until `holds`; a test never sleeps for a fixed time instead.
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failed> {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > until {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
