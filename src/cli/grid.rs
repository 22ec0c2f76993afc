//! Results of a service, written for people or for programs.

use super::{CommandError, print};
use clap::ValueEnum;
use serde_json::Value;
use std::fmt::Write;

/// How a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints an answer of the service as it is, or, for people, as `table` shows it.
pub(super) fn show(
    format: Format,
    answer: &Value,
    table: impl FnOnce() -> Result<String, CommandError>,
) -> Result<(), CommandError> {
    match format {
        Format::Table => print(table()?.trim_end_matches('\n')),
        Format::Json => print(&serde_json::to_string(answer)?),
        Format::Yaml => print(yaml(answer).trim_end_matches('\n')),
    }
    Ok(())
}

/// Lines of cells under their heads, each column as wide as it must be.
pub(super) fn columns(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A moment for people: seconds are enough.
pub(super) fn moment(at: impl std::fmt::Display) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}Z"),
        _ => text,
    }
}

/// What there is, or a dash.
pub(super) fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// JSON as YAML. Texts are quoted as in JSON, which YAML reads, unless they can be nothing but texts.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

fn block(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let _ = write!(text, "{indent}{}:", scalar(&Value::String(name.clone())));
                nested(text, value, depth + 1);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                block(&mut inner, item, depth + 1);
                // The first line of an item stands behind its dash.
                let _ = writeln!(text, "{indent}- {}", inner.trim());
            }
        }
        _ => {
            let _ = writeln!(text, "{indent}{}", scalar(value));
        }
    }
}

fn nested(text: &mut String, value: &Value, depth: usize) {
    let is_block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if is_block {
        text.push('\n');
        block(text, value, depth);
    } else {
        let _ = writeln!(text, " {}", scalar(value));
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(word) if is_plain(word) => word.clone(),
        other => other.to_string(),
    }
}

/// Words that YAML reads as something else than a text.
const NO_TEXTS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "y"];

fn is_plain(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
        && !NO_TEXTS.contains(&lower.as_str())
        && lower != "n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "long cell".to_owned()], vec!["bcd".to_owned()]];
        assert_eq!(columns(&["X", "Y"], &rows), "X    Y\na    long cell\nbcd\n");
    }

    #[test]
    fn yaml_holds_what_the_json_holds() {
        let value = json!({
            "name": "web-01", "on": true, "text": "a: b", "number": 1.5, "none": null, "word": "no",
            "list": [{ "a": 1, "b": [] }, "x y", [1, 2]], "empty": {},
        });
        let wanted = "\
empty: {}
list:
  - a: 1
    b: []
  - \"x y\"
  - - 1
    - 2
name: web-01
none: null
number: 1.5
\"on\": true
text: \"a: b\"
word: \"no\"
";
        assert_eq!(yaml(&value), wanted);
    }
}
