//! `logs`: what the worker printed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    thread,
    time::Duration,
};

use serde_json::json;

use super::{
    cli::LogsArgs,
    find::find,
    text::{say, say_json},
};
use crate::{base::text::printable, launch::lock};

const POLL: Duration = Duration::from_millis(100);

/// `capstan logs`.
pub fn logs(runs_dir: &Path, args: &LogsArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, args.run.as_deref())?;
    let log = match File::open(folder.worker_log()) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut lines = BufReader::new(log);
    let mut line = Vec::new();
    loop {
        let running = args.follow && lock::is_held(&folder);
        print_present(&mut lines, &mut line, args.json)?;
        if !running {
            if !line.is_empty() {
                print(&line, args.json)?;
            }
            return Ok(0);
        }
        thread::sleep(POLL);
    }
}

/// Prints all whole lines; a torn one stays in `line`.
fn print_present(lines: &mut impl BufRead, line: &mut Vec<u8>, json: bool) -> io::Result<()> {
    while lines.read_until(b'\n', line)? > 0 && line.ends_with(b"\n") {
        print(&line[..line.len() - 1], json)?;
        line.clear();
    }
    Ok(())
}

fn print(line: &[u8], json: bool) -> io::Result<()> {
    let line = String::from_utf8_lossy(line);
    if json {
        say_json(json!({ "line": line }))
    } else {
        say(&printable(&line))
    }
}
