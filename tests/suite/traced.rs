//! What commands ask of the kernel, seen by `strace`: no network, and no driver where none is needed.

use std::{fs, process::Command};

use capstan::headless::Cli;
use clap::CommandFactory;
use libtest_mimic::{Failed, Trial};

use super::{
    screen::Seen,
    support::{Workplace, check},
};

pub fn trials() -> Vec<Trial> {
    vec![
        with_strace("traced::no_command_opens_a_network_socket", no_network),
        with_strace("traced::only_who_needs_the_driver_loads_it", no_driver),
    ]
}

/// A trial that is ignored where nothing can be traced.
fn with_strace(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    let traced = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .status();
    let can_trace = traced.is_ok_and(|status| status.success());
    let name = if can_trace {
        name.to_owned()
    } else {
        format!("{name} (strace can't trace here)")
    };
    Trial::test(name, test).with_ignored_flag(!can_trace)
}

/// Every command, and what it is run with: on a run that has ended but where another word is said.
const LINES: [(&str, &[&str]); 26] = [
    ("train", &["CONFIG"]),
    ("runs", &[]),
    ("status", &[]),
    ("attach", &[]),
    ("logs", &[]),
    ("checkpoint", &[]),
    ("pause", &[]),
    ("continue", &[]),
    ("stop", &[]),
    ("kill", &[]),
    ("resume", &["--set", "stop.steps=6"]),
    ("sample", &["--tokens", "4"]),
    ("eval", &[]),
    ("export", &["tiny", "exported"]),
    ("data", &["inspect", "CONFIG"]),
    ("schema", &[]),
    ("config", &["CONFIG"]),
    ("doctor", &[]),
    ("paths", &[]),
    ("completions", &["bash"]),
    ("top", &["--count", "1"]),
    ("man", &[]),
    ("help", &["train"]),
    ("delete", &["tiny", "--confirm", "tiny"]),
    ("tui", &[]),
    ("demo", &[]),
];

/// strace's command line for a kind of calls of a program and its children, written to the workplace's trace.
fn traced<'a>(trace: &'a str, kind: &'a str, line: &[&'a str]) -> Vec<&'a str> {
    [&["strace", "-f", "-e", kind, "-o", trace], line].concat()
}

/// The calls of a program and its children.
fn calls(place: &Workplace, kind: &str, line: &[&str]) -> Result<String, Failed> {
    let trace = place.config.with_file_name("trace.txt");
    let line = traced(trace.to_str().unwrap_or_default(), kind, line);
    let mut strace = Command::new(line[0]);
    strace.args(&line[1..]).current_dir(place.folder());
    for (name, value) in place.command(&[]).get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.output()?;
    let text = fs::read_to_string(&trace)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    check(
        text.contains("+++ exited with"),
        format!("{line:?}: {said}"),
    )?;
    Ok(text)
}

const CAPSTAN: &str = env!("CARGO_BIN_EXE_capstan");

fn no_network() -> Result<(), Failed> {
    let place = Workplace::real()?;
    let config = place.config.display().to_string();
    let planted = [
        "python3",
        "-c",
        "import socket; socket.socket(socket.AF_INET6)",
    ];
    check(
        opens(&calls(&place, "socket", &planted)?),
        "the trace sees a socket",
    )?;
    let cli = Cli::command();
    for command in cli
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let name = command.get_name();
        check(
            LINES.iter().any(|(line, _)| *line == name),
            format!("{name} is not traced"),
        )?;
    }
    for (name, arguments) in LINES {
        let arguments = arguments.iter().map(|word| match *word {
            "CONFIG" => config.as_str(),
            word => word,
        });
        let line: Vec<&str> = [CAPSTAN, name].into_iter().chain(arguments).collect();
        let calls = match name {
            "tui" | "demo" => calls_on_terminal(&place, &line)?,
            _ => calls(&place, "socket", &line)?,
        };
        check(
            !opens(&calls),
            format!("{name} opens a network socket:\n{calls}"),
        )?;
    }
    Ok(())
}

/// Whether a trace has a network socket in it.
fn opens(calls: &str) -> bool {
    calls.contains("AF_INET")
}

/// The sockets that the UI asks for until it is left.
fn calls_on_terminal(place: &Workplace, line: &[&str]) -> Result<String, Failed> {
    let trace = place.config.with_file_name("trace.txt");
    let line = traced(trace.to_str().unwrap_or_default(), "socket", line);
    let mut ui = Seen::start(place, line[0], &line[1..])?;
    ui.until("q leave")?;
    ui.press("q")?;
    check(ui.end()? == 0, "it leaves")?;
    Ok(fs::read_to_string(&trace)?)
}

fn no_driver() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let config = place.config.display().to_string();
    let asks = |command: &[&str]| -> Result<bool, Failed> {
        let line = [&[CAPSTAN], command].concat();
        let calls = calls(&place, "%file", &line)?;
        Ok(["libnvidia", "libcuda", "/dev/nvidia"]
            .iter()
            .any(|name| calls.contains(name)))
    };
    check(
        asks(&["top", "--count", "1"])?,
        "the trace sees the sensors look for the driver",
    )?;
    place.train(&[])?.ended_with(0)?;
    for command in [
        &["--help"][..],
        &["runs"],
        &["paths"],
        &["schema"],
        &["config", &config],
        &["completions", "bash"],
        &["man"],
        &["data", "inspect", &config],
        &["tui", "--keys"],
        &["status"],
        &["logs"],
        &["attach"],
        &["checkpoint"],
        &["pause"],
        &["continue"],
        &["stop"],
        &["kill"],
        &["delete", "tiny", "--confirm", "tiny"],
    ] {
        check(!asks(command)?, format!("{command:?} looks for the driver"))?;
    }
    Ok(())
}
