//! The committed vectors are what the generator makes of SPEC.md, byte for byte.

use std::process::Command;

use crate::cases::{TOPICS, folder};

/// Told by `tests/run`, which installs what the generator needs: there it must run.
const REQUIRED: &str = "TAGOUT_VECTORS_REQUIRED";

/// The first Python that has `cryptography`: the one on the path may be another than the system's.
fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let tried = Command::new(python).args(["-c", "import cryptography"]).output();
        tried.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn the_generator_makes_the_committed_vectors() {
    let Some(python) = python() else {
        assert!(
            std::env::var_os(REQUIRED).is_none(),
            "install python3 and python3-cryptography (tests/run does)"
        );
        println!("not compared: no python3 with the package cryptography is here");
        return;
    };
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("vectors");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out).expect("a folder for the vectors");
    let made = Command::new(python)
        .arg(folder().join("generate.py"))
        .arg(&out)
        .output()
        .expect("python3 was there a moment ago");
    assert!(
        made.status.success(),
        "{}{}",
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr)
    );
    for topic in TOPICS.iter().chain(&["history", "envelopes"]) {
        let name = format!("{topic}.json");
        let (committed, made) = (std::fs::read(folder().join(&name)), std::fs::read(out.join(&name)));
        assert!(
            committed.expect("committed vectors") == made.expect("made vectors"),
            "{name} is not what generate.py makes: run proto/vectors/generate.py and look at the difference"
        );
    }
    let committed = std::fs::read_dir(folder()).expect("vectors").filter(|file| {
        let path = file.as_ref().expect("a file").path();
        path.extension().is_some_and(|extension| extension == "json")
    });
    assert_eq!(committed.count(), TOPICS.len() + 2, "a file of vectors is read by no test");
}
