//! The authority, the chain of trust, grants, and the proof that a lock ended.

use serde_json::{Value, json};
use tagout_proto::authority::Authority;
use tagout_proto::command::{Action, ActionKind, Command};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::Clearing;
use tagout_proto::lock::{Placed, parse_placing};
use tagout_proto::scope::Scope;
use tagout_proto::trust::{Learned, Trust, place_grant};

use crate::cases::{Answer, digest, genesis, list, number, pinned, read, run, shared, text};
use crate::codes::Code;

#[test]
fn authorities_and_who_may_do_what() {
    run("authority", |case| match &case["document"] {
        Value::Null => {
            let trust = Trust::begin(&genesis(), pinned()).expect("the genesis");
            let (action, scope) = (read(&case["action"]), read(&case["scope"]));
            trust
                .authorise(action, &scope, &shared(&case["envelope"]))
                .map(|names| json!(names))
                .map_err(|e| e.code())
        }
        document => summary(Authority::parse(text(document).as_bytes()).map_err(|e| e.code())?),
    });
}

fn summary(authority: Authority) -> Answer {
    let retired: Vec<_> = authority.retired().iter().map(|r| &r.principal).collect();
    let mut found = json!({
        "version": authority.version,
        "digest": authority.digest,
        "deployment": authority.deployment.to_string(),
        "disables": authority.succession.as_ref().map_or(0, |s| s.disables),
        "principals": authority.principals.iter().map(|p| &p.name).collect::<Vec<_>>(),
        "roles": authority.roles.iter().map(|r| &r.name).collect::<Vec<_>>(),
        "root": authority.root.signers.iter().map(|s| &s.name).collect::<Vec<_>>(),
        "nodes": authority.nodes.iter().map(|n| {
            json!({"id": n.id, "name": n.key.name, "address": n.address, "learner": n.learner})
        }).collect::<Vec<_>>(),
        "limits": authority.limits,
        "retired": retired,
    });
    if authority.enrolment {
        found["enrolment"] = true.into();
    }
    Ok(found)
}

#[test]
fn the_chain_of_trust() {
    run("chain", |case| match &case["genesis"] {
        Value::Null => {
            let mut trust = trust_of(case);
            let learned = trust.learn(&shared(&case["learn"])).map_err(|e| e.code())?;
            let learned = match learned {
                Learned::Authority => "authority",
                Learned::Suspended => "suspended",
                Learned::Restored(_) => "restored",
                Learned::Nothing => "nothing",
            };
            let epoch = json!([trust.epoch().number, trust.epoch().id]);
            let suspended = suspended(case, &trust);
            let version = trust.authority().version;
            Ok(json!({"learned": learned, "version": version, "epoch": epoch, "suspended": suspended}))
        }
        genesis => {
            let trust =
                Trust::begin(&shared(genesis), digest(&case["pinned"])).map_err(|error| error.code())?;
            Ok(json!({"epoch": [trust.epoch().number, trust.epoch().id]}))
        }
    });
}

/// How many of the keys that the case's documents suspend are suspended.
fn suspended(case: &Value, trust: &Trust) -> usize {
    let documents = list(&case["before"]).iter().chain([&case["learn"]]).map(shared);
    let mut keys: Vec<[u8; 32]> = documents
        .filter_map(|envelope| match Command::parse(envelope.document.as_bytes()).ok()?.action {
            Action::Suspend(suspend) => Some(suspend.keys),
            _ => None,
        })
        .flatten()
        .filter(|key| trust.is_suspended(key))
        .map(|key| *key.raw())
        .collect();
    keys.sort();
    keys.dedup();
    keys.len()
}

/// What is believed after the documents that a case takes for granted.
fn trust_of(case: &Value) -> Trust {
    let mut trust = Trust::begin(&genesis(), pinned()).expect("the genesis");
    for envelope in list(&case["before"]) {
        trust.learn(&shared(envelope)).expect("what comes before is good");
    }
    trust
}

#[test]
fn grants() {
    run("grant", |case| {
        let grant = trust_of(case).judge_grant(&shared(&case["grant"])).map_err(|e| e.code())?.0;
        let (agent, epoch, size) = (read(&case["agent"]), digest(&case["epoch"]), number(&case["size"]));
        place_grant(&grant, &agent, epoch, size).map_err(|e| e.code())?;
        Ok(json!({"expires_at_ms": grant.expires_at_ms}))
    });
}

#[test]
fn clearances() {
    run("clearance", |case| {
        let (trust, id, agent) = (trust_of(case), digest(&case["lock"]), read(&case["agent"]));
        let clearing = |value: &Value| {
            (!value.is_null()).then(|| Clearing {
                envelope: shared(&value["envelope"]),
                listed: value.get("listed").map(read),
            })
        };
        let release = clearing(&case["release"]).expect("a release");
        let proof = Proof { trust: &trust, id, agent };
        proof.check(&shared(&case["placed"]), &release, clearing(&case["start"]).as_ref())?;
        Ok(json!(true))
    });
}

/// M167 to M170 with what the core gives for it; guards do the same with names for every refusal.
struct Proof<'a> {
    trust: &'a Trust,
    id: Digest,
    agent: Scope,
}

impl Proof<'_> {
    fn check(&self, placed: &Envelope, release: &Clearing, start: Option<&Clearing>) -> Result<(), String> {
        if placed.digest() != self.id {
            return Err("other-document".into());
        }
        let Placed { scope, kind, lost_from } =
            parse_placing(placed.document.as_bytes()).map_err(|e| e.code())?;
        self.names_and_covers(ActionKind::Release, release, &scope, lost_from)?;
        match (kind.needs_start(), start) {
            (true, Some(start)) => self.names_and_covers(ActionKind::Start, start, &self.agent, None),
            (true, None) => Err("start-missing".into()),
            (false, _) => Ok(()),
        }
    }

    fn names_and_covers(
        &self,
        what: ActionKind,
        clearing: &Clearing,
        needed: &Scope,
        lost_from: Option<u64>,
    ) -> Result<(), String> {
        let Clearing { envelope, listed } = clearing;
        envelope.check_bounds().map_err(|e| e.code())?;
        let command = Command::parse(envelope.document.as_bytes()).map_err(|e| e.code())?;
        if command.deployment != *self.trust.deployment() {
            return Err("wrong-deployment".into());
        }
        let (scope, locks, said) = match command.action {
            Action::Release(release) if what == ActionKind::Release => {
                (release.scope, release.locks, release.lost_from)
            }
            Action::Start(start) if what == ActionKind::Start => (start.scope, start.locks, None),
            _ => return Err("wrong-action".into()),
        };
        if !locks.names(&self.id, listed.as_ref()) {
            return Err("other-lock".into());
        }
        if !scope.covers(needed) {
            return Err("other-scope".into());
        }
        if lost_from.is_some() && said != lost_from {
            return Err("lost-from".into());
        }
        self.trust.authorise(what, &scope, envelope).map(drop).map_err(|e| e.code())
    }
}
