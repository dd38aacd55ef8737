//! A program on a real pseudo-terminal, its bytes read by a terminal's own parser.

use std::{
    fs,
    io::{Read, Write},
    num::NonZero,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Workplace, check};

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// The UI, its bytes and its screen.
pub struct Seen {
    pub master: Box<dyn MasterPty + Send>,
    pub child: Box<dyn Child + Send + Sync>,
    writer: Box<dyn Write + Send>,
    bytes: Arc<Mutex<Vec<u8>>>,
    pub parser: Arc<Mutex<vt100::Parser>>,
    /// The terminal's modes before the program.
    found: String,
}

impl Seen {
    /// Starts a program of a workplace on a terminal of 80 columns and 24 rows.
    pub fn start(place: &Workplace, program: &str, arguments: &[&str]) -> Result<Self, Failed> {
        let size = PtySize {
            rows: 24,
            cols: 80,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size)?;
        let mut command = CommandBuilder::new(program);
        command.args(arguments);
        command.env("TERM", "xterm-256color");
        for (name, value) in place.command(&[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            }
        }
        command.cwd(place.folder());
        let found = modes(&*pair.master);
        let child = pair.slave.spawn_command(command)?;
        let mut reader = pair.master.try_clone_reader()?;
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (rows, columns) = (NonZero::new(24), NonZero::new(80));
        let (rows, columns) = rows.zip(columns).ok_or("a size")?;
        let parser = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let (to_bytes, to_parser) = (Arc::clone(&bytes), Arc::clone(&parser));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if let (Ok(mut bytes), Ok(mut parser)) = (to_bytes.lock(), to_parser.lock()) {
                    bytes.extend_from_slice(&buffer[..n]);
                    parser.process(&buffer[..n]);
                }
            }
        });
        Ok(Self {
            writer: pair.master.take_writer()?,
            master: pair.master,
            child,
            bytes,
            parser,
            found,
        })
    }

    pub fn ui(place: &Workplace, arguments: &[&str]) -> Result<Self, Failed> {
        Self::start(place, env!("CARGO_BIN_EXE_capstan"), arguments)
    }

    pub fn screen(&self) -> String {
        let parser = self.parser.lock();
        parser.map_or_else(|_| String::new(), |parser| parser.screen().contents())
    }

    pub fn bytes(&self) -> String {
        let bytes = self.bytes.lock();
        bytes.map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Waits until a text stands on the screen.
    pub fn until(&self, text: &str) -> Result<(), Failed> {
        let begin = Instant::now();
        while !self.screen().contains(text) {
            let screen = self.screen();
            check(
                begin.elapsed() < PATIENCE,
                format!("no \"{text}\" in:\n{screen}"),
            )?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), Failed> {
        if let (Ok(mut parser), Some(rows), Some(columns)) = (
            self.parser.lock(),
            NonZero::new(rows),
            NonZero::new(columns),
        ) {
            parser.screen_mut().set_size(rows, columns);
        }
        self.master.resize(PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        })?;
        Ok(())
    }

    pub fn press(&mut self, keys: &str) -> Result<(), Failed> {
        self.writer.write_all(keys.as_bytes())?;
        self.writer.flush()?;
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let pid = self
            .child
            .process_id()
            .and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.ok_or("a process")?, signal)?;
        Ok(())
    }

    /// Seconds that its threads have run.
    pub fn cpu_s(&self) -> Result<f64, Failed> {
        let pid = self.child.process_id().ok_or("a process")?;
        let mut nanoseconds = 0.0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that has just ended has no file any more.
            let Ok(run) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let run = run.split(' ').next().unwrap_or_default();
            nanoseconds += run.parse::<f64>()?;
        }
        Ok(nanoseconds / 1e9)
    }

    /// The exit code, once the program has ended.
    pub fn end(&mut self) -> Result<u32, Failed> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                // The last bytes are on their way.
                thread::sleep(Duration::from_millis(100));
                return Ok(status.exit_code());
            }
            check(begin.elapsed() < PATIENCE, "it does not end")?;
            thread::sleep(LOOK);
        }
    }

    /// The alternate screen is left, the cursor is on, pastes are not bracketed, the mouse is off where it was on, and the
    /// terminal's own modes are as they were.
    pub fn is_restored(&self) -> Result<(), Failed> {
        let bytes = self.bytes();
        let entered = bytes.rfind("\x1b[?1049h").ok_or("never entered")?;
        let has_mouse = bytes.contains("\x1b[?1000h");
        let mouse: &[&str] = if has_mouse {
            &["\x1b[?1000l", "\x1b[?1006l"]
        } else {
            &[]
        };
        let screen = ["\x1b[?1049l", "\x1b[?25h", "\x1b[?2004l"];
        for code in screen.iter().chain(mouse) {
            let at = bytes.rfind(code).unwrap_or(0);
            check(at > entered, format!("{code:?} is missing at the end"))?;
        }
        check(!bytes.contains("\x1b[?1004h"), "focus is never asked for")?;
        let left = modes(&*self.master);
        check(left == self.found, format!("{} became {left}", self.found))?;
        let parser = self.parser.lock().map_err(|_| "poisoned")?;
        let screen = parser.screen();
        check(
            !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste(),
            "not restored",
        )
    }
}

/// How the terminal treats what is typed: cooked, with an echo, ...
fn modes(master: &dyn MasterPty) -> String {
    master.get_termios().map_or_else(String::new, |modes| {
        let (input, output) = (modes.input_flags, modes.output_flags);
        format!("{input:?} {output:?} {:?}", modes.local_flags)
    })
}

/// A front that is left running would look on for ever.
impl Drop for Seen {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
