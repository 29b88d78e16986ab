//! The authority: which documents are taken, and whose signatures count for what.

use serde_json::{Value, json};
use tagout_proto::authority::{Authority, AuthorityError, Unauthorised};
use tagout_proto::command::ActionKind;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::note::NoteSigner;

use crate::support::*;

fn authority() -> Authority {
    let genesis = genesis();
    Authority::genesis(&genesis, genesis.digest()).unwrap()
}

fn signed(document: &Value, who: &[u8]) -> Result<Authority, AuthorityError> {
    let genesis = envelope(document.to_string(), who);
    Authority::genesis(&genesis, genesis.digest())
}

#[test]
fn s5_only_the_pinned_genesis_is_taken() {
    let genesis = genesis();
    let authority = Authority::genesis(&genesis, genesis.digest()).unwrap();
    assert_eq!(authority.deployment.genesis, genesis.digest());
    assert_eq!(authority.deployment.to_string(), deployment());
    assert_eq!(authority.node("demo/node-1").map(|n| n.id), Some(1));
    assert!(authority.node("demo/node-2").is_none());
    // Signed by the very same root keys, and still another deployment.
    let other = envelope(format!("{} ", genesis.document), &[ROOT_1, ROOT_2]);
    let (found, pinned) = (other.digest(), genesis.digest());
    let error = Authority::genesis(&other, pinned).unwrap_err();
    assert_eq!(error, AuthorityError::NotThePinnedGenesis { found, pinned });
    assert_eq!(
        error.to_string(),
        format!(
            "the genesis has SHA-256 {found}, but {pinned} is pinned: this is not the deployment you trust"
        )
    );
}

#[test]
fn s5_the_genesis_takes_its_threshold_of_root_signers() {
    let document = genesis_json();
    for (who, missing) in [
        (&[ROOT_1][..], "root-2, root-3"),
        (&[ROOT_1, ROOT_1], "root-2, root-3"),
        (&[ALICE, BOB, CAROL, ROOT_3], "root-1, root-2"),
    ] {
        let error = signed(&document, who).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the authority has 1 of 2 signatures of the root of version 1; missing are signatures of {missing}"
            )
        );
    }
    let error = signed(&document, &[ALICE]).unwrap_err();
    assert_eq!(
        error,
        AuthorityError::RootThreshold {
            what: "authority",
            version: 1,
            have: 0,
            need: 2,
            missing: "root-1, root-2, root-3".into()
        }
    );
    assert!(signed(&document, &[]).unwrap_err().to_string().contains("has no signature"));
    for who in [&[ROOT_1, ROOT_3][..], &[ROOT_3, ROOT_2, ROOT_1], &[STRANGER, ROOT_1, ROOT_2]] {
        assert!(signed(&document, who).is_ok());
    }
    // Root signatures over another document prove nothing here.
    let mut forged = genesis();
    forged.document.push(' ');
    let pinned = forged.digest();
    assert!(matches!(
        Authority::genesis(&forged, pinned),
        Err(AuthorityError::RootThreshold { have: 0, .. })
    ));
}

#[test]
fn each_invalid_authority_has_its_sentence() {
    let key = |who| Value::from(public_key(who).to_openssh());
    let node = |id: u64, name: &str, seed: u8| json!({"id": id, "key": NoteSigner::new(name, &[seed; 32]).unwrap().verifier().to_string()});
    let twice = |first: &str, second: &str| {
        format!("one key stands twice: for {first} and for {second}; every key has one owner")
    };
    let set = |path: &'static str, value: Value| {
        move |document: &mut Value| *document.pointer_mut(path).unwrap() = value
    };
    let push = |path: &'static str, value: Value| {
        move |document: &mut Value| document.pointer_mut(path).unwrap().as_array_mut().unwrap().push(value)
    };
    // What a node signs with, as if a person held it.
    let node_key = tagout_proto::sshsig::PublicKey::Ed25519(node_signer().verifier().key).to_openssh();
    type Change = Box<dyn FnOnce(&mut Value)>;
    let table: Vec<(Change, String)> = vec![
        // S7
        (Box::new(push("/roles/2/principals", "bot".into())), "role \"consent\" can release, start, grant or enroll, and \"bot\" is automation: automation may only tighten".into()),
        (Box::new(push("/roles/0/actions", "start".into())), "role \"stoppers\" can release, start, grant or enroll, and \"bot\" is automation: automation may only tighten".into()),
        // One person, one key, one count.
        (Box::new(push("/principals/1/keys", key(ALICE))), twice("principal \"alice\"", "principal \"bob\"")),
        (Box::new(push("/principals/0/keys", key(ALICE))), twice("principal \"alice\"", "principal \"alice\"")),
        (Box::new(set("/root/signers/0/key", key(ALICE))), twice("principal \"alice\"", "root signer \"root-1\"")),
        (Box::new(set("/root/signers/0/key", key(ROOT_2))), twice("root signer \"root-1\"", "root signer \"root-2\"")),
        (Box::new(set("/principals/0/keys/0", node_key.into())), twice("principal \"alice\"", "node \"demo/node-1\"")),
        (Box::new(set("/principals/1/name", "alice".into())), "principal \"alice\" stands twice".into()),
        (Box::new(set("/roles/2/name", "team".into())), "role \"team\" stands twice".into()),
        (Box::new(set("/root/signers/1/name", "root-1".into())), "root signer \"root-1\" stands twice".into()),
        (Box::new(push("/nodes", node(2, "demo/node-1", 22))), "node \"demo/node-1\" stands twice".into()),
        (Box::new(push("/nodes", node(1, "demo/node-2", 22))), "two nodes have one id".into()),
        (Box::new(push("/nodes", node(2, "demo/node-2", 22))), "node \"demo/node-1\" has no \"address\": where there are several nodes, each tells the others where it is".into()),
        (Box::new(|d| d["nodes"][0]["address"] = "10.0.0.1".into()), "\"address\" in an item of \"nodes\" of the authority must be host:port: a DNS name in lower case or an IP address in its canonical form (IPv6 in brackets, no wildcard), and a port from 1 to 65535".into()),
        (Box::new(move |d| {
            d["nodes"].as_array_mut().unwrap().push(node(2, "demo/node-2", 22));
            (0..2).for_each(|n| d["nodes"][n]["address"] = "10.0.0.1:7471".into());
        }), "the address \"10.0.0.1:7471\" stands twice".into()),
        (Box::new(|d| d["nodes"][0]["learner"] = true.into()), "every node is a learner: one at least must vote".into()),
        (Box::new(|d| d["nodes"][0]["learner"] = false.into()), "\"learner\" in an item of \"nodes\" of the authority must be true, or left out".into()),
        (Box::new(push("/roles/2/principals", "alice".into())), "principal of a role \"alice\" stands twice".into()),
        // Thresholds.
        (Box::new(set("/roles/2/threshold", 0.into())), "\"threshold\" in an item of \"roles\" of the authority must be a whole number from 1 to 128".into()),
        (Box::new(set("/roles/2/threshold", 4.into())), "role \"consent\" needs 4 of 3 principals".into()),
        (Box::new(set("/root/threshold", 0.into())), "\"threshold\" in \"root\" of the authority must be a whole number from 1 to 16".into()),
        (Box::new(set("/root/threshold", 4.into())), "the root threshold is 4 of 3".into()),
        (Box::new(set("/roles/0/threshold", 2.into())), "role \"stoppers\" asks 2 signatures for tightening, which always takes one: give it a role of its own".into()),
        (Box::new(push("/roles/2/actions", "stop".into())), "role \"consent\" asks 2 signatures for tightening, which always takes one: give it a role of its own".into()),
        (Box::new(push("/roles/2/actions", "suspend".into())), "role \"consent\" asks 2 signatures for tightening, which always takes one: give it a role of its own".into()),
        // Fields.
        (Box::new(push("/roles/2/principals", "eve".into())), "role \"consent\" names \"eve\", who is no principal".into()),
        (Box::new(set("/roles/2/principals", json!([]))), "\"principals\" in an item of \"roles\" of the authority must be a list of 1 to 128 texts".into()),
        (Box::new(push("/roles/2/actions", "authority".into())), "\"actions\" in an item of \"roles\" of the authority must be some of: stop, restrict, throttle, isolate, revoke, suspend, release, start, grant, enroll".into()),
        (Box::new(push("/roles/2/scopes", "a//b".into())), "scope \"a//b\" has an empty segment; use single slashes between segments and none at the ends".into()),
        (Box::new(set("/principals/0/kind", "robot".into())), "\"kind\" in an item of \"principals\" of the authority must be person or automation".into()),
        (Box::new(set("/principals/0/name", "Alice".into())), "\"name\" in an item of \"principals\" of the authority must be a name of a-z 0-9 . _ -".into()),
        (Box::new(set("/principals/0/keys/0", "ssh-rsa AAAA".into())), "\"keys\" in an item of \"principals\" of the authority must be an OpenSSH public key line (the key is neither ssh-ed25519 nor sk-ssh-ed25519@openssh.com; make one with: ssh-keygen -t ed25519, or -t ed25519-sk in a FIDO2 token)".into()),
        (Box::new(set("/nodes/0/id", 0.into())), "\"id\" in an item of \"nodes\" of the authority must be a whole number from 1 to 18446744073709551615".into()),
        (Box::new(set("/nodes/0/key", "k+00000000+AAAA".into())), "\"key\" in an item of \"nodes\" of the authority must be a verifier key of a signed note (the verifier key is not name+keyid+base64 with an Ed25519 key that is no weak point)".into()),
        (Box::new(set("/limits/ttl_ms", 1999.into())), "\"ttl_ms\" in \"limits\" of the authority must be a whole number from 2000 to 60000".into()),
        (Box::new(set("/limits/ttl_ms", 60_001.into())), "\"ttl_ms\" in \"limits\" of the authority must be a whole number from 2000 to 60000".into()),
        (Box::new(set("/version", 2.into())), "\"deployment\" must be name:<SHA-256 of the genesis, 64 hex digits>".into()),
        (Box::new(set("/action", "grant".into())), "\"action\" in the authority must be authority".into()),
        (Box::new(|d| d["note"] = "x".into()), "unknown key \"note\" in the authority; its keys are: tagout, action, version, deployment, issued_at, principals, roles, root, nodes, limits, enrolment".into()),
        (Box::new(|d| d["limits"]["max"] = 1.into()), "unknown key \"max\" in \"limits\" of the authority; its keys are: ttl_ms, lapse_grace_ms".into()),
        (Box::new(|d| d["roles"][0]["touch"] = true.into()), "unknown key \"touch\" in an item of \"roles\" of the authority; its keys are: name, principals, actions, scopes, threshold, presence, verification".into()),
    ];
    for (change, says) in table {
        let mut document = genesis_json();
        change(&mut document);
        assert_eq!(signed(&document, &[ROOT_1, ROOT_2, ROOT_3]).unwrap_err().to_string(), says);
    }
    let long = format!("{}{}", genesis_json(), " ".repeat(32 * 1024));
    assert!(
        Authority::parse_genesis(&long)
            .unwrap_err()
            .to_string()
            .ends_with("at most 32768 are allowed for an authority: shorten it")
    );
}

fn authorise(action: ActionKind, on: &str, envelope: &Envelope) -> Result<(), Unauthorised> {
    let authority = authority();
    authority.authorise(action, &scope(on), &authority.signers(envelope))
}

#[test]
fn s5_one_person_counts_once_however_many_keys() {
    let authority = authority();
    let names = |who: &[u8]| authority.signers(&envelope("{}", who)).names();
    assert_eq!(names(&[ALICE, ALICE_TOO, BOB, ALICE]), ["alice", "bob"]);
    let signers = authority.signers(&envelope("{}", &[ALICE_TOO, ALICE]));
    assert_eq!(signers.refused, ["alice signed twice and counts once"]);
    assert_eq!(signers.valid[0].key, public_key(ALICE_TOO));
    let error = authorise(ActionKind::Release, "a", &envelope("{}", &[ALICE, ALICE_TOO, ALICE])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "release a takes 2 people of role \"consent\" and 1 signed; missing: 1 more of bob, carol"
    );
    assert_eq!(authorise(ActionKind::Release, "a", &envelope("{}", &[ALICE, ALICE_TOO, CAROL])), Ok(()));
}

#[test]
fn a_stray_bad_signature_spoils_nothing_and_proves_nothing() {
    let authority = authority();
    let mut envelope = envelope("{}", &[STRANGER, ROOT_1, ALICE]);
    let of_another_document = sign(BOB, "{ }");
    envelope.signatures.splice(0..0, ["rubbish".into(), of_another_document]);
    envelope.signatures.push(sign(BOB, "{}"));
    let signers = authority.signers(&envelope);
    assert_eq!(signers.names(), ["alice", "bob"], "a bad signature first does not use up bob's good one");
    assert_eq!(signers.refused.len(), 4);
    assert!(signers.refused[0].starts_with("the signature is not an armored SSH signature"));
    assert!(signers.refused[1].starts_with("bob: the signature does not fit the document and the key"));
    let stranger = public_key(STRANGER).fingerprint();
    let whose = format!("key {stranger} belongs to no principal of this deployment;");
    assert!(signers.refused[2].starts_with(&whose), "{}", signers.refused[2]);
    assert!(signers.refused[3].contains("belongs to no principal"), "a root key signs authorities only");
}

#[test]
fn roles_hold_on_their_scopes_for_their_actions() {
    use ActionKind::*;
    for (action, on, who, allowed) in [
        (Stop, "a/b", &[ALICE][..], true),
        (Stop, "*", &[BOT], true),
        (Stop, "a", &[CAROL], false),
        (Stop, "team", &[DORA], true),
        (Stop, "team/a", &[DORA], true),
        (Stop, "team2", &[DORA], false),
        (Stop, "*", &[DORA], false),
        (Release, "team/a", &[DORA], true),
        (Release, "*", &[DORA], false),
        (Grant, "*", &[ALICE, CAROL], true),
        (Grant, "*", &[ALICE, DORA], false),
        (Grant, "*", &[ALICE, BOT], false),
        (Start, "a", &[BOT], false),
        (Isolate, "a", &[BOB], true),
        (Suspend, "*", &[BOT], true),
        (Revoke, "team", &[DORA], false),
        (Suspend, "*", &[CAROL], false),
    ] {
        let answer = authorise(action, on, &envelope("{}", who));
        assert_eq!(answer.is_ok(), allowed, "{action} {on} by {who:?}: {answer:?}");
    }
    let says = |action, on, who: &[u8]| authorise(action, on, &envelope("{}", who)).unwrap_err().to_string();
    assert_eq!(
        says(Stop, "a", &[CAROL, DORA]),
        "carol, dora may not stop a: that takes 1 of alice, bob, bot (role \"stoppers\")"
    );
    assert_eq!(
        says(Start, "team", &[BOT]),
        "bot may not start team: that takes 2 of alice, bob, carol (role \"consent\"), or 1 of dora (role \"team\")"
    );
    let mut without_wardens = genesis_json();
    without_wardens["roles"].as_array_mut().unwrap().remove(1);
    let without_wardens = signed(&without_wardens, &[ROOT_1, ROOT_2]).unwrap();
    let signers = without_wardens.signers(&envelope("{}", &[ALICE]));
    assert_eq!(
        without_wardens.authorise(Isolate, &scope("a"), &signers).unwrap_err().to_string(),
        "alice may not isolate a: that takes a role that this authority does not have"
    );
    assert_eq!(
        says(Grant, "*", &[DORA, CAROL]),
        "grant * takes 2 people of role \"consent\" and 1 signed; missing: 1 more of alice, bob"
    );
    assert!(says(Stop, "a", &[STRANGER]).starts_with("no signature on it is valid: key SHA256:"));
}

#[test]
fn the_envelope_is_bounded() {
    let good = genesis();
    let with = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        envelope.check_bounds().map_err(|e| e.to_string())
    };
    assert_eq!(with(&|e| e.signatures.resize(16, "x".repeat(1024))), Ok(()));
    assert_eq!(
        with(&|e| e.signatures.resize(17, String::new())),
        Err("17 signatures were given, at most 16 are allowed".into())
    );
    assert_eq!(
        with(&|e| e.signatures.clear()),
        Err("the command has no signature; sign it with: ssh-keygen -Y sign -n tagout-command -f KEY FILE"
            .into())
    );
    assert!(
        with(&|e| e.signatures.push("x".repeat(1025)))
            .unwrap_err()
            .starts_with("a signature has 1025 bytes, at most 1024")
    );
    assert!(
        with(&|e| e.document = "x".repeat(32_769)).unwrap_err().starts_with("the document has 32769 bytes")
    );
    assert_eq!(good.digest(), Digest::of(good.document.as_bytes()));
}
