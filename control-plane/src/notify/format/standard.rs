//! The payload that standardwebhooks.com recommends.

use serde_json::{Map, Value, json};
use tagout_proto::strict::format_instant_ms;

use crate::notify::event::Event;

pub fn standard(event: &Event, url: Option<&str>) -> Value {
    json!({
        "type": event.kind,
        "timestamp": format_instant_ms(event.time_ms),
        "data": data(event, url),
    })
}

/// What an event says, but for its type and time. Of one type the keys are always the same.
pub fn data(event: &Event, url: Option<&str>) -> Value {
    let details: Map<String, Value> = event.details.clone().into_iter().collect();
    json!({
        "id": event.id,
        "topic": event.topic,
        "deployment": event.deployment,
        "scope": event.scope,
        "title": event.title,
        "severity": event.severity,
        "by": event.by,
        "reason": event.reason,
        "case": event.case,
        "index": event.index,
        "digest": event.digest,
        "proposal": event.proposal,
        "next": event.next,
        "url": url,
        "details": details,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::stop;

    #[test]
    fn the_body_is_this() {
        let event = stop();
        let digest = event.digest.unwrap().to_string();
        let expected = json!({
            "type": "tagout.stop",
            "timestamp": "2025-11-24T16:00:00.000Z",
            "data": {
                "id": format!("evt_12_{}", &digest[..12]), "topic": "tightening", "deployment": "moltbook",
                "scope": "support/agent_22", "title": "stop support/agent_22 (halt)", "severity": "high",
                "by": ["alice"], "reason": "policy <violation> & 4.1", "case": "INC-4711",
                "index": 12, "digest": digest, "proposal": null,
                "next": "tagout resume support/agent_22 --reason WHY", "url": null,
                "details": {"action": "stop", "mode": "halt"}
            }
        });
        assert_eq!(standard(&event, None), expected);
    }
}
