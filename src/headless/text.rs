//! Small parts of plain output.

use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::base::text::{columns, pad, printable};

/// Version of every query's JSON, in its field `schema`.
pub const JSON_VERSION: u32 = 1;

/// Prints one line on stdout, without what a terminal would obey.
///
/// # Errors
/// Stdout is closed.
pub fn say(line: &str) -> io::Result<()> {
    say_exactly(&printable(line))
}

/// Prints one line for a program on stdout, as it is.
///
/// # Errors
/// Stdout is closed.
pub fn say_exactly(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Prints a query's answer as one line of JSON, its version first.
///
/// # Errors
/// Stdout is closed.
pub fn say_json(fields: Value) -> io::Result<()> {
    let mut object = Map::new();
    object.insert("schema".to_owned(), JSON_VERSION.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    say_exactly(&Value::Object(object).to_string())
}

/// Rows under a heading, in columns as wide as their widest cell.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| columns(cell)).max().unwrap_or(0);
        widest.max(columns(heading[column]))
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    std::iter::once(&heading)
        .chain(rows)
        .map(|row| line(row, &widths))
        .collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row
        .iter()
        .zip(widths)
        .map(|(cell, &width)| pad(cell, width));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// `name   value` lines, the names in a column.
pub fn facts(facts: &[(&str, String)]) -> Vec<String> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["long-name".to_owned(), "1".to_owned()],
            vec!["语言".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "N"], &rows),
            ["NAME       N", "long-name  1", "语言       22"]
        );
    }
}
