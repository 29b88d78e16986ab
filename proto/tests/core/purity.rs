//! The core stays pure: no I/O, clock, randomness, threads or async, and no dependency that would bring them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every one of these is pure; a new one needs a reason in the commit that adds it here.
const DEPENDENCIES: [&str; 7] =
    ["data-encoding", "ed25519-dalek", "humantime", "serde", "serde_json", "sha2", "thiserror"];

#[test]
fn the_dependencies_are_these_and_no_others() {
    let manifest = include_str!("../../Cargo.toml");
    let mut tables = manifest.split("\n[");
    let table = tables.find_map(|t| t.strip_prefix("dependencies]")).expect("a [dependencies] table");
    let found: Vec<_> = (table.lines().map(str::trim))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(['.', ' ', '=']).next().unwrap())
        .collect();
    assert_eq!(found, DEPENDENCIES);
    assert!(!manifest.contains("build-dependencies") && !manifest.contains("[target"), "no other way in");
}

#[test]
fn the_sources_touch_no_io_clock_randomness_or_threads() {
    // HashMap and HashSet are here for their order, which differs from node to node; floats for their rounding.
    let forbidden = BTreeSet::from([
        "fs",
        "net",
        "env",
        "io",
        "thread",
        "process",
        "SystemTime",
        "Instant",
        "async",
        "await",
        "unsafe",
        "static",
        "println",
        "eprintln",
        "print",
        "eprint",
        "dbg",
        "getrandom",
        "rand",
        "OsRng",
        "HashMap",
        "HashSet",
        "RandomState",
        "f32",
        "f64",
        "Mutex",
        "RwLock",
        "Cell",
        "RefCell",
        "include_bytes",
    ]);
    let mut files = 0;
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let code = code_of(line);
                let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                if let Some(word) = words.into_iter().find(|w| forbidden.contains(w)) {
                    panic!("{}:{}: {word:?} has no place in the core", path.display(), number + 1);
                }
            }
        }
    }
    assert!(files > 15, "only {files} files were read");
}

/// The line without its string literals, comment and the static lifetime.
fn code_of(line: &str) -> String {
    let (mut code, mut in_text, mut escaped) = (String::new(), false, false);
    // What `core` has of the net is how addresses are written.
    for c in line.replace("'\"'", "").replace("'static", "").replace("core::net", "").chars() {
        match c {
            '"' if !escaped => in_text = !in_text,
            _ if !in_text => code.push(c),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    code.split("//").next().unwrap().into()
}
