//! A vocabulary of characters.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{cut, error::DataError};

/// One token a character; ids follow the code points, as nanoGPT's shakespeare_char has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct CharTokenizer {
    chars: Vec<char>,
    /// Id by code point, up to the largest; `ABSENT` where the text has no such character.
    ids: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;
const CODE_POINTS: usize = char::MAX as usize + 1;

impl CharTokenizer {
    /// The distinct characters of `text`.
    pub fn of_text(text: &str) -> Self {
        let seen = cut::at_characters(text)
            .into_par_iter()
            .fold(nothing_seen, with_characters)
            .reduce(nothing_seen, either);
        let is_seen = |c: &char| seen[*c as usize / 64] >> (*c as usize % 64) & 1 == 1;
        Self::new(('\0'..=char::MAX).filter(is_seen).collect())
    }

    /// Number of distinct characters.
    pub fn vocab_size(&self) -> usize {
        self.chars.len()
    }

    /// The characters in the order of their ids.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// One id a character.
    ///
    /// # Errors
    /// A character that the vocabulary lacks.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::with_capacity(text.len());
        for character in text.chars() {
            match self.ids.get(character as usize) {
                Some(&id) if id != ABSENT => ids.push(id),
                _ => return Err(DataError::UnknownChar { character }),
            }
        }
        Ok(ids)
    }

    /// The characters of `ids`; an id outside the vocabulary becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        ids.iter()
            .map(|&id| {
                self.chars
                    .get(id as usize)
                    .copied()
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            })
            .collect()
    }

    fn new(chars: Vec<char>) -> Self {
        let size = chars.iter().map(|&c| c as usize + 1).max().unwrap_or(0);
        let mut ids = vec![ABSENT; size];
        for (id, &c) in (0..).zip(&chars) {
            ids[c as usize] = id;
        }
        Self { chars, ids }
    }
}

impl From<String> for CharTokenizer {
    fn from(chars: String) -> Self {
        Self::new(chars.chars().collect())
    }
}

impl From<CharTokenizer> for String {
    fn from(tokenizer: CharTokenizer) -> Self {
        tokenizer.chars.into_iter().collect()
    }
}

/// One bit a code point.
fn nothing_seen() -> Vec<u64> {
    vec![0; CODE_POINTS / 64]
}

fn with_characters(mut seen: Vec<u64>, text: &str) -> Vec<u64> {
    for c in text.chars() {
        seen[c as usize / 64] |= 1 << (c as usize % 64);
    }
    seen
}

fn either(mut a: Vec<u64>, b: Vec<u64>) -> Vec<u64> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_code_points() {
        let tokenizer = CharTokenizer::of_text("hello wörld\u{10FFFF}");
        assert_eq!(String::from(tokenizer.clone()), " dehlorwö\u{10FFFF}");
        assert_eq!(
            tokenizer.encode(" dö\u{10FFFF}").expect("known"),
            [0, 1, 8, 9]
        );
    }

    #[test]
    fn an_unknown_character_is_named() {
        let tokenizer = CharTokenizer::of_text("abc");
        for prompt in ["a!", "z", "\u{1F600}"] {
            let refused = tokenizer.encode(prompt).expect_err("unknown");
            assert!(
                matches!(refused, DataError::UnknownChar { .. }),
                "{refused}"
            );
        }
        assert_eq!(tokenizer.decode(&[2, 9]), "c\u{FFFD}");
    }
}
