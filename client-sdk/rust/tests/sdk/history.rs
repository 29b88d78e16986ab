//! One property over random histories of everything that people can sign: what the guard holds of views and pushes never
//! allows more than the real ledger does, whatever is lost, late, doubled or out of order.

use proptest::prelude::*;
use serde_json::json;
use tagout::Reason;
use tagout::proto::command::ActionKind;
use tagout::proto::digest::Digest;
use tagout::proto::lock::LockKind;
use tagout::proto::log::entry::EntryKind;
use tagout::proto::rule::{CallLimits, Verdict};
use tagout::proto::view::LockView;
use tagout::proto::wire::StopEvent;

use crate::world::*;

const AGENTS: [&str; 2] = [AGENT, "demo/agent_3"];
const SCOPES: [&str; 4] = ["*", "demo", AGENT, "demo/agent_3"];
const CLASSES: [&str; 2] = ["handover", "alarm"];
/// People with a second key; the names are those of the genesis.
const NAMES: [&str; 3] = ["alice", "bob", "carol"];
const SECOND_KEYS: [Who; 3] = [Who::AliceAgain, Who::BobAgain, Who::CarolAgain];

#[derive(Clone, Debug)]
enum Step {
    Pass {
        ms: u64,
    },
    Lock {
        kind: u8,
        on: usize,
        push: Push,
    },
    Release {
        lock: usize,
        bulk: bool,
    },
    Start {
        lock: usize,
        bulk: bool,
        wave: bool,
    },
    Grant {
        on: usize,
        for_ms: u64,
        class: usize,
        calls: Option<u64>,
    },
    Revoke {
        grant: usize,
        push: Push,
    },
    Suspend {
        person: usize,
        push: Push,
    },
    Rotate {
        person: usize,
    },
    Restore {
        loses: bool,
        push: Push,
    },
    /// A push that is on its way arrives, and may arrive again.
    Arrive {
        which: usize,
    },
    Remember,
    Renew,
    /// A renewal at a node that lags.
    RenewOld,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Push {
    AtOnce,
    Late,
}

fn step() -> impl Strategy<Value = Step> {
    let push = || prop_oneof![3 => Just(Push::AtOnce), 1 => Just(Push::Late)];
    let on = || 0..SCOPES.len();
    prop_oneof![
        2 => (1..4_000u64).prop_map(|ms| Step::Pass { ms }),
        4 => (0..7u8, on(), push()).prop_map(|(kind, on, push)| Step::Lock { kind, on, push }),
        6 => (0..8usize, any::<bool>()).prop_map(|(lock, bulk)| Step::Release { lock, bulk }),
        5 => (0..8usize, any::<bool>(), any::<bool>())
            .prop_map(|(lock, bulk, wave)| Step::Start { lock, bulk, wave }),
        4 => (on(), 1_000..60_000u64, 0..3usize, proptest::option::of(1..9u64))
            .prop_map(|(on, for_ms, class, calls)| Step::Grant { on, for_ms, class, calls }),
        1 => (0..4usize, push()).prop_map(|(grant, push)| Step::Revoke { grant, push }),
        1 => (0..3usize, push()).prop_map(|(person, push)| Step::Suspend { person, push }),
        1 => (0..3usize).prop_map(|person| Step::Rotate { person }),
        1 => (any::<bool>(), push()).prop_map(|(loses, push)| Step::Restore { loses, push }),
        2 => (0..8usize).prop_map(|which| Step::Arrive { which }),
        1 => Just(Step::Remember),
        6 => Just(Step::Renew),
        1 => Just(Step::RenewOld),
    ]
}

struct History {
    world: World,
    guard: Believer,
    /// The service as the newest accepted lease showed it.
    seen: World,
    /// Everything that was taken away since then has arrived.
    told_all: bool,
    /// An earlier state: a node that lags, and the backup of a restore that loses entries.
    earlier: World,
    on_the_way: Vec<StopEvent>,
    keys: [Who; 3],
    suspended: Vec<Who>,
    /// Nobody's signature has come to count for less, so that the guard must think exactly as the ledger does.
    faithful: bool,
}

impl History {
    fn new() -> Self {
        let mut world = World::new();
        world.grant_with("demo", DAY_MS, json!({"essential": ["handover"]}));
        let mut guard = Believer::of(&world, &AGENTS);
        guard.renew(&world);
        Self {
            seen: world.clone(),
            told_all: true,
            earlier: world.clone(),
            world,
            guard,
            on_the_way: Vec::new(),
            keys: [Who::Alice, Who::Bob, Who::Carol],
            suspended: Vec::new(),
            faithful: true,
        }
    }

    /// Two people whose keys still count, or as many as there are.
    fn people(&self) -> Vec<Who> {
        self.keys.into_iter().filter(|who| !self.suspended.contains(who)).take(2).collect()
    }

    /// What the ledger refuses does not happen.
    fn give(&mut self, document: &serde_json::Value) {
        let signed = envelope(document, &self.people());
        let _ = self.world.apply(EntryKind::Command, &signed);
    }

    fn take_away(&mut self, kind: EntryKind, document: &serde_json::Value, who: &[Who], push: Push) {
        let stop = envelope(document, who);
        let Ok(receipt) = self.world.apply(kind, &stop) else { return };
        let event =
            StopEvent { stop, index: Some(receipt.index), time_ms: receipt.time_ms, confirm_within_ms: 0 };
        match push {
            Push::AtOnce => self.arrive(&event),
            Push::Late => self.told_all = false,
        }
        self.on_the_way.push(event);
    }

    /// As the client does: what does not verify may have been a stop.
    fn arrive(&mut self, event: &StopEvent) {
        if self.guard.trusted.accept_push(event, self.guard.now).is_err() {
            self.guard.trusted.require_newer(self.guard.now.boot_ns, Reason::StopsMissed);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.guard.pass(ms);
        for world in [&mut self.world, &mut self.seen, &mut self.earlier] {
            world.now_ms += ms;
        }
    }

    fn locks(&self) -> Vec<(LockView, Option<u64>)> {
        let records = self.world.ledger.locks_touching(&scope("*"));
        records.into_iter().map(|record| (record.lock, record.lost_from)).collect()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Pass { ms } => self.pass(ms),
            Step::Lock { kind, on, push } => {
                let limits =
                    |calls, tokens| CallLimits { calls_per_minute: calls, tokens_per_minute: tokens };
                let kinds = [
                    LockKind::Halt,
                    LockKind::Drain { drain_ms: 3_000 },
                    LockKind::Pause,
                    LockKind::Isolate,
                    LockKind::Restrict,
                    LockKind::Throttle(limits(Some(5), None)),
                    LockKind::Throttle(limits(Some(7), Some(2))),
                ];
                let document = self.world.stop_document(SCOPES[on], kinds[usize::from(kind)]);
                self.take_away(EntryKind::Command, &document, &[Who::Bot], push);
            }
            Step::Release { lock, bulk } => {
                let locks = self.locks();
                let Some((lock, lost_from)) = locks.get(lock % locks.len().max(1)) else { return };
                let on = if bulk { "*" } else { lock.scope.as_str() };
                let mut document = match bulk {
                    true => self.world.bulk_document(ActionKind::Release, on),
                    false => self.world.document("release", on, json!({"locks": [lock.id]})),
                };
                let restored = if bulk { locks.iter().find_map(|(_, at)| *at) } else { *lost_from };
                if let Some(at) = restored {
                    document["lost_from"] = at.into();
                }
                self.give(&document);
            }
            Step::Start { lock, bulk, wave } => {
                let locks = self.locks();
                let Some((lock, _)) = locks.get(lock % locks.len().max(1)) else { return };
                let on = if wave { AGENT } else { lock.scope.as_str() };
                let document = match bulk {
                    true => self.world.bulk_document(ActionKind::Start, on),
                    false => self.world.document("start", on, json!({"locks": [lock.id]})),
                };
                self.give(&document);
            }
            Step::Grant { on, for_ms, class, calls } => {
                let mut document = self.world.grant_document(SCOPES[on], for_ms);
                if let Some(class) = CLASSES.get(class) {
                    document["essential"] = json!([class]);
                }
                if let Some(calls) = calls {
                    document["limits"] = json!({"calls_per_minute": calls});
                }
                self.give(&document);
            }
            Step::Revoke { grant, push } => {
                let grants = self.world.ledger.grants(self.world.now_ms);
                let Some(grant) = grants.get(grant % grants.len().max(1)) else { return };
                let document = self.world.revoke_document(grant.scope.as_str(), &[grant.id]);
                self.take_away(EntryKind::Command, &document, &[Who::Bot], push);
            }
            Step::Suspend { person, push } => {
                // Enough people must be left for the history to go on.
                if self.people().len() < 2 || self.suspended.len() > 2 {
                    return;
                }
                self.faithful = false;
                self.suspended.push(self.keys[person]);
                let document = self.world.suspend_document(&[self.keys[person]]);
                self.take_away(EntryKind::Command, &document, &[Who::Bot], push);
            }
            Step::Rotate { person } => {
                if self.keys[person] == SECOND_KEYS[person] {
                    return;
                }
                self.faithful = false;
                let old = self.keys[person];
                self.keys[person] = SECOND_KEYS[person];
                // Versions drop the suspended keys: the ledger takes no others.
                let keys = self.keys;
                let suspended = self.suspended.clone();
                let next = self.world.next_authority(|next| {
                    for (name, who) in NAMES.iter().zip(keys) {
                        let principals = next["principals"].as_array_mut().unwrap();
                        let at = principals.iter().position(|p| p["name"] == *name).unwrap();
                        principals[at]["keys"] = json!([line(who)]);
                    }
                });
                if keys.iter().any(|who| suspended.contains(who)) {
                    self.keys[person] = old;
                    return;
                }
                self.world.succeed(|document| *document = next);
                self.told_all = false; // authorities are not pushed
            }
            Step::Restore { loses, push } => {
                self.faithful = false;
                let version = |world: &World| world.ledger.authority().unwrap().digest;
                if loses && version(&self.earlier) == version(&self.world) {
                    let epoch = self.world.ledger.epoch().number;
                    if self.earlier.ledger.epoch().number == epoch {
                        self.world = self.earlier.clone();
                    }
                }
                let number = self.world.ledger.epoch().number + 1;
                let document = self.world.restore_document(Digest([number as u8; 32]));
                self.take_away(EntryKind::Restore, &document, &ROOTS, push);
            }
            Step::Arrive { which } => {
                if let Some(event) = self.on_the_way.get(which % self.on_the_way.len().max(1)).cloned() {
                    self.arrive(&event);
                }
            }
            Step::Remember => self.earlier = self.world.clone(),
            Step::Renew => {
                self.pass(1);
                self.guard.settle(&self.world).expect("an honest node is believed");
                self.seen = self.world.clone();
                self.told_all = true;
            }
            Step::RenewOld => {
                self.pass(1);
                if self.guard.settle(&self.earlier).is_ok() {
                    self.seen = self.earlier.clone();
                    self.told_all = false;
                }
            }
        }
    }

    fn check(&self, after: &Step) {
        for agent in AGENTS.map(scope) {
            let judged = self.guard.trusted.judge(&agent, self.guard.now);
            let bound = if self.told_all { &self.world } else { &self.seen };
            let (verdict, terms) =
                (bound.ledger.verdict(&agent, bound.now_ms), bound.ledger.terms(&agent, bound.now_ms));
            assert!(judged.verdict <= verdict, "{agent} after {after:?}: {judged:?}, but {verdict:?}");
            let classes: Vec<_> = judged.essential.until_ns.keys().collect();
            if judged.verdict > Verdict::Denied {
                assert!(
                    classes.iter().all(|c| terms.essential.contains(*c)),
                    "{after:?}: {classes:?}, {terms:?}"
                );
                assert_eq!(judged.limits, judged.limits.both(terms.limits), "{after:?}: no wider than these");
            }
            if self.faithful && matches!(after, Step::Renew) {
                assert_eq!(judged.verdict, verdict, "{agent}: {judged:?}");
                if verdict > Verdict::Denied {
                    assert_eq!(judged.limits, terms.limits);
                    assert!(classes.into_iter().eq(&terms.essential));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s1_s2_s5_s7_a_guard_never_allows_more_than_the_ledger(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
            history.check(step);
        }
        // However it went, the truth is believed in the end.
        history.take(&Step::Renew);
        history.check(&Step::Renew);
    }
}
