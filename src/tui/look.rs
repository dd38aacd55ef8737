//! Colours and characters: by default the terminal's own sixteen colours, and nothing that a font may lack.

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
    symbols::Marker,
};

/// Which characters draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyphs {
    Braille,
    /// Without braille, which some fonts lack.
    Block,
    Ascii,
}

impl Glyphs {
    /// What the terminal of these variables surely draws one column wide. Frames, bars and arrows may take two where
    /// the language is East Asian, and another character set than UTF-8 or the kernel's console lack many.
    fn of_terminal(variable: impl Fn(&str) -> String) -> Self {
        let set = ["LC_ALL", "LC_CTYPE", "LANG"].map(&variable);
        let locale = set.iter().find(|locale| !locale.is_empty());
        let locale = locale.map_or("", String::as_str).to_lowercase();
        let is_wide = ["zh", "ja", "ko"]
            .iter()
            .any(|language| locale.starts_with(language));
        let charset = locale.split_once('.').map(|(_, charset)| charset);
        let is_other = charset.is_some_and(|charset| !charset.replace('-', "").starts_with("utf8"));
        if is_wide || is_other || variable("TERM") == "linux" {
            Self::Ascii
        } else {
            Self::Braille
        }
    }
}

/// Which colours are drawn with, the fewest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Colors {
    None,
    /// Those that the terminal's own theme sets.
    Sixteen,
    /// Of the table of 256.
    Indexed,
    /// Of 24 bits.
    True,
}

/// What stands for a colour where there are more than sixteen: its index, and its red, green and blue. All are legible
/// on white and on black.
const SHADES: [(Color, u8, [u8; 3]); 6] = [
    (Color::Cyan, 37, [42, 161, 152]),
    (Color::Green, 64, [110, 149, 0]),
    (Color::Yellow, 136, [181, 137, 0]),
    (Color::Red, 160, [220, 50, 47]),
    (Color::Blue, 32, [38, 139, 210]),
    (Color::Magenta, 98, [138, 103, 207]),
];
/// Of frames, so that they stand behind what they hold.
const FRAME: (u8, [u8; 3]) = (244, [128, 128, 128]);

/// How everything looks. Meaning is never in a colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub colors: Colors,
    /// The most that the terminal has.
    pub most: Colors,
    pub glyphs: Glyphs,
    /// Curves are one mark a cell, of which fewer change.
    pub is_coarse: bool,
}

impl Look {
    /// The look that is asked for, or that suits the terminal of these variables. Only `COLORTERM` is trusted for
    /// 24 bits: ssh and tmux don't pass it on, but what they do pass on says less.
    pub fn of_terminal(
        asked: Option<Colors>,
        glyphs: Option<Glyphs>,
        variable: impl Fn(&str) -> String + Copy,
    ) -> Self {
        let most = match variable("COLORTERM").as_str() {
            "truecolor" | "24bit" => Colors::True,
            _ if variable("TERM").contains("256color") => Colors::Indexed,
            _ => Colors::Sixteen,
        };
        let own = if variable("NO_COLOR").is_empty() {
            Colors::Sixteen
        } else {
            Colors::None
        };
        let colors = asked.unwrap_or(own);
        Self {
            colors,
            most: most.max(colors),
            glyphs: glyphs.unwrap_or_else(|| Glyphs::of_terminal(variable)),
            is_coarse: false,
        }
    }

    /// Turns to the next colours that the terminal has.
    pub fn turn(&mut self) {
        self.colors = match self.colors {
            Colors::None => Colors::Sixteen,
            Colors::Sixteen if self.most > Colors::Sixteen => self.most,
            _ => Colors::None,
        };
    }

    /// Of one of several curves: green with sixteen colours, else one of its own.
    pub fn curve(self, index: usize) -> Style {
        const HUES: [Color; 5] = [
            Color::Green,
            Color::Blue,
            Color::Magenta,
            Color::Yellow,
            Color::Cyan,
        ];
        if self.colors > Colors::Sixteen {
            Style::new().fg(HUES[index % HUES.len()])
        } else {
            self.good()
        }
    }

    /// A colour as this look has it.
    fn shade(self, color: Color, is_frame: bool) -> Color {
        let found = SHADES.iter().find(|(name, ..)| *name == color);
        let shade = match found {
            Some(&(_, index, rgb)) => Some((index, rgb)),
            None if is_frame && color == Color::Reset => Some(FRAME),
            None => None,
        };
        match (self.colors, shade) {
            (Colors::None, _) => Color::Reset,
            (Colors::Indexed, Some((index, _))) => Color::Indexed(index),
            (Colors::True, Some((_, [red, green, blue]))) => Color::Rgb(red, green, blue),
            _ => color,
        }
    }

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
            _ if self.is_coarse => Marker::Custom('*'),
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
            let is_frame = cell.symbol().chars().all(|c| ('─'..='╿').contains(&c));
            cell.fg = self.shade(cell.fg, is_frame);
            cell.bg = self.shade(cell.bg, false);
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
        '▚' => '&',
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
            colors: Colors::None,
            most: Colors::None,
            glyphs: Glyphs::Ascii,
            is_coarse: false,
        };
        buffer.set_string(0, 0, "│●é", look.bad().patch(look.selected()));
        look.finish(&mut buffer);
        let cell = &buffer.content[0];
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        assert!(cell.modifier.contains(Modifier::REVERSED));
        let text: String = buffer.content.iter().map(|cell| cell.symbol()).collect();
        assert_eq!(text, "|*? ");
    }

    #[test]
    fn auto_trusts_only_the_terminals_own_word() {
        let look = |asked: Option<Colors>, term: &str, colorterm: &str, no_color: &str| {
            let variable = |name: &str| match name {
                "TERM" => term.to_owned(),
                "COLORTERM" => colorterm.to_owned(),
                "NO_COLOR" => no_color.to_owned(),
                _ => String::new(),
            };
            let look = Look::of_terminal(asked, Option::None, variable);
            (look.colors, look.most)
        };
        use Colors::{Indexed, None, Sixteen, True};
        for (term, colorterm, most) in [
            ("xterm", "", Sixteen),
            ("xterm-256color", "", Indexed),
            ("tmux-256color", "yes", Indexed),
            ("xterm-direct", "", Sixteen),
            ("xterm-256color", "truecolor", True),
            ("xterm", "24bit", True),
        ] {
            let auto = Option::None;
            assert_eq!(look(auto, term, colorterm, ""), (Sixteen, most), "{term}");
            assert_eq!(look(auto, term, colorterm, "1"), (None, most), "{term}");
        }
        assert_eq!(look(Some(Sixteen), "xterm", "", "1"), (Sixteen, Sixteen));
        assert_eq!(look(Some(True), "xterm", "", "1"), (True, True));
        assert_eq!(look(Some(None), "xterm", "24bit", ""), (None, True));
    }

    #[test]
    fn what_may_be_drawn_two_columns_wide_is_not_drawn() {
        let glyphs = |asked, set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map_or_else(String::new, |(_, value)| (*value).to_owned())
            };
            Look::of_terminal(None, asked, variable).glyphs
        };
        for plain in [
            &[("LANG", "ja_JP.UTF-8")][..],
            &[("LANG", "en_US.UTF-8"), ("LC_ALL", "zh_CN.UTF-8")],
            &[("LANG", "en_US.UTF-8"), ("LC_CTYPE", "ko_KR.utf8")],
            &[("LANG", "de_DE.ISO-8859-1")],
            &[("LANG", "en_US.UTF-8"), ("TERM", "linux")],
        ] {
            assert_eq!(glyphs(None, plain), Glyphs::Ascii, "{plain:?}");
            let asked = Some(Glyphs::Braille);
            assert_eq!(glyphs(asked, plain), Glyphs::Braille, "{plain:?}");
        }
        for rich in [
            &[][..],
            &[("LANG", "C")],
            &[("LANG", "ja_JP.UTF-8"), ("LC_ALL", "en_US.utf8")],
            &[("LANG", "de_DE.UTF-8@euro"), ("TERM", "tmux-256color")],
        ] {
            assert_eq!(glyphs(None, rich), Glyphs::Braille, "{rich:?}");
        }
    }

    #[test]
    fn themes_turn_over_what_the_terminal_has() {
        for (most, n) in [
            (Colors::Sixteen, 2),
            (Colors::Indexed, 3),
            (Colors::True, 3),
        ] {
            let mut look = Look {
                colors: Colors::Sixteen,
                most,
                glyphs: Glyphs::Braille,
                is_coarse: false,
            };
            let mut seen = Vec::new();
            while !seen.contains(&look.colors) {
                assert!(look.colors <= most);
                seen.push(look.colors);
                look.turn();
            }
            assert_eq!(seen.len(), n, "{most:?}");
        }
    }

    /// WCAG's contrast; 3 is what it asks of large text.
    #[test]
    fn every_shade_is_legible_on_white_and_on_black() {
        let linear = |byte: u8| {
            let share = f64::from(byte) / 255.0;
            if share <= 0.04045 {
                share / 12.92
            } else {
                ((share + 0.055) / 1.055).powf(2.4)
            }
        };
        let shades = SHADES.iter().map(|&(_, _, rgb)| rgb).chain([FRAME.1]);
        for [red, green, blue] in shades {
            let light = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
            let (white, black) = (1.05 / (light + 0.05), (light + 0.05) / 0.05);
            assert!(
                white >= 3.0 && black >= 3.0,
                "{red} {green} {blue}: {white} {black}"
            );
        }
    }
}
