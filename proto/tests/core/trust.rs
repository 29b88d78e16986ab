//! Trust: how authorities follow one another, what keys can lose, and that no consent comes back from the dead (S5).
//!
//! `World::propose` has a guard follow every document: it must come to the same trust as the ledger.

use serde_json::{Value, json};
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{LockStatus, Refusal};
use tagout_proto::rule::Verdict::{Denied, Enabled};
use tagout_proto::sshsig::PublicKey;
use tagout_proto::trust::{GrantRefused, Learned, TrustError};

use crate::support::*;
use crate::token::Token;

const NEW: [u8; 3] = [41, 42, 43];
const DAY_MS: u64 = 86_400_000;

fn key(who: u8) -> Value {
    public_key(who).to_openssh().into()
}

fn trust_error<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> TrustError {
    match answer {
        Err(Refusal::Trust(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Gives `person` (by place in the document) these keys and no others.
fn keys(person: usize, keys: &[u8]) -> impl Fn(&mut Value) + '_ {
    move |next| next["principals"][person]["keys"] = keys.iter().map(|k| key(*k)).collect()
}

#[test]
fn s5_versions_follow_without_a_gap_each_naming_the_one_before() {
    let mut world = World::running();
    let first = genesis().digest();
    let gap = trust_error(world.succeed(|next| next["version"] = 3.into()));
    assert_eq!(gap, TrustError::VersionGap { found: 3, needed: 2 });
    assert_eq!(
        gap.to_string(),
        "it is version 3 of the authority, and version 2 is next: versions follow without a gap"
    );
    let previous = tagout_proto::digest::Digest([7; 32]);
    let other = trust_error(world.succeed(|next| next["previous"] = previous.to_string().into()));
    assert_eq!(other, TrustError::OtherPredecessor { previous, ours: first });
    let elsewhere = world.succeed(|next| next["deployment"] = format!("prod:{first}").into());
    assert!(matches!(elsewhere, Err(Refusal::WrongDeployment { .. })));
    // A second genesis, signed by the very same root keys, is another deployment's.
    let mut genesis_too = genesis_json();
    genesis_too["limits"]["ttl_ms"] = 5_000.into();
    let genesis_too = envelope(genesis_too.to_string(), &[ROOT_1, ROOT_2]);
    assert!(matches!(world.send(genesis_too), Err(Refusal::WrongDeployment { .. })));

    let second = envelope(world.successor(|next| next["limits"]["ttl_ms"] = 5_000.into()), &[ROOT_1, ROOT_3]);
    let rival = envelope(world.successor(|next| next["limits"]["ttl_ms"] = 6_000.into()), &[ROOT_1, ROOT_3]);
    let receipt = world.send(second.clone()).unwrap();
    assert_eq!(world.ledger.authority().unwrap().limits.ttl_ms, 5_000);
    assert_eq!(world.ledger.trust_entries(), [0, receipt.index]);
    assert_eq!(trust_error(world.send(rival)), TrustError::VersionGap { found: 2, needed: 3 });
    let again = world.send(second.clone()).unwrap();
    assert_eq!((again.index, again.repeated), (receipt.index, true));
    assert_eq!(world.guard.learn(&second), Ok(Learned::Nothing));
    assert_eq!(world.guard.learn(&genesis()), Ok(Learned::Nothing));
    world.succeed(|_| ()).unwrap();
    assert_eq!(world.ledger.authority().unwrap().version, 3);
    assert_eq!(world.verdict("a"), Enabled, "nobody has lost anything");
}

#[test]
fn s5_an_authority_takes_the_root_thresholds_of_both_versions() {
    let mut world = World::running();
    let next = world.successor(|next| {
        let signers = NEW.map(|who| json!({"name": format!("new-{who}"), "key": key(who)}));
        next["root"] = json!({"threshold": 2, "signers": signers});
    });
    for (who, version) in [
        (&[ROOT_1, ROOT_2, ROOT_3][..], 2),
        (&NEW[..], 1),
        (&[ROOT_1, NEW[0], NEW[1]], 1),
        (&[ROOT_1, ROOT_1, NEW[0], NEW[1]], 1),
        (&[ROOT_1, ROOT_2, NEW[0], NEW[0]], 2),
        (&[ALICE, BOB, CAROL], 1),
    ] {
        let error = trust_error(world.send(envelope(&*next, who)));
        assert!(error.to_string().contains(&format!("of the root of version {version};")), "{error}");
    }
    world.send(envelope(next, &[ROOT_1, ROOT_2, NEW[1], NEW[2]])).unwrap();
    // From here on the old root is nobody.
    assert!(world.succeed(|_| ()).is_err());
    let next = world.successor(|_| ());
    world.send(envelope(next, &NEW[..2])).unwrap();
}

#[test]
fn s5_a_key_that_left_never_returns_under_any_name_kind_or_role() {
    let mut world = World::running();
    world.succeed(keys(0, &[ALICE])).unwrap();
    let alias = Token::of(ALICE_TOO).public_key();
    assert_eq!(alias.raw(), public_key(ALICE_TOO).raw());
    let back =
        |owner: &str, key: &PublicKey| TrustError::KeyReturns { key: key.fingerprint(), owner: owner.into() };
    let plain = public_key(ALICE_TOO);
    assert_eq!(trust_error(world.succeed(keys(0, &[ALICE, ALICE_TOO]))), back("alice", &plain));
    assert_eq!(trust_error(world.succeed(keys(1, &[BOB, ALICE_TOO]))), back("bob", &plain));
    let sk = world.succeed(|next| next["principals"][0]["keys"] = json!([key(ALICE), alias.to_openssh()]));
    assert_eq!(trust_error(sk), back("alice", &alias));
    let root = world.succeed(|next| next["root"]["signers"][2]["key"] = key(ALICE_TOO));
    assert_eq!(trust_error(root), back("root-3", &plain));
    // A root signer's key that left is as gone as any other.
    world.succeed(|next| next["root"]["signers"][2]["key"] = key(NEW[0])).unwrap();
    assert_eq!(trust_error(world.succeed(keys(1, &[BOB, ROOT_3]))), back("bob", &public_key(ROOT_3)));
    let root = world.succeed(|next| next["root"]["signers"][2]["key"] = key(ROOT_3));
    assert_eq!(trust_error(root), back("root-3", &public_key(ROOT_3)));
    world.succeed(keys(0, &[ALICE, NEW[1]])).unwrap();
}

#[test]
fn s5_a_suspended_key_never_returns_and_signs_nothing_more() {
    let mut world = World::running();
    world.suspend(&[public_key(BOB)], &[BOT]).unwrap();
    let stop = world.document("stop", "a", json!({"mode": "halt"}));
    let refusal = world.send(envelope(&*stop, &[BOB])).unwrap_err().to_string();
    assert!(refusal.contains("is suspended for good; its owner needs a new one"), "{refusal}");
    world.send(envelope(stop, &[ALICE, BOB])).unwrap();
    // Every next version must let go of it, and may give its owner another.
    let returns =
        |owner: &str, key: &PublicKey| TrustError::KeyReturns { key: key.fingerprint(), owner: owner.into() };
    let stays = trust_error(world.succeed(|_| ()));
    let key_of_bob = public_key(BOB).fingerprint();
    assert_eq!(stays, TrustError::KeyStays { key: key_of_bob.clone(), owner: "bob".into() });
    let line = format!("`tagout authority propose --remove-key {key_of_bob} --add-key bob=NEW.pub`");
    assert!(stays.to_string().contains(&line), "{stays}");
    let alias = Token::of(BOB).public_key();
    let sk = world.succeed(|next| next["principals"][1]["keys"] = json!([alias.to_openssh()]));
    assert_eq!(trust_error(sk), returns("bob", &alias));
    let root = world.succeed(|next| {
        next["principals"][1]["keys"] = json!([key(NEW[0])]);
        next["root"]["signers"][2]["key"] = key(BOB);
    });
    assert_eq!(trust_error(root), returns("root-3", &public_key(BOB)));
    world.succeed(keys(1, &[NEW[0]])).unwrap();
    world.command("stop", "a", json!({"mode": "halt"}), &[NEW[0]]).unwrap();
}

#[test]
fn a_suspend_takes_a_role_on_the_fleet_and_never_a_root_key() {
    let mut genesis = genesis_json();
    genesis["roles"][3]["actions"] = json!(["stop", "suspend", "release", "start", "grant"]);
    let mut world = World::of(envelope(genesis.to_string(), &[ROOT_1, ROOT_2]));
    let stranger = [public_key(STRANGER)];
    let refusal = world.suspend(&stranger, &[DORA]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "dora may not suspend *: that takes 1 of alice, bob, bot (role \"wardens\")"
    );
    let root = trust_error(world.suspend(&[public_key(STRANGER), public_key(ROOT_2)], &[ALICE]));
    assert_eq!(root, TrustError::RootKey(public_key(ROOT_2).fingerprint()));
    let alias = trust_error(world.suspend(&[Token::of(ROOT_2).public_key()], &[ALICE]));
    assert!(matches!(alias, TrustError::RootKey(_)), "the same curve point is the same key");
    // One that no authority names yet is remembered, under all its names.
    world.suspend(&stranger, &[ALICE]).unwrap();
    let sk = Token::of(STRANGER).public_key().to_openssh();
    let next = world.succeed(|next| next["principals"][1]["keys"] = json!([key(BOB), sk]));
    assert!(matches!(trust_error(next), TrustError::KeyReturns { .. }));
    // A second suspend of it is in the log too, and takes nothing more away.
    assert!(!world.suspend(&stranger, &[BOT]).unwrap().repeated);
}

#[test]
fn a_suspend_voids_the_grants_that_miss_its_signer_and_no_others() {
    let mut world = World::new();
    let until = T0 + DAY_MS;
    let by = |world: &mut World, on: &str, who: &[u8]| {
        let unsigned = world.grant_document(on, until).document;
        world.send(envelope(unsigned, who)).unwrap().digest
    };
    let (two, three) = (by(&mut world, "a", &[BOB, CAROL]), by(&mut world, "b", &[ALICE, BOB, CAROL]));
    let at = world.suspend(&[public_key(BOB)], &[BOT]).unwrap().index;
    assert_eq!((world.ledger.void_since(&two), world.ledger.void_since(&three)), (Some(at), None));
    assert_eq!((world.verdict("a"), world.verdict("b")), (Denied, Enabled));
    let at = world.suspend(&[public_key(CAROL)], &[BOT]).unwrap().index;
    assert_eq!((world.verdict("b"), world.ledger.void_since(&three)), (Denied, Some(at)));
    world.restart();
    assert_eq!((world.verdict("a"), world.verdict("b")), (Denied, Denied));
}

/// Zombie consent: whatever a later version gives back, a grant that was void once is void for ever, for the node that
/// held it, for one that sees it for the first time, and for every guard.
#[test]
fn s5_zombie_consent_stays_dead_after_everybody_is_reinstated() {
    type Change = fn(&mut Value);
    let table: [(&str, Change, Change); 6] = [
        (
            "the threshold was higher for a while",
            |next| next["roles"][2]["threshold"] = 3.into(),
            |next| next["roles"][2]["threshold"] = 2.into(),
        ),
        (
            "a signer was out of the role for a while",
            |next| next["roles"][2]["principals"] = json!(["alice", "bob"]),
            |next| next["roles"][2]["principals"] = json!(["alice", "bob", "carol"]),
        ),
        (
            "the role was narrower for a while",
            |next| next["roles"][2]["scopes"] = json!(["b"]),
            |next| next["roles"][2]["scopes"] = json!(["*"]),
        ),
        (
            "the role could not grant for a while",
            |next| next["roles"][2]["actions"] = json!(["release", "start"]),
            |next| next["roles"][2]["actions"] = json!(["release", "start", "grant"]),
        ),
        (
            "the role asked for a touch for a while",
            |next| next["roles"][2]["presence"] = true.into(),
            |next| next["roles"][2]["presence"] = false.into(),
        ),
        (
            "a signer was another kind of principal for a while",
            |next| {
                next["principals"][2]["kind"] = "automation".into();
                next["roles"][2]["principals"] = json!(["alice", "bob"]);
            },
            |next| {
                next["principals"][2]["kind"] = "person".into();
                next["roles"][2]["principals"] = json!(["alice", "bob", "carol"]);
            },
        ),
    ];
    for (why, take, give_back) in table {
        let mut world = World::new();
        let (held, late) = (world.grant_document("a", T0 + DAY_MS), world.grant_document("a", T0 + DAY_MS));
        world.send(held.clone()).unwrap();
        assert_eq!(world.verdict("a"), Enabled);
        let voided = world.succeed(take).unwrap().index;
        assert_eq!(world.verdict("a"), Denied, "{why}");
        assert_eq!(world.ledger.void_since(&held.digest()), Some(voided), "{why}");
        world.succeed(give_back).unwrap();
        for again in [&held, &late] {
            assert!(world.send(again.clone()).is_err(), "{why}");
            assert!(matches!(world.guard.judge_grant(again), Err(GrantRefused::Voided { version: 2, .. })));
        }
        world.restart();
        assert_eq!(world.verdict("a"), Denied, "{why}");
        world.grant("a", T0 + DAY_MS).unwrap();
        assert_eq!(world.verdict("a"), Enabled, "{why}: a new one counts");
    }
}

#[test]
fn s5_zombie_consent_stays_dead_after_its_signer_got_a_new_key() {
    let mut world = World::running();
    let (held, late) = (world.grant_document("a", T0 + DAY_MS), world.grant_document("a", T0 + DAY_MS));
    world.send(held.clone()).unwrap();
    world.suspend(&[public_key(BOB)], &[BOT]).unwrap();
    world.succeed(keys(1, &[NEW[0]])).unwrap();
    let newly_signed = Envelope {
        signatures: vec![sign(NEW[0], &held.document), sign(CAROL, &held.document)],
        ..held.clone()
    };
    for dead in [held, late, newly_signed] {
        assert!(world.send(dead.clone()).is_err());
        assert!(world.guard.judge_grant(&dead).is_err());
    }
    assert_eq!(world.verdict("a"), Denied);
}

#[test]
fn s5_signers_who_saw_an_older_authority_consent_under_every_one_since() {
    let mut world = World::new();
    let before = world.grant_document("a", T0 + DAY_MS);
    world.succeed(|next| next["roles"][2]["threshold"] = 3.into()).unwrap();
    let refusal = world.send(before).unwrap_err();
    assert!(matches!(refusal, Refusal::VoidBefore { version: 2, .. }), "{refusal}");
    let after = world.grant_document("a", T0 + DAY_MS).document;
    assert!(world.send(envelope(&*after, &[BOB, CAROL])).is_err());
    world.send(envelope(after, &[ALICE, BOB, CAROL])).unwrap();
    // And nobody has seen an authority that is not there yet.
    let seen = json!({"epoch": world.ledger.epoch().id, "size": 0, "authority": 3});
    let more = json!({"expires_at": "2027-01-01T00:00:00Z", "seen": seen});
    let ahead = world.command("grant", "a", more, &[ALICE, BOB, CAROL]);
    assert_eq!(ahead, Err(Refusal::AuthorityAhead { theirs: 3, ours: 2 }));
}

#[test]
fn s5_a_retired_key_counts_on_the_listed_grants_and_never_on_more() {
    let mut world = World::new();
    let (kept, lost) =
        (world.grant("a", T0 + DAY_MS).unwrap().digest, world.grant("b", T0 + DAY_MS).unwrap().digest);
    let late = world.grant_document("a", T0 + DAY_MS);
    let retired = |grants: &[tagout_proto::digest::Digest], principal: &str| json!([{"key": key(BOB), "principal": principal, "grants": grants}]);
    let not_retirable = |answer| matches!(trust_error(answer), TrustError::NotRetirable { .. });
    let not_hers = world.succeed(|next| {
        keys(1, &[NEW[0]])(next);
        next["retired"] = retired(&[kept], "carol");
    });
    assert!(not_retirable(not_hers));
    let still_his = world.succeed(|next| next["retired"] = retired(&[kept], "bob"));
    assert!(still_his.unwrap_err().to_string().contains("every key has one owner"));
    world
        .succeed(|next| {
            keys(1, &[NEW[0]])(next);
            next["retired"] = retired(&[kept], "bob");
        })
        .unwrap();
    assert_eq!((world.verdict("a"), world.verdict("b")), (Enabled, Denied));
    assert!(world.ledger.void_since(&lost).is_some());
    assert!(world.send(late).is_err(), "a listed key signs nothing that is not listed");
    assert!(world.command("stop", "a", json!({"mode": "halt"}), &[BOB]).is_err());
    // It may be listed on, but for nothing more; and once it is not, never again.
    assert!(not_retirable(world.succeed(|next| next["retired"] = retired(&[kept, lost], "bob"))));
    world.succeed(|next| next["retired"] = retired(&[kept], "bob")).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
    world.succeed(|next| drop(next.as_object_mut().unwrap().remove("retired"))).unwrap();
    assert_eq!(world.verdict("a"), Denied);
    assert!(not_retirable(world.succeed(|next| next["retired"] = retired(&[kept], "bob"))));
}

#[test]
fn a_suspended_key_cannot_be_retired() {
    let mut world = World::new();
    let grant = world.grant("a", T0 + DAY_MS).unwrap().digest;
    world.suspend(&[public_key(BOB)], &[BOT]).unwrap();
    let answer = world.succeed(|next| {
        keys(1, &[NEW[0]])(next);
        next["retired"] = json!([{"key": key(BOB), "principal": "bob", "grants": [grant]}]);
    });
    assert!(matches!(trust_error(answer), TrustError::NotRetirable { .. }));
}

#[test]
fn a_retired_key_that_is_suspended_goes_out_with_the_next_change() {
    let mut world = World::new();
    let grant = world.grant("a", T0 + DAY_MS).unwrap().digest;
    let retired = json!([{"key": key(BOB), "principal": "bob", "grants": [grant]}]);
    world
        .succeed(|next| {
            keys(1, &[NEW[0]])(next);
            next["retired"] = retired.clone();
        })
        .unwrap();
    world.suspend(&[public_key(BOB)], &[BOT]).unwrap();
    let stays = trust_error(world.succeed(|next| next["retired"] = retired.clone()));
    let key_of_bob = public_key(BOB).fingerprint();
    assert_eq!(stays, TrustError::RetiredStays { key: key_of_bob.clone(), owner: "bob".into() });
    let line = format!("`tagout authority propose --remove-key {key_of_bob}`");
    assert!(stays.to_string().contains(&line), "{stays}");
    world.succeed(|next| drop(next.as_object_mut().unwrap().remove("retired"))).unwrap();
}

#[test]
fn an_authority_says_how_many_agents_it_disables() {
    let mut world = World::new();
    for on in ["a", "a/x", "b"] {
        world.grant(on, T0 + DAY_MS).unwrap();
    }
    world.grant("b/gone", T0 + 1).unwrap();
    world.grant("c", T0 + 1).unwrap();
    let by_others = world.grant_document("b/x", T0 + DAY_MS).document;
    world.send(envelope(by_others, &[ALICE, BOB])).unwrap();
    world.now_ms += 1;
    // Without carol: all but b/x, which alice and bob consented to. What is below b lives by b's grant.
    let without_carol = |disables: u64| {
        move |next: &mut Value| {
            next["disables"] = disables.into();
            next["roles"][2]["principals"] = json!(["alice", "bob"]);
        }
    };
    let next =
        tagout_proto::authority::Authority::parse(world.successor(without_carol(0)).as_bytes()).unwrap();
    assert_eq!(world.ledger.disabled_by(&next, world.now_ms), ["a", "a/x", "b", "b/gone"].map(scope));
    let refusal = world.succeed(without_carol(3)).unwrap_err();
    assert_eq!(refusal, Refusal::DisablesMore { signed: 3, found: 4 });
    world.succeed(without_carol(4)).unwrap();
    assert_eq!(["a", "a/x", "b", "b/x"].map(|on| world.verdict(on)), [Denied, Denied, Denied, Enabled]);
}

#[test]
fn a_fresh_release_and_start_are_taken_once_their_signers_have_gone_and_not_before() {
    let mut world = World::running();
    let (ended, waves) = (world.stop("a", "halt"), world.stop("b", "drain"));
    world.release("*", &[ended, waves]).unwrap();
    world.start("a", &[ended]).unwrap();
    world.start("b/x", &[waves]).unwrap();
    assert_eq!(world.release("a", &[ended]), Err(Refusal::NoSuchLock(ended)));
    assert!(matches!(world.release("b", &[waves]), Err(Refusal::AlreadyReleased(..))));
    assert_eq!(world.start("a", &[ended]), Err(Refusal::NoSuchLock(ended)));

    world.suspend(&[public_key(BOB)], &[BOT]).unwrap();
    let fresh = |world: &mut World, action: &str, on: &str, lock| {
        world.command(action, on, json!({"locks": [lock]}), &[ALICE, CAROL]).map(|receipt| receipt.index)
    };
    // What is gone needs documents that every guard can use, so they are for its whole scope.
    let outside = |lock, on: &str, named: &str| {
        Err(Refusal::LockOutsideScope { lock, lock_scope: scope(on), scope: scope(named) })
    };
    assert_eq!(fresh(&mut world, "release", "a/x", ended), outside(ended, "a", "a/x"));
    assert_eq!(fresh(&mut world, "release", "b", ended), outside(ended, "a", "b"));
    assert_eq!(fresh(&mut world, "start", "a/x", ended), outside(ended, "a", "a/x"));
    let release = fresh(&mut world, "release", "a", ended).unwrap();
    let start = fresh(&mut world, "start", "a", ended).unwrap();
    assert_eq!(
        world.ledger.lock_status(&ended, &scope("a/x")),
        LockStatus::Cleared { placed: 2, release, start: Some(start) }
    );
    for action in ["release", "start"] {
        assert_eq!(fresh(&mut world, action, "a", ended), Err(Refusal::NoSuchLock(ended)), "one is enough");
    }
    let release = fresh(&mut world, "release", "b", waves).unwrap();
    let start = fresh(&mut world, "start", "b/x", waves).unwrap();
    assert_eq!(
        world.ledger.lock_status(&waves, &scope("b/x")),
        LockStatus::Cleared { placed: 3, release, start: Some(start) }
    );
    assert_eq!(world.ledger.lock_status(&waves, &scope("b/y")), LockStatus::Held);
    world.restart();
    assert_eq!(postcard::to_stdvec(&world.replayed()).unwrap(), postcard::to_stdvec(&world.ledger).unwrap());
}

#[test]
fn only_what_changes_trust_teaches_it() {
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    let error = world.guard.learn(&stop).unwrap_err();
    assert_eq!(error.to_string(), "it is a stop, which says nothing of whom to believe");
    for garbage in ["", "{}", "[]", "{\"restore\":1}"] {
        assert!(world.guard.learn(&envelope(garbage, &[ROOT_1, ROOT_2])).is_err(), "{garbage}");
    }
    assert!(world.guard.learn(&Envelope { signatures: vec![], ..stop }).is_err());
}
