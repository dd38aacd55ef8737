//! The front: from argv to a command.
//!
//! It compiles the floors that it needs into itself, and none that names libtorch: what is not
//! declared here can't be linked by mistake, so the front starts in a millisecond.
#![allow(
    dead_code,
    unused_imports,
    reason = "the library uses what the front leaves"
)]

mod arch;
mod base;
mod config;
mod data;
mod event;
mod headless;
mod hw;
mod launch;
mod plan;
mod store;
mod tui;
mod weights;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use headless::{ColorArg, GlyphsArg, Opening};

fn main() -> ExitCode {
    headless::main(open_tui)
}

/// The command line and the UI stand beside each other: what one is told, the other learns here.
fn open_tui(opening: Opening) -> anyhow::Result<u8> {
    let Opening {
        runs_dir,
        args,
        run,
        demo,
        has_screen,
    } = opening;
    if args.keys {
        io::stdout().write_all(tui::keys_text().as_bytes())?;
        return Ok(0);
    }
    if demo && !has_screen {
        writeln!(io::stderr(), "{}", tui::RECORDING)?;
        headless::print(&tui::recording())?;
        return Ok(0);
    }
    tui::open(tui::Options {
        runs_dir,
        run,
        config: args.config,
        readonly: args.readonly,
        keys: launch::dirs::config_dir().join("keys.json"),
        demo,
        color: match args.look.color {
            ColorArg::Auto => None,
            ColorArg::Always | ColorArg::Sixteen => Some(tui::Colors::Sixteen),
            ColorArg::Never => Some(tui::Colors::None),
            ColorArg::Indexed => Some(tui::Colors::Indexed),
            ColorArg::True => Some(tui::Colors::True),
        },
        glyphs: match args.look.glyphs {
            GlyphsArg::Auto => None,
            GlyphsArg::Braille => Some(tui::Glyphs::Braille),
            GlyphsArg::Block => Some(tui::Glyphs::Block),
            GlyphsArg::Ascii => Some(tui::Glyphs::Ascii),
        },
        low_bandwidth: args.look.low_bandwidth,
    })
}
