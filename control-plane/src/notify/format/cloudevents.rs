//! CloudEvents 1.0, JSON format, structured mode.

use serde_json::{Value, json};
use tagout_proto::strict::format_instant_ms;

use super::standard::data;
use crate::notify::event::Event;

pub fn cloudevents(event: &Event, url: Option<&str>) -> Value {
    json!({
        "specversion": "1.0",
        "id": event.id,
        // With the id, it is what an event is known by: a URI reference.
        "source": format!("/tagout/{}", event.deployment.split(':').next().unwrap_or_default()),
        "type": event.kind,
        "subject": event.scope,
        "time": format_instant_ms(event.time_ms),
        "datacontenttype": "application/json",
        "data": data(event, url),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::proposal;

    #[test]
    fn the_envelope_is_this() {
        let event = proposal();
        let url = "https://console.example/proposals/1";
        let expected = json!({
            "specversion": "1.0", "id": event.id, "source": "/tagout/moltbook", "type": "tagout.proposal.opened",
            "subject": "support/agent_22", "time": "2025-11-24T16:00:00.000Z", "datacontenttype": "application/json",
            "data": data(&event, Some(url)),
        });
        let body = cloudevents(&event, Some(url));
        assert_eq!(body, expected);
        assert_eq!(body["data"]["url"], url);
    }
}
