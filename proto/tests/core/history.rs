//! Random histories of every document, against a model that is a plain list of what was acknowledged.
//!
//! The model knows nothing of views, snapshots, indexes or waiting documents. It asks, for every question anew, all the
//! facts there are. Documents get lost and come later, come twice, and are signed by too few, or by keys that have gone.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{LockStatus, Proposal, Refusal, bulk_root};
use tagout_proto::limits::LOCK_IDS_MAX;
use tagout_proto::lock::LockKind;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::restore::Restore;
use tagout_proto::rule::{CallLimits, Terms, Verdict};
use tagout_proto::scope::Scope;
use tagout_proto::strict::format_instant_ms;

use crate::support::*;

/// Agents, and the scopes that commands name: ancestors, look-alikes and strangers of one another.
const SCOPES: [&str; 9] = ["*", "a", "a/x", "a/x/1", "a/x/2", "a/y", "ab", "b", "b/x"];
const PEOPLE: [&str; 3] = ["alice", "bob", "carol"];
const MINUTE_MS: u64 = 60_000;

/// Who may give, by one version of the authority. Everybody, and the bot, may take away.
#[derive(Clone, Debug)]
struct Rules {
    keys: [u8; 3],
    /// People of the role, by their place in `PEOPLE`.
    givers: BTreeSet<usize>,
    threshold: usize,
    on: &'static str,
    /// Keys that still count on some grants: whose, and on which.
    retired: Vec<(u8, usize, Vec<Digest>)>,
}

#[derive(Clone, Debug)]
enum What {
    Lock {
        on: Scope,
        kind: LockKind,
        lost_from: Option<u64>,
    },
    Release {
        on: Scope,
        locks: Vec<Digest>,
        lost_from: Option<u64>,
    },
    Start {
        on: Scope,
        locks: Vec<Digest>,
    },
    Grant {
        on: Scope,
        expires_at_ms: u64,
        terms: Terms,
        seen: usize,
        epoch: u64,
    },
    Revoke {
        on: Scope,
        grants: Vec<Digest>,
    },
    Suspend {
        keys: Vec<u8>,
    },
    /// By somebody who may: it names a document that gives.
    Refuse {
        proposal: Digest,
    },
    Authority(Rules),
}

#[derive(Clone)]
struct Document {
    what: What,
    kind: EntryKind,
    envelope: Envelope,
    signers: Vec<u8>,
}

/// One that is in the log, with the entry's time.
struct Fact {
    id: Digest,
    time_ms: u64,
    document: Document,
    /// A grant that had expired when the next one came: a clock that goes back does not bring it back.
    swept: bool,
}

struct Run {
    world: World,
    /// Everything that was ever made, sent or not.
    made: Vec<Document>,
    facts: Vec<Fact>,
    rules: Vec<Rules>,
    next_key: u8,
}

/// The model: what follows from the facts.
impl Run {
    fn position(&self, test: impl Fn(&What) -> bool) -> Option<usize> {
        self.facts.iter().position(|fact| test(&fact.document.what))
    }

    fn epoch(&self) -> u64 {
        let restores = self.facts.iter().filter(|fact| fact.document.kind == EntryKind::Restore);
        1 + restores.count() as u64
    }

    fn is_suspended(&self, key: u8) -> bool {
        self.position(|what| matches!(what, What::Suspend { keys } if keys.contains(&key))).is_some()
    }

    /// Whether enough people signed, by one version and without the keys that are suspended now.
    fn enough(&self, rules: &Rules, fact: &Document, on: &Scope) -> bool {
        let id = fact.envelope.digest();
        let owner = |key: &u8| {
            let retired = || rules.retired.iter().find(|(k, _, grants)| k == key && grants.contains(&id));
            rules.keys.iter().position(|k| k == key).or_else(|| retired().map(|(_, person, _)| *person))
        };
        let usable = fact.signers.iter().filter(|key| !self.is_suspended(**key));
        let people: BTreeSet<_> = usable.filter_map(owner).filter(|p| rules.givers.contains(p)).collect();
        scope(rules.on).covers(on) && people.len() >= rules.threshold
    }

    /// S5: consent that enough people signed, by every version since what they saw.
    fn consents(&self, fact: &Fact, agent: &Scope, at_ms: u64) -> bool {
        let What::Grant { on, expires_at_ms, seen, epoch, .. } = &fact.document.what else { return false };
        let revoked = |what: &What| matches!(what, What::Revoke { on: by, grants } if by.covers(on) && grants.contains(&fact.id));
        on.covers(agent)
            && !fact.swept
            && at_ms < *expires_at_ms
            && *epoch == self.epoch()
            && self.position(revoked).is_none()
            && self.rules[*seen - 1..].iter().all(|rules| self.enough(rules, &fact.document, on))
    }

    /// When it was released, in the order of the facts.
    fn released(&self, lock: &Fact) -> Option<usize> {
        let What::Lock { on, lost_from: lost, .. } = &lock.document.what else { panic!("no lock") };
        self.position(|what| match what {
            What::Release { on: by, locks, lost_from } => {
                by.covers(on) && locks.contains(&lock.id) && (lost.is_none() || lost == lost_from)
            }
            _ => false,
        })
    }

    /// S1, S2: whether it is over for `agent`, by a release and then, where it takes one, a start.
    fn over(&self, lock: &Fact, agent: &Scope) -> bool {
        let What::Lock { kind, .. } = lock.document.what else { panic!("no lock") };
        let Some(released) = self.released(lock) else { return false };
        let starts = |fact: &Fact| matches!(&fact.document.what, What::Start { on, locks } if on.covers(agent) && locks.contains(&lock.id));
        !matches!(kind, LockKind::Halt | LockKind::Drain { .. })
            || self.facts[released + 1..].iter().any(starts)
    }

    fn locks(&self) -> impl Iterator<Item = (&Fact, &Scope, LockKind)> {
        self.facts.iter().filter_map(|fact| match &fact.document.what {
            What::Lock { on, kind, .. } => Some((fact, on, *kind)),
            _ => None,
        })
    }

    fn holding(&self, agent: &Scope) -> Vec<(&Fact, LockKind)> {
        let holding = self.locks().filter(|(lock, on, _)| on.covers(agent) && !self.over(lock, agent));
        holding.map(|(lock, _, kind)| (lock, kind)).collect()
    }

    fn expected(&self, agent: &Scope, at_ms: u64) -> Verdict {
        if !self.facts.iter().any(|fact| self.consents(fact, agent, at_ms)) {
            return Verdict::Denied;
        }
        let of = |(lock, kind): (&Fact, LockKind)| match kind {
            LockKind::Drain { drain_ms } if at_ms < lock.time_ms + drain_ms => Verdict::EssentialOnly,
            LockKind::Halt | LockKind::Drain { .. } | LockKind::Pause | LockKind::Isolate => Verdict::Denied,
            LockKind::Restrict => Verdict::EssentialOnly,
            LockKind::Throttle(_) => Verdict::Enabled,
        };
        self.holding(agent).into_iter().map(of).min().unwrap_or(Verdict::Enabled)
    }

    fn expected_terms(&self, agent: &Scope) -> Terms {
        let consenting = self.facts.iter().filter(|fact| self.consents(fact, agent, self.world.now_ms));
        let granted: Vec<&Terms> = consenting
            .map(|fact| match &fact.document.what {
                What::Grant { terms, .. } => terms,
                _ => unreachable!(),
            })
            .collect();
        let throttles: Vec<CallLimits> = (self.holding(agent).into_iter())
            .filter_map(|(_, kind)| if let LockKind::Throttle(limits) = kind { Some(limits) } else { None })
            .collect();
        let limit = |of: fn(&CallLimits) -> Option<u64>| {
            let all: Option<Vec<u64>> = granted.iter().map(|terms| of(&terms.limits)).collect();
            let widest = all.and_then(|limits| limits.into_iter().max());
            widest.into_iter().chain(throttles.iter().filter_map(of)).min()
        };
        Terms {
            essential: granted.iter().flat_map(|terms| terms.essential.clone()).collect(),
            limits: CallLimits {
                calls_per_minute: limit(|l| l.calls_per_minute),
                tokens_per_minute: limit(|l| l.tokens_per_minute),
            },
        }
    }
}

/// The world: documents are made, signed, sent, lost and found.
impl Run {
    fn new() -> Self {
        let keys = [ALICE, BOB, CAROL];
        let rules = Rules { keys, givers: BTreeSet::from([0, 1, 2]), threshold: 2, on: "*", retired: vec![] };
        let mut run =
            Self { world: World::new(), made: vec![], facts: vec![], rules: vec![rules], next_key: 100 };
        run.make_and_send(&Step::Grant { scope: "*", minutes: 24 * 60, terms: 0, people: 7 });
        run
    }

    fn now(&self) -> &Rules {
        self.rules.last().expect("the genesis")
    }

    /// Signs and remembers.
    fn made(&mut self, what: What, kind: EntryKind, document: String, signers: Vec<u8>) -> usize {
        let envelope = envelope(document, &signers);
        self.made.push(Document { what, kind, envelope, signers });
        self.made.len() - 1
    }

    fn command(&mut self, what: What, action: &str, on: &str, more: Value, signers: Vec<u8>) -> usize {
        let document = self.world.document(action, on, more);
        self.made(what, EntryKind::Command, document, signers)
    }

    /// Their newest keys, by the bits of `people`.
    fn signers(&self, people: u8) -> Vec<u8> {
        (0..3).filter(|p| people >> p & 1 == 1).map(|p| self.now().keys[p]).collect()
    }

    fn picked(&self, picks: &[Index], kind: fn(&What) -> bool) -> Vec<Digest> {
        let mut ids: Vec<_> =
            self.made.iter().filter(|d| kind(&d.what)).map(|d| d.envelope.digest()).collect();
        ids.push(Digest([0xee; 32]));
        let picked: BTreeSet<_> = picks.iter().map(|i| *i.get(&ids)).collect();
        picked.into_iter().collect()
    }

    /// The first restore's loss among these locks, as an operator would name it.
    fn lost_from(&self, ids: &[Digest]) -> Option<u64> {
        self.made.iter().find_map(|document| match document.what {
            What::Lock { lost_from: Some(at), .. } if ids.contains(&document.envelope.digest()) => Some(at),
            _ => None,
        })
    }

    /// What can be released on `on`, or started there, in the log's order.
    fn waiting(&self, on: &Scope, for_start: bool) -> Vec<Digest> {
        let waiting = self.locks().filter(|(lock, lies, kind)| match for_start {
            false => self.released(lock).is_none() && on.covers(lies),
            true => {
                self.released(lock).is_some()
                    && kind.needs_start()
                    && (on.covers(lies) || lies.covers(on))
                    && !self.over(lock, if on.covers(lies) { lies } else { on })
            }
        });
        waiting.map(|(lock, ..)| lock.id).collect()
    }

    /// Makes the documents of a step.
    fn make(&mut self, step: &Step) -> Vec<usize> {
        let at = match step {
            Step::Lock { scope: on, kind } => {
                let what = What::Lock { on: scope(on), kind: *kind, lost_from: None };
                let more = match kind {
                    LockKind::Drain { drain_ms } => json!({"mode": "drain", "drain_ms": drain_ms}),
                    LockKind::Halt | LockKind::Pause => json!({"mode": kind.name()}),
                    LockKind::Throttle(limits) => json!({"limits": limits}),
                    LockKind::Isolate | LockKind::Restrict => json!({}),
                };
                self.command(what, kind.action().name(), on, more, vec![BOT])
            }
            Step::Trip { scope: on } => {
                let what = What::Lock { on: scope(on), kind: LockKind::Halt, lost_from: None };
                let document = self.world.trip_document(on).document;
                self.made(what, EntryKind::Trip, document, vec![])
            }
            Step::Restore => {
                let restore: Restore = self.world.restore_of();
                let lost_from = Some(restore.lost_from);
                let what = What::Lock { on: Scope::fleet(), kind: LockKind::Halt, lost_from };
                self.made(what, EntryKind::Restore, restore.to_document(), vec![ROOT_1, ROOT_3])
            }
            Step::Release { scope: on, locks, people } => {
                let locks = self.picked(locks, |what| matches!(what, What::Lock { .. }));
                self.release(on, locks, *people)
            }
            Step::Start { scope: on, locks, people } => {
                let locks = self.picked(locks, |what| matches!(what, What::Lock { .. }));
                self.start(on, locks, *people)
            }
            Step::ReleaseAll { scope: on, bulk } => {
                let ids = self.waiting(&scope(on), false);
                // Two restores' locks have two losses: one document names the first.
                let restores = |id: &Digest| self.lost_from(&[*id]).is_some();
                let first = ids.iter().position(restores);
                let ids: Vec<_> = (ids.iter().enumerate())
                    .filter(|(i, id)| Some(*i) == first || !restores(id))
                    .map(|(_, id)| *id)
                    .collect();
                return self.ceremony(on, ids, *bulk, false);
            }
            Step::StartAll { scope: on, bulk } => {
                let ids = self.waiting(&scope(on), true);
                return self.ceremony(on, ids, *bulk, true);
            }
            Step::Grant { scope: on, minutes, terms, people } => {
                let expires_at_ms = self.world.now_ms + minutes * MINUTE_MS;
                let seen = self.rules.len();
                let (terms, more) = self.terms(*terms);
                let mut document = json!({
                    "expires_at": format_instant_ms(expires_at_ms),
                    "seen": {"epoch": self.world.ledger.epoch().id, "size": self.world.ledger.size(), "authority": seen},
                });
                document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                let what = What::Grant { on: scope(on), expires_at_ms, terms, seen, epoch: self.epoch() };
                self.command(what, "grant", on, document, self.signers(*people))
            }
            Step::Revoke { scope: on, grants } => {
                let grants = self.picked(grants, |what| matches!(what, What::Grant { .. }));
                let more = json!({"grants": grants});
                self.command(What::Revoke { on: scope(on), grants }, "revoke", on, more, vec![BOT])
            }
            Step::Suspend { person } => {
                let keys = vec![self.now().keys[*person]];
                let public: Vec<_> = keys.iter().map(|key| public_key(*key)).collect();
                let document = self.world.suspend_document(&public, &[BOT]).document;
                self.made(What::Suspend { keys }, EntryKind::Command, document, vec![BOT])
            }
            Step::Authority { change, signed } => self.authority(change, *signed),
            Step::Refuse { of } => {
                let Some((id, on)) = self.giving(*of).map(|(at, on)| (self.made[at].envelope.digest(), on))
                else {
                    return vec![];
                };
                let what = What::Refuse { proposal: id };
                self.command(what, "refuse", &on.to_string(), json!({"proposal": id}), vec![BOT])
            }
            _ => return vec![],
        };
        vec![at]
    }

    /// A document that gives and may be proposed, and where.
    fn giving(&self, of: Index) -> Option<(usize, Scope)> {
        let giving: Vec<_> = (self.made.iter().enumerate())
            .filter_map(|(at, document)| match &document.what {
                What::Release { on, .. } | What::Start { on, .. } | What::Grant { on, .. } => {
                    Some((at, on.clone()))
                }
                _ => None,
            })
            .collect();
        (!giving.is_empty()).then(|| of.get(&giving).clone())
    }

    /// One person signs a document that gives, as a proposal. Once enough did, it is sent with all that was collected, and
    /// then its signers are those of the fact.
    fn propose(&mut self, of: Index, person: usize) {
        let Some((at, _)) = self.giving(of) else { return };
        let key = self.now().keys[person];
        let signed = envelope(self.made[at].envelope.document.clone(), &[key]);
        let before = self.verdicts();
        let applied = self.world.propose(EntryKind::Proposal, signed.clone());
        assert_eq!(before, self.verdicts(), "S7: a proposal enables nothing");
        let refused = self.facts.iter().any(
            |fact| matches!(fact.document.what, What::Refuse { proposal } if proposal == signed.digest()),
        );
        assert!(!refused || applied.answer.is_err(), "a refusal is final");
        let Some(whole) = self.world.ledger.completed(&signed, self.world.now_ms) else { return };
        let all = self
            .rules
            .iter()
            .flat_map(|rules| rules.keys.iter().chain(rules.retired.iter().map(|(key, ..)| key)));
        let mut keys: Vec<u8> = all.copied().collect();
        keys.sort();
        keys.dedup();
        let signers = keys.into_iter().filter(|key| whole.signatures.contains(&sign(*key, &whole.document)));
        self.made[at].signers = signers.collect();
        self.made[at].envelope = whole;
        self.send(at);
    }

    fn release(&mut self, on: &str, locks: Vec<Digest>, people: u8) -> usize {
        let lost_from = self.lost_from(&locks);
        let mut more = json!({"locks": locks});
        lost_from.iter().for_each(|at| more["lost_from"] = (*at).into());
        let what = What::Release { on: scope(on), locks, lost_from };
        self.command(what, "release", on, more, self.signers(people))
    }

    fn start(&mut self, on: &str, locks: Vec<Digest>, people: u8) -> usize {
        let more = json!({"locks": locks});
        self.command(What::Start { on: scope(on), locks }, "start", on, more, self.signers(people))
    }

    /// Everybody signs for all that is there, by list or by root.
    fn ceremony(&mut self, on: &str, ids: Vec<Digest>, bulk: bool, start: bool) -> Vec<usize> {
        if !bulk {
            let parts: Vec<Vec<_>> = ids.chunks(LOCK_IDS_MAX).map(<[_]>::to_vec).collect();
            let one = |ids| if start { self.start(on, ids, 7) } else { self.release(on, ids, 7) };
            return parts.into_iter().map(one).collect();
        }
        if ids.is_empty() {
            return vec![];
        }
        let lost_from = self.lost_from(&ids);
        let mut more = json!({"locks": {"count": ids.len(), "root": bulk_root(&ids), "before": self.world.ledger.size()}});
        let (action, what) = match start {
            true => ("start", What::Start { on: scope(on), locks: ids }),
            false => {
                lost_from.iter().for_each(|at| more["lost_from"] = (*at).into());
                ("release", What::Release { on: scope(on), locks: ids, lost_from })
            }
        };
        vec![self.command(what, action, on, more, self.signers(7))]
    }

    fn terms(&self, which: usize) -> (Terms, Value) {
        let all = [
            json!({}),
            json!({"essential": ["handover"]}),
            json!({"essential": ["alarm", "handover"], "limits": {"calls_per_minute": 10}}),
            json!({"limits": {"calls_per_minute": 3, "tokens_per_minute": 900}}),
        ];
        let more = all[which].clone();
        let limit = |name: &str| more["limits"][name].as_u64();
        let essential =
            more["essential"].as_array().into_iter().flatten().map(|v| v.as_str().unwrap().into());
        let terms = Terms {
            essential: essential.collect(),
            limits: CallLimits {
                calls_per_minute: limit("calls_per_minute"),
                tokens_per_minute: limit("tokens_per_minute"),
            },
        };
        (terms, more)
    }

    /// A next authority. Whose key is suspended gets a new one.
    fn authority(&mut self, change: &Change, signed: bool) -> usize {
        let mut rules = self.now().clone();
        rules.retired.retain(|(key, ..)| !self.is_suspended(*key));
        match change {
            Change::Rotate { person, retire } => {
                let old = std::mem::replace(&mut rules.keys[*person], self.next_key);
                self.next_key += 1;
                let signed = |d: &&Document| matches!(d.what, What::Grant { .. }) && d.signers.contains(&old);
                let mut grants: Vec<_> =
                    self.made.iter().filter(signed).map(|d| d.envelope.digest()).collect();
                grants.truncate(20);
                if *retire && !self.is_suspended(old) && !grants.is_empty() {
                    rules.retired.push((old, *person, grants));
                }
            }
            Change::Out { person } => drop(rules.givers.remove(person)),
            Change::In { person } => drop(rules.givers.insert(*person)),
            Change::Threshold { threshold } => rules.threshold = *threshold,
            Change::On { scope } => rules.on = scope,
            Change::Forget => rules.retired.clear(),
        }
        if rules.givers.is_empty() {
            rules.givers.insert(0);
        }
        rules.threshold = rules.threshold.min(rules.givers.len());
        for person in 0..3 {
            if self.is_suspended(rules.keys[person]) {
                rules.keys[person] = self.next_key;
                self.next_key += 1;
            }
        }
        let line = |key: u8| public_key(key).to_openssh();
        let document = self.world.successor(|next| {
            for (person, key) in rules.keys.iter().enumerate() {
                next["principals"][person]["keys"] = json!([line(*key)]);
            }
            next["roles"][2]["principals"] = rules.givers.iter().map(|p| PEOPLE[*p]).collect();
            next["roles"][2]["threshold"] = rules.threshold.into();
            next["roles"][2]["scopes"] = json!([rules.on]);
            let retired = rules.retired.iter().map(|(key, person, grants)| {
                json!({"key": line(*key), "principal": PEOPLE[*person], "grants": grants})
            });
            next["retired"] = retired.collect();
            if rules.retired.is_empty() {
                next.as_object_mut().unwrap().remove("retired");
            }
        });
        let signers = if signed { vec![ROOT_1, ROOT_2] } else { vec![ROOT_2] };
        self.made(What::Authority(rules), EntryKind::Command, document, signers)
    }

    /// Sends it, for the first time or again. What the log takes is a fact.
    fn send(&mut self, at: usize) {
        let document = self.made[at].clone();
        let id = document.envelope.digest();
        let known = self.facts.iter().any(|fact| fact.id == id);
        let applied = self.world.propose(document.kind, document.envelope.clone());
        assert_eq!(
            applied.entry.is_some(),
            self.world.ledger.used_at(&id).is_some() && !known,
            "once, for ever"
        );
        if applied.entry.is_none() {
            // S10: a validly signed stop is never refused; one that is over says so.
            if let What::Lock { on, .. } = &document.what {
                let over = || {
                    let lock = self.facts.iter().find(|fact| fact.id == id);
                    lock.is_some_and(|lock| self.released(lock).is_some() || self.over(lock, on))
                };
                match applied.answer {
                    Ok(receipt) => assert!(receipt.repeated),
                    Err(Refusal::Used { .. }) => assert!(over()),
                    // It was for the log as it had been.
                    Err(refusal) => assert_eq!(document.kind, EntryKind::Restore, "{refusal}"),
                }
            }
            return;
        }
        match &document.what {
            // S5: no loosening without the people whom the authority in force asks for.
            What::Release { on, .. } | What::Start { on, .. } => {
                assert!(self.enough(self.now(), &document, on));
            }
            What::Grant { on, .. } => {
                for fact in &mut self.facts {
                    if let What::Grant { on: lies, expires_at_ms, .. } = &fact.document.what {
                        fact.swept |= lies == on && *expires_at_ms <= self.world.now_ms;
                    }
                }
            }
            What::Authority(rules) => self.rules.push(rules.clone()),
            What::Lock { .. } | What::Revoke { .. } | What::Suspend { .. } | What::Refuse { .. } => {}
        }
        self.facts.push(Fact { id, time_ms: self.world.now_ms, document, swept: false });
    }

    fn make_and_send(&mut self, step: &Step) {
        for at in self.make(step) {
            self.send(at);
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Lost(step) => drop(self.make(step)),
            Step::Again { which } => {
                if !self.made.is_empty() {
                    self.send(which.index(self.made.len()));
                }
            }
            Step::Outcome { lock } => {
                let lock = self.picked(&[*lock], |what| matches!(what, What::Lock { .. }))[0];
                let document = json!({"outcome": lock}).to_string();
                self.world.propose(EntryKind::Outcome, Envelope { document, signatures: vec![] });
            }
            Step::Propose { of, person } => self.propose(*of, *person),
            Step::Restart => self.world.restart(),
            Step::Wait { minutes } => self.world.now_ms += minutes * MINUTE_MS,
            Step::Back { minutes } => self.world.now_ms -= minutes * MINUTE_MS,
            step => self.make_and_send(step),
        }
    }

    fn times(&self) -> [u64; 4] {
        [0, 1, 30, 25 * 60].map(|minutes| self.world.now_ms + minutes * MINUTE_MS)
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let all = SCOPES.iter().flat_map(|agent| self.times().map(|at| (scope(agent), at)));
        all.map(|(agent, at)| self.world.ledger.verdict(&agent, at)).collect()
    }

    fn check(&self) {
        for agent in SCOPES {
            let on = scope(agent);
            for at_ms in self.times() {
                let verdict = self.world.ledger.verdict(&on, at_ms);
                assert_eq!(verdict, self.expected(&on, at_ms), "S1, S2, S5: {agent} at {at_ms}");
                let by_view = self.world.verdict_by_view(agent, at_ms);
                assert_eq!(by_view, verdict, "the view of {agent} hides something");
            }
            assert_eq!(self.world.terms(agent), self.expected_terms(&on), "{agent}");
            let mut holding: Vec<_> = self.holding(&on).iter().map(|(lock, _)| lock.id).collect();
            let mut held = self.world.ledger.locks_on(&on);
            holding.sort();
            held.sort();
            assert_eq!(held, holding, "S1: {agent}");
            for (lock, lies, _) in self.locks().filter(|(_, lies, _)| lies.covers(&on)) {
                let status = self.world.ledger.lock_status(&lock.id, &on);
                let over = self.over(lock, &on);
                assert_eq!(
                    matches!(status, LockStatus::Cleared { .. }),
                    over,
                    "{} on {lies}: {status:?}",
                    lock.id
                );
            }
        }
        assert_eq!(self.world.ledger.epoch().number, self.epoch());
        assert_eq!(self.world.ledger.authority().unwrap().version, self.rules.len() as u64);
    }
}

#[derive(Clone, Debug)]
enum Change {
    Rotate { person: usize, retire: bool },
    Out { person: usize },
    In { person: usize },
    Threshold { threshold: usize },
    On { scope: &'static str },
    Forget,
}

#[derive(Clone, Debug)]
enum Step {
    Lock {
        scope: &'static str,
        kind: LockKind,
    },
    Trip {
        scope: &'static str,
    },
    Restore,
    Release {
        scope: &'static str,
        locks: Vec<Index>,
        people: u8,
    },
    Start {
        scope: &'static str,
        locks: Vec<Index>,
        people: u8,
    },
    /// Whatever is in force and may be named: random picks seldom get that far.
    ReleaseAll {
        scope: &'static str,
        bulk: bool,
    },
    StartAll {
        scope: &'static str,
        bulk: bool,
    },
    Grant {
        scope: &'static str,
        minutes: u64,
        terms: usize,
        people: u8,
    },
    Revoke {
        scope: &'static str,
        grants: Vec<Index>,
    },
    Suspend {
        person: usize,
    },
    Authority {
        change: Change,
        signed: bool,
    },
    /// Made and signed, and not sent.
    Lost(Box<Step>),
    /// Something made before: again, or for the first time.
    Again {
        which: Index,
    },
    Outcome {
        lock: Index,
    },
    /// A document that gives, as one person signs it.
    Propose {
        of: Index,
        person: usize,
    },
    Refuse {
        of: Index,
    },
    Restart,
    Wait {
        minutes: u64,
    },
    /// The clock of another leader.
    Back {
        minutes: u64,
    },
}

fn kind() -> impl Strategy<Value = LockKind> {
    let throttle =
        |calls, tokens| LockKind::Throttle(CallLimits { calls_per_minute: calls, tokens_per_minute: tokens });
    prop_oneof![
        3 => Just(LockKind::Halt),
        3 => (1..=60u64).prop_map(|m| LockKind::Drain { drain_ms: m * MINUTE_MS }),
        2 => Just(LockKind::Pause),
        1 => Just(LockKind::Isolate),
        1 => Just(LockKind::Restrict),
        1 => (0..9u64).prop_map(move |calls| throttle(Some(calls), None)),
        1 => (0..9u64, 0..9u64).prop_map(move |(calls, tokens)| throttle(Some(calls), Some(tokens))),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let person = || 0..3usize;
    prop_oneof![
        3 => (person(), any::<bool>()).prop_map(|(person, retire)| Change::Rotate { person, retire }),
        2 => person().prop_map(|person| Change::Out { person }),
        3 => person().prop_map(|person| Change::In { person }),
        2 => (1..4usize).prop_map(|threshold| Change::Threshold { threshold }),
        1 => on().prop_map(|scope| Change::On { scope }),
        2 => Just(Change::On { scope: "*" }),
        1 => Just(Change::Forget),
    ]
}

/// Anything that only takes away.
fn tightening() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(any::<Index>(), 1..3);
    prop_oneof![
        6 => (on(), kind()).prop_map(|(scope, kind)| Step::Lock { scope, kind }),
        1 => on().prop_map(|scope| Step::Trip { scope }),
        1 => (on(), some()).prop_map(|(scope, grants)| Step::Revoke { scope, grants }),
        1 => some().prop_map(|grants| Step::Revoke { scope: "*", grants }),
        1 => (0..3usize).prop_map(|person| Step::Suspend { person }),
        1 => any::<Index>().prop_map(|of| Step::Refuse { of }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(any::<Index>(), 1..3);
    // Mostly all of them sign, so that something happens; any of them may not have.
    let people = || prop_oneof![4 => Just(7u8), 1 => 0..8u8];
    let made = prop_oneof![
        7 => tightening(),
        3 => (on(), some(), people()).prop_map(|(scope, locks, people)| Step::Release { scope, locks, people }),
        3 => (on(), some(), people()).prop_map(|(scope, locks, people)| Step::Start { scope, locks, people }),
        3 => (on(), any::<bool>()).prop_map(|(scope, bulk)| Step::ReleaseAll { scope, bulk }),
        4 => (on(), any::<bool>()).prop_map(|(scope, bulk)| Step::StartAll { scope, bulk }),
        5 => (on(), 1..200u64, 0..4usize, people()).prop_map(|(scope, minutes, terms, people)| Step::Grant { scope, minutes, terms, people }),
        2 => (change(), prop_oneof![6 => Just(true), 1 => Just(false)]).prop_map(|(change, signed)| Step::Authority { change, signed }),
    ];
    let made = made.boxed();
    prop_oneof![
        18 => made.clone(),
        1 => Just(Step::Restore),
        4 => made.prop_map(|step| Step::Lost(Box::new(step))),
        6 => any::<Index>().prop_map(|which| Step::Again { which }),
        1 => any::<Index>().prop_map(|lock| Step::Outcome { lock }),
        6 => (any::<Index>(), 0..3usize).prop_map(|(of, person)| Step::Propose { of, person }),
        1 => Just(Step::Restart),
        2 => (1..40u64).prop_map(|minutes| Step::Wait { minutes }),
        1 => (1..20u64).prop_map(|minutes| Step::Back { minutes }),
    ]
}

fn on() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&SCOPES[..])
}

/// Whether `after` allows nothing that `before` did not.
fn no_wider(after: &Terms, before: &Terms) -> bool {
    let lower =
        |after: Option<u64>, before: Option<u64>| before.is_none_or(|b| after.is_some_and(|a| a <= b));
    after.essential.is_subset(&before.essential)
        && lower(after.limits.calls_per_minute, before.limits.calls_per_minute)
        && lower(after.limits.tokens_per_minute, before.limits.tokens_per_minute)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(64)))]

    /// S1, S2, S5 and the honesty of views, after every step; at the end, replay from the log gives the same node.
    #[test]
    fn s1_s2_s5_s8_every_history_gives_what_was_acknowledged_and_replays_to_the_byte(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
            run.check();
        }
        SCOPES.iter().for_each(|agent| run.world.guard_takes_every_grant_of(agent));
        let replayed = run.world.replayed();
        prop_assert_eq!(replayed.frontier().root(), run.world.ledger.frontier().root());
        prop_assert_eq!(replayed.prev(), run.world.ledger.prev());
        prop_assert_eq!(postcard::to_stdvec(&replayed).unwrap(), postcard::to_stdvec(&run.world.ledger).unwrap());
    }

    /// S7: whatever has happened, one more tightening raises no verdict and widens no terms, now or later.
    #[test]
    fn s7_a_tightening_never_raises_a_verdict_nor_widens_the_terms(
        steps in prop::collection::vec(step(), 1..40), more in prop::collection::vec(tightening(), 1..5),
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.take(step));
        for tightening in more {
            let terms = |run: &Run| SCOPES.map(|agent| run.world.terms(agent));
            let (before, terms_before) = (run.verdicts(), terms(&run));
            run.take(&tightening);
            let (after, terms_after) = (run.verdicts(), terms(&run));
            prop_assert!(before.iter().zip(&after).all(|(before, after)| after <= before));
            for (agent, (before, after)) in SCOPES.iter().zip(terms_before.iter().zip(&terms_after)) {
                // Without consent there are no terms, and nothing that they could allow.
                let denied = run.world.ledger.verdict(&scope(agent), run.world.now_ms) == Verdict::Denied;
                prop_assert!(denied || no_wider(after, before), "{}: {:?}, then {:?}", agent, before, after);
            }
            run.check();
        }
    }

    /// Locks are a set: the order in which they arrive decides nothing but their places in the log.
    #[test]
    fn the_order_of_locks_does_not_matter(
        locks in prop::collection::vec((on(), kind()), 1..12).prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
    ) {
        let outcome = |locks: &[(&'static str, LockKind)]| {
            let mut run = Run::new();
            locks.iter().for_each(|(scope, kind)| run.take(&Step::Lock { scope, kind: *kind }));
            (run.verdicts(), SCOPES.map(|agent| run.world.terms(agent)))
        };
        prop_assert_eq!(outcome(&locks.0), outcome(&locks.1));
    }
}

/// Many locks of all kinds, many of them with waves: what an agent is shown still decides as all of them do.
#[test]
fn views_hide_nothing_among_many_locks_and_waves() {
    let mut run = Run::new();
    let throttle =
        |calls, tokens| LockKind::Throttle(CallLimits { calls_per_minute: calls, tokens_per_minute: tokens });
    let kinds = [
        LockKind::Halt,
        LockKind::Drain { drain_ms: 30 * MINUTE_MS },
        LockKind::Pause,
        LockKind::Restrict,
        throttle(Some(7), None),
        LockKind::Drain { drain_ms: MINUTE_MS },
        throttle(Some(9), Some(3)),
        LockKind::Isolate,
    ];
    for i in 0..300usize {
        let on = SCOPES[i % SCOPES.len()];
        let kind = kinds[i / SCOPES.len() % kinds.len()];
        let at = run.make(&Step::Lock { scope: on, kind })[0];
        // Without the checks of `World`, which copy the whole state.
        let document = run.made[at].clone();
        let (time_ms, envelope) = (run.world.now_ms, document.envelope.clone());
        let applied = run.world.ledger.apply(&Proposal { kind: EntryKind::Command, time_ms, envelope });
        let id = applied.answer.unwrap().digest;
        run.facts.push(Fact { id, time_ms, document, swept: false });
    }
    run.check();
    // Newest first, so that what remains in force is what the views' order would pick.
    for wave in [&["a/x/1", "b/x"][..], &["a/x", "a/y"], &["a", "ab", "b"], &["*"]] {
        let ids: Vec<_> = run.waiting(&scope("*"), false).into_iter().rev().take(100).collect();
        if !ids.is_empty() {
            let at = run.release("*", ids, 7);
            run.send(at);
            run.check();
        }
        for on in wave {
            run.take(&Step::StartAll { scope: on, bulk: false });
            run.check();
        }
    }
    assert_eq!(run.world.verdict("a/x/1"), Verdict::Enabled);
    assert_eq!(run.world.ledger.lock_count(), 0);
}
