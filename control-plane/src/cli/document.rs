//! Commands as strict JSON: the inverse of `proto::command::Command::parse`, and checked against it.

use serde::Serialize;
use tagout_proto::command::{Action, Command, DOCUMENT_VERSION, Deployment, StopMode};
use tagout_proto::digest::Digest;
use tagout_proto::scope::Scope;
use tagout_proto::strict::{DocumentError, format_instant_ms};

#[derive(Serialize)]
struct Document<'a> {
    tagout: u64,
    deployment: String,
    action: &'static str,
    id: &'a str,
    issued_at: String,
    scope: &'a Scope,
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
    Locks {
        locks: &'a [Digest],
    },
    Grant {
        expires_at: String,
        seen: Seen,
    },
}

#[derive(Serialize)]
struct Seen {
    epoch: Digest,
    size: u64,
}

/// The document of `action`, on one line and without a newline: nothing that a tool could strip.
pub fn build(
    deployment: &Deployment,
    id: &str,
    issued_at_ms: u64,
    action: &Action,
) -> Result<String, DocumentError> {
    let (body, reason, case) = match action {
        Action::Stop(stop) => {
            let drain_ms = match stop.mode {
                StopMode::Drain { drain_ms } => Some(drain_ms),
                StopMode::Halt | StopMode::Pause => None,
            };
            (Body::Stop { mode: stop.mode.name(), drain_ms }, &stop.reason, stop.case.as_deref())
        }
        Action::Release(release) => (Body::Locks { locks: &release.locks }, &release.reason, None),
        Action::Start(start) => (Body::Locks { locks: &start.locks }, &start.reason, None),
        Action::Grant(grant) => {
            let seen = Seen { epoch: grant.seen_epoch, size: grant.seen_size };
            let expires_at = format_instant_ms(grant.expires_at_ms);
            (Body::Grant { expires_at, seen }, &grant.reason, None)
        }
    };
    let document = Document {
        tagout: DOCUMENT_VERSION,
        deployment: deployment.to_string(),
        action: action.kind().name(),
        id,
        issued_at: format_instant_ms(issued_at_ms),
        scope: action.scope(),
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
    use tagout_proto::command::{Grant, Release, Start, Stop};

    fn deployment() -> Deployment {
        Deployment { name: "demo".into(), genesis: Digest([7; 32]) }
    }

    fn stop(mode: StopMode, reason: &str, case: Option<&str>) -> Action {
        let scope = Scope::parse("demo/agent_22").unwrap();
        Action::Stop(Stop { scope, mode, reason: reason.into(), case: case.map(Into::into) })
    }

    #[test]
    fn every_command_reads_back_as_it_was_meant() {
        let scope = Scope::fleet();
        let locks = vec![Digest([1; 32]), Digest([2; 32])];
        let reason = "quotes \" and \\ and ünicode".to_owned();
        let grant = Grant {
            scope: scope.clone(),
            expires_at_ms: 1_795_359_600_001,
            seen_epoch: Digest([3; 32]),
            seen_size: 9,
            reason: reason.clone(),
        };
        for action in [
            stop(StopMode::Halt, &reason, Some("INC-1")),
            stop(StopMode::Drain { drain_ms: 30_000 }, &reason, None),
            stop(StopMode::Pause, &reason, None),
            Action::Release(Release { scope: scope.clone(), locks: locks.clone(), reason: reason.clone() }),
            Action::Start(Start { scope, locks, reason: reason.clone() }),
            Action::Grant(grant),
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
            &stop(StopMode::Halt, "policy violation 4.1", Some("INC-4711")),
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
            let error = build(&deployment(), "i", 0, &stop(StopMode::Halt, reason, None)).unwrap_err();
            assert!(error.to_string().contains("\"reason\""), "{error}");
        }
        assert_ne!(new_id(), new_id());
    }
}
