//! Cuts a text into pieces that are tokenized in parallel.
//!
//! The places depend on the text alone, never on the number of threads.

/// Size that a piece has at least, but for the last one.
const PIECE_BYTES: usize = 1 << 16;
/// How far beyond that a good place is looked for.
const SEARCH_BYTES: usize = 1 << 14;

/// Pieces for tokenizers that look at one character at a time: any character boundary is exact.
pub(super) fn at_characters(text: &str) -> Vec<&str> {
    pieces(text, |text, least| text.ceil_char_boundary(least))
}

/// Pieces for tokenizers that first split the text into words.
///
/// Cuts before a line break that follows a letter or digit. The word patterns of GPT-2, GPT-4 and
/// Llama 3 end a word there in any case, so that the tokens are those of the whole text. Where no
/// such place is near, any line break after a visible character is taken (exact for GPT-2), then a
/// space between letters, then any character boundary, which may split a word. A tokenizer that puts
/// a prefix before every text puts one at every cut, too.
pub(super) fn at_lines(text: &str) -> Vec<&str> {
    pieces(text, line_cut)
}

fn pieces(mut text: &str, place: impl Fn(&str, usize) -> usize) -> Vec<&str> {
    let mut pieces = Vec::with_capacity(text.len() / PIECE_BYTES + 1);
    while text.len() > PIECE_BYTES {
        let (piece, rest) = text.split_at(place(text, PIECE_BYTES));
        pieces.push(piece);
        text = rest;
    }
    if !text.is_empty() {
        pieces.push(text);
    }
    pieces
}

fn line_cut(text: &str, least: usize) -> usize {
    let from = text.ceil_char_boundary(least);
    let to = text.floor_char_boundary((from + SEARCH_BYTES).min(text.len()));
    let is_good: [fn(char, char, char) -> bool; 3] = [
        |before, here, after| here == '\n' && before.is_alphanumeric() && !after.is_whitespace(),
        |before, here, _| here == '\n' && !before.is_whitespace(),
        |before, here, after| here == ' ' && before.is_alphabetic() && after.is_alphabetic(),
    ];
    is_good
        .iter()
        .find_map(|good| first_where(text, from, to, *good))
        .unwrap_or(from)
}

/// The first place in `from..to` whose neighbours satisfy `good(before, here, after)`.
fn first_where(
    text: &str,
    from: usize,
    to: usize,
    good: impl Fn(char, char, char) -> bool,
) -> Option<usize> {
    let mut before = text[..from].chars().next_back()?;
    let mut rest = text[from..to].char_indices().peekable();
    while let Some((offset, here)) = rest.next() {
        let &(_, after) = rest.peek()?;
        if good(before, here, after) {
            return Some(from + offset);
        }
        before = here;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_places_are_preferred_in_order() {
        let near = |tail: &str| {
            let text = format!("{}{tail}", "x".repeat(PIECE_BYTES));
            at_lines(&text)[1].to_owned()
        };
        assert_eq!(near("a b.\nc d\ne"), "\ne");
        assert_eq!(near("a b.\nc d.\n\n e"), "\nc d.\n\n e");
        assert_eq!(near(". a b"), " b");
        assert_eq!(near("......"), "......");
    }

    proptest! {
        #[test]
        fn pieces_are_the_text(unit in "[a-zé\u{1F600} \n.]{1,40}", times in 1usize..9_000) {
            let text = unit.repeat(times);
            prop_assert_eq!(at_lines(&text).concat(), text.clone());
            prop_assert_eq!(at_characters(&text).concat(), text.clone());
            prop_assert!(at_lines(&text).iter().all(|piece| piece.len() <= PIECE_BYTES + SEARCH_BYTES + 4));
        }
    }
}
