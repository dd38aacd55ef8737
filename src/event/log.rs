//! The event log: JSON Lines, appended only, torn last lines tolerated.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Event, Record};
use crate::base::{clock, own};

/// Bytes of a line that are looked at; the longest record is a sample's text.
const LONGEST_LINE: u64 = 16 << 20;

/// An event log that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the event log {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the event log {path}, line {line}: {message}")]
    Malformed {
        path: PathBuf,
        line: u64,
        message: String,
    },
}

/// Appends records; the only writer of a run's log is its supervisor.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    path: PathBuf,
    next_seq: u64,
}

impl LogWriter {
    /// Opens or creates the log, drops a torn last line, and continues its numbering.
    ///
    /// # Errors
    /// The file can't be used, or a line before the last is malformed.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        Self::open_with(path, |_| ())
    }

    /// As [`Self::open`]; `hear` is told each record that the log holds.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(path: &Path, mut hear: impl FnMut(&Record)) -> Result<Self, LogError> {
        let failed = |source| LogError::Io {
            path: path.to_owned(),
            source,
        };
        let file = own::open(path, own::Purpose::Update).map_err(failed)?;
        let mut reader = LogReader::open(path)?;
        let mut next_seq = 0;
        while let Some(record) = reader.next_record()? {
            next_seq = record.seq + 1;
            hear(&record);
        }
        file.set_len(reader.position).map_err(failed)?;
        let mut writer = Self {
            file,
            path: path.to_owned(),
            next_seq,
        };
        writer.file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(writer)
    }

    /// Writes one event with the next number and the present time.
    ///
    /// What says that something is durable or over reaches the disk before this returns.
    ///
    /// # Errors
    /// The line can't be written.
    pub fn append(&mut self, event: Event) -> Result<Record, LogError> {
        let record = Record {
            seq: self.next_seq,
            time: clock::unix_seconds(),
            event,
        };
        let failed = |source| LogError::Io {
            path: self.path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)?;
        if matches!(record.event, Event::Checkpoint { .. } | Event::Ended { .. }) {
            self.file.sync_data().map_err(failed)?;
        }
        self.next_seq += 1;
        Ok(record)
    }
}

/// Reads records, also of a log that is being written.
#[derive(Debug)]
pub struct LogReader {
    lines: BufReader<File>,
    path: PathBuf,
    /// Byte after the last complete line that was read.
    position: u64,
    line: u64,
    /// The line that was read last.
    text: Vec<u8>,
}

impl LogReader {
    /// Opens the log at its first record.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = crate::base::read::open(path).map_err(|source| LogError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            lines: BufReader::new(file),
            path: path.to_owned(),
            position: 0,
            line: 0,
            text: Vec::new(),
        })
    }

    /// The next complete record; `None` at the end, where a later call may find more.
    ///
    /// # Errors
    /// The file can't be read, or a complete line is no record.
    pub fn next_record(&mut self) -> Result<Option<Record>, LogError> {
        if !self.next_line()? {
            return Ok(None);
        }
        let record = serde_json::from_slice(&self.text).map_err(|error| LogError::Malformed {
            path: self.path.clone(),
            line: self.line,
            message: error.to_string(),
        })?;
        Ok(Some(record))
    }

    /// As [`Self::next_record`], without the lines that are no records.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn next_sound_record(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            match self.next_record() {
                Err(LogError::Malformed { .. }) => {}
                read => return read,
            }
        }
    }

    /// Passes over up to `n` complete lines unread; returns how many there were.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn pass_over(&mut self, n: u64) -> Result<u64, LogError> {
        for passed in 0..n {
            if !self.next_line()? {
                return Ok(passed);
            }
        }
        Ok(n)
    }

    /// Reads a complete line into `text`, where there is one.
    fn next_line(&mut self) -> Result<bool, LogError> {
        self.text.clear();
        let read = read_line(&mut self.lines, &mut self.text);
        let is_whole = read.is_ok() && self.text.ends_with(b"\n");
        // A torn line may be cut off and written anew: it is read again from its beginning.
        let placed = match is_whole {
            true => Ok(0),
            false => self.lines.seek(SeekFrom::Start(self.position)),
        };
        let read = read.and_then(|n_bytes| placed.map(|_| n_bytes));
        let read_bytes = read.map_err(|source| LogError::Io {
            path: self.path.clone(),
            source,
        })?;
        if is_whole {
            self.line += 1;
            self.position += read_bytes;
        }
        Ok(is_whole)
    }

    /// Bytes of the complete lines that were read.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Whether another log, or a shorter one, lies where this one was opened: it is to be opened anew.
    pub fn is_replaced(&self) -> bool {
        is_replaced(self.lines.get_ref(), &self.path, self.position)
    }
}

/// Reads to the end of a line and returns its bytes, of which no more than [`LONGEST_LINE`] are kept: what is longer is
/// no record, however it ends.
fn read_line(lines: &mut BufReader<File>, text: &mut Vec<u8>) -> io::Result<u64> {
    let mut n_bytes = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', text)?;
    let mut rest = Vec::new();
    while n_bytes as u64 >= LONGEST_LINE && !text.ends_with(b"\n") {
        rest.clear();
        let more = lines
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut rest)?;
        n_bytes += more;
        if rest.ends_with(b"\n") {
            text.push(b'\n');
        }
        if more == 0 {
            break;
        }
    }
    Ok(n_bytes as u64)
}

/// Whether a file is no longer the one at its path, or has become shorter than what was read of it.
pub fn is_replaced(file: &File, path: &Path, position: u64) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return true;
    };
    (open.dev(), open.ino()) != (there.dev(), there.ino()) || there.len() < position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused(step: u64) -> Event {
        Event::Paused { step }
    }

    #[test]
    fn numbering_goes_on_after_a_torn_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = LogWriter::open(&path).expect("a new log");
        writer.append(paused(1)).expect("written");
        writer.append(paused(2)).expect("written");
        let mut torn = fs::read(&path).expect("readable");
        torn.extend(br#"{"seq":2,"ti"#);
        fs::write(&path, torn).expect("writable");

        LogWriter::open(&path)
            .expect("reopened")
            .append(paused(3))
            .expect("written");
        let mut reader = LogReader::open(&path).expect("readable");
        let mut seqs = Vec::new();
        while let Some(record) = reader.next_record().expect("well-formed") {
            seqs.push(record.seq);
        }
        assert_eq!(seqs, [0, 1, 2]);
    }

    #[test]
    fn a_reader_follows_a_growing_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = LogWriter::open(&path).expect("a new log");
        let mut reader = LogReader::open(&path).expect("readable");
        assert!(reader.next_record().expect("empty").is_none());
        writer.append(paused(1)).expect("written");
        assert!(reader.next_record().expect("one line").is_some());
        assert!(reader.next_record().expect("no more").is_none());
    }

    #[test]
    fn a_torn_line_that_is_written_anew_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = LogWriter::open(&path).expect("a new log");
        let mut reader = LogReader::open(&path).expect("readable");
        writer.append(paused(1)).expect("written");
        let mut text = fs::read(&path).expect("readable");
        text.extend(br#"{"seq":1,"time":1.123456,"ev"#);
        fs::write(&path, text).expect("a disk that is full");
        assert!(reader.next_record().expect("one line").is_some());
        assert!(reader.next_record().expect("a torn one").is_none());

        let mut writer = LogWriter::open(&path).expect("reopened");
        let written = writer.append(paused(2)).expect("written");
        assert_eq!(reader.next_record().expect("well-formed"), Some(written));
        assert!(reader.next_record().expect("no more").is_none());
    }

    #[test]
    fn another_log_at_the_path_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = LogWriter::open(&path).expect("a new log");
        writer.append(paused(1)).expect("written");
        let mut reader = LogReader::open(&path).expect("readable");
        reader.next_record().expect("one line");
        assert!(!reader.is_replaced());
        fs::write(&path, "").expect("cut");
        assert!(reader.is_replaced(), "shorter");
        fs::remove_file(&path).expect("removed");
        assert!(reader.is_replaced(), "gone");
        LogWriter::open(&path).expect("another log");
        assert!(reader.is_replaced(), "another");
    }

    #[test]
    fn lines_that_are_no_records_can_be_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = LogWriter::open(&path).expect("a new log");
        writer.append(paused(1)).expect("written");
        let mut text = fs::read_to_string(&path).expect("readable");
        text = format!("{text}garbage\n{text}");
        fs::write(&path, &text).expect("written");
        let mut reader = LogReader::open(&path).expect("readable");
        for _ in 0..2 {
            assert!(reader.next_sound_record().expect("readable").is_some());
        }
        assert!(reader.next_sound_record().expect("readable").is_none());
        assert_eq!(reader.position(), text.len() as u64);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        fs::write(&path, "garbage\n").expect("writable");
        assert!(matches!(
            LogWriter::open(&path),
            Err(LogError::Malformed { line: 1, .. })
        ));
    }
}
