//! Why something failed, as people read it.

use std::{fmt, ops::Deref};

use serde::{Deserialize, Serialize};

use super::text::printable;

/// A cause in one line: the first line of a text, without control characters, and no longer than a person reads.
///
/// Whatever is longer belongs into a log. Every text becomes one by `into`, so no cause can be anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Brief(#[serde(deserialize_with = "shortened")] String);

impl Brief {
    /// Most characters, what stands for the rest among them.
    pub const MOST_CHARS: usize = 400;
    /// What stands for the rest of a text that is longer.
    pub const REST: &str = " ... (its rest is in worker.log)";

    /// Whether all of `text` is in it.
    pub fn is_all_of(&self, text: &str) -> bool {
        self.0 == text.trim()
    }
}

impl<S: AsRef<str>> From<S> for Brief {
    fn from(text: S) -> Self {
        let line = text.as_ref().trim().lines().next().unwrap_or_default();
        let line = printable(line).replace('\t', " ");
        if line.chars().count() <= Self::MOST_CHARS {
            return Self(line);
        }
        let begin = line.chars().take(Self::MOST_CHARS - Self::REST.len());
        Self(begin.chain(Self::REST.chars()).collect())
    }
}

impl Deref for Brief {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn shortened<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| Brief::from(text).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_one_line_of_bounded_length() {
        let long =
            "called `Result::unwrap()` on an `Err` value: ".to_owned() + &"frame\\n".repeat(900);
        for text in [
            long.as_str(),
            "why\nframe 1\nframe 2",
            "a\tb\x1b[31m",
            "  why\n",
        ] {
            let brief = Brief::from(text);
            assert!(brief.chars().count() <= Brief::MOST_CHARS, "{brief}");
            assert!(!brief.contains(char::is_control), "{brief:?}");
            let json = serde_json::to_string(text).expect("a string");
            let read: Brief = serde_json::from_str(&json).expect("a string");
            assert_eq!(read, brief, "read from a log it is as short");
        }
        assert!(Brief::from(&long).ends_with(Brief::REST) && !Brief::from(&long).is_all_of(&long));
        assert_eq!(&*Brief::from("why\nframe 1"), "why");
        assert!(
            Brief::from("why").is_all_of("why\n") && !Brief::from("why\nx").is_all_of("why\nx")
        );
        let just = "é".repeat(Brief::MOST_CHARS);
        assert_eq!(*Brief::from(&just), *just);
    }
}
