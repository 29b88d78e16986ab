//! The driver: one task per client that asks for leases, hears pushes and writes the cells. It only orchestrates; what is
//! believed is decided in `trusted.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::LeaseResponse;
use tagout_proto::limits::AGENTS_PER_LEASE_MAX;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{Confirmation, Renew, StopEvent, TrustChain};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::client::Core;
use crate::clock::{self, Now, Skew};
use crate::confirm::Confirmations;
use crate::deliver::{DeliverError, Delivered, Delivery};
use crate::denied::{Gone, Reason, Unproven};
use crate::guard::{Agent, Arrival, Bounds};
use crate::limits::*;
use crate::nodes::{Left, NodeError, Nodes};
use crate::pace::Pace;
use crate::push::{self, Push, jitter};
use crate::state_folder::StateFolder;
use crate::trip::{self, Telling, Told, Tripping};
use crate::trusted::{Asked, Essential, JudgedLock, Judgement, LeaseRefused, Trusted};

const NS_PER_MS: u64 = 1_000_000;
/// Questions about locks that may follow one another without a pause.
const ASKS_IN_A_ROW_MAX: u32 = 8;

pub(crate) struct Driver {
    core: Arc<Core>,
    trusted: Trusted,
    nodes: Arc<Nodes>,
    confirmations: Confirmations,
    /// Stops that a program or a file brings.
    delivered: mpsc::Receiver<Delivery>,
    /// Trips of the program.
    tripped: mpsc::Receiver<Tripping>,
    telling: Telling,
    told: JoinSet<(Digest, Told)>,
    /// Trips that no node has taken.
    untold: BTreeMap<Digest, Untold>,
    state: Option<Arc<StateFolder>>,
    /// When to write to it, by the boot clock.
    keep_at_ns: u64,
    /// A writing under way.
    keeping: Option<JoinHandle<io::Result<()>>>,
    instance: String,
    /// The agents that have guards; the push stream follows them.
    scopes: watch::Sender<Vec<Scope>>,
    /// Agents whose turn for a lease request has come.
    due: BTreeSet<Scope>,
    /// When the next round for all agents begins, by the boot clock.
    round_at_ns: u64,
    /// No request before this: the back-off after failures.
    hold_until_ns: u64,
    failures: u32,
    /// Until when the newest lease lets calls begin, by the boot clock.
    lease_ns: u64,
    asks_in_a_row: u32,
    /// A lease that a newer trust chain might prove: the chain is asked for next, at the same node.
    doubt: Option<Doubt>,
    /// A round is wanted as soon as the request under way has ended.
    renew: bool,
    /// The log's size by the newest greeting of the push stream.
    heard_size: u64,
    ttl_ms: u64,
    trouble: Option<Trouble>,
    skew: Skew,
    /// When to look again for agents that came and went.
    look_at_ns: u64,
    /// When some judgement changes though nothing arrives.
    next_ns: u64,
    confirming: TaskTracker,
    /// Over how long confirmations of pushed stops are spread, as the node of the newest one asked.
    confirm_within: Duration,
    reports: BTreeMap<Scope, BTreeMap<Digest, Report>>,
}

/// What went wrong with the newest lease request.
enum Trouble {
    Unreachable(String),
    Unproven(Arc<Unproven>),
}

/// A lease that could not be believed, for these agents.
struct Doubt {
    agents: Vec<Scope>,
    refused: LeaseRefused,
}

/// What a lock did to one agent, until it is confirmed.
struct Report {
    closed_ns: u64,
    sent: bool,
}

/// A trip that no node has taken, for this scope.
struct Untold {
    scope: Scope,
    /// It is not to be sent now: it is under way, or was refused for good.
    rests: bool,
    /// Cancelled when there is no more to wait for.
    settled: CancellationToken,
}

enum Answer {
    Lease(Asked, Result<LeaseResponse, NodeError>),
    Chain(Doubt, Result<TrustChain, NodeError>),
}

type Request = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Untold {
    fn new(scope: Scope) -> Self {
        Self { scope, rests: false, settled: CancellationToken::new() }
    }
}

impl Driver {
    pub(crate) fn new(
        core: Arc<Core>,
        trusted: Trusted,
        nodes: Arc<Nodes>,
        instance: String,
        delivered: mpsc::Receiver<Delivery>,
        tripped: mpsc::Receiver<Tripping>,
        state: Option<StateFolder>,
    ) -> Self {
        let ttl_ms = trusted.limits().ttl_ms;
        Self {
            core,
            trusted,
            confirmations: Confirmations::new(Arc::clone(&nodes)),
            telling: Telling::new(Arc::clone(&nodes)),
            nodes,
            delivered,
            tripped,
            told: JoinSet::new(),
            untold: BTreeMap::new(),
            // That it can be written shows at once.
            keep_at_ns: if state.is_some() { 0 } else { u64::MAX },
            state: state.map(Arc::new),
            keeping: None,
            instance,
            scopes: watch::Sender::new(Vec::new()),
            due: BTreeSet::new(),
            round_at_ns: 0,
            hold_until_ns: 0,
            failures: 0,
            lease_ns: 0,
            asks_in_a_row: 0,
            doubt: None,
            renew: false,
            heard_size: 0,
            ttl_ms,
            trouble: None,
            skew: Skew::default(),
            look_at_ns: 0,
            next_ns: 0,
            confirming: TaskTracker::new(),
            confirm_within: Duration::ZERO,
            reports: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let core = Arc::clone(&self.core);
        let (sender, mut pushes) = mpsc::channel(PUSH_QUEUE_MAX);
        let follow =
            push::follow(Arc::clone(&self.nodes), self.scopes.subscribe(), self.instance.clone(), sender);
        let _push = AbortOnDropHandle::new(tokio::spawn(follow));
        let _stop_folder =
            core.follow_stop_folder().map(|follow| AbortOnDropHandle::new(tokio::spawn(follow)));
        let mut request: Option<Request> = None;
        // Suspended time does not count for tokio's timers: the clocks are read anew at every turn, and at least every
        // tick. What has ended by then is denied all the same: the cells hold boot-clock deadlines (S3).
        loop {
            if core.forked() {
                return;
            }
            let now = Now::read();
            core.beat(now.boot_ns);
            self.check_skew(now);
            if now.boot_ns >= self.look_at_ns {
                self.look(now);
            }
            if now.boot_ns >= self.next_ns {
                self.settle_all(now);
            }
            if request.is_none() {
                request = self.next_request(now);
            }
            self.keep(now);
            let wake = self.wake_in(request.is_none());
            tokio::select! {
                biased;
                () = core.closed.cancelled() => return self.finish().await,
                Some(push) = pushes.recv() => self.pushed(push, Now::read()),
                Some(delivery) = self.delivered.recv() => self.deliver(delivery, Now::read()),
                Some(tripping) = self.tripped.recv() => self.trip(tripping, Now::read()),
                Some(Ok((trip, told))) = self.told.join_next() => self.trip_told(trip, told),
                answer = answered(&mut request) => {
                    request = None;
                    match answer {
                        Answer::Lease(asked, answer) => self.answered(asked, answer, Now::read()),
                        Answer::Chain(doubt, chain) => self.learn(doubt, chain, Now::read()),
                    }
                }
                kept = written(&mut self.keeping) => self.kept(kept, Now::read()),
                () = core.changed.notified() => self.look_at_ns = 0,
                () = tokio::time::sleep(wake) => {}
            }
        }
    }

    /// The last guard is gone; what stops did here is still told, and what tripped.
    async fn finish(mut self) {
        self.confirming.close();
        let confirming = self.confirming.clone();
        let mut told = std::mem::take(&mut self.told);
        let telling = async { while told.join_next().await.is_some() {} };
        let last = async { tokio::join!(self.keep_last(), confirming.wait(), telling) };
        let _ = tokio::time::timeout(Duration::from_millis(CONFIRM_TIMEOUT_MS), last).await;
    }

    /// Writes what has to outlive the process. One write at a time, and the newest state wins.
    fn keep(&mut self, now: Now) {
        let Some(folder) = &self.state else { return };
        if self.keeping.is_some() || now.boot_ns < self.keep_at_ns {
            return;
        }
        self.keep_at_ns = u64::MAX;
        let (folder, bytes) = (Arc::clone(folder), self.trusted.keep());
        self.keeping = Some(tokio::task::spawn_blocking(move || folder.write(&bytes)));
    }

    async fn keep_last(&mut self) {
        if self.keeping.is_some() {
            let kept = written(&mut self.keeping).await;
            self.kept(kept, Now::read());
        }
        if self.keep_at_ns != u64::MAX {
            self.keep_at_ns = 0;
            self.keep(Now::read());
            let kept = written(&mut self.keeping).await;
            self.kept(kept, Now::read());
        }
    }

    fn keep_by(&mut self, at_ns: u64) {
        if self.state.is_some() {
            self.keep_at_ns = self.keep_at_ns.min(at_ns);
        }
    }

    fn kept(&mut self, kept: io::Result<()>, now: Now) {
        if let Err(error) = kept {
            // What is latched holds all the same, as long as this process lives.
            tracing::error!(target: "tagout", %error, "the state folder cannot be written: a restart would forget stops");
            self.keep_by(now.boot_ns + KEEP_AFTER_MS * NS_PER_MS);
        }
    }

    fn check_skew(&mut self, now: Now) {
        // S3: while a hypervisor pauses the machine, its boot clock stands still and lies about the lease's age.
        if self.skew.jumped(now) {
            tracing::warn!(target: "tagout", "the wall clock jumped: denying until a newer lease");
            self.require_newer(Reason::ClockJumped, now);
        }
    }

    /// Agents that came and went.
    fn look(&mut self, now: Now) {
        self.look_at_ns = now.boot_ns + TICK_MS * NS_PER_MS;
        self.next_ns = 0;
        for scope in self.core.take_dropped() {
            self.trusted.forget(&scope);
            self.reports.remove(&scope);
            self.due.remove(&scope);
        }
        let scopes: Vec<Scope> = self.core.agents().iter().map(|agent| agent.scope.clone()).collect();
        if *self.scopes.borrow() == scopes {
            return;
        }
        let known = self.scopes.send_replace(scopes.clone());
        for scope in scopes.into_iter().filter(|scope| known.binary_search(scope).is_err()) {
            self.trusted.add(scope.clone());
            self.due.insert(scope);
        }
    }

    fn wake_in(&self, idle: bool) -> Duration {
        let request_ns = match (idle, self.due.is_empty()) {
            (false, _) => u64::MAX,
            (true, false) => self.hold_until_ns,
            (true, true) => self.hold_until_ns.max(self.round_at_ns),
        };
        let keep_ns = if self.keeping.is_some() { u64::MAX } else { self.keep_at_ns };
        let at_ns = self.look_at_ns.min(self.next_ns).min(request_ns).min(keep_ns);
        Duration::from_nanos(at_ns.saturating_sub(clock::boot_ns()))
    }

    /// The next request, if it is time for one.
    fn next_request(&mut self, now: Now) -> Option<Request> {
        if let Some(doubt) = self.doubt.take() {
            let (nodes, within) = (Arc::clone(&self.nodes), self.patience(now));
            return Some(Box::pin(async move {
                let chain = nodes.trust_chain(within).await;
                Answer::Chain(doubt, chain)
            }));
        }
        if now.boot_ns < self.hold_until_ns {
            return None;
        }
        if self.due.is_empty() {
            let heard = std::mem::take(&mut self.heard_size) > self.trusted.log_size();
            if !heard && !self.renew && now.boot_ns < self.round_at_ns {
                return None;
            }
            self.renew = false;
            self.round_at_ns = now.boot_ns + nanos(jitter(self.pace().renew_after()));
            self.due.extend(self.scopes.borrow().iter().cloned());
        }
        let agents: Vec<Scope> = self.due.iter().take(AGENTS_PER_LEASE_MAX).cloned().collect();
        if agents.is_empty() {
            return None;
        }
        self.due.retain(|scope| agents.binary_search(scope).is_err());
        // S3: the clock is read before the nonce is made, and the nonce is made before anything is sent.
        let t0_ns = clock::boot_ns();
        let mut nonce = Digest::default();
        if let Err(error) = getrandom::fill(&mut nonce.0) {
            let trouble = Trouble::Unreachable(format!("no randomness for a nonce: {error}"));
            self.failed(agents, trouble, Left::Unable, None, now);
            return None;
        }
        let asked = self.trusted.ask(nonce, t0_ns, self.instance.clone(), &agents);
        let nodes = Arc::clone(&self.nodes);
        let within = self.patience(now);
        Some(Box::pin(async move {
            let answer = nodes.lease(&asked.request, within).await;
            Answer::Lease(asked, answer)
        }))
    }

    /// The time to live that renewals, time-outs and back-offs are measured by.
    fn pace(&self) -> Pace {
        Pace::of(self.ttl_ms)
    }

    fn patience(&self, now: Now) -> Duration {
        self.pace().patience(self.lease_left(now))
    }

    fn lease_left(&self, now: Now) -> Duration {
        Duration::from_nanos(self.lease_ns.saturating_sub(now.boot_ns))
    }

    fn answered(&mut self, asked: Asked, answer: Result<LeaseResponse, NodeError>, now: Now) {
        let agents: Vec<Scope> = asked.request.agents.iter().map(|agent| agent.scope.clone()).collect();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(target: "tagout", %error, "no lease");
                if let Some(why) = &error.unenrolled {
                    // An answer, and no failure: these agents are asked for again with the next round, of another node, and
                    // keep nobody waiting until then.
                    self.trusted.unenrolled(&agents, why);
                    self.nodes.turn(Left::Unable);
                    return self.settle_all(now);
                }
                let NodeError { left, retry_after, .. } = error;
                return self.failed(agents, Trouble::Unreachable(error.to_string()), left, retry_after, now);
            }
        };
        let accepted = match self.trusted.accept_lease(&asked, answer, now) {
            Ok(accepted) => accepted,
            Err(refused) => {
                tracing::warn!(target: "tagout", error = %refused, "lease refused");
                if refused.asks_for_proof() {
                    self.doubt = Some(Doubt { agents, refused });
                    return;
                }
                let trouble = Trouble::Unproven(Arc::new(refused.into()));
                return self.failed(agents, trouble, Left::Unproven, None, now);
            }
        };
        tracing::debug!(
            target: "tagout",
            agents = agents.len(), log_size = accepted.log_size, ttl_ms = accepted.ttl_ms, "lease accepted"
        );
        for (lock, agent) in &accepted.cleared {
            tracing::info!(target: "tagout", %lock, %agent, "lock cleared");
            // Whatever the nodes answered: it is over, and the next trip is another one.
            self.no_longer_untold(lock);
            if let Some(folder) = self.core.stop_folder.as_ref().filter(|_| self.trusted.has_ended(lock)) {
                folder.ended(*lock);
            }
        }
        for (lock, agent, error) in &accepted.uncleared {
            tracing::warn!(target: "tagout", %lock, %agent, %error, "lock stays: its end is not proven");
        }
        for (scope, trip) in accepted.untold {
            self.tell(scope, trip);
        }
        self.keep_by(now.boot_ns + KEEP_AFTER_MS * NS_PER_MS);
        let counts = &self.core.counts;
        counts.leases.add(1);
        counts.log_size.set(accepted.log_size);
        counts.lease_ns.set(accepted.deadline_ns);
        self.failures = 0;
        self.lease_ns = accepted.deadline_ns;
        self.trouble = None;
        self.ttl_ms = accepted.ttl_ms;
        self.asks_in_a_row = if accepted.ask_again { self.asks_in_a_row + 1 } else { 0 };
        if accepted.ask_again && self.asks_in_a_row < ASKS_IN_A_ROW_MAX {
            self.due.extend(agents);
        }
        self.settle_all(now);
    }

    /// Asks for the lease again at once if the chain had news, of which there is an end: people sign every piece of it.
    fn learn(&mut self, doubt: Doubt, chain: Result<TrustChain, NodeError>, now: Now) {
        let Doubt { agents, refused } = doubt;
        let chain = match chain {
            Ok(chain) => chain,
            Err(error) => {
                tracing::warn!(target: "tagout", %error, "no trust chain");
                let trouble = Trouble::Unproven(Arc::new(refused.into()));
                return self.failed(agents, trouble, error.left, error.retry_after, now);
            }
        };
        match self.trusted.learn(&chain.documents, now) {
            Ok(true) => {
                let (trust, epoch) = (self.trusted.trust(), self.trusted.trust().epoch());
                let version = trust.authority().version;
                tracing::info!(target: "tagout", version, epoch = epoch.number, "trust chain learned");
                self.keep_by(now.boot_ns);
                self.due.extend(agents);
                self.settle_all(now);
            }
            Ok(false) => {
                self.failed(agents, Trouble::Unproven(Arc::new(refused.into())), Left::Unproven, None, now)
            }
            Err(refused) => {
                tracing::warn!(target: "tagout", error = %refused, "trust chain refused");
                self.failed(agents, Trouble::Unproven(Arc::new(refused.into())), Left::Unproven, None, now);
            }
        }
    }

    /// Tries the next node, after a while if all were tried.
    fn failed(&mut self, agents: Vec<Scope>, trouble: Trouble, left: Left, wish: Option<Duration>, now: Now) {
        match &trouble {
            Trouble::Unreachable(_) => self.core.counts.lease_failures.add(1),
            Trouble::Unproven(_) => self.core.counts.unproven.add(1),
        }
        self.trouble = Some(trouble);
        self.nodes.turn(left);
        self.due.extend(agents);
        self.failures += 1;
        let wait = self.pace().back_off(self.failures, self.nodes.count(), wish, self.lease_left(now));
        self.hold_until_ns = now.boot_ns + nanos(jitter(wait));
        self.settle_all(now);
    }

    fn pushed(&mut self, push: Push, now: Now) {
        match push {
            Push::Hello(Renew { log_size, deny, .. }) => {
                // What was pushed while nobody listened is in the log by now.
                self.heard_size = log_size;
                if deny {
                    self.require_newer(Reason::StopsMissed, now);
                }
            }
            Push::Renew(Renew { deny, within_ms, .. }) => {
                let within = Duration::from_millis(within_ms.min(SPREAD_MAX_MS));
                let at_ns = now.boot_ns + nanos(jitter(Duration::ZERO..=within));
                self.round_at_ns = self.round_at_ns.min(at_ns);
                if deny {
                    self.require_newer(Reason::StopsMissed, now);
                }
            }
            Push::Stop(event) => self.stop(event, now),
            Push::Unreadable(what) => self.unproven(Unproven::Unreadable(what), now),
        }
    }

    /// Step ⑦ of a stop, or of anything else that takes away: the breaker opens, then the calls under way are cut.
    fn stop(&mut self, event: StopEvent, now: Now) {
        let covered = match self.trusted.accept_push(&event, now) {
            Ok(covered) => covered,
            Err(refused) => return self.unproven(refused.into(), now),
        };
        // Without an entry it is pending: no log has it yet.
        let (document, entry) = (event.stop.digest(), event.index);
        // The node counts on one confirmation from each that listens.
        let confirm_within_ms = event.confirm_within_ms.saturating_mul(covered.len() as u64);
        self.confirm_within = Duration::from_millis(confirm_within_ms.min(SPREAD_MAX_MS));
        tracing::warn!(target: "tagout", agents = covered.len(), %document, entry, by = "push", "stop received");
        self.settle_these(&covered, now);
    }

    /// The same for a stop that came past the service, which gets it with the next lease request.
    fn deliver(&mut self, delivery: Delivery, now: Now) {
        let Delivery { stop, by, answer } = delivery;
        let document = stop.digest();
        // Guards that were made before it came are under it, also in what is answered.
        self.look(now);
        let delivered = match self.trusted.accept_delivered(&stop, by, now) {
            Ok(covered) if covered.is_empty() && self.trusted.has_ended(&document) => {
                Err(DeliverError::Used { lock: document })
            }
            Ok(agents) => {
                tracing::warn!(target: "tagout", agents = agents.len(), %document, ?by, "stop received");
                self.settle_these(&agents, now);
                self.renew = true;
                Ok(Delivered { document, agents })
            }
            // Nobody is denied for it: unlike a push it need not come from a node.
            Err(refused) => Err(refused.into()),
        };
        // Whoever brought it may not wait for the answer any more; it holds all the same.
        let _ = answer.send(delivered);
    }

    /// The program stops an agent of its own: that holds before anybody is asked.
    fn trip(&mut self, Tripping { scope, reason, answer }: Tripping, now: Now) {
        // Guards that were made before it came are under it.
        self.look(now);
        // Nobody can release what no node has taken, so it is the same stop, and a loop makes no thousands.
        let untold = self.untold.iter().find(|(_, trip)| trip.scope == scope).map(|(id, _)| *id);
        let id = untold.unwrap_or_else(|| self.trip_anew(scope, &reason, now));
        let _ = answer.send(id);
    }

    fn trip_anew(&mut self, scope: Scope, reason: &str, now: Now) -> Digest {
        let deployment = self.trusted.deployment().clone();
        let (trip, nonce) = trip::make(deployment, scope.clone(), &self.instance, reason, now);
        let (trip, covered) = self.trusted.trip(trip, &nonce, now);
        let lock = trip.digest();
        tracing::warn!(target: "tagout", agents = covered.len(), %scope, %lock, reason, "tripped");
        self.untold.insert(lock, Untold::new(scope.clone()));
        self.settle_these(&covered, now);
        self.tell(scope, trip);
        lock
    }

    /// Hands a trip to the nodes, unless that is being done or was refused.
    fn tell(&mut self, scope: Scope, trip: Envelope) {
        let id = trip.digest();
        let untold = self.untold.entry(id).or_insert_with(|| Untold::new(scope));
        if !std::mem::replace(&mut untold.rests, true) {
            let telling = self.telling.clone();
            self.told.spawn(async move { (id, telling.tell(trip).await) });
        }
    }

    fn trip_told(&mut self, trip: Digest, told: Told) {
        match told {
            Told::Taken => {
                self.no_longer_untold(&trip);
                self.renew = true;
            }
            Told::Refused => {
                if let Some(untold) = self.untold.get(&trip) {
                    untold.settled.cancel();
                }
            }
            Told::Later => {
                if let Some(untold) = self.untold.get_mut(&trip) {
                    untold.rests = false;
                }
            }
        }
    }

    fn no_longer_untold(&mut self, trip: &Digest) {
        if let Some(untold) = self.untold.remove(trip) {
            untold.settled.cancel();
        }
    }

    /// It may have been a stop, so it is taken for one until a lease says otherwise (S4).
    fn unproven(&mut self, what: Unproven, now: Now) {
        self.core.counts.unproven.add(1);
        tracing::warn!(target: "tagout", error = %what, "push not verified: denying until a newer lease");
        self.require_newer(Reason::Unverifiable(Arc::new(what)), now);
    }

    fn require_newer(&mut self, why: Reason, now: Now) {
        self.trusted.require_newer(now.boot_ns, why);
        self.renew = true;
        self.settle_all(now);
    }

    fn settle_these(&mut self, scopes: &[Scope], now: Now) {
        self.keep_by(now.boot_ns);
        self.core.counts.stops.add(1);
        for agent in self.core.agents().into_iter().filter(|a| scopes.binary_search(&a.scope).is_ok()) {
            let next_ns = self.settle(&agent, now);
            self.next_ns = self.next_ns.min(next_ns);
        }
    }

    fn settle_all(&mut self, now: Now) {
        self.next_ns = u64::MAX;
        for agent in self.core.agents() {
            let next_ns = self.settle(&agent, now);
            self.next_ns = self.next_ns.min(next_ns);
        }
    }

    /// Brings one agent's cell, calls and confirmations in line with what is believed. Says when to look again.
    fn settle(&mut self, agent: &Arc<Agent>, now: Now) -> u64 {
        let mut judgement = self.trusted.judge(&agent.scope, now);
        let next_ns = judgement.next_ns.unwrap_or(u64::MAX);
        let Essential { until_ns, refusal } = std::mem::take(&mut judgement.essential);
        let essential = Essential { until_ns, refusal: refusal.map(|reason| self.explained(reason)) };
        match judgement.refusal.clone() {
            None => {
                agent.allow_until(judgement.allow_until_ns, essential, Bounds::of(&judgement));
                self.reports.remove(&agent.scope);
            }
            Some(reason) => {
                let arrival = arrival(&reason, &judgement);
                let reason = self.explained(reason);
                let answered = self.trusted.answered(&agent.scope);
                let closed_ns = agent.deny(reason, essential, Bounds::of(&judgement), arrival, answered);
                let calls_cut = if judgement.cut { agent.cut() } else { 0 };
                self.core.counts.calls_cut.add(calls_cut as u64);
                self.report(agent, &judgement, closed_ns, calls_cut);
            }
        }
        next_ns
    }

    /// A lapse with what is known of its cause.
    fn explained(&self, reason: Reason) -> Reason {
        match (reason, &self.trouble) {
            (
                Reason::NotReady { .. } | Reason::Lapsed { .. } | Reason::StopsMissed | Reason::ClockJumped,
                Some(Trouble::Unproven(what)),
            ) => Reason::Unverifiable(Arc::clone(what)),
            (Reason::NotReady { .. }, Some(Trouble::Unreachable(error))) => {
                Reason::NotReady { last_error: Some(error.clone()) }
            }
            (Reason::Lapsed { .. }, Some(Trouble::Unreachable(error))) => {
                Reason::Lapsed { last_error: Some(error.clone()) }
            }
            (reason, _) => reason,
        }
    }

    /// Step ⑧ of a stop: confirms each lock once, when no call can begin and all that were cut are gone.
    fn report(&mut self, agent: &Arc<Agent>, judgement: &Judgement, closed_ns: u64, calls_cut: usize) {
        if judgement.locks.is_empty() && !self.reports.contains_key(&agent.scope) {
            return;
        }
        let reports = self.reports.entry(agent.scope.clone()).or_default();
        reports.retain(|id, _| judgement.locks.binary_search_by_key(id, |lock| lock.id).is_ok());
        // The calls are counted for one lock: the first that cuts.
        let mut calls_cut = calls_cut as u64;
        for lock in &judgement.locks {
            let report = reports.entry(lock.id).or_insert(Report { closed_ns, sent: false });
            if !lock.in_force || report.sent {
                continue;
            }
            report.sent = true;
            let cut = if lock.cuts { std::mem::take(&mut calls_cut) } else { 0 };
            if cut > 0 {
                tracing::warn!(target: "tagout", agent = %agent.scope, lock = %lock.id, calls = cut, "calls cut");
            }
            let closed_us = micros(lock.received_ns, report.closed_ns);
            self.confirming.spawn(confirm(
                self.confirmations.clone(),
                agent.calls.all_dropped(),
                *lock,
                self.untold.get(&lock.id).map(|trip| trip.settled.clone()),
                jitter(Duration::ZERO..=self.confirm_within),
                Confirmation {
                    lock: lock.id,
                    agent: agent.scope.clone(),
                    instance: self.instance.clone(),
                    closed_us,
                    cut_us: closed_us,
                    calls_cut: cut,
                    by: lock.by,
                    waited_us: 0,
                },
            ));
        }
    }
}

impl Drop for Driver {
    /// However the driver ends, nothing stays allowed that nobody would take back (S4).
    fn drop(&mut self) {
        if self.core.forked() {
            return;
        }
        let why = match (std::thread::panicking(), self.core.closed.is_cancelled()) {
            (true, _) => Gone::Panicked,
            (false, true) => Gone::Closed,
            (false, false) => Gone::RuntimeEnded,
        };
        if why == Gone::Closed {
            tracing::debug!(target: "tagout", %why, "the client has ended");
        } else {
            tracing::error!(target: "tagout", %why, "the client has ended: everything is denied");
        }
        for agent in self.core.end(why) {
            agent.abandon(why);
            agent.cut();
        }
    }
}

async fn answered(request: &mut Option<Request>) -> Answer {
    match request {
        Some(request) => request.await,
        None => pending().await,
    }
}

async fn written(keeping: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let Some(writing) = keeping else { return pending().await };
    let kept = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    *keeping = None;
    kept
}

async fn confirm(
    confirmations: Confirmations,
    all_dropped: impl Future<Output = ()>,
    lock: JudgedLock,
    untold: Option<CancellationToken>,
    wait: Duration,
    mut confirmation: Confirmation,
) {
    if lock.cuts {
        all_dropped.await;
        confirmation.cut_us = micros(lock.received_ns, clock::boot_ns());
    }
    if let Some(settled) = untold {
        // No account of a trip begins before a node has taken it.
        settled.cancelled().await;
    }
    let stopped_ns = clock::boot_ns();
    tokio::time::sleep(wait).await;
    confirmation.waited_us = micros(stopped_ns, clock::boot_ns());
    confirmations.send(confirmation).await;
}

/// How the stop came that is the reason.
fn arrival(reason: &Reason, judgement: &Judgement) -> Option<Arrival> {
    let Reason::Stopped(told) = reason else { return None };
    let lock = judgement.locks.iter().find(|lock| lock.id == told.id)?;
    Some(Arrival { by: lock.by, received_ns: lock.received_ns })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1_000
}
