//! What people write and sign: commands, authorities, scopes, instants.

use serde_json::{Value, json};
use tagout_fuzz::{Answer, Target, mutate, same};
use tagout_proto::authority::{Authority, PrincipalKind};
use tagout_proto::command::{Action, ActionKind, Command, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::*;
use tagout_proto::lock::{LockKind, Trip, parse_placing};
use tagout_proto::note::NoteSigner;
use tagout_proto::restore::Restore;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::strict::{format_instant_ms, parse_instant_ms};

use crate::lossy;
use crate::support::*;

/// One of each command, as people send them.
pub(crate) fn commands() -> Vec<String> {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let with_case = json!({"mode": "pause", "case": "INC-4711"});
    let short = world.stop_document("a/b", "halt").document;
    let mut short: Value = serde_json::from_str(&short).unwrap();
    for key in ["action", "mode"] {
        short.as_object_mut().unwrap().remove(key);
    }
    short["agent_id"] = short.as_object_mut().unwrap().remove("scope").unwrap();
    vec![
        world.stop_document("moltbook/support/agent_22", "halt").document,
        world.stop_document("*", "drain").document,
        world.document("stop", "a.b/c-d/e_f", with_case),
        short.to_string(),
        world.release_document("a", &[lock, Digest([7; 32])]).document,
        world.start_document("a/b", &[lock]).document,
        world.grant_document("team", T0 + 1).document,
        world.document("restrict", "a", json!({"case": "INC-1"})),
        world.document("isolate", "a/b", json!({})),
        world.document("throttle", "*", json!({"limits": {"calls_per_minute": 60, "tokens_per_minute": 9}})),
        world.document("revoke", "team", json!({"grants": [Digest([8; 32])]})),
        suspend_document(&mut world),
        world.document(
            "release",
            "*",
            json!({"locks": {"count": 2, "root": lock, "before": 9, "by": "bot"}}),
        ),
        world.document("release", "*", json!({"locks": [lock], "lost_from": 3})),
        world.document("start", "a", json!({"locks": {"count": 1, "root": lock, "before": 9}})),
        world.document(
            "grant",
            "a",
            json!({"expires_at": "2027-01-01T00:00:00Z", "essential": ["alarm", "handover"],
                   "limits": {"calls_per_minute": 5}, "seen": {"epoch": lock, "size": 3, "authority": 1}}),
        ),
        world.document("enroll", "a", json!({"token": lock, "expires_at": "2027-01-01T00:00:00Z"})),
        successor().to_string(),
    ]
}

fn suspend_document(world: &mut World) -> String {
    let keys = [public_key(ALICE).to_openssh(), public_key(BOT).to_openssh()];
    let mut document: Value =
        serde_json::from_str(&world.document("suspend", "*", json!({"keys": keys}))).unwrap();
    document.as_object_mut().unwrap().remove("scope");
    document.to_string()
}

/// A second version of the authority, which retires one of Alice's keys.
fn successor() -> Value {
    let mut next = genesis_json();
    let key = next["principals"][0]["keys"].as_array_mut().unwrap().pop().unwrap();
    next["deployment"] = deployment().into();
    next["version"] = 2.into();
    next["previous"] = genesis().digest().to_string().into();
    next["disables"] = 3.into();
    let second = NoteSigner::new("demo/node-2", &[0x32; 32]).unwrap().verifier().to_string();
    next["nodes"][0]["address"] = "node-1.example:7471".into();
    let second = json!({"id": 2, "key": second, "address": "[fd00::2]:7471", "learner": true});
    next["nodes"].as_array_mut().unwrap().push(second);
    next["retired"] = json!([{"key": key, "principal": "alice", "grants": [Digest([8; 32])]}]);
    next
}

#[test]
fn command() {
    let seeds = commands();
    let target = Target::new("command", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let parsed = same(|| Command::parse(bytes));
        if let Ok(command) = &parsed {
            // Another reader of JSON finds the same in it: a document has one meaning.
            let read: Value = serde_json::from_slice(bytes).unwrap();
            let scope = read.get("agent_id").or(read.get("scope")).and_then(Value::as_str);
            assert_eq!(scope.unwrap_or("*"), command.action.scope().as_str());
            if !matches!(&command.action, Action::Authority(authority) if authority.version == 1) {
                assert_eq!(read["deployment"], command.deployment.to_string());
            }
            assert_eq!(read["issued_at"].as_str().and_then(parse_instant_ms), Some(command.issued_at_ms));
            let kind = command.action.kind();
            assert_eq!(read.get("action").and_then(Value::as_str).unwrap_or("stop"), kind.name());
            let limit = if kind == ActionKind::Stop { STOP_MAX_BYTES } else { COMMAND_MAX_BYTES };
            assert!(bytes.len() <= limit);
            assert!(command.issued_at_ms <= INSTANT_MAX_MS);
            assert!(!command.shutdown_form || kind == ActionKind::Stop);
        }
        Answer::of(&parsed)
    });
}

/// What places a lock without being a command.
#[test]
fn trip_and_restore() {
    let deployment = deployment();
    let (nonce, at) = (Digest([5; 32]), "2026-11-22T15:00:00Z");
    let seeds = [
        json!({"tagout": 1, "deployment": deployment, "trip": "a/b", "nonce": nonce, "issued_at": at,
               "instance": "host-1/4711", "reason": "r"})
        .to_string(),
        json!({"tagout": 1, "deployment": deployment, "restore": {"number": 2, "id": nonce}, "issued_at": at,
               "authority": {"version": 1, "digest": nonce}, "checkpoint": {"size": 9, "root": nonce},
               "lost_from": 7, "reason": "r"})
        .to_string(),
        commands().remove(0),
    ];
    let target = Target::new("placing", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let placed = same(|| parse_placing(bytes));
        if let Ok(placed) = &placed {
            // Guards take the kind and the scope of a lock from here: as the document's own reader has them.
            let trip = Trip::parse(bytes).map(|trip| trip.scope);
            let restore = Restore::parse(bytes).map(|restore| restore.lost_from);
            assert_eq!(restore.is_ok(), placed.lost_from.is_some());
            if let Ok(lost_from) = restore {
                assert_eq!((placed.lost_from, placed.scope.is_fleet()), (Some(lost_from), true));
            } else if let Ok(scope) = trip {
                assert_eq!((&placed.scope, placed.kind), (&scope, LockKind::Halt));
            } else {
                assert_eq!(Command::parse(bytes).unwrap().action.scope(), placed.scope);
            }
        }
        Answer::of(&placed)
    });
}

/// Versions after the genesis.
#[test]
fn authority_document() {
    let seed = successor().to_string();
    let target =
        Target::new("authority", [seed.clone()]).make(|random| mutate::json(random, &seed).into_bytes());
    target.check(|bytes| {
        let parsed = same(|| Authority::parse(bytes));
        if let Ok(authority) = &parsed {
            assert_eq!(authority.succession.is_none(), authority.version == 1);
            assert_eq!(authority.digest, Digest::of(bytes));
            for retired in authority.retired() {
                assert!(authority.principal_of(&retired.key).is_none(), "it signs nothing new");
                assert!(authority.principals.iter().any(|p| p.name == retired.principal));
            }
        }
        Answer::of(&parsed)
    });
}

#[test]
fn genesis_document() {
    let seed = genesis_json().to_string();
    let target =
        Target::new("genesis", [seed.clone()]).make(|random| mutate::json(random, &seed).into_bytes());
    target.check(|bytes| {
        let text = lossy(bytes);
        let parsed = Authority::parse_genesis(&text);
        if let Ok(authority) = &parsed {
            assert_eq!(authority.deployment.genesis, Digest::of(text.as_bytes()));
            assert!((TTL_MIN_MS..=TTL_MAX_MS).contains(&authority.limits.ttl_ms));
            assert!((1..=authority.root.signers.len() as u64).contains(&authority.root.threshold));
            assert!((1..=NODES_MAX).contains(&authority.nodes.len()));
            assert!(authority.nodes.iter().any(|node| !node.learner));
            let mut addresses: Vec<_> = authority.nodes.iter().filter_map(|n| n.address.as_ref()).collect();
            assert!(authority.nodes.len() == 1 || addresses.len() == authority.nodes.len());
            assert!(addresses.iter().all(|a| a.len() <= ADDRESS_MAX_BYTES && *a == &a.to_lowercase()));
            addresses.sort();
            assert!(addresses.windows(2).all(|two| two[0] != two[1]));
            for role in &authority.roles {
                assert!((1..=role.principals.len() as u64).contains(&role.threshold));
                let loosens = role.actions.iter().any(|a| a.loosens());
                for name in &role.principals {
                    let mut named = authority.principals.iter().filter(|p| &p.name == name);
                    let principal = named.next().expect("a role names principals");
                    assert!(named.next().is_none(), "two principals have one name");
                    // S7.
                    assert!(!loosens || principal.kind == PrincipalKind::Person);
                }
            }
            for principal in &authority.principals {
                assert!(!principal.keys.is_empty());
                for key in &principal.keys {
                    // One person counts once, so a key is one person's.
                    assert_eq!(authority.principal_of(key), Some(principal));
                    assert!(authority.root.signers.iter().all(|signer| signer.key != *key));
                }
            }
        }
        Answer::of(&parsed)
    });
}

#[test]
fn envelope_body() {
    let mut world = World::running();
    let (genesis, stop) = (genesis(), world.stop_document("a", "halt"));
    let seeds = [&genesis, &stop].map(|envelope| serde_json::to_string(envelope).unwrap());
    let target = Target::new("envelope", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let parsed = serde_json::from_slice::<Envelope>(bytes);
        if let Ok(envelope) = &parsed {
            let again = serde_json::to_string(envelope).unwrap();
            assert_eq!(&serde_json::from_str::<Envelope>(&again).unwrap(), envelope);
            Answer::of(&envelope.check_bounds());
            // S5: the root keys signed one document, whoever pins what.
            let believed = Authority::genesis(envelope, envelope.digest());
            assert!(believed.is_err() || envelope.document == genesis.document);
            Answer::of(&believed);
        }
        Answer::of(&parsed.map_err(sentence))
    });
}

#[test]
fn scope_path() {
    let seeds = ["moltbook/support/agent_22", "*", "a/b/c/d/e/f/g/h", "A-Z.0_9", "..a/b..", &"x".repeat(64)];
    Target::new("scope", seeds).check(|bytes| {
        let text = lossy(bytes);
        let parsed = same(|| Scope::parse(&text));
        if let Ok(scope) = &parsed {
            assert_eq!(scope.as_str(), text);
            let above: Vec<Scope> = scope.upward().collect();
            assert!(above.len() <= SCOPE_SEGMENTS_MAX + 1 && above.last() == Some(&Scope::fleet()));
            for (at, scope) in above.iter().enumerate() {
                assert_eq!(Scope::parse(scope.as_str()).as_ref(), Ok(scope));
                assert!(above[at..].iter().all(|a| a.covers(scope)));
                assert!(!above[..at].iter().any(|below| below.covers(scope)));
            }
        }
        Answer::of(&parsed)
    });
}

#[test]
fn digest_and_deployment() {
    let seeds = [deployment(), "a1".repeat(32), format!("a.b_c-d:{}", "00".repeat(32))];
    Target::new("deployment", seeds).check(|bytes| {
        let text = lossy(bytes);
        let digest = text.parse::<Digest>();
        if let Ok(digest) = &digest {
            assert_eq!(digest.to_string(), text);
        }
        let deployment = text.parse::<Deployment>();
        if let Ok(deployment) = &deployment {
            assert_eq!(deployment.to_string(), text);
        }
        Answer::of(&digest).or(Answer::of(&deployment))
    });
}

#[test]
fn instant() {
    let seeds = [
        "2026-11-22T15:00:00Z",
        "2026-11-22T15:00:00.123456789Z",
        "1970-01-01T00:00:00.5+00:00",
        "9999-12-31T23:59:59.999Z",
        "2024-02-29T00:00:00Z",
    ];
    Target::new("instant", seeds).check(|bytes| {
        let text = lossy(bytes);
        let parsed = same(|| parse_instant_ms(&text));
        if let Some(at_ms) = parsed {
            assert!(at_ms <= INSTANT_MAX_MS);
            let written = format_instant_ms(at_ms);
            assert_eq!(parse_instant_ms(&written), Some(at_ms));
            // To the minute (a leap second is read as the one before), the text says it as we do: no offset was read as none.
            assert_eq!(written[..16], text.replace(' ', "T")[..16], "{text:?}");
        }
        Answer::taken(parsed.is_some())
    });
}
