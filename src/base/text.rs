//! Text for terminals.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Text that a model or a program made, without what a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// As [`printable`], on one line: line breaks and tabs become a blank each.
pub fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Columns that a text takes on a terminal: wide characters take two, combining ones none.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// A text with blanks behind it up to `width` columns.
pub fn pad(text: &str, width: usize) -> String {
    let blanks = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(blanks))
}

/// The longest beginning of a text that fits into `width` columns; at least one character, so that cutting comes
/// to an end.
pub fn fitting(text: &str, width: usize) -> &str {
    let mut used = 0;
    let mut chars = text.char_indices();
    let end = chars.find_map(|(at, c)| {
        used += c.width().unwrap_or(0);
        (used > width && at > 0).then_some(at)
    });
    &text[..end.unwrap_or(text.len())]
}

/// A text as one word of a POSIX shell's command line.
pub fn shell_quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printable_moves_a_cursor() {
        assert_eq!(
            printable("a\x1b[2J\r\nb\u{9b}31m\tc"),
            "a\u{fffd}[2J\u{fffd}\nb\u{fffd}31m\tc"
        );
    }

    #[test]
    fn widths_are_columns_and_not_characters() {
        assert_eq!(columns("语言x"), 5);
        assert_eq!(pad("语", 4), "语  ");
        assert_eq!(fitting("语言x", 3), "语");
        assert_eq!(fitting("语", 1), "语", "one character at least");
        assert_eq!(fitting("e\u{301}x", 1), "e\u{301}");
    }

    #[test]
    fn a_shell_takes_a_quoted_text_as_one_word() {
        for (text, quoted) in [
            ("a/b-1.json", "a/b-1.json"),
            ("my run.json", "'my run.json'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("~/a", "'~/a'"),
        ] {
            assert_eq!(shell_quoted(text), quoted);
        }
    }
}
