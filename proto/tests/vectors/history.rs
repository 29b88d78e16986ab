//! Whole histories of a ledger: what is proposed, what comes of it, and what agents may do in between.

use serde_json::{Map, Value, json};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{Ledger, Proposal};

use crate::cases::{as_expected, digest, file, list, number, pinned, read, shared, text};
use crate::codes::Code;

#[test]
fn histories() {
    let file = file("history");
    let mut wrong = Vec::new();
    for history in list(&file["histories"]) {
        let mut ledger = Ledger::new(pinned());
        for (at, step) in list(&history["steps"]).iter().enumerate() {
            let found = take(&mut ledger, step);
            if found != step["expect"] {
                let (name, what) = (text(&history["name"]), step.get("name").unwrap_or(&Value::Null));
                wrong.push(format!("{name}, step {at} ({what}): {found} instead of {}", step["expect"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} steps come out otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

fn take(ledger: &mut Ledger, step: &Value) -> Value {
    if let Some(token) = step.get("token") {
        let token: Option<Digest> = read(token);
        let admitted = ledger.admits(token.as_ref(), &read(&step["agent"]), number(&step["now_ms"]));
        return as_expected(admitted.map(|()| Value::Null).map_err(|why| why.code()));
    }
    if let Some(agent) = step.get("agent") {
        return look(ledger, agent, number(&step["now_ms"]));
    }
    if step.get("log").is_some() {
        let (size, prev, root) = (ledger.size(), ledger.prev(), ledger.frontier().root());
        return json!({"accept": {"size": size, "prev": prev, "root": root}});
    }
    let proposal = Proposal {
        kind: read(&step["kind"]),
        time_ms: number(&step["time_ms"]),
        envelope: shared(&step["envelope"]),
    };
    let before = state(ledger);
    let applied = ledger.apply(&proposal);
    let mut found =
        as_expected(applied.answer.map(|receipt| json!(receipt)).map_err(|refusal| refusal.code()));
    match applied.entry {
        Some(entry) => found["entry"] = json!(Digest::of(&entry)),
        None => assert_eq!(before, state(ledger), "what is not in the log has changed nothing"),
    }
    found
}

fn state(ledger: &Ledger) -> Vec<u8> {
    postcard::to_stdvec(ledger).expect("a ledger is plain data")
}

fn look(ledger: &Ledger, agent: &Value, now_ms: u64) -> Value {
    let agent = read(agent);
    let view = ledger.view(&agent, now_ms);
    let locks: Vec<_> = view.locks.iter().map(|lock| lock.id).collect();
    let mut found = json!({"verdict": ledger.verdict(&agent, now_ms), "locks": locks, "view": view.digest()});
    let terms: Map<String, Value> = read(&json!(ledger.terms(&agent, now_ms)));
    found.as_object_mut().expect("made above").extend(terms);
    json!({"accept": found})
}

#[test]
fn the_pinned_digest_is_that_of_the_genesis() {
    assert_eq!(crate::cases::genesis().digest(), digest(&file("envelopes")["pinned"]));
}
