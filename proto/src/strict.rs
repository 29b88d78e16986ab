//! Strict JSON: what a person signs has exactly one reading.
//!
//! Refused: duplicate keys, unknown keys, floats and negative numbers, deep nesting, anything after the document, anything
//! that is not UTF-8. RFC 8259 leaves duplicate keys open, and two parsers that choose differently would let two people
//! sign different things with one signature.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::BASE64;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::command::{DOCUMENT_VERSION, Deployment};
use crate::digest::Digest;
use crate::limits::{JSON_DEPTH_MAX, NAME_MAX_BYTES};
use crate::scope::{Scope, ScopeError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the document has {size} bytes, at most {limit} are allowed for {what}: shorten it")]
    TooLarge { what: &'static str, size: usize, limit: usize },
    #[error("the document is not strict JSON: {0}")]
    Json(String),
    #[error("unknown key {key:?} in {what}; its keys are: {allowed}")]
    UnknownKey { what: String, key: String, allowed: String },
    #[error("{what} has no {key:?}")]
    Missing { what: String, key: &'static str },
    #[error("{key:?} in {what} must be {expected}")]
    Wrong { what: String, key: &'static str, expected: String },
    #[error("{0}")]
    Scope(#[from] ScopeError),
    #[error("{0}")]
    Invalid(String),
}

/// Any value that strict JSON can hold. Numbers are whole and not negative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

/// Reads the one object that `bytes` hold.
pub(crate) fn object(bytes: &[u8], what: impl Into<String>) -> Result<Fields, DocumentError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| DocumentError::Json(format!("it is not UTF-8 at byte {}", e.valid_up_to())))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth_left: JSON_DEPTH_MAX }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|e| DocumentError::Json(e.to_string()))?;
    match value {
        Value::Object(map) => Ok(Fields::new(what.into(), map)),
        _ => Err(DocumentError::Json("it must be one object, in braces".into())),
    }
}

struct Strict {
    depth_left: usize,
}

impl Strict {
    fn deeper<E: de::Error>(&self) -> Result<Strict, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Strict { depth_left }),
            None => Err(E::custom(format_args!("nested deeper than {JSON_DEPTH_MAX} levels"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value without floats or negative numbers")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = items.next_element_seed(self.deeper()?)? {
            list.push(value);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        // Also an object without members is a level.
        self.deeper::<A::Error>()?;
        let mut map = BTreeMap::new();
        while let Some(key) = items.next_key::<String>()? {
            if map.contains_key(&key) {
                let key: String = key.chars().take(64).collect();
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let value = items.next_value_seed(self.deeper()?)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// The fields of one object, taken by name; `finish` refuses what nobody took.
pub(crate) struct Fields {
    what: String,
    map: BTreeMap<String, Value>,
    asked: Vec<&'static str>,
}

impl Fields {
    fn new(what: String, map: BTreeMap<String, Value>) -> Self {
        Self { what, map, asked: Vec::new() }
    }

    /// Renames the object once its own fields have said what it is.
    pub(crate) fn call(&mut self, what: impl Into<String>) {
        self.what = what.into();
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.map.remove(key)
    }

    pub(crate) fn missing(&self, key: &'static str) -> DocumentError {
        DocumentError::Missing { what: self.what.clone(), key }
    }

    pub(crate) fn wrong(&self, key: &'static str, expected: impl Into<String>) -> DocumentError {
        DocumentError::Wrong { what: self.what.clone(), key, expected: expected.into() }
    }

    pub(crate) fn opt_text(
        &mut self,
        key: &'static str,
        max_bytes: usize,
    ) -> Result<Option<String>, DocumentError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(text))
                if !text.is_empty() && text.len() <= max_bytes && !text.chars().any(char::is_control) =>
            {
                Ok(Some(text))
            }
            Some(_) => {
                Err(self.wrong(key, format!("text of 1 to {max_bytes} bytes without control characters")))
            }
        }
    }

    pub(crate) fn text(&mut self, key: &'static str, max_bytes: usize) -> Result<String, DocumentError> {
        self.opt_text(key, max_bytes)?.ok_or_else(|| self.missing(key))
    }

    /// Text of letters that can be read aloud and typed: printable ASCII without spaces.
    pub(crate) fn word(&mut self, key: &'static str, max_bytes: usize) -> Result<String, DocumentError> {
        let text = self.text(key, max_bytes)?;
        if text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(text)
        } else {
            Err(self.wrong(key, "printable ASCII without spaces"))
        }
    }

    /// A name: lowercase letters, digits, dot, dash, underscore.
    pub(crate) fn name(&mut self, key: &'static str) -> Result<String, DocumentError> {
        let text = self.text(key, NAME_MAX_BYTES)?;
        if is_name(&text) { Ok(text) } else { Err(self.wrong(key, "a name of a-z 0-9 . _ -")) }
    }

    pub(crate) fn names(&mut self, key: &'static str, max: usize) -> Result<Vec<String>, DocumentError> {
        let names = self.texts(key, max)?;
        match names.iter().all(|name| is_name(name)) {
            true => Ok(names),
            false => Err(self.wrong(key, "a list of names of a-z 0-9 . _ -")),
        }
    }

    pub(crate) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, DocumentError> {
        match self.take(key) {
            None => Err(self.missing(key)),
            Some(Value::Number(n)) if range.contains(&n) => Ok(n),
            Some(_) => {
                Err(self.wrong(key, format!("a whole number from {} to {}", range.start(), range.end())))
            }
        }
    }

    /// `"tagout"`, the version of the document's format.
    pub(crate) fn document_version(&mut self) -> Result<(), DocumentError> {
        self.number("tagout", DOCUMENT_VERSION..=DOCUMENT_VERSION).map(drop)
    }

    pub(crate) fn deployment(&mut self) -> Result<Deployment, DocumentError> {
        self.text("deployment", NAME_MAX_BYTES + 65)?.parse()
    }

    pub(crate) fn opt_number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, DocumentError> {
        if self.has(key) { self.number(key, range).map(Some) } else { self.unasked(key) }
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool, DocumentError> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A flag that is `true` or not there.
    pub(crate) fn mark(&mut self, key: &'static str) -> Result<bool, DocumentError> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(_) => Err(self.wrong(key, "true, or left out")),
        }
    }

    pub(crate) fn opt_name(&mut self, key: &'static str) -> Result<Option<String>, DocumentError> {
        if self.has(key) { self.name(key).map(Some) } else { self.unasked(key) }
    }

    /// An absent key is still one of the keys that there could be.
    pub(crate) fn unasked<T>(&mut self, key: &'static str) -> Result<Option<T>, DocumentError> {
        self.asked.push(key);
        Ok(None)
    }

    pub(crate) fn is_object(&self, key: &str) -> bool {
        matches!(self.map.get(key), Some(Value::Object(_)))
    }

    /// A list of SHA-256 values, none of them twice.
    pub(crate) fn digests(&mut self, key: &'static str, max: usize) -> Result<Vec<Digest>, DocumentError> {
        let mut digests = Vec::new();
        let mut known = BTreeSet::new();
        for text in self.texts(key, max)? {
            let digest: Digest =
                text.parse().map_err(|_| self.wrong(key, "a list of SHA-256 values, 64 hex digits each"))?;
            if !known.insert(digest) {
                return Err(self.wrong(key, format!("a list without repetitions ({digest} stands twice)")));
            }
            digests.push(digest);
        }
        Ok(digests)
    }

    pub(crate) fn digest(&mut self, key: &'static str) -> Result<Digest, DocumentError> {
        match self.take(key) {
            None => Err(self.missing(key)),
            Some(Value::Text(text)) => {
                text.parse().map_err(|_| self.wrong(key, "a SHA-256 as 64 lowercase hex digits"))
            }
            Some(_) => Err(self.wrong(key, "a SHA-256 as 64 lowercase hex digits")),
        }
    }

    pub(crate) fn scope(&mut self, key: &'static str) -> Result<Scope, DocumentError> {
        match self.take(key) {
            None => Err(self.missing(key)),
            Some(Value::Text(text)) => Ok(Scope::parse(&text)?),
            Some(_) => Err(self.wrong(key, "a scope, as text")),
        }
    }

    /// An RFC 3339 instant in UTC, as milliseconds since 1970.
    pub(crate) fn opt_instant_ms(&mut self, key: &'static str) -> Result<Option<u64>, DocumentError> {
        if self.has(key) { self.instant_ms(key).map(Some) } else { self.unasked(key) }
    }

    pub(crate) fn instant_ms(&mut self, key: &'static str) -> Result<u64, DocumentError> {
        let expected = "an RFC 3339 instant in UTC such as 2026-11-22T15:00:00Z";
        match self.take(key) {
            None => Err(self.missing(key)),
            Some(Value::Text(text)) => parse_instant_ms(&text).ok_or_else(|| self.wrong(key, expected)),
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    pub(crate) fn object(&mut self, key: &'static str) -> Result<Fields, DocumentError> {
        match self.take(key) {
            None => Err(self.missing(key)),
            Some(Value::Object(map)) => Ok(Fields::new(format!("{key:?} of {}", self.what), map)),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    fn list(&mut self, key: &'static str, max: usize, of: &str) -> Result<Vec<Value>, DocumentError> {
        match self.take(key) {
            None => Err(self.missing(key)),
            Some(Value::List(list)) if (1..=max).contains(&list.len()) => Ok(list),
            Some(_) => Err(self.wrong(key, format!("a list of 1 to {max} {of}"))),
        }
    }

    pub(crate) fn objects(&mut self, key: &'static str, max: usize) -> Result<Vec<Fields>, DocumentError> {
        let what = format!("an item of {key:?} of {}", self.what);
        self.list(key, max, "objects")?
            .into_iter()
            .map(|value| match value {
                Value::Object(map) => Ok(Fields::new(what.clone(), map)),
                _ => Err(self.wrong(key, "a list of objects")),
            })
            .collect()
    }

    pub(crate) fn texts(&mut self, key: &'static str, max: usize) -> Result<Vec<String>, DocumentError> {
        self.list(key, max, "texts")?
            .into_iter()
            .map(|value| match value {
                Value::Text(text) => Ok(text),
                _ => Err(self.wrong(key, "a list of texts")),
            })
            .collect()
    }

    pub(crate) fn finish(self) -> Result<(), DocumentError> {
        match self.map.into_keys().next() {
            None => Ok(()),
            Some(key) => {
                let key = key.chars().take(64).collect();
                Err(DocumentError::UnknownKey { what: self.what, key, allowed: self.asked.join(", ") })
            }
        }
    }
}

pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MAX_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

/// Base64 (RFC 4648, with padding) in its one spelling.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    // The decoder also takes padded pieces one after the other, `AA==AA==`: other texts for the same bytes.
    (BASE64.encode(&bytes) == text).then_some(bytes)
}

/// RFC 3339 in UTC (`Z` or `+00:00`), from 1970 to 9999, as Unix milliseconds.
pub fn parse_instant_ms(text: &str) -> Option<u64> {
    // humantime looks for the `+` of an offset only from the end and would take `.5+0530Z` for UTC.
    let local = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    // It also takes a point that no digit follows.
    if local.contains(['+', 'Z']) || local.ends_with('.') {
        return None;
    }
    let instant = humantime::parse_rfc3339(text).ok()?;
    let since = instant.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// The inverse, to the millisecond.
pub fn format_instant_ms(unix_ms: u64) -> String {
    let unix_ms = unix_ms.min(crate::limits::INSTANT_MAX_MS);
    let instant = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(instant).to_string()
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_second_reading() {
        for (bad, says) in [
            (r#"{"a":1,"a":2}"#, "duplicate key \"a\""),
            (r#"{"a":{"b":1,"b":1}}"#, "duplicate key \"b\""),
            (r#"{"a":1.0}"#, "floats"),
            (r#"{"a":-1}"#, "floats or negative"),
            (r#"{"a":1e3}"#, "floats"),
            (r#"{"a":18446744073709551616}"#, "floats"),
            (r#"{"a":1} x"#, "trailing"),
            (r#"{"a":1}{"a":1}"#, "trailing"),
            (r#"{"a":[[[[[[[[[1]]]]]]]]]}"#, "nested deeper"),
            ("\u{feff}{}", "expected value"),
            (r#"{"a":"\ud800"}"#, "hex escape"),
            ("[]", "one object"),
            ("", "EOF"),
        ] {
            let error = object(bad.as_bytes(), "x").err().unwrap_or_else(|| panic!("{bad} was accepted"));
            assert!(error.to_string().contains(says), "{bad}: {error}");
        }
        assert!(object(b"{\"a\":\"\xff\"}", "x").err().unwrap().to_string().contains("not UTF-8 at byte 6"));
    }

    #[test]
    fn deep_hostile_nesting_does_not_overflow_the_stack() {
        let bomb = "[".repeat(1 << 20);
        assert!(object(bomb.as_bytes(), "x").is_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let mut fields = object(br#"{"scope":"a","scpoe":"b"}"#, "a stop").unwrap();
        fields.scope("scope").unwrap();
        assert_eq!(
            fields.finish().unwrap_err().to_string(),
            "unknown key \"scpoe\" in a stop; its keys are: scope"
        );
    }

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(base64("AAEC"), Some(vec![0, 1, 2]));
        assert_eq!(base64("AA=="), Some(vec![0]));
        for bad in ["AA==AA==", "AAA=AAEC", "AB==", "AA", "AA=", "AAAA====", "AA EC", "AAEC\n", "_-AA"] {
            assert_eq!(base64(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn instants_round_trip_and_want_utc() {
        assert_eq!(parse_instant_ms("2026-11-22T15:00:00Z"), Some(1_795_359_600_000));
        assert_eq!(parse_instant_ms("2026-11-22T15:00:00.250+00:00"), Some(1_795_359_600_250));
        assert_eq!(format_instant_ms(1_795_359_600_000), "2026-11-22T15:00:00.000Z");
        for bad in [
            "2026-11-22 15:00",
            "2026-11-22T15:00:00+01:00",
            "1969-12-31T23:59:59Z",
            "2026-02-30T00:00:00Z",
            "2026-11-22T15:00:00.5+0530Z",
            "2026-11-22T15:00:00.5+00:00Z",
            "2026-11-22T15:00:00",
            "2026-11-22T15:00:00.Z",
            "2026-11-22T15:00:00.+00:00",
            "",
        ] {
            assert_eq!(parse_instant_ms(bad), None, "{bad}");
        }
    }
}
