//! Commands as strict JSON: the inverse of `proto::command::Command::parse`, and checked against it.

use serde::Serialize;
use tagout_proto::command::{Action, Command, DOCUMENT_VERSION, Deployment, LockSet};
use tagout_proto::digest::Digest;
use tagout_proto::lock::LockKind;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::PublicKey;
use tagout_proto::strict::{DocumentError, format_instant_ms};

#[derive(Serialize)]
struct Document<'a> {
    tagout: u64,
    deployment: String,
    action: &'static str,
    id: &'a str,
    issued_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    #[serde(flatten)]
    body: Body<'a>,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    case: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Stop {
        mode: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        drain_ms: Option<u64>,
    },
    Plain {},
    Throttle {
        limits: CallLimits,
    },
    Revoke {
        grants: &'a [Digest],
    },
    Suspend {
        keys: Vec<String>,
    },
    Refuse {
        proposal: Digest,
    },
    Locks {
        locks: Locks<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        lost_from: Option<u64>,
    },
    Grant {
        expires_at: String,
        seen: Seen,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        essential: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        limits: Option<CallLimits>,
    },
    Enroll {
        token: Digest,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<String>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Locks<'a> {
    Ids(&'a [Digest]),
    Bulk {
        count: u64,
        root: Digest,
        before: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<&'a str>,
    },
}

impl<'a> From<&'a LockSet> for Locks<'a> {
    fn from(locks: &'a LockSet) -> Self {
        match locks {
            LockSet::Ids(ids) => Self::Ids(ids),
            LockSet::Bulk(bulk) => {
                Self::Bulk { count: bulk.count, root: bulk.root, before: bulk.before, by: bulk.by.as_deref() }
            }
        }
    }
}

#[derive(Serialize)]
struct Seen {
    epoch: Digest,
    size: u64,
    authority: u64,
}

/// The document of `action`, on one line and without a newline: nothing that a tool could strip.
pub fn build(
    deployment: &Deployment,
    id: &str,
    issued_at_ms: u64,
    action: &Action,
) -> Result<String, DocumentError> {
    let (body, reason, case) = match action {
        Action::Lock(lock) => {
            let stop = |drain_ms| Body::Stop { mode: lock.kind.name(), drain_ms };
            let body = match lock.kind {
                LockKind::Halt | LockKind::Pause => stop(None),
                LockKind::Drain { drain_ms } => stop(Some(drain_ms)),
                LockKind::Restrict | LockKind::Isolate => Body::Plain {},
                LockKind::Throttle(limits) => Body::Throttle { limits },
            };
            (body, &lock.reason, lock.case.as_deref())
        }
        Action::Revoke(revoke) => {
            (Body::Revoke { grants: &revoke.grants }, &revoke.reason, revoke.case.as_deref())
        }
        Action::Suspend(suspend) => {
            let keys = suspend.keys.iter().map(PublicKey::to_openssh).collect();
            (Body::Suspend { keys }, &suspend.reason, suspend.case.as_deref())
        }
        Action::Refuse(refuse) => {
            (Body::Refuse { proposal: refuse.proposal }, &refuse.reason, refuse.case.as_deref())
        }
        Action::Release(release) => {
            let (locks, lost_from) = ((&release.locks).into(), release.lost_from);
            (Body::Locks { locks, lost_from }, &release.reason, None)
        }
        Action::Start(start) => {
            (Body::Locks { locks: (&start.locks).into(), lost_from: None }, &start.reason, None)
        }
        Action::Grant(grant) => {
            let seen =
                Seen { epoch: grant.seen.epoch, size: grant.seen.size, authority: grant.seen.authority };
            let expires_at = format_instant_ms(grant.expires_at_ms);
            let essential = grant.terms.essential.iter().map(String::as_str).collect();
            let limits = Some(grant.terms.limits).filter(|limits| *limits != CallLimits::default());
            (Body::Grant { expires_at, seen, essential, limits }, &grant.reason, None)
        }
        Action::Enroll(enroll) => {
            let expires_at = enroll.expires_at_ms.map(format_instant_ms);
            (Body::Enroll { token: enroll.token, expires_at }, &enroll.reason, None)
        }
        // Its text is written by whoever proposes it.
        Action::Authority(_) => {
            return Err(DocumentError::Invalid("an authority has a document of its own".into()));
        }
    };
    let scope = (!matches!(action, Action::Suspend(_))).then(|| action.scope());
    let document = Document {
        tagout: DOCUMENT_VERSION,
        deployment: deployment.to_string(),
        action: action.kind().name(),
        id,
        issued_at: format_instant_ms(issued_at_ms),
        scope,
        body,
        reason,
        case,
    };
    let text = serde_json::to_string(&document).expect("a command has text keys only");
    // The reader that nodes and guards use has the last word, its bounds included.
    let read = Command::parse(text.as_bytes())?;
    assert_eq!(&read.action, action, "a document says what its signer meant");
    Ok(text)
}

/// 128 random bits: two commands with equal content still are two.
pub fn new_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    data_encoding::HEXLOWER.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagout_proto::command::{
        BulkLocks, Enroll, Grant, LockCommand, Refuse, Release, Revoke, Seen, Start, Suspend,
    };
    use tagout_proto::rule::Terms;

    fn deployment() -> Deployment {
        Deployment { name: "demo".into(), genesis: Digest([7; 32]) }
    }

    fn lock(kind: LockKind, reason: &str, case: Option<&str>) -> Action {
        let scope = Scope::parse("demo/agent_22").unwrap();
        Action::Lock(LockCommand { scope, kind, reason: reason.into(), case: case.map(Into::into) })
    }

    #[test]
    fn every_command_reads_back_as_it_was_meant() {
        let scope = Scope::fleet();
        let locks = vec![Digest([1; 32]), Digest([2; 32])];
        let reason = "quotes \" and \\ and ünicode".to_owned();
        let limits = CallLimits { calls_per_minute: Some(60), tokens_per_minute: None };
        let terms = |essential: &[&str], limits| Terms {
            essential: essential.iter().map(ToString::to_string).collect(),
            limits,
        };
        let grant = |terms| Grant {
            scope: scope.clone(),
            expires_at_ms: 1_795_359_600_001,
            seen: Seen { epoch: Digest([3; 32]), size: 9, authority: 2 },
            terms,
            reason: reason.clone(),
        };
        let bulk = BulkLocks { count: 1000, root: Digest([4; 32]), before: 7, by: Some("soar".into()) };
        let enroll = |expires_at_ms| Enroll {
            scope: Scope::parse("demo/agent_22").unwrap(),
            token: Digest([6; 32]),
            expires_at_ms,
            reason: reason.clone(),
        };
        let key = ed25519_dalek::SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes();
        let keys = vec![PublicKey::Ed25519(key)];
        for action in [
            lock(LockKind::Halt, &reason, Some("INC-1")),
            lock(LockKind::Drain { drain_ms: 30_000 }, &reason, None),
            lock(LockKind::Pause, &reason, None),
            lock(LockKind::Isolate, &reason, Some("INC-1")),
            lock(LockKind::Restrict, &reason, None),
            lock(LockKind::Throttle(limits), &reason, None),
            Action::Revoke(Revoke {
                scope: scope.clone(),
                grants: locks.clone(),
                reason: reason.clone(),
                case: Some("c".into()),
            }),
            Action::Suspend(Suspend { keys, reason: reason.clone(), case: None }),
            Action::Refuse(Refuse {
                scope: scope.clone(),
                proposal: locks[0],
                reason: reason.clone(),
                case: Some("c".into()),
            }),
            Action::Release(Release {
                scope: scope.clone(),
                locks: LockSet::Ids(locks.clone()),
                lost_from: Some(3),
                reason: reason.clone(),
            }),
            Action::Start(Start { scope: scope.clone(), locks: LockSet::Ids(locks), reason: reason.clone() }),
            Action::Start(Start { scope: scope.clone(), locks: LockSet::Bulk(bulk), reason: reason.clone() }),
            Action::Grant(grant(terms(&[], CallLimits::default()))),
            Action::Grant(grant(terms(&["alarm", "handover"], limits))),
            Action::Enroll(enroll(None)),
            Action::Enroll(enroll(Some(1_795_359_600_001))),
        ] {
            let text = build(&deployment(), "id-1", 1_795_359_600_000, &action).unwrap();
            let read = Command::parse(text.as_bytes()).unwrap();
            assert_eq!((read.action, read.issued_at_ms), (action, 1_795_359_600_000));
            assert_eq!((read.deployment, read.shutdown_form), (deployment(), false));
        }
    }

    #[test]
    fn a_stop_is_written_as_the_design_shows_it() {
        let text = build(
            &deployment(),
            "i",
            1_795_359_600_000,
            &lock(LockKind::Halt, "policy violation 4.1", Some("INC-4711")),
        );
        let genesis = "07".repeat(32);
        let expected = format!(
            r#"{{"tagout":1,"deployment":"demo:{genesis}","action":"stop","id":"i","issued_at":"2026-11-22T15:00:00.000Z","scope":"demo/agent_22","mode":"halt","reason":"policy violation 4.1","case":"INC-4711"}}"#
        );
        assert_eq!(text.unwrap(), expected);
    }

    #[test]
    fn what_nodes_would_refuse_is_refused_here() {
        for reason in ["", "two\nlines", &"x".repeat(2000)] {
            let error = build(&deployment(), "i", 0, &lock(LockKind::Halt, reason, None)).unwrap_err();
            assert!(error.to_string().contains("\"reason\""), "{error}");
        }
        assert_ne!(new_id(), new_id());
    }
}
