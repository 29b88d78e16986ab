//! Restores: a new epoch after a restore from backup begins with the whole fleet halted (S1).

use serde_json::json;
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{LockStatus, Refusal};
use tagout_proto::log::entry::EntryKind;
use tagout_proto::restore::Epoch;
use tagout_proto::rule::Verdict::{Denied, Enabled};
use tagout_proto::trust::{Learned, TrustError};

use crate::support::*;

const ROOT: [u8; 2] = [ROOT_1, ROOT_3];
const DAY_MS: u64 = 86_400_000;

#[test]
fn s1_s5_a_restore_takes_the_root_the_newest_authority_a_higher_number_and_this_log() {
    let mut world = World::running();
    world.succeed(|next| next["limits"]["ttl_ms"] = 5_000.into()).unwrap();
    let size = world.ledger.size();
    let one = world.restore_with(|_| (), &[ROOT_1, ROOT_1, ALICE]).unwrap_err().to_string();
    assert_eq!(
        one,
        "the restore has 1 of 2 signatures of the root of version 2; missing are signatures of root-2, root-3"
    );
    assert!(world.restore_with(|_| (), &[ALICE, BOB, CAROL]).is_err(), "people cannot do it, however many");
    let older = world.restore_with(|r| (r.authority_version, r.authority) = (1, genesis().digest()), &ROOT);
    let digest = genesis().digest();
    assert_eq!(older, Err(Refusal::Trust(TrustError::RestoreAuthority { found: 1, digest, ours: 2 })));
    assert!(world.restore_with(|r| r.authority = Digest([1; 32]), &ROOT).is_err());
    for (why, lost_from) in [("fewer entries are here", size + 1), ("more entries are here", size - 1)] {
        let answer = world.restore_with(|r| r.lost_from = lost_from, &ROOT);
        assert!(matches!(answer, Err(Refusal::RestoreElsewhere(_))), "{why}: {answer:?}");
    }
    let answer = world.restore_with(|r| r.checkpoint_size = size, &ROOT);
    assert!(
        matches!(answer, Err(Refusal::RestoreElsewhere(_))),
        "another root at this very size: {answer:?}"
    );
    let answer = world.restore_with(|r| r.checkpoint_size = size - 1, &ROOT);
    assert!(
        matches!(answer, Err(Refusal::Malformed(_))),
        "a checkpoint that ends before what is lost: {answer:?}"
    );
    let elsewhere = world.restore_with(|r| r.deployment.name = "prod".into(), &ROOT);
    assert!(matches!(elsewhere, Err(Refusal::WrongDeployment { .. })));
    let as_command = envelope(world.restore_of().to_document(), &ROOT);
    assert!(world.send(as_command).is_err(), "it is an entry of its own kind");
    assert_eq!((world.ledger.epoch().number, world.verdict("a")), (1, Enabled));

    // Nothing need be lost.
    let root = world.ledger.frontier().root();
    world.restore_with(|r| (r.checkpoint_size, r.checkpoint_root) = (size, root), &ROOT).unwrap();
    let again = world.restore_with(|r| r.epoch.number = 2, &ROOT);
    assert_eq!(again, Err(Refusal::Trust(TrustError::EpochRollback { found: 2, ours: 2 })));
    for id in [genesis().digest(), world.ledger.epoch().id] {
        let returns = world.restore_with(|r| r.epoch.id = id, &ROOT);
        assert_eq!(returns, Err(Refusal::Trust(TrustError::EpochReturns(id))), "its grants would hold again");
    }
    world.restore_with(|r| r.epoch.number = 9, &ROOT).unwrap();
    assert_eq!(world.ledger.epoch().number, 9);
}

#[test]
fn s1_a_restored_fleet_is_halted_and_without_consent_until_people_give_it_anew() {
    let mut world = World::running();
    let old = world.grant_document("a", T0 + DAY_MS);
    world.send(old.clone()).unwrap();
    let unsent = world.grant_document("a", T0 + DAY_MS);
    let before = world.stop("b", "halt");
    let restore = envelope(world.restore_of().to_document(), &ROOT);
    let receipt = world.propose(EntryKind::Restore, restore.clone()).answer.unwrap();
    let (lock, lost_from) = (receipt.digest, receipt.index);
    assert_eq!(lock, restore.digest());
    assert_eq!(world.ledger.epoch(), Epoch { number: 2, id: Digest::of(&2u64.to_be_bytes()) });
    assert_eq!(world.ledger.trust_entries(), [0, receipt.index]);
    let again = world.propose(EntryKind::Restore, restore.clone()).answer.unwrap();
    assert_eq!((again.index, again.repeated), (receipt.index, true));
    assert_eq!(world.guard.learn(&restore), Ok(Learned::Nothing));
    let record = world.ledger.lock(&lock).unwrap();
    assert_eq!(
        (record.lost_from, &*record.lock.tag.by),
        (Some(lost_from), &["root-1".to_owned(), "root-3".into()][..])
    );

    // S1: the release says, signed, what may be lost; a release of the locks is no consent, and old consent is gone.
    let named = |world: &mut World, locks: &[Digest], lost_from: Option<u64>| {
        let mut more = json!({"locks": locks});
        if let Some(lost_from) = lost_from {
            more["lost_from"] = lost_from.into();
        }
        world.command("release", "*", more, &[ALICE, BOB])
    };
    for wrong in [None, Some(lost_from + 1), Some(0)] {
        let refusal = named(&mut world, &[before, lock], wrong).unwrap_err();
        assert_eq!(refusal, Refusal::LostFrom { lock, epoch: 2, lost_from });
    }
    assert_eq!(named(&mut world, &[before], Some(lost_from)), Err(Refusal::NothingLost));
    named(&mut world, &[before, lock], Some(lost_from)).unwrap();
    world.start("*", &[before, lock]).unwrap();
    assert_eq!((world.ledger.lock_count(), world.verdict("a"), world.verdict("b")), (0, Denied, Denied));
    assert_eq!(world.send(old), Err(Refusal::Void(receipt.index)));
    assert!(matches!(world.send(unsent), Err(Refusal::WrongEpoch { .. })));
    world.grant("*", T0 + DAY_MS).unwrap();
    assert_eq!((world.verdict("a"), world.verdict("b")), (Enabled, Enabled));
}

#[test]
fn s1_each_of_two_restores_has_its_own_loss_to_be_named() {
    let mut world = World::running();
    let restore = envelope(world.restore_of().to_document(), &ROOT);
    let first = world.propose(EntryKind::Restore, restore.clone()).answer.unwrap();
    let second = world.restore_with(|_| (), &ROOT).unwrap();
    let locks = [first.digest, second.digest];
    for lost_from in [first.index, second.index] {
        let more = json!({"locks": locks, "lost_from": lost_from});
        assert!(matches!(world.command("release", "*", more, &[ALICE, BOB]), Err(Refusal::LostFrom { .. })));
    }
    assert_eq!(world.guard.learn(&restore), Ok(Learned::Nothing), "a guard may hear of all of it again");
    for receipt in [first, second] {
        let more = json!({"locks": [receipt.digest], "lost_from": receipt.index});
        world.command("release", "*", more, &[ALICE, BOB]).unwrap();
    }
}

#[test]
fn s1_a_release_that_came_before_the_restore_names_the_loss_too() {
    for (lost_from, released) in [(None, false), (Some(7), false), (Some(3), true)] {
        let mut world = World::running();
        let mut restore = world.restore_of();
        restore.lost_from = 3;
        let restore = envelope(restore.to_document(), &ROOT);
        let mut more = json!({"locks": [restore.digest()]});
        lost_from.iter().for_each(|from: &u64| more["lost_from"] = (*from).into());
        assert_eq!(world.command("release", "*", more, &[ALICE, BOB]).unwrap().awaited, 1);
        world.propose(EntryKind::Restore, restore.clone()).answer.unwrap();
        assert_eq!(world.ledger.lock(&restore.digest()).unwrap().lock.released, released, "{lost_from:?}");
    }
}

#[test]
fn s1_the_fresh_release_of_a_restores_lock_names_the_loss_too() {
    let mut world = World::running();
    let restore = world.restore_with(|_| (), &ROOT).unwrap();
    let named = json!({"locks": [restore.digest], "lost_from": restore.index});
    world.command("release", "*", named.clone(), &[ALICE, BOB]).unwrap();
    world.start("*", &[restore.digest]).unwrap();
    world.suspend(&[public_key(BOB)], &[BOT]).unwrap();
    let unnamed = json!({"locks": [restore.digest]});
    assert!(matches!(world.command("release", "*", unnamed, &[ALICE, CAROL]), Err(Refusal::LostFrom { .. })));
    let release = world.command("release", "*", named, &[ALICE, CAROL]).unwrap().index;
    let status = world.ledger.lock_status(&restore.digest, &scope("a"));
    assert!(matches!(status, LockStatus::Cleared { release: at, .. } if at == release));
}
