//! Proposals: loosening commands that collect signatures, and what ends them.

use serde_json::json;
use tagout_proto::authority::Unauthorised;
use tagout_proto::command::ActionKind;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Receipt, Refusal};
use tagout_proto::limits::{PROPOSAL_TTL_MS, PROPOSALS_MAX};
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::rule::Verdict::{Denied, Enabled};

use crate::support::*;

/// The same document with other signatures.
fn by(of: &Envelope, who: &[u8]) -> Envelope {
    envelope(of.document.clone(), who)
}

fn propose(world: &mut World, envelope: Envelope) -> Result<Receipt, Refusal> {
    world.propose(EntryKind::Proposal, envelope).answer
}

fn refuse(world: &mut World, on: &str, proposal: &Digest, who: &[u8]) -> Result<Receipt, Refusal> {
    world.command("refuse", on, json!({"proposal": proposal}), who)
}

#[test]
fn s7_a_proposal_collects_signatures_and_enables_nothing_until_its_command_takes_effect() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let (release, start) = (world.release_document("a", &[lock]), world.start_document("a", &[lock]));
    let before = shown(&world);

    // A start may be proposed before its release is more than a proposal.
    for document in [&release, &start] {
        let applied = world.propose(EntryKind::Proposal, by(document, &[ALICE]));
        let receipt = applied.answer.unwrap();
        assert_eq!((receipt.digest, receipt.repeated, applied.effect), (document.digest(), false, None));
        let entry = Entry::decode(&applied.entry.unwrap()).unwrap();
        assert_eq!((entry.kind, entry.envelope), (EntryKind::Proposal, by(document, &[ALICE])));
        assert_eq!(world.ledger.used_at(&document.digest()), None);
    }
    assert_eq!(shown(&world), before);
    world.restart();
    let open: Vec<_> = world.ledger.proposals(world.now_ms).into_iter().map(|(id, _)| id).collect();
    assert_eq!(open, [release.digest(), start.digest()]);
    let proposed = world.ledger.proposed(&release.digest()).unwrap();
    assert_eq!((proposed.action, &proposed.scope), (ActionKind::Release, &scope("a")));
    assert_eq!(proposed.expires_at_ms, T0 + PROPOSAL_TTL_MS);
    let (signed_by, missing) = world.ledger.standing(proposed);
    assert_eq!(signed_by, ["alice"]);
    assert!(missing.unwrap().to_string().ends_with("missing: 1 more of bob, carol"));

    // What has too few signatures takes no effect as a command either, proposed or not.
    assert!(matches!(world.send(by(&release, &[BOB])), Err(Refusal::Unauthorised(_))));
    assert_eq!(world.ledger.completed(&by(&start, &[ALICE]), world.now_ms), None);

    // With a second person's the collected ones suffice, and are sent as any command.
    for document in [release, start] {
        let whole = world.ledger.completed(&by(&document, &[BOB]), world.now_ms).unwrap();
        assert_eq!(whole, by(&document, &[ALICE, BOB]));
        let receipt = world.send(whole.clone()).unwrap();
        assert!(world.ledger.proposed(&document.digest()).is_none(), "it is no proposal any more");
        let late = propose(&mut world, by(&document, &[CAROL])).unwrap();
        assert_eq!((late.index, late.repeated), (receipt.index, true), "what is done is said to be done");
    }
    assert_eq!(world.verdict("a"), Enabled);
    world.restart();
    let replayed = postcard::to_stdvec(&world.replayed()).unwrap();
    assert_eq!(replayed, postcard::to_stdvec(&world.ledger).unwrap());
}

#[test]
fn s5_parameters_cannot_change_under_a_signature() {
    let mut world = World::new();
    let grant = world.grant_document("a", T0 + 1000);
    propose(&mut world, by(&grant, &[BOB])).unwrap();
    let longer = grant.document.replace("T15:00:01.000Z", "T16:00:01.000Z");
    assert_ne!(longer, grant.document);
    // Another document is another proposal, which none of those has signed who signed this one.
    let carol = envelope(longer.clone(), &[CAROL]);
    assert_eq!(world.ledger.completed(&carol, world.now_ms), None);
    let moved = Envelope { document: longer.clone(), signatures: by(&grant, &[BOB]).signatures };
    let refusal = propose(&mut world, moved.clone()).unwrap_err();
    assert!(
        matches!(refusal, Refusal::Unauthorised(Unauthorised::NoValidSignature(_))),
        "a signature of other bytes: {refusal}"
    );
    let both =
        Envelope { document: longer, signatures: [moved.signatures, carol.signatures.clone()].concat() };
    assert!(matches!(
        world.send(both.clone()),
        Err(Refusal::Unauthorised(Unauthorised::BelowThreshold { .. }))
    ));
    propose(&mut world, both).unwrap();
    let proposed = world.ledger.proposed(&carol.digest()).unwrap();
    assert_eq!((world.ledger.standing(proposed).0, &*proposed.entries), (vec!["carol".into()], &[2][..]));
    assert_eq!(proposed.envelope.signatures, carol.signatures, "what does not count is not collected");
    assert_eq!(world.verdict("a"), Denied);
}

#[test]
fn s5_one_person_counts_once_and_who_adds_nobody_adds_nothing() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let release = world.release_document("a", &[lock]);
    propose(&mut world, by(&release, &[ALICE])).unwrap();
    for again in [&[ALICE][..], &[ALICE_TOO], &[ALICE_TOO, ALICE]] {
        assert_eq!(world.ledger.completed(&by(&release, again), world.now_ms), None, "{again:?}");
        let refusal = propose(&mut world, by(&release, again)).unwrap_err();
        let Refusal::NothingNew { signed, missing, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!(signed, "alice");
        assert!(missing.contains("1 more of bob, carol"), "{missing}");
    }
    // Nor does somebody whose key is suspended count, until the newest key signs.
    world.suspend(&[public_key(ALICE)], &[BOT]).unwrap();
    assert_eq!(world.ledger.completed(&by(&release, &[BOB]), world.now_ms), None);
    propose(&mut world, by(&release, &[ALICE_TOO])).unwrap();
    let whole = world.ledger.completed(&by(&release, &[BOB]), world.now_ms).unwrap();
    assert_eq!(whole, by(&release, &[ALICE_TOO, BOB]));
    world.send(whole).unwrap();
}

#[test]
fn s7_nobody_else_proposes_and_what_takes_away_is_not_proposed() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let release = world.release_document("a", &[lock]);
    let size = world.ledger.size();
    for (who, code) in [(BOT, "bot may not release a"), (DORA, "dora may not"), (STRANGER, "no signature")] {
        let refusal = propose(&mut world, by(&release, &[who])).unwrap_err();
        assert!(refusal.to_string().starts_with(code), "{refusal}");
        assert_eq!(world.ledger.completed(&by(&release, &[ALICE, who]), world.now_ms), None);
    }
    propose(&mut world, by(&release, &[ALICE])).unwrap();
    assert!(propose(&mut world, by(&release, &[BOT])).is_err(), "automation adds nothing to it");
    assert_eq!(world.ledger.completed(&by(&release, &[BOT]), world.now_ms), None);
    assert_eq!(propose(&mut world, by(&release, &[ALICE, BOB])), Err(Refusal::SignedByEnough));
    let stop = world.stop_document("a", "halt");
    assert_eq!(propose(&mut world, stop), Err(Refusal::NotProposed(ActionKind::Stop)));
    let next = world.successor(|_| ());
    let next = envelope(next, &[ROOT_1]);
    assert_eq!(propose(&mut world, next), Err(Refusal::NotProposed(ActionKind::Authority)));
    // What could not take effect with more signatures either is not worth them.
    let other = world.release_document("b", &[lock]);
    assert!(matches!(propose(&mut world, by(&other, &[ALICE])), Err(Refusal::LockOutsideScope { .. })));
    let expired = world.grant_document("a", T0);
    assert!(matches!(propose(&mut world, by(&expired, &[BOB])), Err(Refusal::Expired(_))));
    assert_eq!(world.ledger.size(), size + 1);
}

#[test]
fn silence_is_never_consent_and_an_expired_proposal_starts_anew() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let release = world.release_document("a", &[lock]);
    propose(&mut world, by(&release, &[ALICE])).unwrap();
    world.now_ms += PROPOSAL_TTL_MS - 1;
    assert!(world.ledger.completed(&by(&release, &[BOB]), world.now_ms).is_some());
    world.now_ms += 1;
    assert_eq!(world.ledger.proposals(world.now_ms), []);
    assert_eq!(world.ledger.completed(&by(&release, &[BOB]), world.now_ms), None);
    assert_eq!(world.verdict("a"), Denied);
    // Made again it has the signatures that come now, and an hour from now.
    propose(&mut world, by(&release, &[BOB])).unwrap();
    let proposed = world.ledger.proposed(&release.digest()).unwrap();
    assert_eq!(world.ledger.standing(proposed).0, ["bob"]);
    assert_eq!(proposed.expires_at_ms, world.now_ms + PROPOSAL_TTL_MS);
    assert_eq!(proposed.entries, [world.ledger.size() - 1]);
    assert_eq!(world.ledger.completed(&by(&release, &[BOB]), world.now_ms), None);
    // A restore ends all of them: what people are asked is another thing then.
    world.restore_with(|_| (), &[ROOT_1, ROOT_2]).unwrap();
    assert!(world.ledger.proposed(&release.digest()).is_none());
}

#[test]
fn a_refusal_is_final() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let release = world.release_document("a", &[lock]);
    let id = release.digest();
    assert_eq!(refuse(&mut world, "a", &id, &[BOB]), Err(Refusal::NoSuchProposal(id)));
    propose(&mut world, by(&release, &[ALICE])).unwrap();
    let before = shown(&world);
    let elsewhere = refuse(&mut world, "*", &id, &[BOB]).unwrap_err();
    assert_eq!(elsewhere.to_string(), format!("proposal {id} is for a, not for *: name a as the scope"));
    for (who, says) in
        [(DORA, "dora may not refuse a: that takes 1 of "), (STRANGER, "no signature on it is valid")]
    {
        let refusal = refuse(&mut world, "a", &id, &[who]).unwrap_err();
        assert!(refusal.to_string().starts_with(says), "{refusal}");
        assert!(refuse(&mut world, "a", &Digest([9; 32]), &[who]).is_err());
    }
    let document = world.document("refuse", "a", json!({"proposal": id, "case": "INC-1"}));
    let refusal = envelope(document, &[CAROL]);
    let receipt = world.send(refusal.clone()).unwrap();
    assert_eq!(shown(&world), before, "S7: it takes away what nobody had");
    assert!(world.send(refusal).unwrap().repeated);
    assert!(world.ledger.proposed(&id).is_none());

    // Also not by those who are enough, nor later, nor after a restart.
    world.restart();
    world.now_ms += 10 * PROPOSAL_TTL_MS;
    let said = format!("carol refused {id} at entry {}: \"test\". It can never take effect", receipt.index);
    let final_ = |answer: Result<Receipt, Refusal>| answer.unwrap_err().to_string().starts_with(&said);
    assert!(final_(world.send(release.clone())));
    assert!(final_(propose(&mut world, by(&release, &[ALICE]))));
    assert!(final_(refuse(&mut world, "a", &id, &[BOB])));
    assert_eq!(world.verdict("a"), Denied);
    // The lock is released by a command of its own.
    world.release("a", &[lock]).unwrap();

    // Who may stop what it would let run may refuse it, automation too.
    let grant = world.grant_document("team", world.now_ms + 1000);
    propose(&mut world, by(&grant, &[ALICE])).unwrap();
    refuse(&mut world, "team", &grant.digest(), &[DORA]).unwrap();
    let grant = world.grant_document("b", world.now_ms + 1000);
    propose(&mut world, by(&grant, &[ALICE])).unwrap();
    refuse(&mut world, "b", &grant.digest(), &[BOT]).unwrap();
}

#[test]
fn s10_a_full_table_refuses_the_next_proposal_and_never_a_stop() {
    let mut world = World::running();
    let first = world.stop("a", "halt");
    let mut ids = Vec::new();
    for _ in 0..PROPOSALS_MAX {
        let release = world.release_document("a", &[first]);
        ids.push(propose(&mut world, by(&release, &[ALICE])).unwrap().digest);
        world.now_ms += 1;
    }
    let one_more = world.release_document("a", &[first]);
    let refusal = propose(&mut world, by(&one_more, &[ALICE])).unwrap_err();
    let Refusal::TooManyProposals { next, expires_at } = &refusal else { panic!("{refusal}") };
    assert_eq!((next, expires_at.as_str()), (&ids[0], "2026-11-22T16:00:00.000Z"));
    // What is in the table goes on, and so does all that needs no proposal.
    world.stop("a", "halt");
    let trip = world.trip_document("b");
    world.propose(EntryKind::Trip, trip).answer.unwrap();
    let grant = world.grant_document("c", world.now_ms + 1000);
    world.send(grant).unwrap();
    let open = world.ledger.proposed(&ids[1]).unwrap().envelope.clone();
    let whole = world.ledger.completed(&by(&open, &[CAROL]), world.now_ms).unwrap();
    world.send(whole).unwrap();
    // One has left, so there is room for one; and when one expires, for the next.
    propose(&mut world, by(&one_more, &[BOB])).unwrap_err();
    let grants = [(); 2].map(|()| world.grant_document("d", world.now_ms + 10 * PROPOSAL_TTL_MS));
    propose(&mut world, by(&grants[0], &[BOB])).unwrap();
    assert!(matches!(propose(&mut world, by(&grants[1], &[BOB])), Err(Refusal::TooManyProposals { .. })));
    world.now_ms = T0 + PROPOSAL_TTL_MS;
    propose(&mut world, by(&grants[1], &[BOB])).unwrap();
    assert!(world.ledger.proposed(&ids[0]).is_none(), "it made room");
}
