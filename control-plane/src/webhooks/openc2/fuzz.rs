//! Any bytes as an OpenC2 message. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, check_sentence, mutate};
use tagout_proto::command::{Action, Deployment, LockCommand};

use super::*;
use crate::document;

#[test]
fn openc2_message() {
    let seeds = [
        r#"{"headers": {"request_id": "d1ac0489", "created": 1545257700000, "from": "p", "to": ["c"]}, "body": {"openc2": {"request": {"action": "stop", "target": {"x-tagout:agent": "demo/agent_2"}, "args": {"x-tagout": {"mode": "drain", "drain_ms": 5, "reason": "r", "case": "c"}}}}}}"#,
        r#"{"headers": {"request_id": "d1ac0489"}, "body": {"openc2": {"request": {"action": "set", "target": {"x-tagout:agent": "demo"}, "args": {"response_requested": "ack", "x-tagout": {"calls_per_minute": 6}}}}}}"#,
        r#"{"headers": {"request_id": "d1ac0489"}, "body": {"openc2": {"request": {"action": "query", "target": {"features": ["versions", "pairs"]}}}}}"#,
    ]
    .map(String::from);
    let deployment = Deployment { name: "demo".into(), genesis: Digest([7; 32]) };
    let target = Target::new("openc2-message", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds).clone();
        mutate::lines(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let request = unwrap(Form::Message, bytes, None).and_then(|(ids, command)| read(command, &ids));
        match request.map(|request| request.asked) {
            // What is taken makes a command, or is refused by the one reader of commands; and it only takes away (S7).
            Ok(Asked::Take(Wanted { scope, kind, reason, case })) => {
                let action = Action::Lock(LockCommand { scope, kind, reason, case: Some(case) });
                Answer::taken(document::build(&deployment, "fuzz:1", 0, &action).is_ok())
            }
            Ok(Asked::Features(_)) => Answer::taken(true),
            Err(why) => {
                check_sentence(&why.to_string());
                Answer::taken(false)
            }
        }
    });
}
