//! Roles that ask for more than a key: that somebody touched it, or was known to it. `ssh-keygen -Y verify` asks neither.

use serde_json::json;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Receipt, Refusal};
use tagout_proto::rule::Verdict::{Denied, Enabled};

use crate::support::*;
use crate::token::{PIN, TOUCHED, Token};

const ALICES_TOKEN: u8 = 51;
const BOBS_TOKEN: u8 = 52;

/// Alice has a key in a file and one in a token, bob only a token. To give takes two, with what `asks` names.
fn world(asks: &str) -> World {
    let mut genesis = genesis_json();
    let token = |who| Token::of(who).public_key().to_openssh();
    genesis["principals"][0]["keys"] = json!([public_key(ALICE).to_openssh(), token(ALICES_TOKEN)]);
    genesis["principals"][1]["keys"] = json!([token(BOBS_TOKEN)]);
    genesis["roles"][2][asks] = true.into();
    World::of(envelope(genesis.to_string(), &[ROOT_1, ROOT_2]))
}

/// A grant with these signatures, by files and by tokens with flags.
fn grant(world: &mut World, files: &[u8], tokens: &[(u8, u8)]) -> Result<Receipt, Refusal> {
    let document = world.grant_document("a", T0 + 86_400_000).document;
    let by_files = files.iter().map(|who| sign(*who, &document));
    let by_tokens = (tokens.iter())
        .map(|(who, flags)| Token { flags: *flags, ..Token::of(*who) }.sign(document.as_bytes()));
    let signatures = by_files.chain(by_tokens).collect();
    world.send(Envelope { document, signatures })
}

#[test]
fn s5_an_sk_signature_without_touch_does_not_count_where_the_role_asks_for_one() {
    let mut world = world("presence");
    let refusal = grant(&mut world, &[], &[(ALICES_TOKEN, TOUCHED), (BOBS_TOKEN, 0)]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "grant a takes 2 people of role \"consent\" and 1 signed; missing: 1 more of bob, carol (the signature of bob \
         does not show the touch of a security key that this role asks for)"
    );
    assert!(grant(&mut world, &[], &[(ALICES_TOKEN, PIN), (BOBS_TOKEN, PIN)]).is_err(), "a PIN is no touch");
    assert_eq!(world.verdict("a"), Denied);
    grant(&mut world, &[], &[(ALICES_TOKEN, TOUCHED), (BOBS_TOKEN, TOUCHED | PIN)]).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
}

#[test]
fn s5_a_key_in_a_file_never_shows_a_touch() {
    let mut world = world("presence");
    let refusal = grant(&mut world, &[ALICE, CAROL], &[]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "grant a takes 2 people of role \"consent\" and 0 signed; missing: 2 more of alice, bob, carol (the signature of \
         alice, carol does not show the touch of a security key that this role asks for)"
    );
    // Where no role asks for it, it does as it is: anybody's key stops.
    world.command("stop", "a", json!({"mode": "halt"}), &[ALICE]).unwrap();
}

#[test]
fn s5_verification_asks_for_the_pin_or_finger() {
    let mut world = world("verification");
    let refusal =
        grant(&mut world, &[], &[(ALICES_TOKEN, TOUCHED | PIN), (BOBS_TOKEN, TOUCHED)]).unwrap_err();
    assert!(
        refusal.to_string().ends_with(
            "(the signature of bob does not show the PIN or finger on a security key that this role asks for)"
        ),
        "{refusal}"
    );
    grant(&mut world, &[], &[(ALICES_TOKEN, PIN), (BOBS_TOKEN, PIN)]).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
}

#[test]
fn s5_with_a_file_and_a_token_a_person_counts_once_and_shows_what_either_shows() {
    let mut world = world("presence");
    let alone = grant(&mut world, &[ALICE], &[(ALICES_TOKEN, TOUCHED)]).unwrap_err();
    assert!(alone.to_string().contains("and 1 signed; missing: 1 more of bob, carol"), "{alone}");
    for files_first in [true, false] {
        let document = world.grant_document("a", T0 + 86_400_000).document;
        let alices = [sign(ALICE, &document), Token::of(ALICES_TOKEN).sign(document.as_bytes())];
        let mut signatures = alices.to_vec();
        if !files_first {
            signatures.reverse();
        }
        signatures.push(Token::of(BOBS_TOKEN).sign(document.as_bytes()));
        world.send(Envelope { document, signatures }).unwrap();
    }
}

#[test]
fn s5_flags_changed_after_signing_prove_nothing() {
    let mut world = world("presence");
    let document = world.grant_document("a", T0 + 86_400_000).document;
    let untouched = Token { flags: 0, ..Token::of(BOBS_TOKEN) }.sign(document.as_bytes());
    let touched = Token::of(BOBS_TOKEN).sign(document.as_bytes());
    let blob = |armored: &str| {
        let body: String = armored.lines().filter(|line| !line.starts_with('-')).collect();
        data_encoding::BASE64.decode(body.as_bytes()).unwrap()
    };
    // The flags byte is the fifth from the end, before the counter.
    let mut forged = blob(&untouched);
    let at = forged.len() - 5;
    assert_eq!((forged[at], blob(&touched)[at]), (0, TOUCHED));
    forged[at] = TOUCHED;
    let forged = data_encoding::BASE64.encode(&forged);
    let forged = format!("-----BEGIN SSH SIGNATURE-----\n{forged}\n-----END SSH SIGNATURE-----\n");
    let alices = Token::of(ALICES_TOKEN).sign(document.as_bytes());
    let refusal = world.send(Envelope { document, signatures: vec![forged, alices] }).unwrap_err();
    assert!(matches!(refusal, Refusal::Unauthorised(_)), "{refusal}");
}
