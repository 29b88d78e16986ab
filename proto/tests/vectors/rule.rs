//! The rule: verdicts, deadlines and terms.

use serde_json::{Value, json};
use tagout_proto::lock::LockKind;
use tagout_proto::rule::{self, LockFact, Terms};

use crate::cases::{list, number, read, run};

fn facts(case: &Value) -> Vec<LockFact> {
    let fact = |lock: &Value| LockFact {
        kind: read(&lock["kind"]),
        released: read(&lock["released"]),
        drain_deadline_ms: read(&lock["drain_deadline_ms"]),
    };
    list(&case["locks"]).iter().map(fact).collect()
}

#[test]
fn the_rule() {
    run("rule", |case| {
        if let Some(grants) = case.get("grants") {
            let grants: Vec<Terms> = read(grants);
            return Ok(json!(rule::terms(&grants, facts(case))));
        }
        if let Some(time) = case.get("entry_time_ms") {
            let kind: LockKind = read(&case["kind"]);
            let fact = LockFact::of_entry(kind, false, number(time));
            return Ok(json!({"drain_deadline_ms": fact.drain_deadline_ms}));
        }
        let (expiries, now_ms): (Vec<u64>, u64) = (read(&case["grant_expiries_ms"]), number(&case["now_ms"]));
        let facts = facts(case);
        let cuts: Vec<bool> = facts.iter().map(|fact| fact.cuts(now_ms)).collect();
        Ok(json!({"verdict": rule::verdict(expiries, facts, now_ms), "cuts": cuts}))
    });
}
