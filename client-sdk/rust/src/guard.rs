//! The guard: what stands before one agent's calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;
use tagout_proto::digest::Digest;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::wire::StopPath;
use tokio::sync::watch;

use crate::call::{Call, GuardedStream, Running};
use crate::calls::{Calls, Registered};
use crate::cell::{Cell, Reader};
use crate::client::{GuardError, Handle};
use crate::clock;
use crate::denied::{Denied, Gone, Reason, Stopped};
use crate::limits::ESSENTIAL_HANDLES_MAX;
use crate::throttle::{Full, Throttle};
use crate::trip::TripError;
use crate::trusted::{Essential, Judgement};

/// The circuit breaker before one agent's calls. Cloning is cheap, and clones are one guard.
///
/// It is cooperative: it stops code that asks. An agent that can rewrite this process can leave it out.
#[derive(Clone)]
pub struct Guard {
    cell: Reader,
    agent: Arc<Agent>,
    /// Keeps the client running.
    handle: Arc<Handle>,
}

/// Proof that a call may begin now. It says nothing about later: ask again before the next call.
#[must_use = "a permit is for the call that follows; without one there is no need to check"]
#[derive(Debug)]
pub struct Permit(());

/// How a guard stands at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub agent: Scope,
    /// Why calls may not begin; `None` while they may.
    pub denied: Option<Reason>,
    /// For how long calls may begin if nothing else arrives.
    pub left: Duration,
    /// How long the client's newest lease is still good for, whoever is denied.
    pub lease_left: Duration,
    /// The size of the log that it was read from.
    pub log_size: u64,
    /// Classes of essential calls that may begin, which a drain or a restriction leaves.
    pub essential: Vec<String>,
    /// What it may call per minute, all its instances together.
    pub limits: CallLimits,
    /// What of that this instance may use.
    pub share: CallLimits,
    /// Whether people have isolated the agent: for what cuts its network, until this is false again. A lapse changes
    /// nothing of it.
    pub isolated: bool,
    pub calls_under_way: usize,
    /// The newest change, once there was one.
    pub last_change: Option<Change>,
}

/// What happened to a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Unix milliseconds, by the host's wall clock.
    pub at_ms: u64,
    /// Why calls may not begin since then; `None` where they may.
    pub denied: Option<Reason>,
    /// For a stop: how it came.
    pub by: Option<StopPath>,
    /// For a stop: from its arrival until no call could begin, in microseconds.
    pub closed_us: Option<u64>,
    /// Calls that were under way and were cut.
    pub calls_cut: usize,
}

/// What the client's thread and the guards of one agent share.
pub(crate) struct Agent {
    pub(crate) scope: Scope,
    pub(crate) cell: Cell,
    pub(crate) calls: Calls,
    /// Its calls and tokens of the last minute, where they are limited.
    throttle: Mutex<Throttle>,
    /// There is a share of limits in `standing`: what most agents have not, and no call has to take a lock for.
    limited: AtomicBool,
    /// One cell for each class of essential calls that somebody has a handle for. They come and never go, so that no lock
    /// stands between a stop and a cell.
    essential: [OnceLock<EssentialCell>; ESSENTIAL_HANDLES_MAX],
    /// Held only for a copy, never while anything else is done.
    standing: Mutex<Standing>,
    /// Counts the changes of `standing`.
    version: watch::Sender<u64>,
}

struct EssentialCell {
    class: String,
    cell: Cell,
}

#[derive(Clone)]
struct Standing {
    denied: Option<Reason>,
    essential: Essential,
    bounds: Bounds,
    /// The service has answered for this agent.
    answered: bool,
    last_change: Option<Change>,
}

/// What holds for an agent's calls beside whether they may begin.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    limits: CallLimits,
    share: CallLimits,
    isolated: bool,
}

impl State {
    pub fn enabled(&self) -> bool {
        self.denied.is_none()
    }
}

impl Guard {
    pub(crate) fn new(agent: Arc<Agent>, handle: Arc<Handle>) -> Self {
        Self { cell: agent.cell.reader(), agent, handle }
    }

    pub fn agent(&self) -> &Scope {
        &self.agent.scope
    }

    /// Whether a call may begin now: one clock read and two loads, no lock, no allocation.
    ///
    /// # Errors
    /// [`Denied`] says why not and what lifts it. Do not retry on it.
    #[inline]
    pub fn check(&self) -> Result<Permit, Denied> {
        if self.cell.permits() { Ok(Permit(())) } else { Err(self.denied()) }
    }

    /// Whether an essential call of `class` may begin now. They go on during a drain and under a restriction, if a grant
    /// names their class; a class that no grant names is denied, always. For a hot path take the handle of
    /// [`essential`](Self::essential), which is as quick as [`check`](Self::check).
    ///
    /// # Errors
    /// [`Denied`] says why not and what lifts it. Do not retry on it.
    pub fn check_essential(&self, class: &str) -> Result<Permit, Denied> {
        match self.essential_refusal(class) {
            None => Ok(Permit(())),
            Some(reason) => Err(Denied { agent: self.agent.scope.clone(), reason }),
        }
    }

    /// The guard of this agent's essential calls of `class`.
    ///
    /// # Errors
    /// [`GuardError::TooManyClasses`] after [`ESSENTIAL_HANDLES_MAX`] classes.
    pub fn essential(&self, class: &str) -> Result<EssentialGuard, GuardError> {
        let cell = if self.forked() {
            self.cell // reads 0 for ever
        } else {
            let (cell, new) = self.agent.essential_cell(class).ok_or(GuardError::TooManyClasses)?;
            if new {
                self.handle.changed();
            }
            cell
        };
        Ok(EssentialGuard { cell, class: class.into(), guard: self.clone() })
    }

    /// What the agent may call per minute, all its instances together, by its grants and every throttle on it.
    /// [`State::share`] is what this instance may use of it.
    pub fn limits(&self) -> CallLimits {
        self.bounds().limits
    }

    /// As [`check`](Self::check), and counts the call and its tokens, for code that asks by itself before each call. A call
    /// under [`run`](Self::run), [`stream`](Self::stream) or [`call`](Self::call) is counted there, and
    /// [`Call::spend`] counts its tokens.
    ///
    /// # Errors
    /// [`Denied`]; with [`Reason::Throttled`] nothing was counted.
    pub fn acquire(&self, tokens: u64) -> Result<Permit, Denied> {
        let permit = self.check()?;
        self.spend(1, tokens)?;
        Ok(permit)
    }

    /// Runs `call` unless the agent is denied, and drops it where it stands if a halt, the end of a drain or a lapse past
    /// its grace comes. A pause lets it finish.
    ///
    /// # Errors
    /// [`Stopped::Denied`] if it did not begin, [`Stopped::Cut`] if it was dropped.
    pub async fn run<F: Future>(&self, call: F) -> Result<F::Output, Stopped> {
        self.call()?.run(call).await
    }

    /// As [`run`](Self::run), for a call that the agent can do without: refused or cut, it gives what `fallback` makes of
    /// that. What `fallback` does is under no guard, so let it call no model.
    ///
    /// ```no_run
    /// # async fn summary(text: &str) -> String { text.into() }
    /// # async fn example(guard: &tagout::Guard, text: &str) {
    /// let title = guard.run_or_else(summary(text), async |_stopped| text.chars().take(40).collect()).await;
    /// # }
    /// ```
    pub async fn run_or_else<F: Future>(
        &self,
        call: F,
        fallback: impl AsyncFnOnce(Stopped) -> F::Output,
    ) -> F::Output {
        match self.run(call).await {
            Ok(output) => output,
            Err(stopped) => fallback(stopped).await,
        }
    }

    /// Guards a stream that begins now. A cut drops it, gives one last item, [`Stopped::Cut`], and ends.
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    pub fn stream<S: Stream>(&self, stream: S) -> Result<GuardedStream<S>, Denied> {
        Ok(self.call()?.stream(stream))
    }

    /// Begins a call, for code that is neither a future nor a stream. It is under way until it is dropped.
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    pub fn call(&self) -> Result<Call, Denied> {
        let registered = self.begin(Self::check)?;
        Ok(Call::begun(registered, self.clone()))
    }

    /// Begins a call that nothing can cut, such as a plain function. It is under way until it is dropped: a stop before it
    /// refuses it, and one that comes meanwhile is confirmed when it has ended.
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    pub fn running(&self) -> Result<Running<'_>, Denied> {
        self.begin(Self::check).map(Running::begun)
    }

    /// Stops this agent: a halt on its scope, for what the program itself sees that must not go on. Nobody signs it. When this
    /// returns it holds here, for every guard below the scope, and calls under way are cut. Then the service is told, which
    /// stops the agent's other instances; the client tries until a node has taken it, and keeps it in its state folder.
    ///
    /// It gives the lock's id. The lock ends as every halt does, by a release and a start that people sign: calling this again
    /// makes another one to release, but for a trip that no node has taken yet, whose id it gives. Of `reason` people are
    /// shown the first 1,024 bytes.
    ///
    /// The service takes it with the token of an enrolled agent only (see [`Builder::token`](crate::Builder::token)), whether
    /// it asks for one or not. Where it refuses for good, that is logged as an error, and the lock holds in this process
    /// alone, until that ends; with a state folder, also in the next ones, until one has a token that is good for it.
    ///
    /// # Errors
    /// [`TripError`] where the service cannot be told by this process any more. Everything is denied then.
    pub async fn trip(&self, reason: &str) -> Result<Digest, TripError> {
        self.handle.trip(self.agent.scope.clone(), reason.into()).await
    }

    /// Waits until the service has answered for this agent, whatever the answer is. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// [`Denied`] after `timeout`, and at once where nothing is left to wait for.
    pub async fn ready(&self, timeout: Duration) -> Result<State, Denied> {
        let answered = self.until(|standing| standing.answered);
        match tokio::time::timeout(timeout, answered).await {
            Ok(answered) => answered.map(|()| self.state()),
            Err(_elapsed) => Err(self.denied()),
        }
    }

    /// Waits until calls may begin. It waits for no throttle: the refusal says how long that takes.
    ///
    /// # Errors
    /// [`Denied`] where nothing can enable this guard any more: in a forked child, or when its client is gone.
    pub async fn wait_enabled(&self) -> Result<Permit, Denied> {
        let mut versions = self.agent.version.subscribe();
        loop {
            if let Ok(permit) = self.check() {
                return Ok(permit);
            }
            self.next_version(&mut versions).await?;
        }
    }

    pub fn state(&self) -> State {
        let denied = if self.cell.permits() { None } else { Some(self.reason()) };
        let left_ns = match denied {
            None => self.cell.deadline_ns().saturating_sub(clock::boot_ns()),
            Some(_) => 0,
        };
        let counts = self.handle.counts();
        let Bounds { limits, share, isolated } = self.bounds();
        State {
            agent: self.agent.scope.clone(),
            denied,
            left: Duration::from_nanos(left_ns),
            lease_left: Duration::from_nanos(counts.lease_ns.get().saturating_sub(clock::boot_ns())),
            log_size: counts.log_size.get(),
            essential: if self.forked() { Vec::new() } else { self.agent.essential_classes() },
            limits,
            share,
            isolated,
            calls_under_way: if self.forked() { 0 } else { self.agent.calls.under_way() },
            last_change: self.last_change(),
        }
    }

    /// What last happened: a stop and what it did, a start, a lapse.
    pub fn last_change(&self) -> Option<Change> {
        if self.forked() { None } else { self.agent.standing.lock().last_change.clone() }
    }

    /// Follows the changes from here on.
    pub fn changes(&self) -> Changes {
        Changes { versions: self.agent.version.subscribe(), guard: self.clone() }
    }

    /// Registers first and checks after: see `calls.rs`.
    #[inline]
    fn begin(&self, check: impl FnOnce(&Self) -> Result<Permit, Denied>) -> Result<Registered, Denied> {
        if self.forked() {
            return Err(self.denied());
        }
        let registered = self.agent.calls.register();
        let _permit = check(self)?;
        self.spend(1, 0)?;
        Ok(registered)
    }

    /// Counts against this instance's share of the limits, if there are any.
    pub(crate) fn spend(&self, calls: u64, tokens: u64) -> Result<(), Denied> {
        if self.forked() {
            return Err(self.denied());
        }
        if !self.agent.limited.load(Ordering::Acquire) {
            return Ok(());
        }
        let share = self.bounds().share;
        let spent = self.agent.throttle.lock().spend(calls, tokens, share, clock::boot_ns());
        spent.map_err(|Full { retry_after }| Denied {
            agent: self.agent.scope.clone(),
            reason: Reason::Throttled { share, retry_after },
        })
    }

    fn bounds(&self) -> Bounds {
        if self.forked() { Bounds::default() } else { self.agent.standing.lock().bounds }
    }

    #[cold]
    pub(crate) fn denied(&self) -> Denied {
        Denied { agent: self.agent.scope.clone(), reason: self.reason() }
    }

    fn reason(&self) -> Reason {
        // First, and without a lock: in a forked child a lock may be held by a thread that is not there.
        if self.forked() {
            return Reason::ForkedChild;
        }
        let denied = self.agent.standing.lock().denied.clone();
        denied.unwrap_or_else(|| self.unattended())
    }

    /// The cell ended by itself and the client's thread has not looked at it yet.
    fn unattended(&self) -> Reason {
        match self.handle.stuck_ms() {
            Some(for_ms) => Reason::ClientStuck { for_ms },
            None => Reason::Lapsed { last_error: None },
        }
    }

    fn essential_refusal(&self, class: &str) -> Option<Reason> {
        if self.forked() {
            return Some(Reason::ForkedChild);
        }
        let standing = self.agent.standing.lock();
        let Essential { until_ns, refusal } = &standing.essential;
        match (refusal, until_ns.get(class)) {
            (Some(reason), _) => Some(reason.clone()),
            (None, None) => Some(Reason::NotEssential { class: class.into() }),
            (None, Some(until_ns)) if clock::boot_ns() < *until_ns => None,
            (None, Some(_)) => Some(standing.denied.clone().unwrap_or_else(|| self.unattended())),
        }
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.agent.calls
    }

    pub(crate) fn forked(&self) -> bool {
        self.cell.forked() || self.handle.forked()
    }

    async fn until(&self, reached: impl Fn(&Standing) -> bool) -> Result<(), Denied> {
        let mut versions = self.agent.version.subscribe();
        loop {
            if self.forked() {
                return Err(self.denied());
            }
            if reached(&self.agent.standing.lock()) {
                return Ok(());
            }
            self.next_version(&mut versions).await?;
        }
    }

    async fn next_version(&self, versions: &mut watch::Receiver<u64>) -> Result<(), Denied> {
        match self.reason() {
            Reason::ForkedChild | Reason::ClientGone { .. } => Err(self.denied()),
            _ => versions.changed().await.map_err(|_| self.denied()),
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guard").field(&self.agent.scope).finish()
    }
}

/// The guard of one agent's essential calls of one class: those that a drain and a restriction leave. A halt, a pause or an
/// isolation denies them like all others, and they are cut like all others.
#[derive(Clone)]
pub struct EssentialGuard {
    cell: Reader,
    class: Arc<str>,
    guard: Guard,
}

impl EssentialGuard {
    pub fn class(&self) -> &str {
        &self.class
    }

    pub fn agent(&self) -> &Scope {
        self.guard.agent()
    }

    /// Whether a call may begin now; as quick as [`Guard::check`].
    ///
    /// # Errors
    /// [`Denied`] says why not and what lifts it. Do not retry on it.
    #[inline]
    pub fn check(&self) -> Result<Permit, Denied> {
        // A cell that is new has not been written yet: what stands behind it decides.
        if self.cell.permits() { Ok(Permit(())) } else { self.guard.check_essential(&self.class) }
    }

    /// As [`Guard::acquire`].
    ///
    /// # Errors
    /// [`Denied`]; with [`Reason::Throttled`] nothing was counted.
    pub fn acquire(&self, tokens: u64) -> Result<Permit, Denied> {
        let permit = self.check()?;
        self.guard.spend(1, tokens)?;
        Ok(permit)
    }

    /// As [`Guard::run`].
    ///
    /// # Errors
    /// [`Stopped::Denied`] if it did not begin, [`Stopped::Cut`] if it was dropped.
    pub async fn run<F: Future>(&self, call: F) -> Result<F::Output, Stopped> {
        self.call()?.run(call).await
    }

    /// As [`Guard::stream`].
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    pub fn stream<S: Stream>(&self, stream: S) -> Result<GuardedStream<S>, Denied> {
        Ok(self.call()?.stream(stream))
    }

    /// As [`Guard::call`].
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    pub fn call(&self) -> Result<Call, Denied> {
        let registered = self.guard.begin(|_| self.check())?;
        Ok(Call::begun(registered, self.guard.clone()))
    }

    /// As [`Guard::running`].
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    pub fn running(&self) -> Result<Running<'_>, Denied> {
        self.guard.begin(|_| self.check()).map(Running::begun)
    }
}

impl std::fmt::Debug for EssentialGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EssentialGuard").field(&self.guard.agent.scope).field(&self.class).finish()
    }
}

/// The changes of one guard. Changes that come faster than they are read are seen as one.
pub struct Changes {
    versions: watch::Receiver<u64>,
    guard: Guard,
}

impl Changes {
    /// Waits for the next change; `None` when there will be none any more.
    pub async fn next(&mut self) -> Option<State> {
        if !self.versions.has_changed().ok()? {
            self.guard.next_version(&mut self.versions).await.ok()?;
        }
        self.versions.mark_unchanged();
        Some(self.guard.state())
    }
}

/// How and when a stop came.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) by: StopPath,
    pub(crate) received_ns: u64,
}

impl Agent {
    pub(crate) fn new(scope: Scope) -> Self {
        let not_ready = Some(Reason::NotReady { last_error: None });
        let standing = Standing {
            denied: not_ready.clone(),
            essential: Essential { until_ns: BTreeMap::new(), refusal: not_ready },
            bounds: Bounds::default(),
            answered: false,
            last_change: None,
        };
        let essential = std::array::from_fn(|_| OnceLock::new());
        let (calls, throttle, version) = (Calls::default(), Mutex::default(), watch::Sender::new(0));
        let (cell, limited) = (Cell::new(), AtomicBool::new(false));
        Self { scope, cell, calls, throttle, limited, essential, standing: Mutex::new(standing), version }
    }

    /// The cell of `class`, and whether it is new: then the client's thread is to write it. `None` if there is no room.
    fn essential_cell(&self, class: &str) -> Option<(Reader, bool)> {
        let mut own = None;
        for slot in &self.essential {
            let mut new = false;
            if slot.get().is_none() {
                let made = own.take();
                let made = made.unwrap_or_else(|| EssentialCell { class: class.into(), cell: Cell::new() });
                match slot.set(made) {
                    Ok(()) => new = true,
                    // Another thread was first, perhaps with another class.
                    Err(made) => own = Some(made),
                }
            }
            if let Some(taken) = slot.get().filter(|taken| taken.class == class) {
                return Some((taken.cell.reader(), new));
            }
        }
        None
    }

    fn essential_classes(&self) -> Vec<String> {
        let now_ns = clock::boot_ns();
        let until_ns = self.standing.lock().essential.until_ns.clone();
        until_ns.into_iter().filter(|(_, until_ns)| now_ns < *until_ns).map(|(class, _)| class).collect()
    }

    fn write_essential(&self, essential: &Essential) {
        for EssentialCell { class, cell } in self.essential.iter().filter_map(OnceLock::get) {
            match essential.until_ns.get(class) {
                Some(until_ns) => cell.allow_until(*until_ns),
                None => cell.deny(),
            }
        }
    }

    /// Opens the cell until `deadline_ns`.
    pub(crate) fn allow_until(&self, deadline_ns: u64, essential: Essential, bounds: Bounds) {
        let changed = {
            let mut standing = self.standing.lock();
            standing.answered = true;
            // Also after a lapse that nobody has looked at, so that whoever waits for the end of it wakes.
            let was_closed = !self.cell.reader().permits();
            // First, so that no call that finds the cell open misses it.
            self.limited.store(bounds.is_limited(), Ordering::Release);
            self.cell.allow_until(deadline_ns);
            self.write_essential(&essential);
            let changed = standing.denied.take().is_some() || was_closed;
            if changed {
                standing.last_change = Some(Change::now(None));
            }
            standing.take_terms(essential, bounds) || changed
        };
        if changed {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// Closes the cell and says why. Gives the moment from which no call could begin.
    pub(crate) fn deny(
        &self,
        reason: Reason,
        essential: Essential,
        bounds: Bounds,
        arrival: Option<Arrival>,
        answered: bool,
    ) -> u64 {
        // Usually all change together, so that whoever is refused finds the reason. The cells never wait for that.
        let free = self.standing.try_lock();
        self.cell.deny();
        self.write_essential(&essential);
        let mut standing = free.unwrap_or_else(|| self.standing.lock());
        self.limited.store(bounds.is_limited(), Ordering::Release);
        let news = standing.denied.as_ref().is_none_or(|old| !old.same_kind(&reason));
        let changed = standing.take_terms(essential, bounds) || news || (answered && !standing.answered);
        // From here on `check_essential` denies too.
        let closed_ns = clock::boot_ns();
        if news || (answered && !standing.answered) {
            let by = arrival.map(|arrival| arrival.by);
            let closed_us = arrival.map(|arrival| closed_ns.saturating_sub(arrival.received_ns) / 1_000);
            standing.last_change = Some(Change { by, closed_us, ..Change::now(Some(reason.clone())) });
        }
        standing.answered |= answered;
        standing.denied = Some(reason);
        drop(standing);
        if changed {
            self.version.send_modify(|version| *version += 1);
        }
        closed_ns
    }

    /// Denies everything for good: nobody drives this guard any more.
    pub(crate) fn abandon(&self, why: Gone) {
        let gone = || Reason::ClientGone { why };
        let essential = Essential { until_ns: BTreeMap::new(), refusal: Some(gone()) };
        // What is isolated stays so.
        let bounds = self.standing.lock().bounds;
        self.deny(gone(), essential, bounds, None, false);
    }

    /// Cuts the calls under way, notes it as part of the newest change, and says how many they were.
    pub(crate) fn cut(&self) -> usize {
        let why = || {
            let reason = self.standing.lock().denied.clone();
            let reason = reason.unwrap_or(Reason::Lapsed { last_error: None });
            Denied { agent: self.scope.clone(), reason }
        };
        let calls = self.calls.cut(why);
        if calls > 0 {
            if let Some(change) = &mut self.standing.lock().last_change {
                change.calls_cut += calls;
            }
            self.version.send_modify(|version| *version += 1);
        }
        calls
    }
}

impl Bounds {
    pub(crate) fn of(judgement: &Judgement) -> Self {
        let Judgement { limits, share, isolated, .. } = *judgement;
        Self { limits, share, isolated }
    }

    fn is_limited(&self) -> bool {
        self.share != CallLimits::default()
    }
}

impl Standing {
    /// Whether people would want to know: deadlines move with every lease, classes and limits seldom do.
    fn take_terms(&mut self, essential: Essential, bounds: Bounds) -> bool {
        let changed = self.bounds != bounds
            || self.essential.refusal.is_some() != essential.refusal.is_some()
            || !self.essential.until_ns.keys().eq(essential.until_ns.keys());
        (self.essential, self.bounds) = (essential, bounds);
        changed
    }
}

impl Change {
    fn now(denied: Option<Reason>) -> Self {
        Self { at_ms: clock::wall_ms(), denied, by: None, closed_us: None, calls_cut: 0 }
    }
}
