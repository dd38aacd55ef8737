//! The worker's own output, `worker.log`, as it grows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{
    event::is_replaced,
    store::lines::{self, Level},
};

/// Bytes of a line that are kept; what is beyond is in the file.
pub const LONGEST_LINE: usize = 64 << 10;
/// Bytes that are read at once.
const MOST_AT_ONCE: u64 = 1 << 20;

/// Bytes of the end that are searched for a last line.
const TAIL_BYTES: u64 = 16 << 10;
/// Characters of a line that are quoted.
const QUOTE_CHARS: usize = 240;

/// Reads whole lines, also of a file that is being written, or that another takes the place of.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    /// Only as many of the last bytes are read.
    last_bytes: Option<u64>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    lines: BufReader<File>,
    position: u64,
    torn: Vec<u8>,
    /// The line is longer than is kept, or its beginning was passed over: its rest is left out.
    is_skipping: bool,
}

impl Output {
    /// Names the file, which need not exist yet. With `last_bytes`, what lies further before the end is passed over
    /// whenever more has been written since the last look.
    pub fn new(path: &Path, last_bytes: Option<u64>) -> Self {
        Self {
            path: path.to_owned(),
            last_bytes,
            open: None,
        }
    }

    /// Whole lines that were not there before, about a MiB of them at most; empty where there are none.
    ///
    /// # Errors
    /// The file is there and can't be read.
    pub fn fresh(&mut self) -> io::Result<Vec<String>> {
        let gone = |open: &Open| is_replaced(open.lines.get_ref(), &self.path, open.position);
        if self.open.as_ref().is_some_and(gone) {
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            closed => match crate::base::read::open(&self.path) {
                Ok(file) => closed.insert(Open::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            },
        };
        let mut lines = Vec::new();
        if let Some(last_bytes) = self.last_bytes
            && open.pass_over(last_bytes)?
        {
            lines.push("... (what is before is in worker.log)".to_owned());
        }
        lines.extend(open.fresh()?);
        Ok(lines)
    }

    /// The last line where it has no end.
    pub fn torn(&mut self) -> Option<String> {
        let open = self.open.as_mut()?;
        (!open.torn.is_empty()).then(|| open.take())
    }
}

impl Open {
    fn new(file: File) -> Self {
        Self {
            lines: BufReader::new(file),
            position: 0,
            torn: Vec::new(),
            is_skipping: false,
        }
    }

    /// Whether more was written than is to be read.
    fn pass_over(&mut self, last_bytes: u64) -> io::Result<bool> {
        let len = self.lines.get_ref().metadata()?.len();
        let from = len.saturating_sub(last_bytes);
        if from <= self.position {
            return Ok(false);
        }
        self.position = self.lines.seek(SeekFrom::Start(from))?;
        self.torn.clear();
        self.is_skipping = true;
        Ok(true)
    }

    fn fresh(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut left = MOST_AT_ONCE;
        while left > 0 || lines.is_empty() {
            let before = self.torn.len();
            let room = (LONGEST_LINE - before.min(LONGEST_LINE)) as u64 + 1;
            let n = self
                .lines
                .by_ref()
                .take(room)
                .read_until(b'\n', &mut self.torn)? as u64;
            if n == 0 {
                break;
            }
            self.position += n;
            left = left.saturating_sub(n);
            let is_whole = self.torn.ends_with(b"\n");
            if self.is_skipping {
                self.torn.clear();
                self.is_skipping = !is_whole;
            } else if is_whole {
                lines.extend(Some(self.take()).filter(|line| !line.is_empty()));
            } else if self.torn.len() > LONGEST_LINE {
                let line = self.take();
                lines.push(format!("{line} ... (its rest is in worker.log)"));
                self.is_skipping = true;
            }
        }
        Ok(lines)
    }

    fn take(&mut self) -> String {
        let line = String::from_utf8_lossy(&self.torn).trim_end().to_owned();
        self.torn.clear();
        line
    }
}

/// The last line with text that was written to a log from byte `from` on, shortened, without control characters. What
/// only warns is passed over: nobody dies of it.
pub fn last_line(log: &Path, from: u64) -> Option<String> {
    let mut file = crate::base::read::open(log).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES))))
        .ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    // After a panic's message stands how to learn more of it.
    let tells = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: run with");
    let only_warns = |line: &&str| lines::of_output(line, None).level == Level::Warn;
    let mut told = tail.lines().rev().filter(tells);
    let line = told.find(|line| !only_warns(line))?;
    let plain = line.trim().chars().filter(|c| !c.is_control());
    Some(plain.take(QUOTE_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn log(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("worker.log");
        fs::write(&path, text).expect("written");
        (folder, path)
    }

    fn add(path: &Path, text: &str) {
        let file = fs::OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("written");
    }

    #[test]
    fn lines_come_whole_and_once() {
        let (_folder, path) = log("one\n\ntw");
        let mut output = Output::new(&path, None);
        assert_eq!(output.fresh().expect("read"), ["one"]);
        add(&path, "o\nthree");
        assert_eq!(output.fresh().expect("read"), ["two"]);
        assert_eq!(output.torn().as_deref(), Some("three"));
        assert!(output.fresh().expect("read").is_empty());
    }

    #[test]
    fn only_the_last_bytes_are_read_from_a_whole_line_on() {
        let (_folder, path) = log(&"0123456789\n".repeat(1000));
        let mut output = Output::new(&path, Some(25));
        let lines = output.fresh().expect("read");
        assert!(lines[0].contains("worker.log"), "{lines:?}");
        assert_eq!(lines[1..], ["0123456789"; 2]);
        assert!(output.fresh().expect("read").is_empty());
        add(&path, &"x\n".repeat(1000));
        assert_eq!(output.fresh().expect("read")[1..], ["x"; 12]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_bound() {
        let (_folder, path) = log(&"y".repeat(3 * LONGEST_LINE));
        let mut output = Output::new(&path, None);
        let lines = output.fresh().expect("read");
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() < LONGEST_LINE + 100);
        assert!(output.fresh().expect("read").is_empty());
        assert!(
            output
                .open
                .as_ref()
                .is_some_and(|open| open.torn.is_empty())
        );
        add(&path, "y\nnext\n");
        assert_eq!(output.fresh().expect("read"), ["next"]);
    }

    #[test]
    fn another_file_in_its_place_is_read_from_its_beginning() {
        let (_folder, path) = log("old and longer\n");
        let mut output = Output::new(&path, None);
        output.fresh().expect("read");
        fs::write(&path, "new\n").expect("written");
        assert_eq!(output.fresh().expect("read"), ["new"]);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "another of that length\n").expect("written");
        assert_eq!(output.fresh().expect("read"), ["another of that length"]);
    }

    #[test]
    fn the_last_line_is_this_workers_and_plain() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("worker.log");
        fs::write(&log, "old\n").expect("written");
        assert_eq!(last_line(&log, 4), None);
        fs::write(&log, "old\nnew \x1b[31mred\n\n").expect("written");
        assert_eq!(last_line(&log, 4).as_deref(), Some("new [31mred"));
        fs::write(&log, "panicked\nwhy\nnote: run with `RUST_BACKTRACE=1`\n").expect("written");
        assert_eq!(last_line(&log, 0).as_deref(), Some("why"));
        fs::write(&log, format!("{}\nend", "é".repeat(40_000))).expect("written");
        assert_eq!(last_line(&log, 0).as_deref(), Some("end"));
    }

    #[test]
    fn a_warning_is_nobody_s_cause() {
        let warning =
            "[W1128 15:00:00.1 Memory.cpp:7] Warning: it is deprecated (function operator())";
        let (_folder, path) = log(&format!("rank 0: bad size\n{warning}\n{warning}\n"));
        assert_eq!(last_line(&path, 0).as_deref(), Some("rank 0: bad size"));
        let (_folder, path) = log(&format!("{warning}\n"));
        assert_eq!(last_line(&path, 0), None);
    }
}
