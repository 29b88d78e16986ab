//! Changes to valid inputs: of bytes, of lines, of JSON, and of strings that stand under their lengths.

use serde_json::{Map, Value};

use crate::Random;

/// What means something in one format or another.
const WORDS: [&str; 48] = [
    "\n",
    "\r\n",
    "\n\n",
    "\0",
    " ",
    "\t",
    "\"",
    "\\",
    "/",
    "//",
    ".",
    "..",
    "*",
    ":",
    ",",
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[]",
    "=",
    "==",
    "+",
    "-",
    "-1",
    "0",
    "00",
    "01",
    "1e9",
    "1.0",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "Z",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{2014} ",
    "\u{202e}",
    "é",
    "\u{10ffff}",
    "\"a\":1,",
    "x000/",
    ".p/",
    "ssh-ed25519 ",
    "data: ",
];
/// Once in a while an input becomes long, so that what grows faster than its input shows.
const LONG_BYTES: usize = 64 * 1024;

/// One to four changes that know nothing of the form. `pool` gives parts of other inputs.
pub fn bytes(random: &mut Random, input: &[u8], pool: &[&[u8]]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..1 + random.below(4).min(random.below(4)) {
        change(random, &mut out, pool);
    }
    out
}

fn change(random: &mut Random, out: &mut Vec<u8>, pool: &[&[u8]]) {
    let at = random.below(out.len() + 1);
    let part = at..at + random.below(32.min(out.len() - at) + 1);
    match random.below(14) {
        0 | 1 if at < out.len() => out[at] ^= 1 << random.below(8),
        2 if at < out.len() => out[at] = random.byte(),
        3 if at < out.len() => out[at] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        4 => {
            let number = random.boundary();
            let width = random.pick(&[2, 4, 8]);
            let little = number.to_le_bytes();
            let mut bytes = little[..width].to_vec();
            if random.one_in(2) {
                bytes.reverse();
            }
            let end = (at + width).min(out.len());
            out.splice(at..end, bytes);
        }
        5 | 6 => drop(out.splice(at..at, random.pick(&WORDS).bytes())),
        7 => drop(out.splice(part, random.pick(&WORDS).bytes())),
        8 => drop(out.drain(part)),
        9 => {
            let copy = out[part].to_vec();
            let to = random.below(out.len() + 1);
            out.splice(to..to, copy);
        }
        10 => out.truncate(at),
        11 if !out.is_empty() => {
            let (a, b) = (random.below(out.len()), random.below(out.len()));
            out.swap(a, b);
        }
        12 => {
            let other = random.pick(pool);
            let from = random.below(other.len() + 1);
            let to = from + random.below((other.len() - from).min(200) + 1);
            out.splice(part, other[from..to].iter().copied());
        }
        13 if random.one_in(200) => {
            let copy = out[part].to_vec();
            let times = LONG_BYTES / copy.len().max(1);
            out.splice(at..at, copy.repeat(times.min(LONG_BYTES)));
        }
        _ => {}
    }
}

/// Text, changed and still text: most parsers refuse anything else at once.
pub fn text(random: &mut Random, input: &str) -> String {
    String::from_utf8_lossy(&bytes(random, input.as_bytes(), &[input.as_bytes()])).into_owned()
}

/// Text of which lines were changed, left out, doubled or moved.
pub fn lines(random: &mut Random, input: &str) -> String {
    let mut lines: Vec<String> = input.split('\n').map(Into::into).collect();
    for _ in 0..1 + random.below(2) {
        let at = random.below(lines.len());
        match random.below(6) {
            0 if lines.len() > 1 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[random.below(lines.len())].clone()),
            2 => {
                let other = random.below(lines.len());
                lines.swap(at, other);
            }
            _ => lines[at] = text(random, &lines[at]),
        }
    }
    lines.join("\n")
}

/// JSON with changed values: still JSON, mostly still a document of its kind, and now and then spelt in another way.
pub fn json(random: &mut Random, input: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(input) else { return text(random, input) };
    for _ in 0..1 + random.below(2) {
        let nodes = count(&value);
        let at = random.below(nodes);
        change_node(random, &mut value, at);
    }
    let mut out = value.to_string();
    if random.one_in(6) {
        respell(random, &mut out);
    }
    out
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The node with number `at`, counted from the root on.
fn node(value: &mut Value, mut at: usize) -> &mut Value {
    if at == 0 {
        return value;
    }
    at -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => unreachable!("it was counted"),
    };
    for child in children {
        let size = count(child);
        if at < size {
            return node(child, at);
        }
        at -= size;
    }
    unreachable!("it was counted")
}

fn change_node(random: &mut Random, root: &mut Value, at: usize) {
    let other = {
        let from = random.below(count(root));
        node(root, from).clone()
    };
    let value = node(root, at);
    match value {
        _ if random.one_in(12) => *value = other,
        _ if random.one_in(12) => {
            *value = match random.below(6) {
                0 => Value::Null,
                1 => Value::Bool(true),
                2 => Value::from(-1),
                3 => Value::from(1.5),
                4 => Value::Array(vec![value.take()]),
                _ => Value::Object(Map::from_iter([("a".to_owned(), value.take())])),
            }
        }
        Value::Null | Value::Bool(_) => *value = Value::Bool(random.one_in(2)),
        Value::Number(_) => *value = Value::from(random.boundary()),
        Value::String(string) => {
            *string = match random.below(8) {
                0 => string.repeat(random.within(2..40)),
                1 => random.pick(&WORDS).to_string(),
                2 => String::new(),
                _ => text(random, string),
            }
        }
        Value::Array(items) => match random.below(4) {
            0 => items.push(other),
            1 if !items.is_empty() => {
                let copy = random.pick(items);
                let times = if random.one_in(8) { random.below(600) } else { 1 };
                items.extend(std::iter::repeat_n(copy, times));
            }
            2 if !items.is_empty() => drop(items.remove(random.below(items.len()))),
            _ => items.reverse(),
        },
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            match (random.below(5), keys.is_empty()) {
                (0 | 1, false) => drop(map.remove(&random.pick(&keys))),
                (2, false) => {
                    let key = random.pick(&keys);
                    let value = map.remove(&key).unwrap_or_default();
                    map.insert(text(random, &key), value);
                }
                (3, false) => drop(map.insert(random.pick(&keys), other)),
                _ => drop(map.insert(random.pick(&WORDS).to_string(), other)),
            }
        }
    }
}

/// Other text for the same value, or nearly: a key twice, blanks, an escape, an end that is none.
fn respell(random: &mut Random, out: &mut String) {
    let at = |random: &mut Random, out: &str, wanted: &[char]| {
        let found: Vec<usize> = out.match_indices(wanted).map(|(at, _)| at).collect();
        (!found.is_empty()).then(|| random.pick(&found))
    };
    match random.below(5) {
        0 => {
            // The first member of some object once more, where its value is plain.
            let Some(at) = at(random, out, &['{']) else { return };
            let rest = &out[at + 1..];
            let end = rest.find(',').unwrap_or(0);
            let member = rest[..end].to_owned();
            if !member.is_empty() {
                out.insert_str(at + 1, &format!("{member},"));
            }
        }
        1 => {
            let Some(at) = at(random, out, &['{', '}', '[', ']', ',', ':']) else { return };
            out.insert_str(at + 1, random.pick(&[" ", "\n", "\t", "\r\n", "\u{a0}", "/**/"]));
        }
        2 => {
            let letters: Vec<usize> =
                out.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()).map(|(at, _)| at).collect();
            if letters.is_empty() {
                return;
            }
            let at = random.pick(&letters);
            let escape = format!("\\u{:04x}", out.as_bytes()[at]);
            out.replace_range(at..=at, &escape);
        }
        3 => out.push_str(random.pick(&["\n", " ", "{}", "x", "\0"])),
        _ => out.insert_str(0, random.pick(&["\n", " ", "\u{feff}", "[", "\0"])),
    }
}

/// Strings, each under its length as a big-endian `u32`, of which one or two were changed with their lengths kept right,
/// and now and then a length was changed alone.
pub fn strings(random: &mut Random, strings: &[Vec<u8>]) -> Vec<u8> {
    let mut strings = strings.to_vec();
    for _ in 0..random.below(3) {
        let at = random.below(strings.len());
        match random.below(6) {
            0 => drop(strings.remove(at)),
            1 => strings.insert(at, strings[at].clone()),
            2 => strings[at].clear(),
            _ => strings[at] = bytes(random, &strings[at].clone(), &[b"sha256", b"sha512", b"ssh-ed25519"]),
        }
        if strings.is_empty() {
            break;
        }
    }
    let mut out = Vec::new();
    for string in strings {
        let length = if random.one_in(40) { random.boundary() as u32 } else { string.len() as u32 };
        out.extend(length.to_be_bytes());
        out.extend(string);
    }
    out
}
