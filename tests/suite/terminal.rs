//! The terminal UI on a real pseudo-terminal, its bytes read by a terminal's own parser.

use std::{
    fs,
    io::{Read, Write},
    num::NonZero,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use capstan::store;
use libtest_mimic::{Failed, Trial};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    sensors::{with_cards, with_fakes},
    support::{Workplace, check, wait, with_stand_in},
};

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);
/// The design's figures. Tests share their machine, so the median of five may take four times as long.
const FIRST_FRAME: Duration = Duration::from_millis(100);
const KEY: Duration = Duration::from_millis(50);
const CTRL_C: Duration = Duration::from_millis(100);
/// Bytes a second at 160x50.
const USUAL_BYTES: usize = 40_000;
const LOW_BYTES: usize = 5_000;
/// Of a core, while a run is watched at 160x50 and while nothing changes.
const WATCHED_CPU: f64 = 0.01;
const IDLE_CPU: f64 = 0.001;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("terminal::the_first_frame_comes_at_once", first_frame),
        Trial::test("terminal::help_resize_and_leave", help_resize_leave),
        Trial::test("terminal::signals_restore_the_terminal", signals),
        Trial::test("terminal::a_panic_restores_the_terminal", panics),
        Trial::test("terminal::a_suspended_ui_comes_back_whole", suspend),
        Trial::test("terminal::nothing_is_asked_of_the_terminal", quiet),
        Trial::test("terminal::no_color_means_none", no_color),
        Trial::test("terminal::an_idle_ui_sends_nothing", idle),
        Trial::test("terminal::a_watched_run_costs_little", watched),
        Trial::test("terminal::a_size_of_zero_draws_nothing", zero_size),
        Trial::test("terminal::a_hung_collector_delays_no_key", hung),
        Trial::test("terminal::a_key_map_at_fault_is_told_at_the_start", key_map),
        Trial::test(
            "terminal::without_a_terminal_there_is_plain_help",
            no_terminal,
        ),
        with_fakes("terminal::keys_answer_while_the_driver_hangs", stuck),
        with_stand_in("terminal::the_first_ctrl_c_is_answered_at_once", ctrl_c),
        with_stand_in("terminal::a_run_outlives_its_ui", outlives),
        with_stand_in("terminal::keys_launch_pause_and_stop", steer),
    ]
}

/// The UI, its bytes and its screen.
pub struct Seen {
    master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    writer: Box<dyn Write + Send>,
    bytes: Arc<Mutex<Vec<u8>>>,
    parser: Arc<Mutex<vt100::Parser>>,
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
        })
    }

    fn ui(place: &Workplace, arguments: &[&str]) -> Result<Self, Failed> {
        Self::start(place, env!("CARGO_BIN_EXE_capstan"), arguments)
    }

    /// The characters on the screen.
    pub fn screen(&self) -> String {
        let parser = self.parser.lock();
        parser.map_or_else(|_| String::new(), |parser| parser.screen().contents())
    }

    fn bytes(&self) -> String {
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

    fn resize(&self, columns: u16, rows: u16) -> Result<(), Failed> {
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

    fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let pid = self
            .child
            .process_id()
            .and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.ok_or("a process")?, signal)?;
        Ok(())
    }

    /// Seconds that its threads have run.
    fn cpu_s(&self) -> Result<f64, Failed> {
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

    /// The alternate screen is left, the cursor is on, pastes are not bracketed.
    fn is_restored(&self) -> Result<(), Failed> {
        let bytes = self.bytes();
        let entered = bytes.rfind("\x1b[?1049h").ok_or("never entered")?;
        for code in ["\x1b[?1049l", "\x1b[?25h", "\x1b[?2004l"] {
            let at = bytes.rfind(code).unwrap_or(0);
            check(at > entered, format!("{code:?} is missing at the end"))?;
        }
        let parser = self.parser.lock().map_err(|_| "poisoned")?;
        let screen = parser.screen();
        check(
            !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste(),
            "not restored",
        )
    }
}

/// A front that is left running would look on for ever.
impl Drop for Seen {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn first_frame() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    // The median of a few: this machine is shared.
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begin = Instant::now();
            let ui = Seen::ui(&place, &[])?;
            ui.until("[1 Launch]")?;
            Ok(begin.elapsed())
        })
        .collect::<Result<_, Failed>>()?;
    times.sort();
    check(times[2] < 4 * FIRST_FRAME, format!("{times:?}"))
}

/// The machine is looked at aside: a driver that never answers holds no key up.
fn stuck() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("well")?, "stuck")?;
    let mut ui = Seen::ui(&place, &[])?;
    ui.until("[1 Launch]")?;
    // The median of a few: this machine is shared.
    let mut times = Vec::new();
    for (key, screen) in [("5", "[5 Runs]"), ("6", "[6 Logs]"), ("1", "[1 Launch]")].repeat(3) {
        let begin = Instant::now();
        ui.press(key)?;
        ui.until(screen)?;
        times.push(begin.elapsed());
    }
    times.sort();
    check(times[4] < 4 * KEY, format!("{times:?}"))?;
    check(
        !ui.screen().contains("ready to launch"),
        "nothing is checked yet",
    )?;
    ui.press("q")?;
    check(ui.end()? == 0, "it leaves")
}

fn help_resize_leave() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut ui = Seen::ui(&place, &["tui"])?;
    ui.until("[1 Launch]")?;
    ui.press("?")?;
    ui.until("Help: Launch")?;
    ui.press("\x1b")?;
    // Sent together they would be Alt-5.
    ui.until("New run: ")?;
    ui.press("5")?;
    ui.until("[5 Runs]")?;
    ui.resize(130, 40)?;
    ui.until("4 Compare")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    ui.is_restored()
}

fn signals() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut ui = Seen::ui(&place, &[])?;
        ui.until("[1 Launch]")?;
        ui.signal(signal)?;
        let ended = ui.end()?;
        check(ended == code, format!("{signal:?} {ended}"))?;
        ui.is_restored()?;
    }
    Ok(())
}

fn panics() -> Result<(), Failed> {
    let place = Workplace::new("well")?.with("CAPSTAN_INJECT", "tui:key:panic");
    let mut ui = Seen::ui(&place, &[])?;
    ui.until("[1 Launch]")?;
    ui.press("\x1b[24~")?;
    let code = ui.end()?;
    check(code == 70, format!("{code}"))?;
    ui.is_restored()?;
    let screen = ui.screen();
    check(
        screen.contains("capstan's screen failed") && screen.contains("details: "),
        screen,
    )
}

fn suspend() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut shell = Seen::start(&place, "bash", &["--norc", "--noprofile", "-i"])?;
    shell.press(concat!(env!("CARGO_BIN_EXE_capstan"), " tui\r"))?;
    shell.until("[1 Launch]")?;
    shell.press("\x1a")?;
    shell.until("Stopped")?;
    let is_ours = shell
        .parser
        .lock()
        .is_ok_and(|parser| parser.screen().alternate_screen() || parser.screen().hide_cursor());
    check(!is_ours, "the shell has its screen and its cursor")?;
    let begin = Instant::now();
    shell.press("fg\r")?;
    shell.until("[1 Launch]")?;
    shell.until("? help")?;
    let took = begin.elapsed();
    check(took < Duration::from_millis(1500), format!("{took:?}"))?;
    shell.press("q")?;
    // The shell's own prompt: what is typed before it, the UI would read.
    super::support::wait("the shell", || {
        let parser = shell.parser.lock();
        parser.is_ok_and(|parser| {
            let screen = parser.screen();
            let shown = screen.contents();
            !screen.alternate_screen() && shown.trim_end().ends_with(['#', '$'])
        })
    })?;
    shell.press("exit 7\r")?;
    check(shell.end()? == 7, "the shell goes on")
}

fn quiet() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut ui = Seen::ui(&place, &[])?;
    ui.until("ready to launch")?;
    // Drawn anew, and resized, it does not ask either.
    ui.press("\x0c5")?;
    ui.until("[5 Runs]")?;
    ui.press("q")?;
    ui.end()?;
    let bytes = ui.bytes();
    for (code, what) in [
        ("\x1b[6n", "a question for the cursor"),
        ("\x1b[c", "a question for the terminal"),
        ("\x1b[>", "a question or a mode of the keyboard"),
        ("\x1b]10;?", "a question for colours"),
        ("\x1b]11;?", "a question for colours"),
        ("\x1b[?2026", "synchronized frames"),
        ("\x1b[?1000h", "the mouse"),
        ("\x1b[?1006h", "the mouse"),
    ] {
        check(!bytes.contains(code), what)?;
    }
    Ok(())
}

fn no_color() -> Result<(), Failed> {
    let place = Workplace::new("well")?.with("NO_COLOR", "1");
    let ui = Seen::ui(&place, &[])?;
    ui.until("ready to launch")?;
    let bytes = ui.bytes();
    for code in ["\x1b[38;", "\x1b[48;", "\x1b[31m", "\x1b[32m", "\x1b[36m"] {
        check(!bytes.contains(code), format!("{code:?}"))?;
    }
    check(bytes.contains("\x1b[7m"), "the selection is reversed")?;
    let place = Workplace::new("well")?;
    let ui = Seen::ui(&place, &[])?;
    ui.until("ready to launch")?;
    check(
        ui.bytes().contains("\x1b[38;5;"),
        "colours where they are wanted",
    )
}

fn idle() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut ui = Seen::ui(&place, &[])?;
    ui.until("ready to launch")?;
    ui.press("5")?;
    ui.until("There is no run yet")?;
    thread::sleep(Duration::from_millis(500));
    let (before, ran) = (ui.bytes().len(), ui.cpu_s()?);
    let begin = Instant::now();
    thread::sleep(Duration::from_secs(3));
    let sent = ui.bytes().len() - before;
    check(sent <= 60, format!("{sent} bytes in 3 s"))?;
    is_cheap(&ui, ran, begin, IDLE_CPU)
}

/// Processor time depends less on who else runs than time does: half as much again is let pass.
fn is_cheap(ui: &Seen, ran: f64, since: Instant, most: f64) -> Result<(), Failed> {
    let share = (ui.cpu_s()? - ran) / since.elapsed().as_secs_f64();
    check(
        share > 0.0 && share <= 1.5 * most,
        format!(
            "{:.3} % of a core, at most {} %",
            share * 100.0,
            most * 100.0
        ),
    )
}

/// The recording plays on both at once.
fn watched() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let usual = Seen::ui(&place, &["demo"])?;
    let low = Seen::ui(&place, &["demo", "--low-bandwidth"])?;
    for ui in [&usual, &low] {
        ui.resize(160, 50)?;
        ui.until("events, the latest first")?;
        ui.until("eval after step 50")?;
    }
    let before = [&usual, &low].map(|ui| ui.bytes().len());
    let (ran, begin) = (usual.cpu_s()?, Instant::now());
    thread::sleep(Duration::from_secs(5));
    let seconds = begin.elapsed().as_secs_f64();
    for (ui, before, most) in [
        (&usual, before[0], USUAL_BYTES),
        (&low, before[1], LOW_BYTES),
    ] {
        let rate = (ui.bytes().len() - before) as f64 / seconds;
        check(
            rate > 100.0 && rate <= most as f64,
            format!("{rate:.0} bytes/s, at most {most}"),
        )?;
    }
    is_cheap(&usual, ran, begin, WATCHED_CPU)?;
    let is_braille = |ui: &Seen| {
        ui.screen()
            .contains(|c| ('\u{2801}'..='\u{28ff}').contains(&c))
    };
    check(
        is_braille(&usual) && !is_braille(&low),
        "no braille on a slow line",
    )
}

fn zero_size() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut ui = Seen::ui(&place, &[])?;
    ui.until("ready to launch")?;
    for (columns, rows) in [(0, 0), (0, 24), (80, 0)] {
        ui.master.resize(PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        })?;
        // It takes a moment until the size is known.
        let is_silent = (0..10).any(|_| {
            thread::sleep(Duration::from_millis(100));
            let before = ui.bytes().len();
            let pressed = ui.press("5?\x1b").is_ok();
            thread::sleep(Duration::from_millis(300));
            pressed && ui.bytes().len() == before
        });
        check(is_silent, format!("it draws at {columns}x{rows}"))?;
        ui.press("1")?;
    }
    ui.resize(80, 24)?;
    ui.until("[1 Launch]")?;
    ui.press("5")?;
    ui.until("[5 Runs]")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")
}

/// A log that is a pipe without a writer holds up whoever opens it, for as long as the test runs.
fn hung() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    fs::create_dir_all(place.run("stuck"))?;
    let log = place.run("stuck").join("events.jsonl");
    let made = Command::new("mkfifo").arg(&log).status()?;
    check(made.success(), "a pipe")?;
    fs::write(place.run("stuck").join("config.json"), "{}")?;
    let mut ui = Seen::ui(&place, &[])?;
    ui.until("[1 Launch]")?;
    let begin = Instant::now();
    let mut times = Vec::new();
    for (key, shown) in [
        ("5", "[5 Runs]"),
        ("6", "[6 Logs]"),
        ("3", "[3 Live]"),
        ("?", "Help: Live"),
        ("/", "Help: Live   / _"),
    ] {
        let pressed = Instant::now();
        ui.press(key)?;
        ui.until(shown)?;
        times.push(pressed.elapsed());
    }
    times.sort();
    check(times[2] < 4 * KEY, format!("{times:?}"))?;
    thread::sleep(Duration::from_secs(5).saturating_sub(begin.elapsed()));
    ui.press("\x1b")?;
    ui.until("Help: Live   / filter")?;
    ui.press("q")?;
    ui.until("? help")?;
    ui.press("5")?;
    ui.until("reading the runs ...")
}

fn key_map() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let printed = place.capstan(&["tui", "--keys"])?.ended_with(0)?.json()?;
    check(printed["kill"][0] == "K", printed.to_string())?;
    let paths = place.capstan(&["paths", "--json"])?.json()?;
    let folder = paths["config"].as_str().ok_or("a folder")?;
    fs::create_dir_all(folder)?;
    let file = Path::new(folder).join("keys.json");
    fs::write(&file, "{\n  \"kil\": \"X\",\n  \"stop\": \"C\"\n}")?;
    let mut ui = Seen::ui(&place, &["tui"])?;
    let code = ui.end()?;
    let bytes = ui.bytes();
    let is_told = ["line 2: there is no action \"kil\"", "line 3: C means"];
    check(
        code == 2 && is_told.iter().all(|part| bytes.contains(part)),
        format!("{code}: {bytes}"),
    )?;
    check(!bytes.contains("\x1b[?1049h"), "the screen is not taken")?;
    fs::write(&file, "{\"leave\": \"x\"}")?;
    let mut ui = Seen::ui(&place, &["tui"])?;
    ui.until("x leave")?;
    ui.press("x")?;
    check(ui.end()? == 0, "x leaves")
}

/// A run that goes on is asked to stop on its terminal.
fn ctrl_c() -> Result<(), Failed> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let place = Workplace::long("well")?;
        place.write_config(serde_json::json!({ "stop": { "steps": 100_000 } }))?;
        let config = place.config.display().to_string();
        let mut front = Seen::ui(&place, &["train", &config])?;
        wait("steps are made", || step_of(&place) > 1)?;
        let pressed = Instant::now();
        front.press("\x03")?;
        front.until("stopping: finishing the step")?;
        times.push(pressed.elapsed());
        front.until("a second Ctrl-C ends at once")?;
        check(front.end()? == 75, "it stops with a checkpoint")?;
    }
    times.sort();
    check(times[2] < 4 * CTRL_C, format!("{times:?}"))
}

fn no_terminal() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    for arguments in [&[][..], &["tui"], &["demo"]] {
        let said = place.capstan(arguments)?.ended_with(2)?;
        check(
            said.out.is_empty() && said.err.contains("Usage: capstan"),
            said.err.clone(),
        )?;
        check(!said.err.contains('\x1b'), "no escapes")?;
    }
    let place = place.with("TERM", "dumb");
    let mut ui = Seen::ui(&place, &["tui"])?;
    check(ui.end()? == 2, "a dumb terminal gets help")?;
    let bytes = ui.bytes();
    check(
        bytes.contains("Usage: capstan") && !bytes.contains('\x1b'),
        bytes,
    )
}

fn step_of(place: &Workplace) -> u64 {
    let events = place.run("tiny").join("events.jsonl");
    store::fold_log(&events).map_or(0, |state| state.step)
}

fn outlives() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.write_config(serde_json::json!({ "stop": { "steps": 100_000 } }))?;
    place.train(&["--detach"])?.ended_with(0)?;
    let ui = Seen::ui(&place, &["tui", "--run", "tiny"])?;
    ui.until("tiny  running")?;
    ui.signal(Signal::KILL)?;
    let then = step_of(&place);
    wait("the run goes on", || step_of(&place) > then + 3)?;
    drop(ui);
    Ok(())
}

fn steer() -> Result<(), Failed> {
    let place = Workplace::long("well")?;
    place.write_config(serde_json::json!({ "stop": { "steps": 100_000 } }))?;
    let config = place.config.display().to_string();
    let mut ui = Seen::ui(&place, &["tui", &config])?;
    ui.until("ready to launch")?;
    ui.press("L")?;
    ui.until("y or Enter: yes")?;
    ui.press("y")?;
    ui.until("tiny  running")?;
    wait("steps are made", || step_of(&place) > 3)?;
    ui.press("P")?;
    ui.until("tiny  paused")?;
    ui.press("P")?;
    ui.until("tiny  running")?;
    ui.press("S")?;
    ui.until("Nothing is lost")?;
    ui.press("y")?;
    ui.until("tiny  stopped")?;
    ui.press("q")?;
    check(ui.end()? == 0, "q leaves with 0")?;
    ui.is_restored()
}
