//! Random histories against a model that knows nothing of views, snapshots or orders: only what was acknowledged.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use tagout_proto::command::StopMode;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Proposal;
use tagout_proto::limits::LOCK_IDS_MAX;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::rule::Verdict;
use tagout_proto::scope::Scope;

use crate::support::*;

/// Agents, and the scopes that commands name: ancestors, look-alikes and strangers of one another.
const SCOPES: [&str; 9] = ["*", "a", "a/x", "a/x/1", "a/x/2", "a/y", "ab", "b", "b/x"];
const MINUTE_MS: u64 = 60_000;

#[derive(Clone, Debug)]
enum Step {
    Stop {
        scope: Index,
        mode: StopMode,
    },
    Release {
        scope: Index,
        locks: Vec<Index>,
    },
    Start {
        scope: Index,
        locks: Vec<Index>,
    },
    /// Names whatever is in force and may be named: random picks seldom get that far.
    ReleaseAll {
        scope: Index,
    },
    StartAll {
        scope: Index,
    },
    Grant {
        scope: Index,
        minutes: u64,
    },
    /// Something sent before, sent again.
    Again {
        which: Index,
    },
    Outcome {
        lock: Index,
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

fn mode() -> impl Strategy<Value = StopMode> {
    prop_oneof![
        3 => Just(StopMode::Halt),
        3 => (1..=60u64).prop_map(|m| StopMode::Drain { drain_ms: m * MINUTE_MS }),
        2 => Just(StopMode::Pause),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let locks = || prop::collection::vec(any::<Index>(), 1..3);
    prop_oneof![
        6 => (any::<Index>(), mode()).prop_map(|(scope, mode)| Step::Stop { scope, mode }),
        3 => (any::<Index>(), locks()).prop_map(|(scope, locks)| Step::Release { scope, locks }),
        3 => (any::<Index>(), locks()).prop_map(|(scope, locks)| Step::Start { scope, locks }),
        3 => any::<Index>().prop_map(|scope| Step::ReleaseAll { scope }),
        4 => any::<Index>().prop_map(|scope| Step::StartAll { scope }),
        3 => (any::<Index>(), 1..200u64).prop_map(|(scope, minutes)| Step::Grant { scope, minutes }),
        3 => any::<Index>().prop_map(|which| Step::Again { which }),
        1 => any::<Index>().prop_map(|lock| Step::Outcome { lock }),
        1 => Just(Step::Restart),
        2 => (1..40u64).prop_map(|minutes| Step::Wait { minutes }),
        1 => (1..20u64).prop_map(|minutes| Step::Back { minutes }),
    ]
}

fn one_of(scope: &Index) -> &'static str {
    SCOPES[scope.index(SCOPES.len())]
}

/// What the outside world knows of one acknowledged stop.
struct Acknowledged {
    id: Digest,
    scope: Scope,
    mode: StopMode,
    time_ms: u64,
    released: bool,
    /// Scopes that starts named, each acknowledged after the release.
    started: Vec<Scope>,
}

impl Acknowledged {
    fn verdict(&self, agent: &Scope, at_ms: u64) -> Verdict {
        let holds = self.scope.covers(agent)
            && match self.mode {
                StopMode::Halt | StopMode::Drain { .. } => !self.started.iter().any(|s| s.covers(agent)),
                StopMode::Pause => !self.released,
            };
        match self.mode {
            _ if !holds => Verdict::Enabled,
            StopMode::Drain { drain_ms } if at_ms < self.time_ms + drain_ms => Verdict::EssentialOnly,
            StopMode::Halt | StopMode::Drain { .. } | StopMode::Pause => Verdict::Denied,
        }
    }
}

struct Run {
    world: World,
    stops: Vec<Acknowledged>,
    grants: Vec<(Scope, u64)>,
    sent: Vec<Envelope>,
}

impl Run {
    fn new() -> Self {
        let mut run = Self { world: World::new(), stops: vec![], grants: vec![], sent: vec![] };
        run.grant("*", 24 * 60);
        run
    }

    fn grant(&mut self, on: &str, minutes: u64) {
        let expires_at_ms = self.world.now_ms + minutes * MINUTE_MS;
        let document = self.world.grant_document(on, expires_at_ms);
        self.sent.push(document.clone());
        if self.world.send(document).is_ok() {
            self.grants.push((scope(on), expires_at_ms));
        }
    }

    fn stop_document(&mut self, on: &str, mode: StopMode) -> Envelope {
        let more = match mode {
            StopMode::Drain { drain_ms } => json!({"mode": "drain", "drain_ms": drain_ms}),
            StopMode::Halt | StopMode::Pause => json!({"mode": mode.name()}),
        };
        let document = self.world.document("stop", on, more);
        envelope(document, &[BOT])
    }

    /// Some ids to name, mostly of locks.
    fn pick(&self, picks: &[Index]) -> Vec<Digest> {
        let mut ids: Vec<_> = self.stops.iter().map(|s| s.id).collect();
        ids.push(Digest([0xee; 32]));
        let mut picked: Vec<_> = picks.iter().map(|i| *i.get(&ids)).collect();
        picked.sort();
        picked.dedup();
        picked
    }

    fn release(&mut self, on: &str, ids: &[Digest]) {
        let document = self.world.release_document(on, ids);
        self.sent.push(document.clone());
        if self.world.send(document).is_ok() {
            for stop in self.stops.iter_mut().filter(|s| ids.contains(&s.id)) {
                assert!(scope(on).covers(&stop.scope) && !stop.released);
                stop.released = true;
            }
        }
    }

    fn start(&mut self, on: &str, ids: &[Digest]) {
        let document = self.world.start_document(on, ids);
        self.sent.push(document.clone());
        if self.world.send(document).is_ok() {
            for stop in self.stops.iter_mut().filter(|s| ids.contains(&s.id)) {
                // S2: no start was ever acknowledged before the release.
                assert!(stop.released);
                stop.started.push(scope(on));
            }
        }
    }

    fn start_all(&mut self, on: &str) {
        let related = |s: &Scope| s.covers(&scope(on)) || scope(on).covers(s);
        let waiting = self.stops.iter().filter(|s| {
            let ended = s.started.iter().any(|started| started.covers(&s.scope));
            s.released && s.mode.needs_start() && !ended && related(&s.scope)
        });
        let ids: Vec<_> = waiting.map(|s| s.id).collect();
        // More than a document may name go by parts, as an operator's ceremony does.
        for ids in ids.chunks(LOCK_IDS_MAX) {
            self.start(on, ids);
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Stop { scope: on, mode } => {
                let on = one_of(on);
                let document = self.stop_document(on, *mode);
                self.sent.push(document.clone());
                // S10: a validly signed stop is never refused.
                let receipt = self.world.send(document).unwrap();
                self.stops.push(Acknowledged {
                    id: receipt.digest,
                    scope: scope(on),
                    mode: *mode,
                    time_ms: self.world.now_ms,
                    released: false,
                    started: vec![],
                });
            }
            Step::Release { scope, locks } => {
                let ids = self.pick(locks);
                self.release(one_of(scope), &ids);
            }
            Step::Start { scope, locks } => {
                let ids = self.pick(locks);
                self.start(one_of(scope), &ids);
            }
            Step::ReleaseAll { scope: on } => {
                let on = one_of(on);
                let within = self.stops.iter().filter(|s| !s.released && scope(on).covers(&s.scope));
                let ids: Vec<_> = within.map(|s| s.id).collect();
                if !ids.is_empty() {
                    self.release(on, &ids);
                }
            }
            Step::StartAll { scope } => self.start_all(one_of(scope)),
            Step::Grant { scope, minutes } => self.grant(one_of(scope), *minutes),
            Step::Again { which } => {
                let (document, used) = {
                    let document = which.get(&self.sent).clone();
                    let used = self.world.ledger.used_at(&document.digest());
                    (document, used)
                };
                // What took effect before has none now. What was refused before is the business of the other steps.
                if used.is_some() {
                    let applied = self.world.propose(EntryKind::Command, document);
                    assert!(
                        applied.entry.is_none() && applied.answer.is_err()
                            || applied.answer.unwrap().repeated
                    );
                }
            }
            Step::Outcome { lock } => {
                let outcome = json!({"outcome": self.pick(&[*lock])[0]}).to_string();
                self.world.propose(EntryKind::Outcome, Envelope { document: outcome, signatures: vec![] });
            }
            Step::Restart => self.world.restart(),
            Step::Wait { minutes } => self.world.now_ms += minutes * MINUTE_MS,
            Step::Back { minutes } => self.world.now_ms -= minutes * MINUTE_MS,
        }
    }

    /// S1 and S2: by what was acknowledged, what every agent may do at a time.
    fn expected(&self, agent: &Scope, at_ms: u64) -> Verdict {
        let consent =
            self.grants.iter().any(|(on, expires_at_ms)| on.covers(agent) && at_ms < *expires_at_ms);
        let consent = if consent { Verdict::Enabled } else { Verdict::Denied };
        self.stops.iter().map(|s| s.verdict(agent, at_ms)).fold(consent, Verdict::min)
    }

    fn times(&self) -> [u64; 5] {
        [0, 1, 30, 61, 25 * 60].map(|minutes| self.world.now_ms + minutes * MINUTE_MS)
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let all = SCOPES.iter().flat_map(|agent| self.times().map(|at| (scope(agent), at)));
        all.map(|(agent, at)| self.world.ledger.verdict(&agent, at)).collect()
    }

    fn check(&self) {
        for agent in SCOPES {
            for at_ms in self.times() {
                let verdict = self.world.ledger.verdict(&scope(agent), at_ms);
                let expected = self.expected(&scope(agent), at_ms);
                assert_eq!(verdict, expected, "S1, S2: {agent} at {at_ms}");
                assert_eq!(
                    self.world.verdict_by_view(agent, at_ms),
                    verdict,
                    "the view of {agent} hides something"
                );
            }
            let holding: Vec<_> = (self.stops.iter())
                .filter(|s| s.verdict(&scope(agent), self.world.now_ms) != Verdict::Enabled)
                .map(|s| s.id)
                .collect();
            let mut held = self.world.ledger.locks_on(&scope(agent));
            held.sort();
            assert!(holding.iter().all(|id| held.binary_search(id).is_ok()) && held.len() == holding.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// S1, S2 and the honesty of views, after every step; at the end, replay from the log gives the same node.
    #[test]
    fn s1_s2_s8_every_history_gives_what_was_acknowledged_and_replays_to_the_byte(
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
            run.check();
        }
        let replayed = run.world.replayed();
        prop_assert_eq!(replayed.frontier().root(), run.world.ledger.frontier().root());
        prop_assert_eq!(replayed.prev(), run.world.ledger.prev());
        prop_assert_eq!(postcard::to_stdvec(&replayed).unwrap(), postcard::to_stdvec(&run.world.ledger).unwrap());
    }

    /// S7: whatever has happened, one more tightening raises no verdict, now or later.
    #[test]
    fn s7_a_tightening_never_raises_a_verdict(
        steps in prop::collection::vec(step(), 1..30), more in prop::collection::vec((any::<Index>(), mode()), 1..4),
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.take(step));
        for (on, mode) in more {
            let before = run.verdicts();
            run.take(&Step::Stop { scope: on, mode });
            for (before, after) in before.into_iter().zip(run.verdicts()) {
                prop_assert!(after <= before);
            }
            run.check();
        }
    }

    /// Locks are a set: the order in which stops arrive decides nothing but their places in the log.
    #[test]
    fn the_order_of_stops_does_not_matter(
        stops in prop::collection::vec((any::<Index>(), mode()), 1..12).prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
    ) {
        let verdicts = |stops: &[(Index, StopMode)]| {
            let mut run = Run::new();
            stops.iter().for_each(|(scope, mode)| run.take(&Step::Stop { scope: *scope, mode: *mode }));
            run.verdicts()
        };
        prop_assert_eq!(verdicts(&stops.0), verdicts(&stops.1));
    }
}

/// Many locks of all modes, many of them with waves: what an agent is shown still decides as all of them do.
#[test]
fn views_hide_nothing_among_many_locks_and_waves() {
    let mut run = Run::new();
    let modes = [
        StopMode::Halt,
        StopMode::Drain { drain_ms: 30 * MINUTE_MS },
        StopMode::Pause,
        StopMode::Drain { drain_ms: MINUTE_MS },
    ];
    for i in 0..300usize {
        let on = SCOPES[i % SCOPES.len()];
        let mode = modes[i / SCOPES.len() % modes.len()];
        let document = run.stop_document(on, mode);
        let proposal = Proposal { kind: EntryKind::Command, time_ms: run.world.now_ms, envelope: document };
        let id = run.world.ledger.apply(&proposal).answer.unwrap().digest;
        let time_ms = run.world.now_ms;
        run.stops.push(Acknowledged {
            id,
            scope: scope(on),
            mode,
            time_ms,
            released: false,
            started: vec![],
        });
    }
    run.check();
    // Newest first, so that what remains in force is what the views' order would pick.
    for wave in [&["a/x/1", "b/x"][..], &["a/x", "a/y"], &["a", "ab", "b"], &["*"]] {
        let ids: Vec<_> = run.stops.iter().filter(|s| !s.released).map(|s| s.id).rev().take(100).collect();
        if !ids.is_empty() {
            run.release("*", &ids);
            run.check();
        }
        for on in wave {
            run.start_all(on);
            run.check();
        }
    }
    assert_eq!(run.world.verdict("a/x/1"), Verdict::Enabled);
    assert_eq!(run.world.ledger.lock_count(), 0);
}
