//! What commands ask of the kernel, seen by `strace`: no network, and no driver where none is needed.

use std::{fs, process::Command};

use libtest_mimic::{Failed, Trial};

use super::support::{Workplace, check};

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

/// The calls of a program and its children.
fn calls(place: &Workplace, kind: &str, line: &[&str]) -> Result<String, Failed> {
    let trace = place.config.with_file_name("trace.txt");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-e", &format!("trace={kind}"), "-o"])
        .arg(&trace)
        .args(line);
    for (name, value) in place.command(&[]).get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    check(
        output.status.success() || line[1] == "doctor",
        format!("{line:?}: {said}"),
    )?;
    Ok(fs::read_to_string(&trace)?)
}

const CAPSTAN: &str = env!("CARGO_BIN_EXE_capstan");

fn no_network() -> Result<(), Failed> {
    let place = Workplace::real()?;
    let config = place.config.display().to_string();
    let opens = |line: &[&str]| -> Result<bool, Failed> {
        Ok(calls(&place, "socket", line)?.contains("AF_INET"))
    };
    let planted = "import socket; socket.socket(socket.AF_INET6)";
    check(
        opens(&["python3", "-c", planted])?,
        "the trace sees a socket",
    )?;
    for command in [
        &["train", &config][..],
        &["runs"],
        &["status"],
        &["logs"],
        &["sample", "--tokens", "4"],
        &["doctor"],
    ] {
        let line = [&[CAPSTAN], command].concat();
        check(
            !opens(&line)?,
            format!("{command:?} opens a network socket"),
        )?;
    }
    Ok(())
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
    fs::create_dir_all(place.runs())?;
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
    ] {
        check(!asks(command)?, format!("{command:?} looks for the driver"))?;
    }
    Ok(())
}
