//! A lying node with real keys, over TLS, against the real client: every lie is denied, by its name (S5).
//!
//! What a node may do with a live key is stop agents and withhold news; see the README's table of what can be stolen.

use serde_json::{Value, json};
use tagout::proto::authority::Unauthorised;
use tagout::proto::command::{ActionKind, Listed};
use tagout::proto::digest::Digest;
use tagout::proto::envelope::Envelope;
use tagout::proto::lease::{Clearing, LeaseError, LeaseRequest, LeaseResponse, LockAnswer};
use tagout::proto::lock::LockKind;
use tagout::proto::log::tree;
use tagout::proto::note::NoteSigner;
use tagout::proto::trust::TrustError;
use tagout::proto::wire::StopEvent;
use tagout::trusted::{ChainRefused, ClearanceRefused, GrantRefused, LeaseRefused};
use tagout::{Guard, Obstacle, Reason, Unproven};

use crate::node::*;
use crate::world::*;

struct Liar {
    node: Node,
    guard: Guard,
}

impl Liar {
    /// A node that lies to a guard which trusted it until now.
    async fn trusted() -> Self {
        let node = Node::start_tls(10_000, 20_000).await;
        let guard = node.running_guard().await;
        Self { node, guard }
    }

    /// A node that lies from the beginning.
    async fn from_the_beginning(lie: impl FnMut(&LeaseRequest, &mut Reply) + Send + 'static) -> Self {
        let node = Node::start_tls(10_000, 20_000).await;
        node.shared.lie.lock().replace(Box::new(lie));
        let guard = node.client().guard(AGENT).unwrap();
        Self { node, guard }
    }

    fn world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.node.shared.world.lock())
    }

    /// From here on the node lies, and the guard is made to ask.
    fn lies(&self, lie: impl FnMut(&LeaseRequest, &mut Reply) + Send + 'static) {
        self.node.shared.lie.lock().replace(Box::new(lie));
        self.node.renew(true);
    }

    fn alters(&self, alter: impl FnMut(&mut LeaseResponse) + Send + 'static) {
        self.node.shared.alter.lock().replace(Box::new(alter));
        self.node.renew(true);
    }

    /// The node names a newer authority and shows `chain` for it.
    fn claims_authority(&self, next: &Envelope, chain: Vec<Envelope>) {
        self.node.shared.chain.lock().replace(chain);
        let digest = next.digest();
        let version = serde_json::from_str::<Value>(&next.document).unwrap()["version"].as_u64().unwrap();
        self.lies(move |_, reply| (reply.lease.authority_version, reply.lease.authority) = (version, digest));
    }

    /// The node says that `lock` has ended.
    fn claims_end(&self, lock: Digest, placed: &Envelope, release: Clearing, start: Option<Clearing>) {
        let placed = placed.clone();
        self.lies(move |request, reply| {
            reply.views.iter_mut().for_each(|view| view.locks.clear());
            for (known, answer) in request.known.iter().zip(&mut reply.answers) {
                if known.id == lock {
                    let (placed, release, start) = (placed.clone(), release.clone(), start.clone());
                    *answer = LockAnswer::Cleared { placed, release, start };
                }
            }
        });
    }

    /// Waits for the denial that the lie deserves.
    async fn denied(&self, wanted: impl Fn(&Reason) -> bool) {
        let mut changes = self.guard.changes();
        loop {
            let state = self.guard.state();
            if state.denied.as_ref().is_some_and(&wanted) {
                assert!(self.guard.check().is_err() && self.guard.check_essential("any").is_err());
                return;
            }
            let next = tokio::time::timeout(PATIENCE, changes.next()).await;
            next.unwrap_or_else(|_| panic!("it is still {state:?}")).expect("the client lives");
        }
    }

    async fn lease_refused(&self, wanted: impl Fn(&LeaseRefused) -> bool) {
        self.denied(|reason| match reason {
            Reason::Unverifiable(what) => matches!(&**what, Unproven::Lease(refused) if wanted(refused)),
            _ => false,
        })
        .await;
    }

    async fn chain_refused(&self, at: usize, wanted: impl Fn(&TrustError) -> bool) {
        self.denied(|reason| match reason {
            Reason::Unverifiable(what) => matches!(
                &**what,
                Unproven::Chain(ChainRefused::Document { at: found, error }) if *found == at && wanted(error)
            ),
            _ => false,
        })
        .await;
    }

    async fn grant_refused(&self, wanted: impl Fn(&GrantRefused) -> bool) {
        self.denied(
            |reason| matches!(reason, Reason::NoConsent { refused } if refused.len() == 1 && wanted(&refused[0])),
        )
        .await;
    }

    async fn lock_stays(&self, lock: Digest, wanted: impl Fn(&ClearanceRefused) -> bool) {
        self.denied(|reason| match reason {
            Reason::Stopped(told) => {
                told.id == lock && matches!(&told.held, Some(Obstacle::Unproven(why)) if wanted(why))
            }
            _ => false,
        })
        .await;
    }

    /// The truth is still taken, so the lie was refused for what it is.
    async fn heals(&self) {
        *self.node.shared.lie.lock() = None;
        *self.node.shared.alter.lock() = None;
        *self.node.shared.chain.lock() = None;
        let _permit = within(self.guard.wait_enabled()).await.unwrap();
    }

    /// Stops the agent; the guard has heard of it.
    async fn stopped(&self) -> StopEvent {
        let event = self.world(|world| world.stop(AGENT, LockKind::Halt));
        self.node.push("stop", &event);
        let lock = event.stop.digest();
        self.denied(|reason| matches!(reason, Reason::Stopped(told) if told.id == lock)).await;
        event
    }
}

fn show(grant: Envelope) -> impl FnMut(&LeaseRequest, &mut Reply) + Send + 'static {
    move |_, reply| reply.views.iter_mut().for_each(|view| view.grants = vec![grant.clone()])
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_consent_that_people_did_not_sign() {
    let liar = Liar::from_the_beginning(|_, reply| {
        for view in &mut reply.views {
            view.grants[0].document = view.grants[0].document.replace("\"demo\"", "\"*\"");
        }
    })
    .await;
    liar.grant_refused(|why| matches!(why, GrantRefused::Unauthorised(Unauthorised::NoValidSignature(_))))
        .await;
    liar.heals().await;

    let liar = Liar::from_the_beginning(|_, reply| {
        reply.views.iter_mut().for_each(|view| view.grants[0].signatures.truncate(1));
    })
    .await;
    liar.grant_refused(|why| {
        matches!(why, GrantRefused::Unauthorised(Unauthorised::BelowThreshold { have: 1, need: 2, .. }))
    })
    .await;
    liar.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_consent_that_a_later_authority_voided() {
    let liar = Liar::trusted().await;
    let old = liar.world(|world| {
        let old = world.ledger.view(&scope(AGENT), world.now_ms).grants[0].clone();
        // Bob is gone, and with him every grant that needs him.
        world.succeed(|next| {
            next["principals"].as_array_mut().unwrap().retain(|p| p["name"] != "bob");
            next["roles"][0]["principals"] = json!(["alice", "bot"]);
            next["roles"][1]["principals"] = json!(["alice", "carol"]);
        });
        old
    });
    liar.lies(show(old));
    liar.grant_refused(|why| matches!(why, GrantRefused::Voided { version: 2, .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_consent_that_a_suspend_or_a_revoke_took_back_though_the_node_forgets_it() {
    for suspends in [true, false] {
        let liar = Liar::trusted().await;
        let document = liar.world(|world| match suspends {
            true => world.suspend_document(&[Who::Bob]),
            false => {
                let grant = world.ledger.view(&scope(AGENT), world.now_ms).grants[0].digest();
                world.revoke_document("demo", &[grant])
            }
        });
        // It reaches the guard and never the log.
        liar.node.push(
            "stop",
            &StopEvent {
                stop: envelope(&document, &[Who::Bot]),
                index: Some(0),
                time_ms: 0,
                confirm_within_ms: 0,
            },
        );
        let wanted = move |why: &GrantRefused| match suspends {
            true => matches!(why, GrantRefused::Unauthorised(Unauthorised::BelowThreshold { have: 1, .. })),
            false => *why == GrantRefused::Revoked,
        };
        liar.grant_refused(wanted).await;
        let leases = *liar.node.shared.leases.borrow();
        liar.node.renew(true);
        reached(&liar.node.shared.leases, |now| *now > leases).await;
        liar.grant_refused(wanted).await;
        // Consent by others is consent.
        liar.world(|world| {
            let again = world.grant_document("demo", DAY_MS);
            world.send(&envelope(&again, &[Who::Alice, Who::Carol]));
        });
        liar.node.renew(false);
        let _permit = within(liar.guard.wait_enabled()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_s5_leases_for_another_question_or_state() {
    let not_bound = |refused: &LeaseRefused| *refused == LeaseRefused::Lease(LeaseError::NotBound);
    let liar = Liar::trusted().await;
    liar.lies(|_, reply| reply.nonce = Digest([9; 32]));
    liar.lease_refused(not_bound).await;
    liar.heals().await;

    // The view from before a stop, under the lease that was signed after it.
    let before = liar.world(|world| world.ledger.view(&scope(AGENT), world.now_ms));
    liar.world(|world| world.stop(AGENT, LockKind::Pause));
    liar.alters(move |answer| answer.views[0] = Some(before.clone()));
    liar.lease_refused(not_bound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_leases_from_a_log_that_steps_back_or_aside() {
    let liar = Liar::trusted().await;
    liar.lies(|_, reply| reply.lease.log_size -= 1);
    liar.lease_refused(|refused| matches!(refused, LeaseRefused::LogRollback { found: 1, floor: 2 })).await;
    liar.heals().await;
    liar.lies(|_, reply| reply.lease.log_root = Digest([9; 32]));
    liar.lease_refused(|refused| *refused == LeaseRefused::LogForked { size: 2 }).await;
    liar.heals().await;
    liar.lies(|_, reply| reply.signer = NoteSigner::new("demo/node-1", &[99; 32]).unwrap());
    liar.lease_refused(|refused| *refused == LeaseRefused::UnknownNode).await;
    liar.heals().await;
    liar.lies(|_, reply| reply.lease.rule_version += 1);
    liar.lease_refused(|refused| matches!(refused, LeaseRefused::RuleVersion { found: 2 })).await;
    liar.heals().await;
    // Nobody signed a restore, and the node has none to show.
    liar.lies(|_, reply| (reply.lease.epoch_number, reply.lease.epoch) = (2, Digest([2; 32])));
    liar.lease_refused(|refused| matches!(refused, LeaseRefused::EpochUnproven { found: 2, .. })).await;
    liar.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_an_older_epoch() {
    let liar = Liar::trusted().await;
    let genesis = liar.world(|world| {
        world.restore(Digest([2; 32]));
        world.deployment.genesis
    });
    liar.node.renew(false);
    liar.denied(|reason| matches!(reason, Reason::Stopped(lock) if lock.scope.is_fleet())).await;
    liar.world(|world| {
        let restore = world.ledger.locks_touching(&scope("*"))[0].clone();
        let more = json!({"locks": [restore.lock.id], "lost_from": restore.lost_from});
        let release = world.document("release", "*", more);
        world.send(&envelope(&release, &PEOPLE));
        world.start("*", restore.lock.id);
        world.grant("demo", DAY_MS);
    });
    liar.node.renew(false);
    let _permit = within(liar.guard.wait_enabled()).await.unwrap();
    liar.lies(move |_, reply| (reply.lease.epoch_number, reply.lease.epoch) = (1, genesis));
    liar.lease_refused(|refused| matches!(refused, LeaseRefused::EpochRollback { found: 1, floor: 2 })).await;
    liar.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_hidden_lock() {
    let liar = Liar::trusted().await;
    let lock = liar.stopped().await.stop.digest();
    liar.lies(|_, reply| {
        reply.views.iter_mut().for_each(|view| view.locks.clear());
        reply.answers.iter_mut().for_each(|answer| *answer = LockAnswer::Held { why: "what lock?".into() });
    });
    liar.denied(|reason| match reason {
        Reason::Stopped(told) => told.id == lock && told.held == Some(Obstacle::Service("what lock?".into())),
        _ => false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_s5_ends_that_people_did_not_sign() {
    type Proofs = (Clearing, Option<Clearing>);
    type Lie = (fn(&mut World, Digest) -> Proofs, fn(&ClearanceRefused) -> bool);
    fn lift(world: &mut World, action: &str, lock: Digest) -> Clearing {
        clearing(&world.lifting(action, AGENT, lock, &PEOPLE))
    }
    let lies: [Lie; 4] = [
        (
            |world, lock| (lift(world, "release", Digest([9; 32])), Some(lift(world, "start", lock))),
            |why| *why == ClearanceRefused::OtherLock { what: ActionKind::Release },
        ),
        (
            |world, lock| (lift(world, "release", lock), None),
            |why| *why == ClearanceRefused::StartMissing(LockKind::Halt),
        ),
        (
            |world, lock| {
                let release = world.lifting("release", AGENT, lock, &[Who::Alice]);
                (clearing(&release), Some(lift(world, "start", lock)))
            },
            |why| matches!(why, ClearanceRefused::Unauthorised { what: ActionKind::Release, .. }),
        ),
        (
            // A true bulk release of other locks, with the true proof that it lists one of them.
            |world, lock| {
                let others = [Digest([5; 32]), Digest([6; 32])];
                let leaves = others.map(|id| tree::leaf_hash(&id.0));
                let locks = json!({"count": 2, "root": tree::root(&leaves), "before": 1_000});
                let release = world.document("release", AGENT, json!({"locks": locks}));
                let path = tree::prove_all(&leaves)[1].clone();
                let listed = Some(Listed { index: 1, path });
                let release = Clearing { envelope: envelope(&release, &PEOPLE), listed };
                (release, Some(lift(world, "start", lock)))
            },
            |why| *why == ClearanceRefused::OtherLock { what: ActionKind::Release },
        ),
    ];
    for (proofs, wanted) in lies {
        let liar = Liar::trusted().await;
        let event = liar.stopped().await;
        let lock = event.stop.digest();
        let (release, start) = liar.world(|world| proofs(world, lock));
        liar.claims_end(lock, &event.stop, release, start);
        liar.lock_stays(lock, wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_the_release_of_a_restores_lock_that_does_not_say_what_may_be_lost() {
    let liar = Liar::trusted().await;
    let event = liar.world(|world| world.restore(Digest([2; 32])));
    let lock = event.stop.digest();
    for said in [None, Some(1)] {
        let (release, start) = liar.world(|world| {
            let more = match said {
                None => json!({"locks": [lock]}),
                Some(lost_from) => json!({"locks": [lock], "lost_from": lost_from}),
            };
            let release = envelope(&world.document("release", "*", more), &PEOPLE);
            (clearing(&release), clearing(&world.lifting("start", "*", lock, &PEOPLE)))
        });
        liar.claims_end(lock, &event.stop, release, Some(start));
        liar.lock_stays(lock, |why| *why == ClearanceRefused::LostFrom { needed: 2 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_authorities_that_the_roots_did_not_sign() {
    let new_roots = |next: &mut Value| {
        next["root"] = json!({"threshold": 1, "signers": [{"name": "root-c", "key": line(Who::RootC)}]});
    };
    let liar = Liar::trusted().await;
    let (first, genesis) = liar.world(|world| (world.next_authority(|_| {}), world.genesis.clone()));

    let mut gap = first.clone();
    gap["version"] = 3.into();
    let gap = envelope(&gap, &ROOTS);
    liar.claims_authority(&gap, vec![genesis.clone(), gap.clone()]);
    let expected = TrustError::VersionGap { found: 3, needed: 2 };
    liar.chain_refused(1, |error| *error == expected).await;
    liar.heals().await;

    // Signed by the old roots alone, and by the new ones alone.
    let next = liar.world(|world| world.next_authority(new_roots));
    for who in [&ROOTS[..], &[Who::RootC]] {
        let next = envelope(&next, who);
        liar.claims_authority(&next, vec![genesis.clone(), next.clone()]);
        liar.chain_refused(1, |error| matches!(error, TrustError::RootThreshold(_))).await;
        liar.heals().await;
    }

    // The truth, shortened: the lease names what the chain does not hold.
    let both = envelope(&next, &[Who::RootA, Who::RootB, Who::RootC]);
    liar.claims_authority(&both, vec![genesis.clone()]);
    liar.lease_refused(|refused| matches!(refused, LeaseRefused::AuthorityUnproven { found: 2, .. })).await;
    liar.claims_authority(&both, vec![genesis, both.clone()]);
    let _permit = within(liar.guard.wait_enabled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_an_authority_that_brings_a_gone_key_back() {
    let keys_of_alice = |who: Who| move |next: &mut Value| next["principals"][0]["keys"] = json!([line(who)]);
    let liar = Liar::trusted().await;
    liar.world(|world| world.succeed(keys_of_alice(Who::AliceAgain)));
    let (chain, back) = liar.world(|world| (world.chain(), world.next_authority(keys_of_alice(Who::Alice))));
    let back = envelope(&back, &ROOTS);
    let chain = chain.into_iter().chain([back.clone()]).collect();
    liar.claims_authority(&back, chain);
    liar.chain_refused(2, |error| matches!(error, TrustError::KeyReturns { owner, .. } if owner == "alice"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_restore_signed_by_too_few() {
    let liar = Liar::trusted().await;
    let (genesis, document) =
        liar.world(|world| (world.genesis.clone(), world.restore_document(Digest([2; 32]))));
    let restore = envelope(&document, &[Who::RootA]);
    liar.node.shared.chain.lock().replace(vec![genesis, restore]);
    liar.lies(|_, reply| (reply.lease.epoch_number, reply.lease.epoch) = (2, Digest([2; 32])));
    liar.chain_refused(1, |error| matches!(error, TrustError::RootThreshold(_))).await;
    liar.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lies_differ_from_the_truth_in_nothing_else() {
    // What is told above is told of an honest node too, and believed: a new authority, a bulk release, a restore.
    let liar = Liar::trusted().await;
    liar.world(|world| {
        world.succeed(|_| {});
    });
    liar.node.renew(true);
    let _permit = within(liar.guard.wait_enabled()).await.unwrap();
    let event = liar.stopped().await;
    liar.world(|world| {
        world.stop(AGENT, LockKind::Pause);
        for action in [ActionKind::Release, ActionKind::Start] {
            let document = world.bulk_document(action, AGENT);
            world.send(&envelope(&document, &PEOPLE));
        }
    });
    liar.node.renew(false);
    let _permit = within(liar.guard.wait_enabled()).await.unwrap();
    assert!(liar.world(|world| world.ledger.lock(&event.stop.digest()).is_none()));
}
