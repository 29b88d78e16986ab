//! The classical mistakes of systems that count signatures, each with a test that bears its name. Those that belong to one
//! concept stand there: version gaps and zombie consent in `trust`, `sk-` without touch in `presence`, a start before the
//! release and a stop that races its release in `awaited`, stray bad signatures and one person with two keys in `authority`.

use data_encoding::BASE64;
use serde_json::{Value, json};
use tagout_proto::authority::Authority;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Refusal;
use tagout_proto::rule::Verdict::{Denied, Enabled};
use tagout_proto::sshsig::{PublicKey, SshSignature, SshsigError};

use crate::support::*;
use crate::token::Token;

fn genesis_error(change: impl FnOnce(&mut Value)) -> String {
    let mut genesis = genesis_json();
    change(&mut genesis);
    Authority::parse_genesis(&genesis.to_string()).unwrap_err().to_string()
}

#[test]
fn s5_duplicate_signatures_count_once() {
    let mut world = World::new();
    let document = world.grant_document("a", T0 + 86_400_000).document;
    for who in [&[ALICE, ALICE][..], &[ALICE, ALICE_TOO], &[ALICE, ALICE, ALICE_TOO, ALICE_TOO]] {
        let refusal = world.send(envelope(&*document, who)).unwrap_err().to_string();
        assert!(refusal.contains("takes 2 people of role \"consent\" and 1 signed"), "{refusal}");
    }
    // The same signature in another armor is the same signature.
    let signature = sign(ALICE, &document);
    let signatures = vec![signature.replace('\n', "\r\n"), signature];
    assert!(world.send(Envelope { document: document.clone(), signatures }).is_err());
    world.send(envelope(document, &[ALICE, ALICE, BOB])).unwrap();
}

#[test]
fn s5_aliased_keys_are_one_key_with_one_owner() {
    let alias = Token::of(ALICE).public_key().to_openssh();
    for owner in [0, 1] {
        let says = genesis_error(|g| {
            g["principals"][owner]["keys"].as_array_mut().unwrap().push(alias.clone().into())
        });
        assert!(says.starts_with("one key stands twice: for principal \"alice\""), "{says}");
    }
    let other_application = Token { application: "ssh:work", ..Token::of(ALICE) }.public_key();
    let says = genesis_error(|g| g["root"]["signers"][0]["key"] = other_application.to_openssh().into());
    assert!(says.starts_with("one key stands twice: for principal \"alice\" and for root signer"), "{says}");
    // An alias that no authority names is nobody's, though its owner could sign with it.
    let mut world = World::new();
    let document = world.grant_document("a", T0 + 86_400_000).document;
    let signatures = vec![sign(ALICE, &document), Token::of(BOB).sign(document.as_bytes())];
    assert!(matches!(world.send(Envelope { document, signatures }), Err(Refusal::Unauthorised(_))));
}

#[test]
fn s5_a_threshold_of_zero_is_invalid() {
    for (at, most) in [("/roles/2/threshold", 128), ("/root/threshold", 16)] {
        let says = genesis_error(|g| *g.pointer_mut(at).unwrap() = 0.into());
        assert!(says.ends_with(&format!("must be a whole number from 1 to {most}")), "{says}");
    }
    let says = genesis_error(|g| drop(g["roles"][2].as_object_mut().unwrap().remove("threshold")));
    assert!(says.ends_with("has no \"threshold\""), "{says}");
}

#[test]
fn s7_automation_in_a_loosening_role_makes_the_authority_invalid() {
    for action in ["release", "start", "grant", "enroll"] {
        let says = genesis_error(|g| {
            g["roles"].as_array_mut().unwrap().push(json!({
                "name": "auto", "principals": ["bot", "alice"], "actions": [action], "scopes": ["a"], "threshold": 2,
            }));
        });
        assert_eq!(
            says,
            "role \"auto\" can release, start, grant or enroll, and \"bot\" is automation: automation may only tighten"
        );
        // Nor by a later version.
        let mut world = World::new();
        let next = world.succeed(|next| {
            next["roles"][1]["actions"].as_array_mut().unwrap().push(action.into());
        });
        assert!(
            matches!(next, Err(Refusal::Malformed(text)) if text.contains("automation may only tighten"))
        );
    }
}

/// The blob of an armored signature, changed and armored again.
fn rearmored(armored: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let body: String = armored.lines().filter(|line| !line.starts_with('-')).collect();
    let mut blob = BASE64.decode(body.as_bytes()).unwrap();
    change(&mut blob);
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", BASE64.encode(&blob))
}

#[test]
fn s5_algorithm_confusion_the_key_decides_and_never_the_signature() {
    let armored = sign(ALICE, "x");
    // The signature's own name is the last `ssh-ed25519` in the blob.
    for name in [&b"ssh-ed25518"[..], b"ecdsa-sha2!", b"none-------"] {
        let confused = rearmored(&armored, |blob| {
            let at = blob.windows(11).rposition(|w| w == b"ssh-ed25519").unwrap();
            blob[at..at + 11].copy_from_slice(name);
        });
        let error = SshSignature::parse(&confused).unwrap_err();
        assert!(matches!(error, SshsigError::AlgorithmOfKey { key: "ssh-ed25519", .. }), "{error}");
    }
    // A plain signature under the token's name for the same curve point, and the other way round.
    let plain = sign(ALICE, "x");
    let token = Token::of(ALICE).sign(b"x");
    let (plain_blob, token_blob) = (public_key(ALICE).blob(), Token::of(ALICE).public_key().blob());
    for (armored, from, to) in [(&plain, &plain_blob, &token_blob), (&token, &token_blob, &plain_blob)] {
        let confused = rearmored(armored, |blob| {
            let at = blob.windows(from.len()).position(|w| w == &from[..]).unwrap();
            blob.splice(at - 4..at + from.len(), [&(to.len() as u32).to_be_bytes()[..], to].concat());
        });
        let error = SshSignature::parse(&confused).unwrap_err();
        assert!(matches!(error, SshsigError::AlgorithmOfKey { .. }), "{error}");
    }
}

#[test]
fn s5_small_order_keys_are_refused_wherever_a_key_is_read() {
    // The neutral element: "signatures" by it verify for any message, in a verifier that is not strict.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let weak = PublicKey::Ed25519(neutral);
    assert_eq!(PublicKey::parse_openssh(&weak.to_openssh()), Err(SshsigError::WeakKey));
    let line: Value = weak.to_openssh().into();
    let says = "one of Ed25519's weak points of small order and proves nothing";
    for at in ["/principals/0/keys/0", "/root/signers/0/key"] {
        let error = genesis_error(|g| *g.pointer_mut(at).unwrap() = line.clone());
        assert!(error.contains(says), "{error}");
    }
    let mut world = World::new();
    let refusal = world.suspend(&[weak], &[BOT]).unwrap_err();
    assert!(refusal.to_string().contains(says), "{refusal}");
}

#[test]
fn s2_a_grant_renewal_while_a_lock_is_on_enables_nothing() {
    for mode in ["halt", "drain", "pause"] {
        let mut world = World::running();
        let lock = world.stop("a", mode);
        world.now_ms += 120_000;
        let renew = |world: &mut World| world.grant("a", world.now_ms + 86_400_000).unwrap();
        renew(&mut world);
        assert_eq!(world.verdict("a"), Denied, "{mode}");
        world.release("a", &[lock]).unwrap();
        renew(&mut world);
        let expected = if mode == "pause" { Enabled } else { Denied };
        assert_eq!(world.verdict("a"), expected, "{mode}: released, and renewed after it");
    }
}

#[test]
fn s5_a_stray_bad_signature_neither_spoils_a_command_nor_helps_it() {
    let mut world = World::new();
    let document = world.grant_document("a", T0 + 86_400_000).document;
    let strays = ["".into(), "rubbish".into(), sign(STRANGER, &document), sign(CAROL, "another document")];
    let with = |good: &[u8]| Envelope {
        signatures: strays.iter().cloned().chain(good.iter().map(|who| sign(*who, &document))).collect(),
        document: document.clone(),
    };
    assert!(world.send(with(&[BOB])).is_err());
    world.send(with(&[BOB, CAROL])).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
    let mut stop = world.stop_document("a", "halt");
    stop.signatures.splice(0..0, strays.iter().cloned());
    world.send(stop).unwrap();
    assert_eq!(world.verdict("a"), Denied, "S10: a stop is taken whatever else hangs on it");
}
