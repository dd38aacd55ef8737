//! The loop: messages in, drawings out, and the terminal given back whatever happens.

use std::{
    env, fs,
    io::{self, Write},
    panic,
    process::Command,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyEventKind, MouseEventKind};
use rustix::process::{Signal, kill_current_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    app::{App, Effect, Msg},
    draw,
    effects::Doer,
    keys::Key,
    look::Colors,
    sources,
    terminal::{Screen, give_back},
    update::update,
};
use crate::{
    base::clock::unix_seconds,
    launch::{dirs, runs::shortly},
};

/// Planted faults, met at F12, for the tests of what they leave behind.
const INJECT_VARIABLE: &str = "CAPSTAN_INJECT";
const INJECTED_PANIC: &str = "tui:key:panic";
const INJECTED_ERROR: &str = "tui:key:error";
/// Messages that wait; beyond it their sources wait, so that a long log is not held in memory.
const MOST_WAITING: usize = 16;
/// After `$EDITOR` its signals arrive within this time.
const EDITORS_SIGNALS: Duration = Duration::from_millis(500);
/// A shell's exit code for a command that is not there.
const NOT_FOUND: i32 = 127;
/// Exit code of a panic.
const INTERNAL: i32 = 70;
/// The run that is watched, for a last word after a panic.
static WATCHED: Mutex<Option<String>> = Mutex::new(None);

/// Runs the UI until it is left; returns the exit code.
///
/// # Errors
/// The terminal can't be taken or written to.
pub fn run(mut app: App, first: Vec<Effect>) -> anyhow::Result<u8> {
    let (to, messages) = mpsc::sync_channel(MOST_WAITING);
    listen_to_signals(to.clone())?;
    restore_on_panic();
    let mut screen = Screen::take().context("taking the terminal")?;
    app.now = unix_seconds();
    let doer = Doer::new(&app.runs_dir, app.recording, to.clone());
    let keyboard = Keyboard::listen(to);
    let mut ui = Ui {
        app,
        screen: &mut screen,
        doer,
        keyboard,
        edited: None,
    };
    for effect in first {
        ui.perform(effect)?;
    }
    let code = ui.watch(&messages);
    let last = ui.app.board.as_ref().filter(|board| board.held);
    let last = last.filter(|_| !ui.app.recording).map(|board| {
        let run = shortly(&ui.app.runs_dir, &board.folder);
        (board.folder.name(), run)
    });
    drop(screen);
    let code = code?;
    if let Some((name, run)) = last {
        let words = format!("{name} goes on; watch it again: capstan tui --run {run}");
        let _ = writeln!(io::stdout(), "{words}");
    }
    Ok(code)
}

struct Ui<'a> {
    app: App,
    screen: &'a mut Screen,
    doer: Doer,
    keyboard: Keyboard,
    /// When `$EDITOR` gave the terminal back last.
    edited: Option<Instant>,
}

impl Ui<'_> {
    fn watch(&mut self, messages: &Receiver<Msg>) -> anyhow::Result<u8> {
        let mut is_due = true;
        let mut drawn: Option<Instant> = None;
        let mut aged = Instant::now();
        loop {
            let interval = Duration::from_secs_f64(self.app.interval_s);
            let since = drawn.map_or(interval, |at: Instant| at.elapsed());
            if is_due && since >= interval {
                self.draw()?;
                is_due = false;
                drawn = Some(Instant::now());
            }
            let age = Duration::from_secs_f64(self.app.ages_after_s());
            let mut wait = age.saturating_sub(aged.elapsed());
            if is_due {
                wait = wait.min(interval.saturating_sub(since));
            }
            let message = match messages.recv_timeout(wait) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    if aged.elapsed() < age {
                        continue;
                    }
                    aged = Instant::now();
                    Msg::Tick(unix_seconds())
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            is_due = true;
            // What somebody did, and what comes of it, is shown at once; what runs do, at the next drawing.
            let is_news = matches!(
                message,
                Msg::Watched { .. } | Msg::Runs(_) | Msg::Details(_) | Msg::Tick(_)
            );
            if !is_news {
                drawn = None;
            }
            self.take(message)?;
            if let Some(code) = self.app.leaving {
                return Ok(code);
            }
        }
    }

    fn take(&mut self, message: Msg) -> anyhow::Result<()> {
        if matches!(message, Msg::Key(Key::F(12))) {
            let fault = env::var(INJECT_VARIABLE).unwrap_or_default();
            assert!(fault != INJECTED_PANIC, "planted");
            anyhow::ensure!(fault != INJECTED_ERROR, "planted");
        }
        // Ctrl-C in `$EDITOR` is sent to whatever has its terminal.
        let is_editors = self.edited.is_some_and(|at| at.elapsed() < EDITORS_SIGNALS);
        if is_editors && matches!(message, Msg::Signal(SIGINT)) {
            return Ok(());
        }
        self.app.now = unix_seconds();
        for effect in update(&mut self.app, message) {
            self.perform(effect)?;
        }
        if let Some(board) = &mut self.app.board
            && (board.plan.is_none() || board.is_planned_anew)
            && board.state.next_seq > 0
        {
            sources::fill(board);
        }
        Ok(())
    }

    fn draw(&mut self) -> io::Result<()> {
        let size = self.screen.terminal().size()?;
        // A terminal that was hung up reports no size, and nothing can be drawn on it.
        if size.width == 0 || size.height == 0 {
            return Ok(());
        }
        self.app.size = (size.width, size.height);
        self.app.rows = usize::from(size.height.saturating_sub(6)).max(1);
        let app = &self.app;
        self.screen
            .leave_out_colors(app.look.colors == Colors::None);
        self.screen
            .terminal()
            .draw(|frame| draw::draw(frame, app))?;
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> anyhow::Result<()> {
        match effect {
            Effect::Suspend => {
                give_back();
                kill_current_process_group(Signal::TSTP)?;
                self.screen.retake()?;
            }
            Effect::Leave => self.app.leaving = Some(0),
            Effect::Redraw => self.screen.redraw()?,
            Effect::Mouse(on) => self.screen.capture_mouse(on)?,
            Effect::Copy(text) => self.copy(&text)?,
            Effect::Edit(text) => {
                let edited = self.edit(&text);
                for effect in update(&mut self.app, Msg::Edited(edited)) {
                    self.perform(effect)?;
                }
            }
            Effect::Watch(folder, watch) => {
                if let Ok(mut watched) = WATCHED.lock() {
                    *watched = Some(shortly(&self.app.runs_dir, &folder));
                }
                if let Some(board) = &mut self.app.board {
                    sources::fill(board);
                }
                self.doer.start(Effect::Watch(folder, watch));
            }
            effect => self.doer.start(effect),
        }
        Ok(())
    }

    /// OSC 52 reaches the clipboard of the terminal that is looked at, also over ssh. Not every terminal
    /// obeys it, so the text is shown too.
    fn copy(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout();
        write!(stdout, "\x1b]52;c;{}\x07", base64(text.as_bytes()))?;
        stdout.flush()?;
        self.app.say(format!("copied: {text}"));
        Ok(())
    }

    /// Lets `$EDITOR` have the terminal.
    fn edit(&mut self, text: &str) -> Result<String, String> {
        let path = env::temp_dir().join(format!("capstan-{}.json", std::process::id()));
        let words = |error: io::Error| format!("{}: {error}", path.display());
        crate::base::fs::replace(&path, text.as_bytes()).map_err(words)?;
        let editor = env::var("VISUAL").or_else(|_| env::var("EDITOR"));
        let editor = editor.unwrap_or_else(|_| "vi".to_owned());
        self.keyboard.hold(true);
        give_back();
        // As git does it: the variable may hold arguments.
        let status = Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(&path)
            .status();
        let retaken = self.screen.retake();
        self.keyboard.hold(false);
        self.edited = Some(Instant::now());
        retaken.map_err(words)?;
        let edited = match status {
            Ok(status) if status.success() => {
                crate::base::read::text(&path, crate::base::read::Bound::WRITTEN).map_err(words)
            }
            Ok(status) if status.code() == Some(NOT_FOUND) => {
                Err(format!("{editor} was not found; set VISUAL or EDITOR"))
            }
            Ok(status) => Err(format!("{editor} ended with {status}")),
            Err(error) => Err(format!("{editor}: {error}")),
        };
        let _ = fs::remove_file(&path);
        edited
    }
}

/// Reads keys on a thread; held while another program has the terminal.
struct Keyboard {
    hold: Arc<(Mutex<Hold>, Condvar)>,
}

/// Who reads the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Free,
    /// Another program is to have it.
    Asked,
    Held,
}

/// Between two looks at whether the terminal is asked for.
const HOLD_LOOK: Duration = Duration::from_millis(100);
/// A keyboard that has not answered by then waits for the loop, and reads nothing meanwhile.
const HOLD_PATIENCE: Duration = Duration::from_secs(1);

impl Keyboard {
    fn listen(to: SyncSender<Msg>) -> Self {
        let hold = Arc::new((Mutex::new(Hold::Free), Condvar::new()));
        let seen = Arc::clone(&hold);
        thread::spawn(move || {
            while let Ok(event) = next_event(&seen) {
                if let Some(message) = event.and_then(message_of)
                    && to.send(message).is_err()
                {
                    return;
                }
            }
        });
        Self { hold }
    }

    /// Returns once nothing is read here any more, or is again.
    fn hold(&self, held: bool) {
        let (state, changed) = &*self.hold;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = if held { Hold::Asked } else { Hold::Free };
        changed.notify_all();
        if held {
            let is_asked = |state: &mut Hold| *state == Hold::Asked;
            drop(changed.wait_timeout_while(state, HOLD_PATIENCE, is_asked));
        }
    }
}

/// The terminal's next event; `None` where there is none yet.
fn next_event(hold: &(Mutex<Hold>, Condvar)) -> io::Result<Option<Event>> {
    let (state, changed) = hold;
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut now = lock();
    if *now == Hold::Asked {
        // What was typed ahead was not meant for this screen.
        while event::poll(Duration::ZERO)? {
            event::read()?;
        }
        *now = Hold::Held;
        changed.notify_all();
    }
    drop(changed.wait_while(now, |state| *state == Hold::Held));
    let is_there = event::poll(HOLD_LOOK)? && *lock() == Hold::Free;
    is_there.then(event::read).transpose()
}

fn message_of(event: Event) -> Option<Msg> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => Key::of(key).map(Msg::Key),
        Event::Paste(text) => Some(Msg::Pasted(text)),
        Event::Resize(..) => Some(Msg::Resized),
        Event::Mouse(mouse) => match mouse.kind {
            MouseEventKind::ScrollUp => Some(Msg::Wheel(-3)),
            MouseEventKind::ScrollDown => Some(Msg::Wheel(3)),
            _ => None,
        },
        _ => None,
    }
}

fn listen_to_signals(to: SyncSender<Msg>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT])?;
    thread::spawn(move || {
        for signal in &mut signals {
            let _ = to.send(Msg::Signal(signal));
        }
    });
    Ok(())
}

/// A panic on any thread gives the terminal back, says where and which run goes on, and ends the UI.
fn restore_on_panic() {
    panic::set_hook(Box::new(|info| {
        give_back();
        let name = WATCHED.lock().ok().and_then(|watched| watched.clone());
        let mut text = format!(
            "capstan's screen failed: {info}\n{}",
            std::backtrace::Backtrace::force_capture()
        );
        let path = dirs::cache_dir().join(format!("crash-{}.txt", std::process::id()));
        let kept = fs::create_dir_all(dirs::cache_dir()).and_then(|()| fs::write(&path, &text));
        text = format!("error: capstan's screen failed: {info}\n");
        if kept.is_ok() {
            text.push_str(&format!("details: {}\n", path.display()));
        }
        match name {
            Some(name) => text.push_str(&format!(
                "{name} is untouched by this; watch it again: capstan tui --run {name}\n"
            )),
            None => text.push_str("no run was touched\n"),
        }
        let _ = io::stderr().write_all(text.as_bytes());
        std::process::exit(INTERNAL);
    }));
}

/// Base64 as RFC 4648 has it, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }
}
