//! The terminal UI on a real pseudo-terminal, its bytes read by a terminal's own parser.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use capstan::store;
use libtest_mimic::{Failed, Trial};
use portable_pty::PtySize;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use super::{
    screen::Seen,
    sensors::{with_cards, with_fakes},
    support::{Workplace, check, wait, with_stand_in},
};

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
        Trial::test("terminal::every_end_restores_the_terminal", every_end),
        with_stand_in("terminal::a_panic_touches_no_run", panics),
        with_stand_in("terminal::a_suspended_ui_comes_back_whole", suspend),
        Trial::test("terminal::nothing_is_asked_of_the_terminal", quiet),
        Trial::test("terminal::no_color_means_none", no_color),
        Trial::test("terminal::an_idle_ui_sends_nothing", idle),
        Trial::test("terminal::a_watched_run_costs_little", watched),
        Trial::test("terminal::a_size_of_zero_draws_nothing", zero_size),
        Trial::test("terminal::a_pipe_for_a_log_delays_no_key", hung),
        Trial::test("terminal::a_key_map_at_fault_is_told_at_the_start", key_map),
        Trial::test(
            "terminal::without_a_terminal_there_are_plain_lines",
            no_terminal,
        ),
        with_fakes("terminal::keys_answer_while_the_driver_hangs", stuck),
        with_stand_in("terminal::the_first_ctrl_c_is_answered_at_once", ctrl_c),
        with_stand_in("terminal::a_run_outlives_its_ui", outlives),
        with_stand_in("terminal::a_stopped_viewer_holds_no_run_up", held_viewer),
        with_stand_in("terminal::keys_launch_pause_and_stop", steer),
    ]
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

/// Left by a key, by a signal, by an error and by a panic, each with the mouse on.
fn every_end() -> Result<(), Failed> {
    let f12 = "\x1b[24~";
    type End<'a> = &'a dyn Fn(&mut Seen) -> Result<(), Failed>;
    let ended = |fault: &str, code: u32, end: End<'_>| -> Result<String, Failed> {
        let place = Workplace::new("well")?.with("CAPSTAN_INJECT", fault);
        let mut ui = Seen::ui(&place, &[])?;
        ui.until("[1 Launch]")?;
        ui.press("m")?;
        ui.until("mouse on: ")?;
        end(&mut ui)?;
        let ended = ui.end()?;
        check(ended == code, format!("{ended} instead of {code}"))?;
        ui.is_restored()?;
        Ok(ui.screen())
    };
    ended("", 0, &|ui| ui.press("q"))?;
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        ended("", code, &move |ui: &mut Seen| ui.signal(signal))?;
    }
    let said = ended("tui:key:error", 1, &|ui| ui.press(f12))?;
    check(said.contains("error: planted"), said)?;
    let said = ended("tui:key:panic", 70, &|ui| ui.press(f12))?;
    check(said.contains("no run was touched"), said)
}

/// A run that goes on for long, with its place.
fn long_run() -> Result<Workplace, Failed> {
    let place = Workplace::long("well")?;
    place.write_config(json!({ "stop": { "steps": 100_000 } }))?;
    place.train(&["--detach"])?.ended_with(0)?;
    Ok(place)
}

fn goes_on(place: &Workplace) -> Result<(), Failed> {
    let then = step_of(place);
    wait("the run goes on", || step_of(place) > then + 3)
}

fn panics() -> Result<(), Failed> {
    let place = long_run()?.with("CAPSTAN_INJECT", "tui:key:panic");
    let mut ui = Seen::ui(&place, &["tui", "--run", "tiny"])?;
    ui.until("tiny  running")?;
    ui.resize(160, 50)?;
    ui.until("4 Compare")?;
    ui.press("\x1b[24~")?;
    let code = ui.end()?;
    check(code == 70, format!("{code}"))?;
    ui.is_restored()?;
    let said = ui.screen().replace('\n', "");
    let told = ["capstan's screen failed", "tiny is untouched by this"];
    check(told.iter().all(|words| said.contains(words)), &*said)?;
    let cache = place.folder().join("cache/capstan");
    let crash = fs::read_dir(cache)?.flatten().find_map(|file| {
        let is_crash = file.file_name().to_string_lossy().starts_with("crash-");
        is_crash.then(|| fs::read_to_string(file.path()))
    });
    let crash = crash.ok_or("a crash file")??;
    check(crash.contains("planted"), crash)?;
    goes_on(&place)
}

/// The run that it shows goes on meanwhile.
fn suspend() -> Result<(), Failed> {
    let place = long_run()?;
    let mut shell = Seen::start(&place, "bash", &["--norc", "--noprofile", "-i"])?;
    shell.press(concat!(env!("CARGO_BIN_EXE_capstan"), " tui --run tiny\r"))?;
    shell.until("tiny  running")?;
    shell.press("\x1a")?;
    shell.until("Stopped")?;
    let is_ours = shell
        .parser
        .lock()
        .is_ok_and(|parser| parser.screen().alternate_screen() || parser.screen().hide_cursor());
    check(!is_ours, "the shell has its screen and its cursor")?;
    goes_on(&place)?;
    let begin = Instant::now();
    shell.press("fg\r")?;
    shell.until("tiny  running")?;
    shell.until("? help")?;
    let took = begin.elapsed();
    check(took < Duration::from_millis(1500), format!("{took:?}"))?;
    shell.press("q")?;
    // The shell's own prompt: what is typed before it, the UI would read.
    wait("the shell", || {
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
    let mut ui = Seen::ui(&place, &["demo"])?;
    ui.until("◆")?;
    for (key, shown) in [("5", "[5 Runs]"), ("6", "[6 Logs]"), ("1", "[1 Launch]")] {
        ui.press(key)?;
        ui.until(shown)?;
    }
    ui.press("?")?;
    ui.until("Help: Launch")?;
    let bytes = ui.bytes();
    let colored = bytes.split("\x1b[").skip(1).find(|code| {
        let (set, end) = code.split_at(code.find(char::is_alphabetic).unwrap_or(0));
        let mut numbers = set.split(';').filter_map(|number| number.parse().ok());
        end.starts_with('m') && numbers.any(|n: u32| matches!(n, 30..=59 | 90..=107))
    });
    check(colored.is_none(), format!("{colored:?}"))?;
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

/// A log that is a pipe without a writer would hold up whoever waited for it: the run is listed as unreadable, and keys answer.
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
    ui.until("Help: Live ─")?;
    ui.press("q")?;
    ui.until("? help")?;
    ui.press("5")?;
    ui.until("unreadable")
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
        place.write_config(json!({ "stop": { "steps": 100_000 } }))?;
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

/// Each screen's own text, without an escape and without an error.
fn no_terminal() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    place.train(&[])?.ended_with(0)?;
    let config = place.config.display().to_string();
    let lines = [
        (&[][..], "tiny"),
        (&["tui"], "tiny"),
        (&["tui", "--run", "tiny"], "completed"),
        (&["tui", &config], "split   ddp on 2 ranks"),
        (&["demo"], "eval after step 50"),
    ];
    for (arguments, shown) in lines {
        let said = place.capstan(arguments)?.ended_with(0)?.says(&[shown])?;
        check(!said.out.contains('\x1b'), said.out)?;
    }
    let place = place.with("TERM", "dumb");
    let mut ui = Seen::ui(&place, &["tui"])?;
    check(ui.end()? == 0, "a dumb terminal gets lines")?;
    let bytes = ui.bytes();
    check(bytes.contains("tiny") && !bytes.contains('\x1b'), bytes)
}

fn step_of(place: &Workplace) -> u64 {
    let events = place.run("tiny").join("events.jsonl");
    store::fold_log(&events).map_or(0, |state| state.step)
}

/// A long run, launched by a UI that shows it.
fn launched() -> Result<(Workplace, Seen), Failed> {
    let place = Workplace::long("well")?;
    place.write_config(json!({ "stop": { "steps": 100_000 } }))?;
    let config = place.config.display().to_string();
    let mut ui = Seen::ui(&place, &["tui", &config])?;
    ui.until("ready to launch")?;
    ui.press("L")?;
    ui.until("y or Enter: yes")?;
    ui.press("y")?;
    ui.until("tiny  running")?;
    Ok((place, ui))
}

/// Launched and watched by a UI that is killed, or whose terminal hangs up.
fn outlives() -> Result<(), Failed> {
    for signal in [Signal::KILL, Signal::HUP] {
        let (place, mut ui) = launched()?;
        let pid = ui
            .child
            .process_id()
            .and_then(|pid| Pid::from_raw(pid as i32));
        kill_process_group(pid.ok_or("a process")?, signal)?;
        ui.end()?;
        drop(ui);
        goes_on(&place)?;
    }
    Ok(())
}

fn held_viewer() -> Result<(), Failed> {
    let place = long_run()?;
    let ui = Seen::ui(&place, &["tui", "--run", "tiny"])?;
    ui.until("tiny  running")?;
    ui.signal(Signal::STOP)?;
    // More than a pipe or a queue would take.
    let then = step_of(&place);
    wait("the run goes on", || step_of(&place) > then + 200)?;
    ui.signal(Signal::CONT)
}

fn steer() -> Result<(), Failed> {
    let (place, mut ui) = launched()?;
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
