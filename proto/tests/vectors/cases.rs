//! Reads the vectors and judges them: each has a name, inputs, and `accept` with a value or `reject` with a code.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;

/// The files with `cases`; `history.json` has its own form and `envelopes.json` is what others refer to.
pub(crate) const TOPICS: [&str; 17] = [
    "json",
    "scope",
    "command",
    "placing",
    "sshsig",
    "envelope",
    "authority",
    "chain",
    "grant",
    "rule",
    "entry",
    "tree",
    "note",
    "checkpoint",
    "view",
    "lease",
    "clearance",
];

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

pub(crate) fn file(topic: &str) -> Value {
    let path = folder().join(format!("{topic}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"))
}

pub(crate) fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(text(value).as_bytes()).expect("hexadecimal")
}

/// The digest that a text of 64 digits stands for.
pub(crate) fn digest(value: &Value) -> Digest {
    text(value).parse().expect("a digest")
}

/// The bytes of a document: a text, `{"hex"}` for what is no text, or `{"parts"}`: pieces, each so many times.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Object(map) if map.contains_key("hex") => hex(&map["hex"]),
        parts => {
            let parts = list(&parts["parts"]).iter();
            parts.flat_map(|part| text(&part[0]).as_bytes().repeat(number(&part[1]) as usize)).collect()
        }
    }
}

pub(crate) fn document(value: &Value) -> String {
    String::from_utf8(bytes(value)).expect("a document that is a text")
}

static ENVELOPES: LazyLock<(Digest, Vec<Envelope>)> = LazyLock::new(|| {
    let file = file("envelopes");
    (digest(&file["pinned"]), read(&file["envelopes"]))
});

/// One of `envelopes.json`, by its number.
pub(crate) fn shared(value: &Value) -> Envelope {
    ENVELOPES.1[number(value) as usize].clone()
}

pub(crate) fn genesis() -> Envelope {
    ENVELOPES.1[0].clone()
}

pub(crate) fn pinned() -> Digest {
    ENVELOPES.0
}

/// What an implementation says to a case: the value that it accepts with, or the code that it rejects with.
pub(crate) type Answer = Result<Value, String>;

pub(crate) fn as_expected(answer: Answer) -> Value {
    match answer {
        Ok(value) => json!({"accept": value}),
        Err(code) => json!({"reject": code}),
    }
}

/// Runs every case of `topic` and names each that comes out otherwise.
pub(crate) fn run(topic: &str, judge: impl Fn(&Value) -> Answer) {
    let file = file(topic);
    let cases = list(&file["cases"]);
    assert!(!cases.is_empty());
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in cases {
        let name = text(&case["name"]);
        assert!(names.insert(name), "{topic} has two cases named {name:?}");
        let found = as_expected(judge(case));
        if found != case["expect"] {
            wrong.push(format!("{name} ({}): {found} instead of {}", case["musts"], case["expect"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases of {topic} come out otherwise:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
