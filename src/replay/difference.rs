//! What differs between two states or events, field by field.

use crate::domain::time::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// Bytes of a value that are shown; a whole list of recovery points says nothing to anybody.
const SHOWN_BYTES: usize = 160;

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Where it is, as in `vm web-1.delta.cycle`.
    pub field: String,
    /// What it was; `None` where it was not there.
    pub before: Option<Value>,
    /// What it is; `None` where it is not there any more.
    pub after: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                write!(f, "{}: {} -> {}", self.field, self.shown(before), self.shown(after))
            }
            (None, Some(after)) => write!(f, "{}: + {}", self.field, self.shown(after)),
            (Some(before), None) => write!(f, "{}: - {}", self.field, self.shown(before)),
            (None, None) => f.write_str(&self.field),
        }
    }
}

impl Change {
    /// A value for people: moments as times, and not without end.
    fn shown(&self, value: &Value) -> String {
        let key = self.field.rsplit(['.', ']']).next().unwrap_or_default();
        clipped(with_times(key, value).to_string())
    }
}

/// A value with the moments in it, which are known by the names of their fields, as people read them.
fn with_times(key: &str, value: &Value) -> Value {
    let is_moment = matches!(key, "at" | "due" | "since" | "from" | "until")
        || key.ends_with("_at")
        || key.ends_with("_since");
    match value {
        Value::Number(millis) if is_moment => match millis.as_i64() {
            Some(millis) => Timestamp::from_millis(millis).to_string().into(),
            None => value.clone(),
        },
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), with_times(key, value))).collect()
        }
        Value::Array(items) => items.iter().map(|item| with_times("", item)).collect(),
        _ => value.clone(),
    }
}

fn clipped(mut text: String) -> String {
    if SHOWN_BYTES < text.len() {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES));
        text.push('…');
    }
    text
}

/// The fields that differ. Lists are compared by what they hold where their items stand for themselves,
/// so that a point which is gone from the front of a list is one change.
pub fn between(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", Some(before), Some(after), &mut changes);
    changes
}

fn compare(field: &str, before: Option<&Value>, after: Option<&Value>, into: &mut Vec<Change>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                compare(&joined(field, key), one.get(key), other.get(key), into);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => lists(field, one, other, into),
        _ => into.push(Change {
            field: field.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

fn lists(field: &str, one: &[Value], other: &[Value], into: &mut Vec<Change>) {
    if one.len() == other.len() {
        for (at, (one, other)) in one.iter().zip(other).enumerate() {
            compare(&format!("{field}[{at}]"), Some(one), Some(other), into);
        }
        return;
    }
    let front = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let rest = one.len().min(other.len()) - front;
    let back = one.iter().rev().zip(other.iter().rev()).take(rest);
    let back = back.take_while(|(one, other)| one == other).count();
    let gone = one[front..one.len() - back].iter().filter(|item| !other.contains(item));
    into.extend(gone.map(|item| Change {
        field: format!("{field}[]"),
        before: Some(item.clone()),
        after: None,
    }));
    let come = other[front..other.len() - back].iter().filter(|item| !one.contains(item));
    into.extend(come.map(|item| Change {
        field: format!("{field}[]"),
        before: None,
        after: Some(item.clone()),
    }));
}

fn joined(field: &str, key: &str) -> String {
    if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(before: &Value, after: &Value) -> Vec<String> {
        between(before, after).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_differs_is_told_with_its_place() {
        let before = json!({"vm": {"phase": "Protected", "cycle": 3, "gone": 1}});
        let after = json!({"vm": {"phase": "Protected", "cycle": 4, "come": [1]}});
        let told = ["vm.come: + [1]", "vm.cycle: 3 -> 4", "vm.gone: - 1"];
        assert_eq!(lines(&before, &after), told);
        assert!(lines(&before, &before).is_empty());
    }

    #[test]
    fn moments_are_told_as_times() {
        let (before, after) =
            (json!({"phase_since": 0}), json!({"phase_since": 1_767_600_000_000_i64}));
        let told = ["phase_since: \"1970-01-01T00:00:00.000Z\" -> \"2026-01-05T08:00:00.000Z\""];
        assert_eq!(lines(&before, &after), told);
        let come = json!([{"at": 0, "bytes": 1_767_600_000_000_i64}]);
        let told = ["[]: + {\"at\":\"1970-01-01T00:00:00.000Z\",\"bytes\":1767600000000}"];
        assert_eq!(lines(&json!([]), &come), told);
    }

    #[test]
    fn items_that_come_and_go_are_told_alone() {
        let told = ["points[]: - 1", "points[]: + 4", "points[]: + 5"];
        let (before, after) = (json!({"points": [1, 2, 3]}), json!({"points": [2, 3, 4, 5]}));
        assert_eq!(lines(&before, &after), told);
        assert_eq!(lines(&json!([1, 2]), &json!([1, 3])), ["[1]: 2 -> 3"]);
    }
}
