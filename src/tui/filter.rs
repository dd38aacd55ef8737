//! What is typed after `/`: `word`, `!word`, `/regex/`, `key:value`, and these together.

use regex::{Regex, RegexBuilder};

use super::{keys::Key, update::edit_line};

/// A field that a filter can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// A value is given in full; else a part of it.
    pub is_whole: bool,
}

/// What a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Each must fit: for lists.
    Each,
    /// Neighbours are one text: for lines.
    Together,
}

/// A filter as it is typed, and what it means.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    fields: &'static [Field],
    words: Words,
    terms: Vec<Term>,
    problem: Option<String>,
}

#[derive(Clone, Debug)]
struct Term {
    /// `None`: the text as a whole.
    field: Option<Field>,
    is_inverse: bool,
    pattern: Pattern,
}

#[derive(Clone, Debug)]
enum Pattern {
    /// In lower case.
    Part(String),
    Whole(String),
    Regex(Regex),
}

impl Filter {
    /// An empty one, which everything passes.
    pub const fn new(fields: &'static [Field], words: Words) -> Self {
        Self {
            text: String::new(),
            fields,
            words,
            terms: Vec::new(),
            problem: None,
        }
    }

    /// As typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether nothing is typed.
    pub const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// What can't be meant as it is typed.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What can be typed.
    pub fn syntax(&self) -> String {
        let names = self.fields.iter().map(|field| format!("{}:", field.name));
        let names: Vec<String> = names.collect();
        format!("word !word /regex/ {}", names.join(" "))
    }

    /// Takes all of it back.
    pub fn clear(&mut self) {
        self.text.clear();
        self.read();
    }

    /// Takes a key; whether typing is over, and kept.
    pub fn type_key(&mut self, key: Key) -> Option<bool> {
        let over = edit_line(&mut self.text, key);
        if over == Some(false) {
            self.text.clear();
        }
        self.read();
        over
    }

    /// Whether something passes the terms that name a field; `of` gives a field's value.
    pub fn narrows_to(&self, of: impl Fn(&str) -> String) -> bool {
        let mut named = self
            .terms
            .iter()
            .filter_map(|term| Some((term, term.field?)));
        named.all(|(term, field)| term.fits(&of(field.name)))
    }

    /// Whether each of the terms that name no field fits one of the texts, or fits all where it is inverse.
    pub fn fits_any(&self, texts: &[&str]) -> bool {
        let mut terms = self.terms.iter().filter(|term| term.field.is_none());
        terms.all(|term| match term.is_inverse {
            true => texts.iter().all(|text| term.fits(text)),
            false => texts.iter().any(|text| term.fits(text)),
        })
    }

    /// Whether the terms that name no field fit a text; false where there is none.
    pub fn finds(&self, text: impl Fn() -> String) -> bool {
        let mut terms = self.terms.iter().filter(|term| term.field.is_none());
        let Some(first) = terms.next() else {
            return false;
        };
        let text = text();
        first.fits(&text) && terms.all(|term| term.fits(&text))
    }

    /// Whether there is something to find.
    pub fn searches(&self) -> bool {
        self.terms.iter().any(|term| term.field.is_none())
    }

    fn read(&mut self) {
        self.terms.clear();
        self.problem = None;
        for word in split(&self.text, self.words) {
            let (is_inverse, rest) = match word.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            let (field, value) = self.named(rest);
            if value.is_empty() {
                continue;
            }
            match pattern(value, field) {
                Ok(pattern) => self.terms.push(Term {
                    field,
                    is_inverse,
                    pattern,
                }),
                Err(problem) => self.problem = Some(problem),
            }
        }
        if self.problem.is_none() {
            self.problem = self.unknown();
        }
    }

    /// The field that a term begins with, and the rest.
    fn named<'a>(&self, term: &'a str) -> (Option<Field>, &'a str) {
        let found = key_of(term).and_then(|(key, value)| {
            let field = self.fields.iter().find(|field| field.name == key)?;
            Some((Some(*field), value))
        });
        found.unwrap_or((None, term))
    }

    fn unknown(&self) -> Option<String> {
        let words = split(&self.text, Words::Each);
        let key = words.iter().find_map(|word| {
            let (key, _) = key_of(word.strip_prefix('!').unwrap_or(word))?;
            let is_known = self.fields.iter().any(|field| field.name == key);
            (!is_known).then_some(key)
        })?;
        let names: Vec<&str> = self.fields.iter().map(|field| field.name).collect();
        Some(format!(
            "{key}: is no key, so it is text; keys are {}",
            names.join(", ")
        ))
    }
}

impl Term {
    fn fits(&self, text: &str) -> bool {
        let fits = match &self.pattern {
            Pattern::Part(part) => text.to_lowercase().contains(part),
            Pattern::Whole(whole) => text.eq_ignore_ascii_case(whole),
            Pattern::Regex(regex) => regex.is_match(text),
        };
        fits != self.is_inverse
    }
}

fn pattern(value: &str, field: Option<Field>) -> Result<Pattern, String> {
    let Some(regex) = value.strip_prefix('/') else {
        return Ok(match field {
            Some(field) if field.is_whole => Pattern::Whole(value.to_owned()),
            _ => Pattern::Part(value.to_lowercase()),
        });
    };
    let regex = regex.strip_suffix('/').unwrap_or(regex);
    let built = RegexBuilder::new(regex).case_insensitive(true).build();
    built.map(Pattern::Regex).map_err(|error| {
        // The last line of several says what is wrong, those before draw where.
        let words = error.to_string();
        let words = words.lines().last().unwrap_or_default();
        let words = words.trim().trim_start_matches("error: ");
        format!("/{regex}/: {words}")
    })
}

/// `key:value`, where the key is a word of letters.
fn key_of(term: &str) -> Option<(&str, &str)> {
    let (key, value) = term.split_once(':')?;
    let is_word = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphabetic());
    (is_word && !value.is_empty() && !value.starts_with(':')).then_some((key, value))
}

/// The terms: a regex goes up to the slash before a blank or the end, all else up to a blank.
fn split(text: &str, words: Words) -> Vec<String> {
    let mut terms: Vec<String> = Vec::new();
    let mut is_plain_before = false;
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let body = rest.strip_prefix('!').unwrap_or(rest);
        let value = key_of(body).map_or(body, |(_, value)| value);
        let begin = rest.len() - value.len();
        let end = if value.starts_with('/') {
            let closed = value.match_indices('/').skip(1).map(|(at, _)| at + 1);
            let mut closed =
                closed.filter(|&at| value[at..].chars().next().is_none_or(char::is_whitespace));
            closed.next().unwrap_or(value.len())
        } else {
            value.find(char::is_whitespace).unwrap_or(value.len())
        };
        let term = &rest[..begin + end];
        let is_plain = key_of(body).is_none() && !value.starts_with('/');
        match terms.last_mut() {
            Some(last)
                if words == Words::Together
                    && is_plain
                    && is_plain_before
                    && !term.starts_with('!') =>
            {
                last.push(' ');
                last.push_str(term);
            }
            _ => terms.push(term.to_owned()),
        }
        is_plain_before = is_plain;
        rest = rest[begin + end..].trim_start();
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field {
            name: "name",
            is_whole: false,
        },
        Field {
            name: "rank",
            is_whole: true,
        },
    ];

    fn typed(text: &str, words: Words) -> Filter {
        let mut filter = Filter::new(FIELDS, words);
        for c in text.chars() {
            filter.type_key(Key::Char(c));
        }
        filter
    }

    /// Whether a list's row of that name and rank passes.
    fn passes(text: &str, name: &str, rank: &str) -> bool {
        let filter = typed(text, Words::Each);
        let of = |field: &str| if field == "rank" { rank } else { name }.to_owned();
        filter.narrows_to(of) && filter.fits_any(&[name, rank])
    }

    #[test]
    fn each_kind_of_term_and_several_together() {
        for (text, expected) in [
            ("", [true, true, true]),
            ("RUN-1", [true, true, false]),
            ("!run", [false, false, true]),
            ("/run-1$/", [true, false, false]),
            ("!/run-1$/", [false, true, true]),
            ("/run-\\d\\d/", [false, true, false]),
            ("name:run-12", [false, true, false]),
            ("!name:run-12", [true, false, true]),
            ("name:/2$/", [false, true, false]),
            ("rank:1", [true, false, false]),
            ("run rank:11", [false, true, false]),
            ("run !12", [true, false, false]),
        ] {
            let rows = [("run-1", "1"), ("run-12", "11"), ("other", "-")];
            let passed = rows.map(|(name, rank)| passes(text, name, rank));
            assert_eq!(passed, expected, "{text}");
        }
    }

    #[test]
    fn in_lines_neighbouring_words_are_one_text_and_keys_stand_apart() {
        let filter = typed("rank:1 eval after", Words::Together);
        assert!(filter.finds(|| "the eval after step 2".to_owned()));
        assert!(!filter.finds(|| "after the eval".to_owned()));
        assert!(filter.narrows_to(|_| "1".to_owned()));
        assert!(!filter.narrows_to(|_| "12".to_owned()));
        let filter = typed("/step 2 .*5$/ rank:1", Words::Together);
        assert!(filter.finds(|| "step 2 loss 5".to_owned()));
        assert!(!filter.narrows_to(|_| "2".to_owned()));
    }

    #[test]
    fn what_can_not_be_meant_is_said() {
        let problem = |text: &str| typed(text, Words::Each).problem.unwrap_or_default();
        assert!(problem("nme:x").contains("nme: is no key"));
        assert!(problem("nme:x").contains("name, rank"));
        assert!(problem("/run-2[/").contains("unclosed character class"));
        assert_eq!(problem("name:x !y /z/ std::fmt 12:30"), "");
        assert!(
            passes("/run-2[/", "anything", "1"),
            "a bad pattern hides nothing"
        );
    }
}
