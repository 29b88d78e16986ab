//! Any bytes as strict JSON. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, mutate};

use super::*;

/// What an ordinary reader of JSON makes of it.
fn ordinary(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(value) => (*value).into(),
        Value::Text(value) => value.as_str().into(),
        Value::List(items) => items.iter().map(ordinary).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), ordinary(value))).collect(),
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn has_other_numbers(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => !number.is_u64(),
        serde_json::Value::Array(items) => items.iter().any(has_other_numbers),
        serde_json::Value::Object(map) => map.values().any(has_other_numbers),
        _ => false,
    }
}

#[test]
fn strict_json() {
    let seeds = [
        r#"{"a":1,"b":[true,null,"é\n"],"c":{"d":18446744073709551615,"e":{}},"f":[[[[[[[]]]]]]]}"#,
        r#"{ "tagout" : 1 , "x" : "\u00e9\ud83d\ude00" }"#,
        "{}",
    ];
    let target = Target::new("strict-json", seeds).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, seed).into_bytes()
    });
    target.check(|bytes| {
        let read = object(bytes, "it");
        let other = serde_json::from_slice::<serde_json::Value>(bytes);
        match (&read, &other) {
            (Ok(fields), Ok(other)) => {
                assert_eq!(&ordinary(&Value::Object(fields.map.clone())), other, "it has a second reading");
                assert!(depth(other) <= JSON_DEPTH_MAX && !has_other_numbers(other));
            }
            (Ok(_), Err(error)) => panic!("no other reader takes it: {error}"),
            // Written again, it has no key twice; then only numbers, depth and its outer form are left to refuse.
            (Err(_), Ok(other)) => {
                let again = object(other.to_string().as_bytes(), "it").is_ok();
                assert_eq!(
                    again,
                    other.is_object() && !has_other_numbers(other) && depth(other) <= JSON_DEPTH_MAX
                );
            }
            (Err(_), Err(_)) => {}
        }
        Answer::of(&read.map(drop))
    });
}
