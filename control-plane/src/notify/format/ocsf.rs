//! OCSF 1.8 (schema.ocsf.io). What principals, agents and nodes did to what may run is *Entity Management* (3004): its
//! activities are the nearest to ours, such as suspend, resume, enroll and enable. Refused attempts are a *Detection
//! Finding* (2004), since somebody should look at them.

use serde_json::{Map, Value, json};

use crate::notify::event::{Event, Severity, Topic};

const VERSION: &str = "1.8.0";
const ENTITY_MANAGEMENT: Class = Class {
    uid: 3004,
    name: "Entity Management",
    category_uid: 3,
    category_name: "Identity & Access Management",
};
const DETECTION_FINDING: Class =
    Class { uid: 2004, name: "Detection Finding", category_uid: 2, category_name: "Findings" };
const CREATE: (u64, &str) = (1, "Create");
/// Of an entity that is of no kind that OCSF knows.
const OTHER: u64 = 99;

struct Class {
    uid: u64,
    name: &'static str,
    category_uid: u64,
    category_name: &'static str,
}

pub fn ocsf(event: &Event) -> Value {
    match event.topic {
        Topic::Security => finding(event),
        Topic::Tightening
        | Topic::Loosening
        | Topic::Authority
        | Topic::Outcome
        | Topic::Proposal
        | Topic::Drill
        | Topic::Expiry => entity(event),
    }
}

fn entity(event: &Event) -> Value {
    let mut body = base(event, &ENTITY_MANAGEMENT, activity(&event.kind));
    let kind = match event.topic {
        Topic::Proposal => "Proposal",
        Topic::Authority => "Authority",
        Topic::Tightening
        | Topic::Loosening
        | Topic::Outcome
        | Topic::Drill
        | Topic::Expiry
        | Topic::Security => "Agent",
    };
    body.insert(
        "entity".into(),
        json!({"name": event.scope, "uid": event.proposal, "type": kind, "type_id": OTHER}),
    );
    if event.proposal.is_none() {
        body["entity"].as_object_mut().expect("made above").remove("uid");
    }
    let actor = match event.by.first() {
        Some(name) => json!({"user": {"name": name}}),
        None => json!({"app_name": "tagout"}),
    };
    body.insert("actor".into(), actor);
    if let Some(reason) = &event.reason {
        body.insert("comment".into(), json!(reason));
    }
    // Somebody should look at a stop that not everybody confirmed, or at a drill whose agents did not come back.
    let failed = matches!(event.topic, Topic::Outcome | Topic::Drill) && event.severity > Severity::Low;
    let (status_id, status) = if failed { (2, "Failure") } else { (1, "Success") };
    body.insert("status_id".into(), status_id.into());
    body.insert("status".into(), status.into());
    if failed {
        body.insert("status_detail".into(), json!(event.title));
    }
    Value::Object(body)
}

fn finding(event: &Event) -> Value {
    let mut body = base(event, &DETECTION_FINDING, CREATE);
    body.insert("finding_info".into(), json!({"uid": event.id, "title": event.title, "types": [event.kind]}));
    body.insert("is_alert".into(), true.into());
    body.insert("status_id".into(), 1.into());
    body.insert("status".into(), "New".into());
    // Address and port, as the node saw them.
    let peer = event.details.get("peer").and_then(Value::as_str);
    if let Some(peer) = peer.and_then(|peer| peer.parse::<std::net::SocketAddr>().ok()) {
        let source = json!({"ip": peer.ip(), "port": peer.port()});
        body.insert("evidences".into(), json!([{"src_endpoint": source}]));
    }
    Value::Object(body)
}

fn activity(kind: &str) -> (u64, &'static str) {
    match kind {
        "tagout.stop" | "tagout.isolate" | "tagout.suspend" | "tagout.trip" | "tagout.restore" => {
            (12, "Suspend")
        }
        "tagout.start" => (13, "Resume"),
        "tagout.revoke" => (9, "Disable"),
        "tagout.grant" => (8, "Enable"),
        "tagout.enroll" => (6, "Enroll"),
        "tagout.restrict" | "tagout.throttle" | "tagout.release" | "tagout.authority" => (3, "Update"),
        "tagout.proposal.opened" => CREATE,
        "tagout.proposal.signed" => (3, "Update"),
        "tagout.proposal.refused" => (4, "Delete"),
        "tagout.outcome" => (OTHER, "Outcome"),
        "tagout.drill" => (OTHER, "Drill"),
        kind if kind.starts_with("tagout.expiry.") => (OTHER, "Expiry"),
        _ => (OTHER, "Other"),
    }
}

/// What every class requires, and what both of ours say.
fn base(event: &Event, class: &Class, (activity_id, activity): (u64, &str)) -> Map<String, Value> {
    let (severity_id, severity) = match event.severity {
        Severity::Informational => (1, "Informational"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    };
    let mut unmapped: Map<String, Value> = event.details.clone().into_iter().collect();
    unmapped.insert("by".into(), json!(event.by));
    for (key, value) in [
        ("case", json!(event.case)),
        ("index", json!(event.index)),
        ("digest", json!(event.digest)),
        ("next", json!(event.next)),
    ] {
        if !value.is_null() {
            unmapped.insert(key.into(), value);
        }
    }
    let body = json!({
        "class_uid": class.uid, "class_name": class.name,
        "category_uid": class.category_uid, "category_name": class.category_name,
        "activity_id": activity_id, "activity_name": activity,
        "type_uid": class.uid * 100 + activity_id,
        "severity_id": severity_id, "severity": severity,
        "time": event.time_ms,
        "message": event.line(),
        "metadata": {
            "version": VERSION,
            "uid": event.id,
            "event_code": event.kind,
            "log_name": event.deployment,
            "product": {"name": "Tagout", "vendor_name": "Tagout", "version": env!("CARGO_PKG_VERSION")},
        },
        "unmapped": unmapped,
    });
    match body {
        Value::Object(body) => body,
        _ => unreachable!("it is an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::{attempt, proposal, stop};

    /// From the schema's 1.8.0: what each class and object requires, which activities the class has (0 and 99 are every
    /// class's), and of which attributes one must be there.
    struct Required {
        class_uid: u64,
        category_uid: u64,
        attributes: &'static [&'static str],
        activities: std::ops::RangeInclusive<u64>,
    }
    const BASE: [&str; 7] =
        ["activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"];
    const CLASSES: [Required; 2] = [
        Required { class_uid: 3004, category_uid: 3, attributes: &["entity"], activities: 1..=13 },
        Required { class_uid: 2004, category_uid: 2, attributes: &["finding_info"], activities: 1..=3 },
    ];
    const OBJECTS: [(&str, &[&str]); 3] = [
        ("/metadata", &["product", "version"]),
        ("/finding_info", &["uid"]),
        ("/evidences/0/src_endpoint", &[]),
    ];
    const ONE_OF: [(&str, &[&str]); 5] = [
        ("/metadata/product", &["name", "uid"]),
        ("/actor", &["process", "user", "invoked_by", "session", "app_name", "app_uid"]),
        ("/actor/user", &["account", "name", "uid"]),
        ("/entity", &["name", "uid", "device", "group", "org", "policy", "user"]),
        ("/evidences/0/src_endpoint", &["ip", "uid", "name", "hostname", "svc_name"]),
    ];

    fn check(body: &Value) {
        let class = CLASSES.iter().find(|class| body["class_uid"] == class.class_uid).expect("one of ours");
        for name in BASE.iter().chain(class.attributes) {
            assert!(!body[name].is_null(), "{name}: {body}");
        }
        let (uid, activity) = (class.class_uid, body["activity_id"].as_u64().unwrap());
        assert_eq!(body["category_uid"], class.category_uid);
        assert_eq!(body["type_uid"], uid * 100 + activity);
        assert!(class.activities.contains(&activity) || activity == 99, "{body}");
        assert!((1..=6).contains(&body["severity_id"].as_u64().unwrap()));
        assert!(body["time"].is_u64(), "milliseconds since 1970");
        for (at, required) in OBJECTS {
            let Some(object) = body.pointer(at) else { continue };
            required.iter().for_each(|name| assert!(!object[*name].is_null(), "{at}: {object}"));
        }
        for (at, names) in ONE_OF {
            let Some(object) = body.pointer(at) else { continue };
            assert!(names.iter().any(|name| !object[*name].is_null()), "{at}: {object}");
        }
    }

    #[test]
    fn every_kind_of_event_has_what_its_class_requires() {
        let mut events = vec![stop(), proposal(), attempt()];
        for (topic, kind) in [
            (Topic::Tightening, "tagout.throttle"),
            (Topic::Tightening, "tagout.revoke"),
            (Topic::Loosening, "tagout.start"),
            (Topic::Loosening, "tagout.enroll"),
            (Topic::Authority, "tagout.rule_version"),
            (Topic::Outcome, "tagout.outcome"),
            (Topic::Drill, "tagout.drill"),
            (Topic::Expiry, "tagout.expiry.grant"),
            (Topic::Proposal, "tagout.proposal.refused"),
        ] {
            events.push(Event { topic, kind: kind.into(), by: Vec::new(), ..stop() });
        }
        events.iter().for_each(|event| check(&ocsf(event)));
    }

    #[test]
    fn a_stop_is_this() {
        let event = stop();
        let expected = json!({
            "class_uid": 3004, "class_name": "Entity Management",
            "category_uid": 3, "category_name": "Identity & Access Management",
            "activity_id": 12, "activity_name": "Suspend", "type_uid": 300_412,
            "severity_id": 4, "severity": "High", "time": 1_764_000_000_000_u64,
            "message": "stop support/agent_22 (halt) by alice",
            "metadata": {
                "version": "1.8.0", "uid": event.id, "event_code": "tagout.stop", "log_name": "moltbook",
                "product": {"name": "Tagout", "vendor_name": "Tagout", "version": env!("CARGO_PKG_VERSION")}
            },
            "unmapped": {
                "action": "stop", "mode": "halt", "by": ["alice"], "case": "INC-4711", "index": 12,
                "digest": event.digest, "next": "tagout resume support/agent_22 --reason WHY"
            },
            "entity": {"name": "support/agent_22", "type": "Agent", "type_id": 99},
            "actor": {"user": {"name": "alice"}},
            "comment": "policy <violation> & 4.1",
            "status_id": 1, "status": "Success",
        });
        assert_eq!(ocsf(&event), expected);
    }

    #[test]
    fn a_refused_attempt_is_a_finding_with_its_source() {
        let body = ocsf(&attempt());
        assert_eq!((&body["class_uid"], &body["type_uid"]), (&json!(2004), &json!(200_401)));
        assert_eq!(body["evidences"], json!([{"src_endpoint": {"ip": "192.0.2.7", "port": 4711}}]));
    }

    #[test]
    fn what_did_not_work_is_a_failure() {
        let of = |topic, severity| {
            let body = ocsf(&Event { topic, severity, ..stop() });
            (body["status"].as_str().unwrap().to_owned(), body.get("status_detail").cloned())
        };
        for topic in [Topic::Outcome, Topic::Drill] {
            assert_eq!(of(topic, Severity::Informational), ("Success".into(), None));
            assert_eq!(of(topic, Severity::Medium), ("Failure".into(), Some(json!(stop().title))));
        }
    }
}
