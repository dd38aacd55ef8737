//! Bytes that the playing recording sends at 160x50, second by second.

use std::{
    cell::Cell,
    io::{self, Write},
    rc::Rc,
};

use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};

use super::{COLOR, empty};
use crate::tui::{
    app::{App, Msg, News},
    draw::draw,
    recording,
    update::update,
};

/// Counts what a terminal would get.
struct Line(Rc<Cell<usize>>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.set(self.0.get() + bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of each whole second after the first picture, drawn as the loop draws.
fn sent(mut app: App) -> Vec<usize> {
    let sent = Rc::<Cell<usize>>::default();
    let viewport = Viewport::Fixed(Rect::new(0, 0, 160, 50));
    let backend = CrosstermBackend::new(Line(Rc::clone(&sent)));
    let mut terminal =
        Terminal::with_options(backend, TerminalOptions { viewport }).expect("a terminal");
    recording::begin(&mut app);
    let start = 1e9;
    let mut events = recording::paced().into_iter().peekable();
    let held = News::Held(true);
    update(
        &mut app,
        Msg::Watched {
            watch: 0,
            news: held,
        },
    );
    let mut seconds = Vec::new();
    let mut time = 0.0;
    let mut second = 0.0;
    while events.peek().is_some() {
        while let Some((_, mut record)) = events.next_if(|&(at, _)| at <= time) {
            record.time = start + time;
            let news = News::Records(vec![record]);
            update(&mut app, Msg::Watched { watch: 0, news });
        }
        update(&mut app, Msg::Tick(start + time));
        terminal.draw(|frame| draw(frame, &app)).expect("drawn");
        if time == 0.0 {
            sent.set(0);
        }
        time += app.interval_s;
        if time >= second + 1.0 {
            second = time;
            seconds.push(sent.replace(0));
        }
    }
    seconds
}

#[test]
fn a_watched_run_sends_little_and_very_little_on_a_slow_line() {
    let mut usual = empty(COLOR);
    usual.interval_s = 0.25;
    let mut slow = empty(COLOR);
    slow.save_bandwidth();
    for (app, limit) in [(usual, 40_000), (slow, 5_000)] {
        let seconds = sent(app);
        let most = seconds.iter().copied().max().unwrap_or(0);
        assert!(seconds.len() > 5 && most > 100, "{seconds:?}");
        assert!(most <= limit, "{most} of {limit}: {seconds:?}");
    }
}
