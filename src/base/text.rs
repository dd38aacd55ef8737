//! Text for terminals.

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
