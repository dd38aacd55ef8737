//! JSON Lines: one object a line, one of its fields the document.

use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;

use super::error::DataError;

/// The documents of one file, in line order; empty lines are skipped.
///
/// # Errors
/// The first line, in order, that is no object with a string in `field`.
pub(super) fn documents(path: &Path, text: &str, field: &str) -> Result<Vec<String>, DataError> {
    let lines: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| (index + 1, line))
        .collect();
    let parsed: Vec<Result<String, DataError>> = lines
        .into_par_iter()
        .map(|(number, line)| document(path, number, line, field))
        .collect();
    parsed.into_iter().collect()
}

fn document(path: &Path, number: usize, line: &str, field: &str) -> Result<String, DataError> {
    let bad = |column, reason| DataError::BadLine {
        path: path.to_owned(),
        line: number,
        column,
        reason,
    };
    let value = serde_json::from_str(line)
        .map_err(|error: serde_json::Error| bad(error.column(), without_place(&error)))?;
    let Value::Object(mut object) = value else {
        return Err(bad(1, format!("it is {}", kind(&value))));
    };
    match object.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(DataError::FieldType {
            path: path.to_owned(),
            line: number,
            field: field.to_owned(),
            found: kind(&other),
        }),
        None => Err(DataError::MissingField {
            path: path.to_owned(),
            line: number,
            field: field.to_owned(),
            found: object.into_iter().map(|(name, _)| name).collect(),
        }),
    }
}

/// The parser's message without its own "at line 1 column 7", which counts within the line.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => message,
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        documents(Path::new("d.jsonl"), text, "text").map_err(|error| error.to_string())
    }

    #[test]
    fn documents_come_in_line_order() {
        let text = "{\"text\": \"a\\nb\", \"id\": 1}\n\n{\"id\": 2, \"text\": \"c\"}\r\n";
        assert_eq!(read(text), Ok(vec!["a\nb".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let good = "{\"text\": \"a\"}\n";
        let cases = [
            (
                "{\"text\": ",
                "d.jsonl:2:9: not a JSON object: EOF while parsing a value",
            ),
            ("[1]", "d.jsonl:2:1: not a JSON object: it is a list"),
            (
                "{\"body\": \"x\"}",
                "d.jsonl:2: no field \"text\"; the line has \"body\"",
            ),
            ("{}", "d.jsonl:2: no field \"text\"; the line has no fields"),
            (
                "{\"text\": 7}",
                "d.jsonl:2: field \"text\" is a number, not a string",
            ),
        ];
        for (line, expected) in cases {
            let message = read(&format!("{good}{line}\n{line}")).expect_err(line);
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
