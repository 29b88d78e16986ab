//! Strict JSON, scopes, commands, what else places a lock, and envelopes.

use serde_json::{Map, Value, json};
use tagout_proto::command::{Action, Command, LockSet};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::parse_placing;
use tagout_proto::scope::Scope;

use crate::cases::{Answer, bytes, document, read, run, text};
use crate::codes::Code;

#[test]
fn json_is_strict() {
    run("json", |case| command(&bytes(&case["document"])));
}

#[test]
fn commands() {
    run("command", |case| command(&bytes(&case["document"])));
}

#[test]
fn scopes() {
    run("scope", |case| {
        let scope = Scope::parse(text(&case["scope"])).map_err(|_| "bad-scope")?;
        match &case["other"] {
            Value::Null => Ok(json!(scope)),
            other => Ok(json!(scope.covers(&Scope::parse(text(other)).expect("a scope")))),
        }
    });
}

#[test]
fn whatever_places_a_lock() {
    run("placing", |case| {
        let bytes = bytes(&case["document"]);
        let placed = parse_placing(&bytes).map_err(|e| e.code())?;
        let mut found = json!({"id": Digest::of(&bytes), "scope": placed.scope, "kind": placed.kind});
        put_some(&mut found, "lost_from", placed.lost_from);
        Ok(found)
    });
}

#[test]
fn envelopes() {
    run("envelope", |case| {
        let envelope =
            Envelope { document: document(&case["document"]), signatures: read(&case["signatures"]) };
        envelope.check_bounds().map_err(|e| e.code())?;
        Ok(json!({"digest": envelope.digest()}))
    });
}

fn command(bytes: &[u8]) -> Answer {
    let command = Command::parse(bytes).map_err(|e| e.code())?;
    let mut found = json!({
        "action": command.action.kind(),
        "deployment": command.deployment.to_string(),
        "issued_at_ms": command.issued_at_ms,
        "shutdown_form": command.shutdown_form,
        "scope": command.action.scope(),
    });
    let more = match command.action {
        Action::Lock(lock) => {
            put_some(&mut found, "case", lock.case);
            json!({"kind": lock.kind, "reason": lock.reason})
        }
        Action::Revoke(revoke) => {
            put_some(&mut found, "case", revoke.case);
            json!({"grants": revoke.grants, "reason": revoke.reason})
        }
        Action::Suspend(suspend) => {
            put_some(&mut found, "case", suspend.case);
            let keys: Vec<_> = suspend.keys.iter().map(|key| key.to_openssh()).collect();
            json!({"keys": keys, "reason": suspend.reason})
        }
        Action::Refuse(refuse) => {
            put_some(&mut found, "case", refuse.case);
            json!({"proposal": refuse.proposal, "reason": refuse.reason})
        }
        Action::Release(release) => {
            put_some(&mut found, "lost_from", release.lost_from);
            json!({"locks": locks(release.locks), "reason": release.reason})
        }
        Action::Start(start) => json!({"locks": locks(start.locks), "reason": start.reason}),
        Action::Grant(grant) => json!({
            "expires_at_ms": grant.expires_at_ms,
            "seen": {"epoch": grant.seen.epoch, "size": grant.seen.size, "authority": grant.seen.authority},
            "essential": grant.terms.essential,
            "limits": grant.terms.limits,
            "reason": grant.reason,
        }),
        Action::Enroll(enroll) => {
            put_some(&mut found, "expires_at_ms", enroll.expires_at_ms);
            json!({"token": enroll.token, "reason": enroll.reason})
        }
        Action::Authority(authority) => json!({"version": authority.version, "digest": authority.digest}),
    };
    let more: Map<String, Value> = read(&more);
    found.as_object_mut().expect("made above").extend(more);
    Ok(found)
}

fn locks(locks: LockSet) -> Value {
    match locks {
        LockSet::Ids(ids) => json!(ids),
        LockSet::Bulk(bulk) => {
            let mut found = json!({"count": bulk.count, "root": bulk.root, "before": bulk.before});
            put_some(&mut found, "by", bulk.by);
            found
        }
    }
}

/// What is absent has no key.
fn put_some(found: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        found[key] = value.into();
    }
}
