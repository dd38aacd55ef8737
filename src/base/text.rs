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
}
