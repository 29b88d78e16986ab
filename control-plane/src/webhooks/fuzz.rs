//! Any text as a file of webhooks' templates, and any JSON under them. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use super::mapping::{Mapping, READY, Template};
use super::*;

#[test]
fn webhook_template() {
    let seeds = READY.iter().flat_map(|ready| [ready.scope, ready.reason, ready.case]).map(String::from);
    let seeds: Vec<_> = seeds.collect();
    let target = Target::new("webhook-template", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds).clone();
        mutate::lines(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let parsed = Template::try_from(String::from_utf8_lossy(bytes).into_owned());
        Answer::taken(parsed.is_ok())
    });
}

#[test]
fn webhook_body() {
    let seed =
        r#"{"scope": "demo/agent_2", "reason": "r", "case": "INC-1", "severity": "critical", "id": 7}"#;
    let template = |text: &str| Template::try_from(text.to_owned()).unwrap();
    let ready = &READY[0];
    let mapping = Mapping {
        scope: template(ready.scope),
        reason: template(ready.reason),
        case: template(ready.case),
        severity: template(ready.severity),
        names: ready.names,
        actions: mapping::Actions::Always(mapping::Does::Stop),
    };
    let deployment = Deployment { name: "demo".into(), genesis: tagout_proto::digest::Digest([7; 32]) };
    let target = Target::new("webhook-body", [seed.to_owned()])
        .make(|random| mutate::lines(random, seed).into_bytes());
    target.check(|bytes| {
        let Ok(body) = serde_json::from_slice(bytes) else { return Answer::taken(false) };
        match mapping.wanted(&body) {
            // What is mapped makes a command, or is refused by the one reader of commands.
            Ok(Some(Wanted { scope, kind, reason, case })) => {
                let action = Action::Lock(LockCommand { scope, kind, reason, case: Some(case) });
                Answer::taken(document::build(&deployment, "fuzz:1", 0, &action).is_ok())
            }
            Ok(None) => unreachable!("it always stops"),
            Err(why) => {
                check_sentence(&why.to_string());
                Answer::taken(false)
            }
        }
    });
}
