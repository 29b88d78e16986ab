//! What nodes replicate and keep: proposals, and the ledger's snapshot.

use serde_json::json;
use tagout_fuzz::{Answer, Target, mutate};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Proposal};
use tagout_proto::log::entry::{Entry, EntryKind};

use crate::documents::commands;
use crate::support::*;

/// A world with a lock that is in force, one that is released, and documents that are signed and not sent yet.
fn world() -> (World, Vec<Proposal>) {
    let mut world = World::running();
    let (held, released) = (world.stop("a", "halt"), world.stop("b", "drain"));
    world.release("b", &[released]).unwrap();
    let envelopes = [
        world.stop_document("a/b", "halt"),
        world.stop_document("c", "pause"),
        world.release_document("a", &[held]),
        world.start_document("b/c", &[released]),
        world.grant_document("team", T0 + 1_000_000),
    ];
    let time_ms = world.now_ms;
    let command = |envelope| Proposal { kind: EntryKind::Command, time_ms, envelope };
    let mut proposals: Vec<_> = envelopes.into_iter().map(command).collect();
    let outcome = Envelope { document: json!({"outcome": held}).to_string(), signatures: vec![] };
    proposals.push(Proposal { kind: EntryKind::Outcome, time_ms, envelope: outcome });
    // One that is open, one that is new, a second person's signature, and a refusal.
    let (open, new) = (world.release_document("*", &[held]), world.grant_document("d", T0 + 1_000_000));
    let alone = |of: &Envelope, who| envelope(of.document.clone(), &[who]);
    world.propose(EntryKind::Proposal, alone(&open, ALICE)).answer.unwrap();
    for envelope in [alone(&open, BOB), alone(&new, CAROL)] {
        proposals.push(Proposal { kind: EntryKind::Proposal, time_ms, envelope });
    }
    let refuse = world.document("refuse", "*", json!({"proposal": open.digest()}));
    proposals.push(Proposal { kind: EntryKind::Command, time_ms, envelope: envelope(refuse, &[BOT]) });
    (world, proposals)
}

/// Applies, and gives the entry that was written. `World` sees to it that what writes none changes nothing (S8).
fn apply(world: &World, proposal: &Proposal) -> Answer {
    let mut world = world.clone();
    world.now_ms = proposal.time_ms;
    let size = world.ledger.size();
    let applied = world.propose(proposal.kind, proposal.envelope.clone());
    if let Some(bytes) = &applied.entry {
        let entry = Entry::decode(bytes).unwrap();
        assert_eq!((entry.kind, entry.index, &entry.envelope), (proposal.kind, size, &proposal.envelope));
        assert_eq!(world.ledger.size(), size + 1);
        // The state that came out can be asked, and kept.
        for agent in ["a/b", "b/c", "team/x"] {
            world.verdict(agent);
        }
        world.restart();
    }
    match proposal.kind {
        EntryKind::Command | EntryKind::Proposal => Answer::of(&applied.answer),
        _ => Answer::taken(applied.answer.is_ok()),
    }
}

/// S5, S8: bytes that a leader proposes, with any change to them that no signer made.
#[test]
fn proposal() {
    let (world, proposals) = world();
    let signed: Vec<&str> = proposals.iter().map(|p| &*p.envelope.document).collect();
    let seeds: Vec<Vec<u8>> = proposals.iter().map(|p| postcard::to_stdvec(p).unwrap()).collect();
    let target = Target::new("proposal", seeds).make(|random| {
        let mut proposal = random.pick(&proposals);
        let envelope = &mut proposal.envelope;
        match random.below(4) {
            0 => envelope.document = mutate::json(random, &envelope.document),
            1 if !envelope.signatures.is_empty() => {
                let at = random.below(envelope.signatures.len());
                envelope.signatures[at] = mutate::text(random, &envelope.signatures[at]);
            }
            2 => envelope.signatures = random.pick(&proposals).envelope.signatures,
            _ => proposal.time_ms = random.boundary(),
        }
        postcard::to_stdvec(&proposal).unwrap()
    });
    target.check(|bytes| {
        let Ok(proposal) = postcard::from_bytes::<Proposal>(bytes) else { return Answer::Refused };
        let answer = apply(&world, &proposal);
        let by_people = matches!(proposal.kind, EntryKind::Command | EntryKind::Proposal);
        let forged = by_people && !signed.contains(&&*proposal.envelope.document);
        assert!(answer == Answer::Refused || !forged, "nobody signed {:?}", proposal.envelope.document);
        answer
    });
}

/// Apply is total: whatever people sign.
#[test]
fn signed_document() {
    let (world, proposals) = world();
    let mut seeds: Vec<String> = proposals.iter().map(|p| p.envelope.document.clone()).collect();
    seeds.truncate(5);
    let others = commands();
    let target = Target::new("signed-document", seeds.clone()).make(|random| {
        let seed = if random.one_in(4) { random.pick(&others) } else { random.pick(&seeds) };
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let document = crate::lossy(bytes);
        // Only what can be read at all is worth two signatures.
        if tagout_proto::command::Command::parse(document.as_bytes()).is_err() {
            return Answer::Refused;
        }
        let envelope = envelope(document, &[ALICE, BOB]);
        apply(&world, &Proposal { kind: EntryKind::Command, time_ms: world.now_ms, envelope })
    });
}

#[test]
fn ledger_snapshot() {
    let (world, _) = world();
    let fresh = postcard::to_stdvec(&Ledger::new(Digest([1; 32]))).unwrap();
    let seeds = [postcard::to_stdvec(&world.ledger).unwrap(), fresh];
    Target::new("ledger", seeds).check(|bytes| {
        let Ok(restored) = postcard::from_bytes::<Ledger>(bytes) else { return Answer::Refused };
        let kept = postcard::to_stdvec(&restored).unwrap();
        let again: Ledger = postcard::from_bytes(&kept).unwrap();
        assert_eq!(postcard::to_stdvec(&again).unwrap(), kept, "a snapshot loses nothing");
        Answer::Taken
    });
}
