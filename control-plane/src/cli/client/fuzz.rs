//! Any bytes as a node's answer. See `tests/fuzz/lib.rs` for how.

use serde_json::json;
use tagout_fuzz::{Answer as Outcome, Target, check_sentence, mutate};

use super::*;

/// What a node says goes to the operator's terminal, whoever speaks in its name.
#[test]
fn refusals() {
    let seeds = [
        json!({"code": "used", "status": 409, "title": "Conflict", "detail": "sign a new one:\nlike this"}),
        json!({"code": "no-quorum", "status": 503, "title": "x", "detail": "try again"}),
    ]
    .map(|seed| seed.to_string());
    let target = Target::new("refusal", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let known = serde_json::from_slice::<Problem>(bytes).is_ok();
        let failure = accepted(Answer { status: StatusCode::BAD_REQUEST, body: bytes.to_vec() }).unwrap_err();
        check_sentence(&failure.to_string());
        check_sentence(&failure.problem.title);
        check_sentence(&failure.problem.code);
        Outcome::taken(known)
    });
}
