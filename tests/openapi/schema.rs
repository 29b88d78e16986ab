//! A checker for the part of JSON Schema (2020-12) that `openapi.json` keeps to. Strict: it knows no other keyword, and it
//! notes which schemas a value was checked against, so that a schema which nothing ever meets can be told.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::Value;

pub struct Schemas<'a> {
    document: &'a Value,
    patterns: BTreeMap<&'a str, Regex>,
}

/// The keywords that are understood.
pub const KEYWORDS: [&str; 24] = [
    "$ref",
    "additionalProperties",
    "anyOf",
    "const",
    "contentMediaType",
    "contentSchema",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "type",
    "uniqueItems",
];

/// JSON pointers of schemas that a value was valid against.
pub type Met = BTreeSet<String>;

impl<'a> Schemas<'a> {
    pub fn new(document: &'a Value) -> Self {
        let mut patterns = BTreeMap::new();
        each(document, "", &mut |at, value| {
            if let (true, Some(pattern)) = (at.ends_with("/pattern"), value.as_str()) {
                let regex = Regex::new(pattern).unwrap_or_else(|e| panic!("{at}: {e}"));
                patterns.insert(pattern, regex);
            }
        });
        Self { document, patterns }
    }

    /// Checks `value` against the schema at `at`.
    pub fn check(&self, at: &str, value: &Value, met: &mut Met) -> Result<(), String> {
        let schema = self.document.pointer(at).unwrap_or_else(|| panic!("nothing is at {at}"));
        let keywords = schema.as_object().unwrap_or_else(|| panic!("{at} is no schema"));
        let wrong = |what: String| Err(format!("{at}: {what}: {value}"));
        let own = keywords.get("properties").and_then(Value::as_object);
        for (keyword, rule) in keywords {
            assert!(KEYWORDS.contains(&keyword.as_str()), "{at}: the keyword {keyword} is not understood");
            let under =
                |rest: String| format!("{at}/{keyword}/{}", rest.replace('~', "~0").replace('/', "~1"));
            match keyword.as_str() {
                "$ref" => self.check(&pointer(rule), value, met)?,
                "type" if !is_of_type(value, text(rule)) => return wrong(format!("it is no {rule}")),
                "const" if value != rule => return wrong(format!("it is not {rule}")),
                "enum" if !list(rule).contains(value) => return wrong(format!("it is none of {rule}")),
                "properties" => {
                    for name in rule.as_object().expect("properties by name").keys() {
                        if let Some(part) = value.get(name) {
                            self.check(&under(name.clone()), part, met)?;
                        }
                    }
                }
                "required" => {
                    let missing = list(rule).iter().find(|name| value.get(text(name)).is_none());
                    if let (Some(name), true) = (missing, value.is_object()) {
                        return wrong(format!("{name} is missing"));
                    }
                }
                "additionalProperties" => {
                    assert_eq!(rule, &Value::Bool(false), "{at}: only false is understood");
                    let known = |name: &String| own.is_some_and(|own| own.contains_key(name));
                    let unknown = value.as_object().and_then(|value| value.keys().find(|name| !known(name)));
                    if let Some(name) = unknown {
                        return wrong(format!("{name:?} is not documented"));
                    }
                }
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.check(&format!("{at}/items"), item, met)?;
                    }
                }
                "minItems" if value.as_array().is_some_and(|v| (v.len() as u64) < number(rule)) => {
                    return wrong(format!("it has less than {rule} items"));
                }
                "maxItems" if value.as_array().is_some_and(|v| v.len() as u64 > number(rule)) => {
                    return wrong(format!("it has more than {rule} items"));
                }
                "uniqueItems"
                    if value.as_array().is_some_and(|v| (1..v.len()).any(|i| v[..i].contains(&v[i]))) =>
                {
                    return wrong("an item stands twice".into());
                }
                "minProperties" if value.as_object().is_some_and(|v| (v.len() as u64) < number(rule)) => {
                    return wrong(format!("it has less than {rule} properties"));
                }
                "minimum" if value.is_number() && value.as_u64().is_none_or(|v| v < number(rule)) => {
                    return wrong(format!("it is less than {rule}"));
                }
                "maximum" if value.as_u64().is_some_and(|v| v > number(rule)) => {
                    return wrong(format!("it is more than {rule}"));
                }
                "minLength" if value.as_str().is_some_and(|v| (v.chars().count() as u64) < number(rule)) => {
                    return wrong(format!("it has less than {rule} characters"));
                }
                "maxLength" if value.as_str().is_some_and(|v| v.chars().count() as u64 > number(rule)) => {
                    return wrong(format!("it has more than {rule} characters"));
                }
                "pattern" if value.as_str().is_some_and(|v| !self.patterns[text(rule)].is_match(v)) => {
                    return wrong(format!("it does not match {rule}"));
                }
                "oneOf" | "anyOf" => {
                    let mut errors = Vec::new();
                    let mut fitting = 0;
                    for branch in 0..list(rule).len() {
                        let mut met_there = Met::new();
                        match self.check(&under(branch.to_string()), value, &mut met_there) {
                            Ok(()) => {
                                fitting += 1;
                                met.append(&mut met_there);
                            }
                            Err(error) => errors.push(error),
                        }
                    }
                    if fitting == 0 {
                        return wrong(format!("it fits nothing:\n  {}\n ", errors.join("\n  ")));
                    }
                    if keyword == "oneOf" && fitting > 1 {
                        return wrong(format!("it fits {fitting} of them"));
                    }
                }
                // The standard leaves it to the reader; here what is inside must fit.
                "contentSchema" => {
                    let inside = value.as_str().map(serde_json::from_str::<Value>);
                    match inside {
                        Some(Ok(inside)) => self.check(&format!("{at}/{keyword}"), &inside, met)?,
                        _ => return wrong("it holds no JSON".into()),
                    }
                }
                // It holds, or says nothing that could fail.
                _ => {}
            }
        }
        met.insert(at.to_owned());
        Ok(())
    }

    /// Every schema at or below `at`, by its pointer; references are not followed.
    pub fn below(&self, at: &str, found: &mut impl FnMut(&str, &'a Value)) {
        let schema = self.document.pointer(at).unwrap_or_else(|| panic!("nothing is at {at}"));
        found(at, schema);
        for keyword in ["items", "contentSchema"] {
            if schema.get(keyword).is_some() {
                self.below(&format!("{at}/{keyword}"), found);
            }
        }
        for keyword in ["oneOf", "anyOf"] {
            for branch in 0..schema.get(keyword).map_or(0, |list| list.as_array().expect("a list").len()) {
                self.below(&format!("{at}/{keyword}/{branch}"), found);
            }
        }
        for name in
            schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name)
        {
            self.below(&format!("{at}/properties/{name}"), found);
        }
    }
}

/// Where that really stands which a JSON pointer names, if it is a bare reference.
pub fn resolve(document: &Value, at: &str) -> String {
    let found = document.pointer(at).unwrap_or_else(|| panic!("nothing is at {at}"));
    match found.get("$ref") {
        Some(target) if found.as_object().is_some_and(|o| o.len() == 1) => {
            resolve(document, &pointer(target))
        }
        _ => at.to_owned(),
    }
}

/// Visits every value of a document, with its JSON pointer.
pub fn each<'a>(value: &'a Value, at: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    visit(at, value);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                each(value, &format!("{at}/{}", escaped(key)), visit);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                each(value, &format!("{at}/{index}"), visit);
            }
        }
        _ => {}
    }
}

/// A key as JSON pointers write it (RFC 6901).
pub fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The JSON pointer of a reference into the same document.
pub fn pointer(reference: &Value) -> String {
    text(reference)
        .strip_prefix('#')
        .unwrap_or_else(|| panic!("{reference} leads out of the document"))
        .to_owned()
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not understood"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_keyword_refuses_what_it_should() {
        let closed = json!({"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
        let either = json!([{"const": 1}, {"minimum": 1}]);
        for (schema, good, bad) in [
            (json!({"type": "integer"}), json!(1), json!("1")),
            (json!({"type": "integer"}), json!(0), json!(1.5)),
            (json!({"type": "null"}), json!(null), json!(false)),
            (json!({"const": "x"}), json!("x"), json!("y")),
            (json!({"enum": ["x", 1]}), json!(1), json!(2)),
            (closed.clone(), json!({"a": 1}), json!({"a": 1, "b": 1})),
            (closed.clone(), json!({"a": 1}), json!({})),
            (closed, json!({"a": 1}), json!({"a": "1"})),
            (json!({"items": {"minimum": 2}, "minItems": 1}), json!([2, 3]), json!([2, 1])),
            (json!({"minItems": 1}), json!([2]), json!([])),
            (json!({"maxItems": 1}), json!([2]), json!([2, 3])),
            (json!({"uniqueItems": true}), json!([1, 2]), json!([1, 2, 1])),
            (json!({"minProperties": 1}), json!({"a": 1}), json!({})),
            (json!({"minimum": 0}), json!(0), json!(-1)),
            (json!({"maximum": 2}), json!(2), json!(3)),
            (json!({"minLength": 1}), json!("é"), json!("")),
            (json!({"maxLength": 1}), json!("é"), json!("ab")),
            (json!({"pattern": "^a+$"}), json!("aa"), json!("aab")),
            (json!({"oneOf": either}), json!(2), json!(1)),
            (json!({"anyOf": either}), json!(1), json!(0)),
            (json!({"contentSchema": {"const": [1]}}), json!(" [1]"), json!("[2]")),
            (json!({"contentSchema": {}}), json!("1"), json!("1 2")),
            (json!({"$ref": "#/$defs/x", "maximum": 3}), json!(2), json!(1)),
        ] {
            let document = json!({"schema": schema, "$defs": {"x": {"minimum": 2}}});
            let schemas = Schemas::new(&document);
            let check = |value| schemas.check("/schema", value, &mut Met::new());
            assert_eq!(check(&good), Ok(()), "{schema}");
            assert!(check(&bad).is_err(), "{schema} takes {bad}");
        }
    }

    #[test]
    fn only_what_was_met_is_noted() {
        let document = json!({"oneOf": [{"properties": {"a": {"const": 1}, "b": {}}}, {"type": "string"}]});
        let schemas = Schemas::new(&document);
        let mut met = Met::new();
        schemas.check("", &json!({"a": 1}), &mut met).unwrap();
        assert_eq!(Vec::from_iter(met), ["", "/oneOf/0", "/oneOf/0/properties/a"]);
    }

    #[test]
    #[should_panic(expected = "requierd")]
    fn a_misspelt_keyword_is_no_keyword() {
        let _ = Schemas::new(&json!({"requierd": ["a"]})).check("", &json!({}), &mut Met::new());
    }
}
