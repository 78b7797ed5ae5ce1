//! JSON as the protocol's other implementations read and write it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

/// The value of `key`, in any letter case: deployed configurations were only ever read that way (spec 04 §2.2).
#[must_use]
pub fn field<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let found = object
        .get(key)
        .or_else(|| object.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(key)).map(|(_, value)| value));
    found.filter(|value| !value.is_null())
}

/// The string at `key`, if there is one.
///
/// # Errors
/// It is something else.
pub fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match field(object, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(expected(key, "a string", other)),
    }
}

/// The object at `key`, if there is one.
///
/// # Errors
/// It is something else.
pub fn object<'a>(parent: &'a Map<String, Value>, key: &str) -> Result<Option<&'a Map<String, Value>>, String> {
    match field(parent, key) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(expected(key, "an object", other)),
    }
}

/// The objects in the list at `key`; none if it is absent.
///
/// # Errors
/// It is something else.
pub fn objects<'a>(parent: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a Map<String, Value>>, String> {
    match field(parent, key) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_object().ok_or_else(|| expected(key, "a list of objects", item))).collect()
        }
        Some(other) => Err(expected(key, "a list", other)),
    }
}

fn expected(key: &str, kind: &str, got: &Value) -> String {
    format!("{key:?} must be {kind}, but is {}", clip(&got.to_string(), SHOWN_BYTES))
}

/// How much of a value that is wrong is shown.
const SHOWN_BYTES: usize = 200;

/// The text, or its beginning if it is longer than `max` bytes, and how long it is.
#[must_use]
pub fn clip(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    Cow::Owned(format!("{}... ({} bytes)", &text[..end], text.len()))
}

/// Four spaces deep, no newline at the end.
pub fn to_indented<T: Serialize>(value: &T) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Neither strings nor maps with string keys can fail to serialise into memory, and JSON is UTF-8.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_clipped_between_characters() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("a\u{fc}b", 2), "a... (4 bytes)");
        let object = serde_json::json!({"mtu": vec![7; 1000]});
        let error = text(object.as_object().unwrap(), "mtu").unwrap_err();
        assert!(
            error.starts_with("\"mtu\" must be a string, but is [7,7,") && error.ends_with("... (2001 bytes)"),
            "{error}"
        );
    }
}
