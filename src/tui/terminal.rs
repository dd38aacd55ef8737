//! The terminal, taken and given back: after quit, error, panic and signal alike.

use std::{
    io::{self, Write},
    mem::ManuallyDrop,
    sync::atomic::{AtomicBool, Ordering},
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{
            DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
        },
        execute,
        style::force_color_output,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Position, Rect},
};

/// Whether the terminal is ours: only then is it given back, and only once.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The mouse reports of a crashed program would go to the shell.
static MOUSE: AtomicBool = AtomicBool::new(false);

/// Whether nothing of colours is to be sent, not even that there is none.
static COLORLESS: AtomicBool = AtomicBool::new(false);
/// What a frame ends with, and a cell without a colour begins with.
const COLOR_RESETS: [&[u8]; 3] = [b"\x1b[39m", b"\x1b[49m", b"\x1b[59m"];

/// stdout, a frame at a time.
#[derive(Default)]
pub struct Output {
    frame: Vec<u8>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = match COLORLESS.load(Ordering::SeqCst) {
            true => without_resets(&self.frame),
            false => std::mem::take(&mut self.frame),
        };
        self.frame.clear();
        let mut stdout = io::stdout();
        stdout.write_all(&frame)?;
        stdout.flush()
    }
}

fn without_resets(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let reset = COLOR_RESETS.iter().find(|reset| rest.starts_with(reset));
        rest = match reset {
            Some(reset) => &rest[reset.len()..],
            None => {
                kept.push(first);
                after
            }
        };
    }
    kept
}

/// The terminal in raw mode on its alternate screen; dropping it gives it back.
pub struct Screen {
    /// Never dropped: its own drop panics where the terminal has gone away.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Output>>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// There is none, or it can't be set.
    pub fn take() -> io::Result<Self> {
        // Whether there are colours, the theme decides; crossterm would answer NO_COLOR with resets.
        force_color_output(true);
        enter()?;
        let terminal = match Terminal::new(CrosstermBackend::new(Output::default())) {
            Ok(terminal) => terminal,
            Err(error) => {
                give_back();
                return Err(error);
            }
        };
        Ok(Self {
            terminal: ManuallyDrop::new(terminal),
        })
    }

    /// What draws.
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Output>> {
        &mut self.terminal
    }

    /// Whether frames are sent without a word of colours.
    pub fn leave_out_colors(&self, is_colorless: bool) {
        COLORLESS.store(is_colorless, Ordering::SeqCst);
    }

    /// Takes the terminal again after [`give_back`], and draws all of it.
    ///
    /// # Errors
    /// As [`Screen::take`].
    pub fn retake(&mut self) -> io::Result<()> {
        enter()?;
        if MOUSE.load(Ordering::SeqCst) {
            execute!(io::stdout(), EnableMouseCapture)?;
        }
        self.redraw()
    }

    /// Draws all of it at the next drawing. `Terminal::clear` would do so too, but asks the terminal for its cursor.
    ///
    /// # Errors
    /// The terminal can't be written to.
    pub fn redraw(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Turns reports of the mouse on or off.
    ///
    /// # Errors
    /// The terminal can't be written to.
    pub fn capture_mouse(&mut self, on: bool) -> io::Result<()> {
        MOUSE.store(on, Ordering::SeqCst);
        if on {
            execute!(io::stdout(), EnableMouseCapture)
        } else {
            execute!(io::stdout(), DisableMouseCapture)
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        MOUSE.store(false, Ordering::SeqCst);
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let entered = execute!(
        io::stdout(),
        EnterAlternateScreen,
        EnableBracketedPaste,
        Hide
    );
    if entered.is_err() {
        give_back();
    }
    entered
}

/// Gives the terminal back as it was found; may be called from anywhere, and more than once.
pub fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut stdout = io::stdout();
    if MOUSE.load(Ordering::SeqCst) {
        let _ = execute!(stdout, DisableMouseCapture);
    }
    let _ = execute!(stdout, DisableBracketedPaste, Show, LeaveAlternateScreen);
    let _ = stdout.flush();
    let _ = disable_raw_mode();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colourless_frame_keeps_all_but_the_resets() {
        let frame = b"\x1b[7mred\x1b[39m\x1b[49m\x1b[27m \x1b[3\x1b[59m9m\x1b";
        assert_eq!(without_resets(frame), b"\x1b[7mred\x1b[27m \x1b[39m\x1b");
    }
}
