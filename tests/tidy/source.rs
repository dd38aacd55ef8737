//! Just enough of Rust's syntax for the house rules: code apart from comments, paths, functions.

use std::collections::BTreeSet;

/// A source text in two layers; a character that belongs to the other layer, or to a string, is a blank.
pub struct Source {
    pub code: String,
    pub comments: String,
}

/// A word or a mark of punctuation, with its line counted from 1.
pub type Token<'a> = (usize, &'a str);

impl Source {
    pub fn of(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        let mut layers = Self {
            code: String::new(),
            comments: String::new(),
        };
        let mut at = 0;
        while at < text.len() {
            let (end, layer) = piece(&text, at);
            for &c in &text[at..end] {
                let blank = if c == '\n' { '\n' } else { ' ' };
                layers
                    .code
                    .push(if layer == Layer::Code { c } else { blank });
                let said = layer == Layer::Comment;
                layers.comments.push(if said { c } else { blank });
            }
            at = end;
        }
        layers
    }

    pub fn tokens(&self) -> Vec<Token<'_>> {
        let lines = self.code.lines().enumerate();
        lines
            .flat_map(|(index, line)| split(line).map(move |token| (index + 1, token)))
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Layer {
    Code,
    Comment,
    Literal,
}

/// Where the piece that begins at `at` ends, and what it is.
fn piece(text: &[char], at: usize) -> (usize, Layer) {
    let rest = &text[at..];
    match rest {
        ['/', '/', ..] => (at + line_comment(rest), Layer::Comment),
        ['/', '*', ..] => (at + block_comment(rest), Layer::Comment),
        ['"', ..] => (
            at + string(rest, hashes_before(&text[..at])),
            Layer::Literal,
        ),
        ['\'', '\\', _, tail @ ..] => {
            let close = tail.iter().position(|c| *c == '\'');
            (
                at + 3 + close.map_or(tail.len(), |at| at + 1),
                Layer::Literal,
            )
        }
        ['\'', _, '\'', ..] => (at + 3, Layer::Literal),
        _ => (at + 1, Layer::Code),
    }
}

fn line_comment(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The number of `#` of a raw string that is about to open; absent: the string is no raw one.
fn hashes_before(text: &[char]) -> Option<usize> {
    let hashes = text.iter().rev().take_while(|c| **c == '#').count();
    (text.len() > hashes && text[text.len() - hashes - 1] == 'r').then_some(hashes)
}

fn string(rest: &[char], raw_hashes: Option<usize>) -> usize {
    let mut at = 1;
    while at < rest.len() {
        let closes = |hashes: usize| {
            let tail = rest[at + 1..].iter().take(hashes);
            rest[at] == '"' && tail.filter(|c| **c == '#').count() == hashes
        };
        match raw_hashes {
            None if rest[at] == '\\' => at += 1,
            None if rest[at] == '"' => return at + 1,
            Some(hashes) if closes(hashes) => return at + 1 + hashes,
            _ => {}
        }
        at += 1;
    }
    rest.len()
}

fn split(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, tail) = rest.split_at(end);
        rest = tail;
        Some(token)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Modules at the crate's root that a file names: `crate::x`, `crate::{x, y}`, or enough `super::`.
///
/// `path` is relative to `src`.
pub fn root_modules(path: &str, source: &Source) -> BTreeSet<String> {
    let tokens: Vec<&str> = source
        .tokens()
        .into_iter()
        .map(|(_, token)| token)
        .collect();
    let depth = path.split('/').filter(|part| *part != "mod.rs").count();
    let mut found = BTreeSet::new();
    for at in 0..tokens.len() {
        let follows_path = at > 0 && tokens[at - 1] == ":";
        if let Some(skipped) = path_to_root(&tokens[at..], depth).filter(|_| !follows_path) {
            found.extend(first_names(&tokens[at + skipped..]));
        }
    }
    found
}

/// How many tokens lead to the crate's root, where they do.
fn path_to_root(tokens: &[&str], depth: usize) -> Option<usize> {
    match tokens {
        ["crate" | "capstan", ":", ":", ..] => Some(3),
        ["super", ..] => {
            let parts = tokens.chunks_exact(3);
            let supers = parts
                .take_while(|part| *part == ["super", ":", ":"])
                .count();
            (depth > 0 && supers >= depth).then_some(3 * supers)
        }
        _ => None,
    }
}

/// The name that a path goes on with, or the names of a list.
fn first_names(tokens: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut is_first) = (0, true);
    for &token in tokens {
        match token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => is_first = true,
            word if is_first => {
                is_first = false;
                names.push(word.to_owned());
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Every function with a body: its name and its number of lines.
pub fn functions(source: &Source) -> Vec<(String, usize)> {
    let tokens = source.tokens();
    let heads = tokens.windows(2).enumerate();
    let named = heads.filter(|(_, pair)| pair[0].1 == "fn" && pair[1].1.starts_with(is_word));
    named
        .filter_map(|(at, pair)| {
            let last = end_of_body(&tokens[at..])?;
            Some((pair[1].1.to_owned(), last - pair[0].0 + 1))
        })
        .collect()
}

/// The line of the brace that closes a function's body.
fn end_of_body(tokens: &[Token<'_>]) -> Option<usize> {
    let (mut brackets, mut braces) = (0, 0);
    for &(line, token) in tokens {
        match token {
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets -= 1,
            ";" if brackets == 0 && braces == 0 => return None,
            "{" => braces += 1,
            "}" if braces == 1 => return Some(line),
            "}" => braces -= 1,
            _ => {}
        }
    }
    None
}

/// The parser's own test: what it must tell apart.
pub fn planted() {
    let source = Source::of(
        "let a = \"// no \\\" comment\"; // b\nlet c = r#\"d \" e\"#; /* f /* g */ h */ let i = '\"'; let j: &'k str;",
    );
    let code: Vec<&str> = source.code.split_whitespace().collect();
    assert_eq!(
        code.join(" "),
        "let a = ; let c = r# ; let i = ; let j: &'k str;"
    );
    let comments: Vec<&str> = source.comments.split_whitespace().collect();
    assert_eq!(comments.join(" "), "// b /* f /* g */ h */");

    let names = |path: &str, text: &str| -> Vec<String> {
        root_modules(path, &Source::of(text)).into_iter().collect()
    };
    assert_eq!(
        names("a/b.rs", "use crate::{c::{self, d}, e}; crate::f()"),
        ["c", "e", "f"]
    );
    assert_eq!(
        names("a/b.rs", "use super::g; use super::super::h::i;"),
        ["h"]
    );
    assert_eq!(names("a/mod.rs", "use super::g;"), ["g"]);

    let text = "fn a(x: [u8; 2]) -> u8 {\n    { x[0] }\n}\ntrait T {\n    fn b();\n}\n";
    assert_eq!(functions(&Source::of(text)), [("a".to_owned(), 3)]);
}
