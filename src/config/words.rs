//! serde's messages in the words of somebody who writes JSON and knows no Rust.

/// Rewrites a message of serde's about a value's shape; one that is plain already stays as it is.
///
/// `known` is what the place takes, where the message itself does not say it.
pub fn plainly(message: &str, known: Option<&str>) -> String {
    let strip = |prefix: &str| message.strip_prefix(prefix);
    if let Some(name) = strip("missing field ") {
        return format!("{name} is missing");
    }
    if let Some(name) = strip("duplicate field ") {
        return format!("{name} stands there twice");
    }
    if let Some(rest) = strip("unknown variant ") {
        return format!("unknown choice {rest}");
    }
    if let Some((length, wanted)) = strip("invalid length ").and_then(expectation) {
        let wanted = known.unwrap_or(wanted);
        return match wanted.strip_prefix("an array of length ") {
            Some(right) => format!("has {length} entries, expected {right}"),
            None => format!("has {length} entries, expected {}", type_name(wanted)),
        };
    }
    let mismatch = strip("invalid type: ").or_else(|| strip("invalid value: "));
    let Some((given, wanted)) = mismatch.and_then(expectation) else {
        return message.to_owned();
    };
    match known {
        Some(choices) if given == "map" => format!("give exactly {choices}"),
        Some(choices) => format!("give exactly {choices}, not {}", value(given)),
        None => format!("expected {}, not {}", type_name(wanted), value(given)),
    }
}

/// What was found, and what was expected.
pub fn expectation(message: &str) -> Option<(&str, &str)> {
    message.rsplit_once(", expected ")
}

fn type_name(wanted: &str) -> &str {
    match wanted {
        "usize" | "u64" | "u32" => "a whole number of at least 0",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" => "a text in quotes",
        "path string" => "a path in quotes",
        "a sequence" => "a list",
        "fewer elements in array" => "fewer",
        "a map" => "an object in braces",
        "unit" => "the name alone",
        "newtype variant" | "struct variant" => "an object such as { \"NAME\": ... }",
        "map with a single key" | "string or map" | "variant identifier" => "exactly one choice",
        wanted if wanted.starts_with("struct ") => "an object in braces",
        wanted => wanted,
    }
}

fn value(given: &str) -> String {
    let number = ["integer `", "floating point `", "boolean `"]
        .iter()
        .find_map(|kind| given.strip_prefix(kind)?.strip_suffix('`'));
    match given {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "unit variant" => "the name alone".to_owned(),
        given => match (number, given.strip_prefix("string ")) {
            (Some(number), _) => number.to_owned(),
            (_, Some(text)) => format!("the text {text}"),
            _ => given.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPS: &str = "one of `steps`, `tokens`";
    /// A message, what is known of the place, and the words.
    const TABLE: [(&str, Option<&str>, &str); 20] = [
        ("missing field `batch`", None, "`batch` is missing"),
        ("duplicate field `stop`", None, "`stop` stands there twice"),
        (
            "unknown variant `gtp`, expected `gpt`",
            None,
            "unknown choice `gtp`, expected `gpt`",
        ),
        (
            "unknown field `a`, expected `b` or `c`",
            None,
            "unknown field `a`, expected `b` or `c`",
        ),
        (
            "invalid type: string \"8\", expected usize",
            None,
            "expected a whole number of at least 0, not the text \"8\"",
        ),
        (
            "invalid value: integer `-1`, expected u64",
            None,
            "expected a whole number of at least 0, not -1",
        ),
        (
            "invalid type: floating point `8.5`, expected usize",
            None,
            "expected a whole number of at least 0, not 8.5",
        ),
        (
            "invalid type: null, expected f64",
            None,
            "expected a number, not null",
        ),
        (
            "invalid type: boolean `true`, expected path string",
            None,
            "expected a path in quotes, not true",
        ),
        (
            "invalid type: sequence, expected a boolean",
            None,
            "expected true or false, not a list",
        ),
        (
            "invalid type: integer `5`, expected struct AdamwConfig",
            None,
            "expected an object in braces, not 5",
        ),
        (
            "invalid length 1, expected struct AdamwConfig with 5 elements",
            None,
            "has 1 entries, expected an object in braces",
        ),
        (
            "invalid type: map, expected variant identifier",
            None,
            "expected exactly one choice, not an object",
        ),
        (
            "invalid type: unit variant, expected newtype variant",
            None,
            "expected an object such as { \"NAME\": ... }, not the name alone",
        ),
        (
            "invalid type: integer `1`, expected unit",
            None,
            "expected the name alone, not 1",
        ),
        (
            "invalid value: map, expected map with a single key",
            Some(STOPS),
            "give exactly one of `steps`, `tokens`",
        ),
        (
            "invalid type: integer `5`, expected string or map",
            Some(STOPS),
            "give exactly one of `steps`, `tokens`, not 5",
        ),
        (
            "invalid length 3, expected fewer elements in array",
            Some("an array of length 2"),
            "has 3 entries, expected 2",
        ),
        (
            "invalid length 3, expected fewer elements in array",
            None,
            "has 3 entries, expected fewer",
        ),
        ("EOF while parsing a list", None, "EOF while parsing a list"),
    ];

    #[test]
    fn no_word_of_rust_is_left() {
        for (message, known, words) in TABLE {
            assert_eq!(plainly(message, known), words);
        }
    }
}
