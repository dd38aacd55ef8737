//! The terminal, taken and given back: after quit, error, panic and signal alike.

use std::{
    io::{self, Stdout, Write},
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

/// The terminal in raw mode on its alternate screen; dropping it gives it back.
pub struct Screen {
    /// Never dropped: its own drop panics where the terminal has gone away.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
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
        let terminal = match Terminal::new(CrosstermBackend::new(io::stdout())) {
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
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Stdout>> {
        &mut self.terminal
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
