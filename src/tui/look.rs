//! Colours and characters: the terminal's own sixteen colours, and nothing that a font may lack.

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
    symbols::Marker,
};

/// Which characters draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Glyphs {
    #[default]
    Braille,
    /// Without braille, which some fonts lack.
    Block,
    Ascii,
}

/// How everything looks. Meaning is never in a colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub color: bool,
    pub glyphs: Glyphs,
}

impl Look {
    /// What is being worked with.
    pub const fn accent(self) -> Style {
        Style::new().fg(Color::Cyan)
    }

    /// What is well.
    pub const fn good(self) -> Style {
        Style::new().fg(Color::Green)
    }

    /// What wants attention.
    pub const fn warn(self) -> Style {
        Style::new().fg(Color::Yellow)
    }

    /// What went wrong.
    pub const fn bad(self) -> Style {
        Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What can wait.
    pub const fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Headings and keys.
    pub const fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The selected line: reversed and without a colour, so that it shows on every terminal.
    pub const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// What curves are made of.
    pub const fn marker(self) -> Marker {
        match self.glyphs {
            Glyphs::Braille => Marker::Braille,
            Glyphs::Block => Marker::HalfBlock,
            Glyphs::Ascii => Marker::Custom('*'),
        }
    }

    /// What single points are made of.
    pub const fn dot(self) -> Marker {
        match self.glyphs {
            Glyphs::Ascii => Marker::Custom('o'),
            _ => Marker::Custom('◆'),
        }
    }

    /// A mark of a cell, as full as `share` says, for lines of a small chart.
    pub fn level(self, share: f64) -> char {
        let levels: &[char] = match self.glyphs {
            Glyphs::Ascii => &['_', '.', ':', '-', '=', '+', '*', '#'],
            _ => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        };
        let top = levels.len() - 1;
        let index = if share.is_finite() {
            (share.clamp(0.0, 1.0) * top as f64).round() as usize
        } else {
            top
        };
        levels[index.min(top)]
    }

    /// Takes from a drawn frame what this terminal is not to see: colours, or all but ASCII.
    pub fn finish(self, buffer: &mut Buffer) {
        for cell in &mut buffer.content {
            if !self.color {
                cell.fg = Color::Reset;
                cell.bg = Color::Reset;
            }
            if self.glyphs == Glyphs::Ascii && !cell.symbol().is_ascii() {
                let plain: String = cell.symbol().chars().take(1).map(ascii).collect();
                cell.set_symbol(&plain);
            }
        }
    }
}

/// The nearest ASCII character.
fn ascii(c: char) -> char {
    match c {
        '─' | '━' | '–' | '—' | '−' | '╌' => '-',
        '│' | '┃' => '|',
        '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '╭' | '╮' | '╰' | '╯' => {
            '+'
        }
        '█' => '#',
        '▓' => '%',
        '▒' => '=',
        '░' => ':',
        '·' => '.',
        '●' => '*',
        '✓' => 'v',
        '✗' => 'x',
        '↻' => '@',
        '■' => '#',
        '▶' | '→' => '>',
        '←' => '<',
        '↑' | '▲' => '^',
        '↓' | '▼' => 'v',
        '◆' => 'o',
        '…' => '~',
        '×' => 'x',
        '≥' => '>',
        '≤' => '<',
        '≈' => '~',
        '°' => 'o',
        '⏸' => '=',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;

    use super::*;

    #[test]
    fn a_mono_frame_has_no_colour_and_keeps_its_selection() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 1));
        let look = Look {
            color: false,
            glyphs: Glyphs::Ascii,
        };
        buffer.set_string(0, 0, "│●é", look.bad().patch(look.selected()));
        look.finish(&mut buffer);
        let cell = &buffer.content[0];
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        assert!(cell.modifier.contains(Modifier::REVERSED));
        let text: String = buffer.content.iter().map(|cell| cell.symbol()).collect();
        assert_eq!(text, "|*? ");
    }
}
