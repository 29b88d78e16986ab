//! Commands: what is read, what is refused, and the exact sentence that the sender gets.

use tagout_proto::command::{Action, ActionKind, Command, Deployment, LockSet, Seen};
use tagout_proto::digest::Digest;
use tagout_proto::limits::*;
use tagout_proto::lock::LockKind;

use crate::support::{ALICE, public_key};

const HEAD: &str = r#""tagout":1,"deployment":"demo:DD","id":"c-1","issued_at":"2026-11-22T15:00:00Z""#;

fn document(fields: &str) -> String {
    format!("{{{HEAD},{fields}}}")
        .replace("DD", &"d0".repeat(32))
        .replace("L1", &"a1".repeat(32))
        .replace("L2", &"b2".repeat(32))
}

fn parse(document: &str) -> Result<Command, String> {
    Command::parse(document.as_bytes()).map_err(|e| e.to_string())
}

#[track_caller]
fn action(fields: &str) -> Action {
    parse(&document(fields)).unwrap().action
}

#[test]
fn reads_a_stop_of_each_mode() {
    let stop = |fields: &str| match action(fields) {
        Action::Lock(stop) => stop,
        other => panic!("{other:?}"),
    };
    let read = stop(r#""action":"stop","scope":"a/b","mode":"halt","reason":"policy 4.1","case":"INC-4711""#);
    assert_eq!((read.scope.as_str(), read.kind, &*read.reason), ("a/b", LockKind::Halt, "policy 4.1"));
    assert_eq!(read.case.as_deref(), Some("INC-4711"));
    assert_eq!(stop(r#""action":"stop","scope":"*","mode":"pause","reason":"r""#).kind, LockKind::Pause);
    for drain_ms in [1, DRAIN_MAX_MS] {
        let fields =
            format!(r#""action":"stop","scope":"a","mode":"drain","drain_ms":{drain_ms},"reason":"r""#);
        assert_eq!(stop(&fields).kind, LockKind::Drain { drain_ms });
    }
}

#[test]
fn the_shutdown_form_is_known_from_the_full_form() {
    for (fields, shutdown_form) in [
        (r#""action":"stop","scope":"a","mode":"halt","reason":"r""#, false),
        (r#""action":"stop","scope":"a","reason":"r""#, true),
        (r#""scope":"a","mode":"halt","reason":"r""#, true),
        (r#""scope":"a","reason":"r""#, true),
        (r#""agent_id":"a","reason":"r""#, true),
        (r#""action":"stop","agent_id":"a","mode":"halt","reason":"r""#, true),
        (r#""action":"release","scope":"a","locks":["L1"],"reason":"r""#, false),
        (r#""action":"start","scope":"a","locks":["L1"],"reason":"r""#, false),
    ] {
        let command = parse(&document(fields)).unwrap();
        assert_eq!(command.shutdown_form, shutdown_form, "{fields}");
        if shutdown_form {
            let Action::Lock(stop) = command.action else { panic!("{fields}") };
            assert_eq!((stop.scope.as_str(), stop.kind), ("a", LockKind::Halt));
        }
    }
}

#[test]
fn reads_what_loosens() {
    let lock = |hex: &str| hex.repeat(32).parse::<Digest>().unwrap();
    let Action::Release(release) =
        action(r#""action":"release","scope":"a","locks":["L1","L2"],"reason":"r""#)
    else {
        panic!()
    };
    assert_eq!(release.locks, LockSet::Ids(vec![lock("a1"), lock("b2")]));
    let Action::Start(start) = action(r#""action":"start","scope":"a/b","locks":["L2"],"reason":"r""#) else {
        panic!()
    };
    assert_eq!((start.scope.as_str(), start.locks), ("a/b", LockSet::Ids(vec![lock("b2")])));
    let Action::Grant(grant) = action(
        r#""action":"grant","scope":"a","expires_at":"2026-11-23T00:00:00Z","seen":{"epoch":"L1","size":18446744073709551615,"authority":7},"reason":"r""#,
    ) else {
        panic!()
    };
    assert_eq!(
        (grant.expires_at_ms, grant.seen),
        (1_795_392_000_000, Seen { epoch: lock("a1"), size: u64::MAX, authority: 7 })
    );
    assert_eq!(
        parse(&document(r#""scope":"a","reason":"r""#)).unwrap().deployment,
        Deployment { name: "demo".into(), genesis: lock("d0") }
    );
}

#[test]
fn every_action_of_a_role_has_a_name_and_a_side() {
    for kind in ActionKind::ALL {
        assert_eq!(ActionKind::parse(kind.name()), Some(kind));
    }
    let loosening: Vec<_> = ActionKind::ALL.into_iter().filter(|k| k.loosens()).collect();
    let giving = [ActionKind::Release, ActionKind::Start, ActionKind::Grant, ActionKind::Enroll];
    assert_eq!(loosening, [&giving[..], &[ActionKind::Authority]].concat());
    assert_eq!(ActionKind::parse("Stop"), None);
    let proposed: Vec<_> = ActionKind::ALL.into_iter().filter(|k| k.may_be_proposed()).collect();
    assert_eq!(proposed, giving);
    let named: Vec<_> = ActionKind::for_roles().collect();
    assert!(!named.contains(&ActionKind::Authority) && !named.contains(&ActionKind::Refuse));
    assert_eq!(named.len(), ActionKind::ALL.len() - 2);
    let of_no_guard: Vec<_> =
        ActionKind::ALL.into_iter().filter(|k| !k.loosens() && !k.tightens_guards()).collect();
    assert_eq!(of_no_guard, [ActionKind::Refuse]);
}

#[test]
fn each_misuse_has_its_sentence() {
    const ID: &str = r#""c-1""#;
    const AT: &str = r#""2026-11-22T15:00:00Z""#;
    let stop = document(r#""action":"stop","scope":"a","mode":"halt","reason":"r""#);
    let release = document(r#""action":"release","scope":"a","locks":["L1"],"reason":"r""#);
    let grant = document(
        r#""action":"grant","scope":"a","expires_at":"2026-11-23T00:00:00Z","seen":{"epoch":"L1","size":0,"authority":1},"reason":"r""#,
    );
    let restrict = document(r#""action":"restrict","scope":"a","reason":"r","case":"INC-4711""#);
    let throttle =
        document(r#""action":"throttle","scope":"a","limits":{"calls_per_minute":5},"reason":"r""#);
    let revoke = document(r#""action":"revoke","scope":"a","grants":["L1"],"reason":"r""#);
    let key = format!("\"{}\"", public_key(ALICE).to_openssh());
    let suspend = document(&format!(r#""action":"suspend","keys":[{key}],"reason":"r""#));
    let lock = format!("\"{}\"", "a1".repeat(32));
    let list = format!("[{lock}]");
    let at = "\"issued_at\" in the stop must be an RFC 3339 instant in UTC such as 2026-11-22T15:00:00Z";
    let deployment = "\"deployment\" must be name:<SHA-256 of the genesis, 64 hex digits>";
    let action = "\"action\" in the command must be one of stop, restrict, throttle, isolate, revoke, suspend, refuse, release, start, grant, enroll, authority";
    let drain = "\"drain_ms\" in the stop must be a whole number from 1 to 3600000";
    let strict = |what: &str| {
        format!(
            "the document is not strict JSON: invalid type: {what}, expected a JSON value without floats or negative numbers"
        )
    };
    let d0 = "d0".repeat(32);
    let table: Vec<(&str, &str, String, String)> = vec![
        // The document's form.
        (&stop, r#""tagout":1"#, r#""tagout":2"#.into(), "\"tagout\" in the command must be a whole number from 1 to 1".into()),
        (&stop, r#""tagout":1"#, r#""tagout":"1""#.into(), "\"tagout\" in the command must be a whole number from 1 to 1".into()),
        (&stop, r#""tagout":1,"#, "".into(), "the command has no \"tagout\"".into()),
        (&stop, r#""tagout":1"#, r#""tagout":1.0"#.into(), strict("floating point `1.0`") + " at line 1 column 13"),
        (&stop, r#""tagout":1"#, r#""tagout":-1"#.into(), strict("integer `-1`") + " at line 1 column 12"),
        (&stop, r#""reason":"r""#, r#""reason":"r","reason":"q""#.into(), format!("the document is not strict JSON: duplicate key \"reason\" at line 1 column {}", stop.len() + 8)),
        (&stop, r#""reason":"r""#, r#""reason":"r","\u0072eason":"q""#.into(), format!("the document is not strict JSON: duplicate key \"reason\" at line 1 column {}", stop.len() + 13)),
        (&stop, r#""reason":"r""#, r#""reason":"r","urgent":true"#.into(), "unknown key \"urgent\" in the stop; its keys are: tagout, action, deployment, id, issued_at, reason, scope, mode, case".into()),
        (&stop, "}", "} ".into(), String::new()),
        (&stop, "}", "} {}".into(), format!("the document is not strict JSON: trailing characters at line 1 column {}", stop.len() + 2)),
        // Names and times.
        (&stop, &d0, "d0".into(), deployment.into()),
        (&stop, &d0, d0.to_uppercase(), deployment.into()),
        (&stop, "demo:", "".into(), deployment.into()),
        (&stop, "demo:", "Demo:".into(), deployment.into()),
        (&stop, "demo:", ":".into(), deployment.into()),
        (&stop, "demo:", "demo:demo:".into(), deployment.into()),
        (&stop, ID, "\"\"".into(), "\"id\" in the stop must be text of 1 to 128 bytes without control characters".into()),
        (&stop, ID, "\"a b\"".into(), "\"id\" in the stop must be printable ASCII without spaces".into()),
        (&stop, ID, "\"\u{e9}\"".into(), "\"id\" in the stop must be printable ASCII without spaces".into()),
        (&stop, ID, "7".into(), "\"id\" in the stop must be text of 1 to 128 bytes without control characters".into()),
        (&stop, ID, format!("\"{}\"", "x".repeat(129)), "\"id\" in the stop must be text of 1 to 128 bytes without control characters".into()),
        (&stop, ID, format!("\"{}\"", "x".repeat(128)), String::new()),
        (&stop, AT, "\"2026-11-22T15:00:00.123456789Z\"".into(), String::new()),
        (&stop, AT, "\"2026-11-22T15:00:00+00:00\"".into(), String::new()),
        (&stop, AT, "\"2026-11-22T15:00:00+01:00\"".into(), at.into()),
        (&stop, AT, "\"2026-11-22T15:00:00\"".into(), at.into()),
        (&stop, AT, "\"2026-11-22\"".into(), at.into()),
        (&stop, AT, "\"2026-02-30T15:00:00Z\"".into(), at.into()),
        (&stop, AT, "\"1969-11-22T15:00:00Z\"".into(), at.into()),
        (&stop, AT, "1795359600".into(), at.into()),
        (&stop, r#","issued_at":"2026-11-22T15:00:00Z""#, "".into(), "the stop has no \"issued_at\"".into()),
        // Actions.
        (&stop, r#""stop""#, r#""STOP""#.into(), action.into()),
        (&stop, r#""stop""#, "null".into(), "\"action\" in the command must be text of 1 to 16 bytes without control characters".into()),
        // A stop.
        (&stop, r#""scope":"a""#, r#""scope":"""#.into(), "a scope is empty; write a path such as moltbook/support/agent_22, or * for the whole fleet".into()),
        (&stop, r#""scope":"a""#, r#""scope":"a//b""#.into(), "scope \"a//b\" has an empty segment; use single slashes between segments and none at the ends".into()),
        (&stop, r#""scope":"a""#, r#""scope":"a/*""#.into(), "scope \"a/*\" may hold only A-Z a-z 0-9 . _ - between its slashes (* stands alone for the fleet)".into()),
        (&stop, r#""scope":"a""#, r#""scope":["a"]"#.into(), "\"scope\" in the stop must be a scope, as text".into()),
        (&stop, r#""scope":"a","#, "".into(), "the stop has no \"scope\"".into()),
        (&stop, r#""scope":"a""#, r#""scope":"a","agent_id":"a""#.into(), "unknown key \"scope\" in the stop; its keys are: tagout, action, deployment, id, issued_at, reason, agent_id, mode, case".into()),
        (&stop, r#""halt""#, r#""kill""#.into(), "\"mode\" in the stop must be halt, drain (with drain_ms) or pause".into()),
        (&stop, r#""halt""#, r#""drain""#.into(), "the stop has no \"drain_ms\"".into()),
        (&stop, r#""halt""#, r#""drain","drain_ms":0"#.into(), drain.into()),
        (&stop, r#""halt""#, r#""drain","drain_ms":3600001"#.into(), drain.into()),
        (&stop, r#""halt""#, r#""drain","drain_ms":"5""#.into(), drain.into()),
        (&stop, r#""halt""#, r#""halt","drain_ms":5"#.into(), "unknown key \"drain_ms\" in the stop; its keys are: tagout, action, deployment, id, issued_at, reason, scope, mode, case".into()),
        (&stop, r#","reason":"r""#, "".into(), "the stop has no \"reason\"".into()),
        (&stop, r#""reason":"r""#, r#""reason":"two\nlines""#.into(), "\"reason\" in the stop must be text of 1 to 1024 bytes without control characters".into()),
        (&stop, r#""reason":"r""#, format!(r#""reason":"{}""#, "x".repeat(1025)), "\"reason\" in the stop must be text of 1 to 1024 bytes without control characters".into()),
        (&stop, r#""reason":"r""#, r#""reason":"r","case":"""#.into(), "\"case\" in the stop must be text of 1 to 128 bytes without control characters".into()),
        // A release or a start.
        (&release, &lock, "".into(), "\"locks\" in the release must be a list of 1 to 400 texts".into()),
        (&release, &lock, format!("{lock},{lock}"), format!("\"locks\" in the release must be a list without repetitions ({} stands twice)", "a1".repeat(32))),
        (&release, &lock, "\"a1\"".into(), "\"locks\" in the release must be a list of SHA-256 values, 64 hex digits each".into()),
        (&release, &lock, "1".into(), "\"locks\" in the release must be a list of texts".into()),
        (&release, r#""locks""#, r#""lock""#.into(), "the release has no \"locks\"".into()),
        (&release, r#""scope""#, r#""agent_id""#.into(), "the release has no \"scope\"".into()),
        (&release, r#""reason""#, r#""mode":"halt","reason""#.into(), "unknown key \"mode\" in the release; its keys are: tagout, action, deployment, id, issued_at, reason, scope, locks, lost_from".into()),
        (&release, r#""release""#, r#""start""#.into(), String::new()),
        (&release, r#""reason""#, r#""lost_from":7,"reason""#.into(), String::new()),
        // Many locks by their root.
        (&release, &list, format!(r#"{{"count":1,"root":{lock},"before":1}}"#), String::new()),
        (&release, &list, format!(r#"{{"count":100000,"root":{lock},"before":9,"by":"bot"}}"#), String::new()),
        (&release, &list, format!(r#"{{"count":0,"root":{lock},"before":1}}"#), "\"count\" in \"locks\" of the release must be a whole number from 1 to 100000".into()),
        (&release, &list, format!(r#"{{"count":100001,"root":{lock},"before":1}}"#), "\"count\" in \"locks\" of the release must be a whole number from 1 to 100000".into()),
        (&release, &list, r#"{"count":1,"before":1}"#.into(), "\"locks\" of the release has no \"root\"".into()),
        (&release, &list, format!(r#"{{"count":1,"root":{lock}}}"#), "\"locks\" of the release has no \"before\"".into()),
        (&release, &list, format!(r#"{{"count":1,"root":{lock},"before":1,"by":"Bot"}}"#), "\"by\" in \"locks\" of the release must be a name of a-z 0-9 . _ -".into()),
        (&release, &list, format!(r#"{{"count":1,"root":{lock},"before":1,"ids":[]}}"#), "unknown key \"ids\" in \"locks\" of the release; its keys are: count, root, before, by".into()),
        (&release, r#""reason""#, r#""lost_from":"7","reason""#.into(), "\"lost_from\" in the release must be a whole number from 0 to 18446744073709551615".into()),
        // What else takes away.
        (&restrict, r#""restrict""#, r#""isolate""#.into(), String::new()),
        (&restrict, r#""reason""#, r#""mode":"halt","reason""#.into(), "unknown key \"mode\" in the restrict; its keys are: tagout, action, deployment, id, issued_at, reason, scope, case".into()),
        (&restrict, r#""restrict""#, r#""throttle""#.into(), "the throttle has no \"limits\"".into()),
        (&throttle, r#""calls_per_minute":5"#, r#""calls_per_minute":0,"tokens_per_minute":1000000000000"#.into(), String::new()),
        (&throttle, r#""calls_per_minute":5"#, r#""tokens_per_minute":1000000000001"#.into(), "\"tokens_per_minute\" in \"limits\" of the throttle must be a whole number from 0 to 1000000000000".into()),
        (&throttle, r#""calls_per_minute":5"#, "".into(), "\"limits\" of the throttle has no \"calls_per_minute\"".into()),
        (&throttle, r#""calls_per_minute":5"#, r#""calls_per_minute":null"#.into(), "\"calls_per_minute\" in \"limits\" of the throttle must be a whole number from 0 to 1000000000000".into()),
        (&throttle, r#""calls_per_minute":5"#, r#""calls_per_minute":5,"calls_per_hour":5"#.into(), "unknown key \"calls_per_hour\" in \"limits\" of the throttle; its keys are: calls_per_minute, tokens_per_minute".into()),
        (&revoke, &lock, "".into(), "\"grants\" in the revoke must be a list of 1 to 400 texts".into()),
        (&revoke, &lock, format!("{lock},{lock}"), format!("\"grants\" in the revoke must be a list without repetitions ({} stands twice)", "a1".repeat(32))),
        (&revoke, r#""grants""#, r#""locks""#.into(), "the revoke has no \"grants\"".into()),
        (&suspend, &key, "".into(), "\"keys\" in the suspend must be a list of 1 to 64 texts".into()),
        (&suspend, &key, format!("{key},{key}"), format!("\"keys\" in the suspend must be a list without repetitions ({} stands twice)", public_key(ALICE).fingerprint())),
        (&suspend, r#""reason""#, r#""scope":"*","reason""#.into(), "unknown key \"scope\" in the suspend; its keys are: tagout, action, deployment, id, issued_at, reason, keys, case".into()),
        // A grant.
        (&grant, r#""2026-11-23T00:00:00Z""#, r#""tomorrow""#.into(), "\"expires_at\" in the grant must be an RFC 3339 instant in UTC such as 2026-11-22T15:00:00Z".into()),
        (&grant, r#","size":0"#, "".into(), "\"seen\" of the grant has no \"size\"".into()),
        (&grant, r#","size":0"#, r#","size":0,"root":1"#.into(), "unknown key \"root\" in \"seen\" of the grant; its keys are: epoch, size, authority".into()),
        (&grant, r#""size":0"#, r#""size":18446744073709551616"#.into(), String::from("floating point")),
        (&grant, r#"{"epoch""#, r#"["epoch""#.into(), String::from("not strict JSON")),
        (&grant, r#","authority":1"#, "".into(), "\"seen\" of the grant has no \"authority\"".into()),
        (&grant, r#""authority":1"#, r#""authority":0"#.into(), "\"authority\" in \"seen\" of the grant must be a whole number from 1 to 4096".into()),
        (&grant, r#""reason""#, r#""essential":["handover","alarm-2"],"limits":{"tokens_per_minute":9},"reason""#.into(), String::new()),
        (&grant, r#""reason""#, r#""limits":{},"reason""#.into(), "\"limits\" of the grant has no \"calls_per_minute\"".into()),
        (&grant, &lock, "\"A1\"".into(), "\"epoch\" in \"seen\" of the grant must be a SHA-256 as 64 lowercase hex digits".into()),
    ];
    for (base, from, to, says) in table {
        assert!(base.contains(from), "{from} is not in {base}");
        let changed = if from == "}" {
            format!("{}{to}", &base[..base.len() - 1])
        } else {
            base.replacen(from, &to, 1)
        };
        match parse(&changed) {
            Ok(_) => assert_eq!(says, "", "accepted: {changed}"),
            Err(error) if says == "floating point" || says == "not strict JSON" => {
                assert!(error.contains(&says), "{error}");
            }
            Err(error) => assert_eq!(error, says, "{changed}"),
        }
    }
    assert_eq!(parse("[]").unwrap_err(), "the document is not strict JSON: it must be one object, in braces");
    assert_eq!(
        Command::parse(b"{\"\xff\":1}").unwrap_err().to_string(),
        "the document is not strict JSON: it is not UTF-8 at byte 2"
    );
    let deep = document(&format!(r#""scope":{}"#, "[".repeat(40) + &"]".repeat(40)));
    assert!(parse(&deep).unwrap_err().contains("nested deeper than 8 levels"));
}

#[test]
fn sizes_are_bounded_to_the_byte() {
    // White space is what a signer may pad with.
    let pad = |document: String, len: usize| format!("{document}{}", " ".repeat(len - document.len()));
    let stop = document(r#""action":"stop","scope":"a","mode":"halt","reason":"r""#);
    assert!(parse(&pad(stop.clone(), STOP_MAX_BYTES)).is_ok());
    assert_eq!(
        parse(&pad(stop, STOP_MAX_BYTES + 1)).unwrap_err(),
        "the document has 4097 bytes, at most 4096 are allowed for a stop: shorten it"
    );
    let locks = |n: usize| (0..n).map(|i| format!("\"{i:064x}\"")).collect::<Vec<_>>().join(",");
    let release = |n: usize| {
        document(&format!(r#""action":"release","scope":"a","locks":[{}],"reason":"r""#, locks(n)))
    };
    assert!(parse(&pad(release(LOCK_IDS_MAX), COMMAND_MAX_BYTES)).is_ok());
    assert_eq!(
        parse(&release(LOCK_IDS_MAX + 1)).unwrap_err(),
        "\"locks\" in the release must be a list of 1 to 400 texts"
    );
    assert_eq!(
        parse(&pad(release(1), COMMAND_MAX_BYTES + 1)).unwrap_err(),
        "the document has 32769 bytes, at most 32768 are allowed for a command: shorten it"
    );
}
