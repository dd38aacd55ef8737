//! A line of text that is being typed.

use std::ops::Deref;

use super::keys::Key;

/// A text with a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    text: String,
    /// Bytes before the cursor.
    at: usize,
}

impl Line {
    /// A text with the cursor at its end.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            at: text.len(),
            text,
        }
    }

    /// Puts a text in at the cursor.
    pub fn insert(&mut self, text: &str) {
        self.text.insert_str(self.at, text);
        self.at += text.len();
    }

    /// Edits the text; whether that is over, and the text kept.
    pub fn press(&mut self, key: Key) -> Option<bool> {
        match key {
            Key::Char(c) => self.insert(c.encode_utf8(&mut [0; 4])),
            Key::Backspace => self.erase(self.before()),
            Key::Delete if self.at < self.text.len() => {
                self.text.remove(self.at);
            }
            Key::Ctrl('u') => self.erase(0),
            Key::Ctrl('w') => self.erase(self.word()),
            Key::Left => self.at = self.before(),
            Key::Right => {
                self.at += self.text[self.at..]
                    .chars()
                    .next()
                    .map_or(0, char::len_utf8)
            }
            Key::Home | Key::Ctrl('a') => self.at = 0,
            Key::End | Key::Ctrl('e') => self.at = self.text.len(),
            Key::Enter => return Some(true),
            Key::Esc | Key::Ctrl('c') => return Some(false),
            _ => {}
        }
        None
    }

    /// The text with a mark where the cursor is.
    pub fn shown(&self) -> String {
        let (before, after) = self.text.split_at(self.at);
        let mark = if after.is_empty() { '_' } else { '│' };
        format!("{before}{mark}{after}")
    }

    /// The text alone.
    pub fn into_text(self) -> String {
        self.text
    }

    fn before(&self) -> usize {
        let before = self.text[..self.at].char_indices().next_back();
        before.map_or(0, |(at, _)| at)
    }

    /// Where the word before the cursor begins; a path's parts are words.
    fn word(&self) -> usize {
        let is_edge = |c: char| c == '/' || c.is_whitespace();
        let before = self.text[..self.at].trim_end_matches(is_edge);
        let edge = before.char_indices().rfind(|(_, c)| is_edge(*c));
        edge.map_or(0, |(at, c)| at + c.len_utf8())
    }

    fn erase(&mut self, from: usize) {
        self.text.drain(from..self.at);
        self.at = from;
    }
}

impl Deref for Line {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_moves_and_words_are_erased() {
        let mut line = Line::new("/data/a é");
        assert_eq!(line.shown(), "/data/a é_");
        for (key, shown) in [
            (Key::Left, "/data/a │é"),
            (Key::Char('x'), "/data/a x│é"),
            (Key::Right, "/data/a xé_"),
            (Key::Ctrl('w'), "/data/a _"),
            (Key::Ctrl('w'), "/data/_"),
            (Key::Ctrl('w'), "/_"),
            (Key::Home, "│/"),
            (Key::Delete, "_"),
            (Key::Delete, "_"),
            (Key::Backspace, "_"),
        ] {
            assert_eq!(line.press(key), None);
            assert_eq!(line.shown(), shown, "{key:?}");
        }
        line.insert("a long text");
        line.press(Key::Ctrl('u'));
        assert!(line.is_empty());
        assert_eq!(line.press(Key::Enter), Some(true));
        assert_eq!(line.press(Key::Esc), Some(false));
    }
}
