//! Why a call may not begin or go on. Each text says what lifts it.

use std::sync::Arc;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::lock::LockKind;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::strict::format_instant_ms;
use tagout_proto::view::Tag;

use crate::state_folder::StateError;
use crate::trusted::{ChainRefused, ClearanceRefused, GrantRefused, LeaseRefused, PushRefused};

/// A call may not begin.
///
/// Do not retry on it: it is an answer, not a failure. Wait with [`Guard::wait_enabled`](crate::Guard::wait_enabled), or end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{agent} may not call: {reason}")]
pub struct Denied {
    pub agent: Scope,
    pub reason: Reason,
}

/// A call under [`run`](crate::Guard::run) or [`stream`](crate::Guard::stream) did not end by itself.
///
/// Do not retry on it: it is an answer, not a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The call never began.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The call was under way and was dropped; what it did until then stands.
    #[error("the call was cut: {0}")]
    Cut(Denied),
}

impl Stopped {
    pub fn denied(&self) -> &Denied {
        match self {
            Self::Denied(denied) | Self::Cut(denied) => denied,
        }
    }

    pub fn reason(&self) -> &Reason {
        &self.denied().reason
    }

    /// The refusal or cut among the causes of an error that a framework gives, if that is what it comes from.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source())
            .find_map(<dyn std::error::Error>::downcast_ref)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("no node has answered for it yet{}; it opens by itself once one does", because(.last_error))]
    NotReady { last_error: Option<String> },
    /// Not a stop: nobody decided it.
    #[error("its lease lapsed{}; it opens by itself once a node can be reached", because(.last_error))]
    Lapsed { last_error: Option<String> },
    #[error("{0}")]
    Stopped(Arc<Lock>),
    /// The nodes say that this process is not enrolled for it. Other agents of the client are not touched by that.
    #[error("this process is not enrolled for it: {why}")]
    NotEnrolled { why: Arc<str> },
    #[error("nobody has consented to it{}; it takes a signed grant that covers it", refusals(.refused))]
    NoConsent { refused: Arc<[GrantRefused]> },
    #[error("its consent ended at {}; it takes a new signed grant", format_instant_ms(*.at_ms))]
    GrantExpired { at_ms: u64 },
    #[error("what came from the service does not prove itself: {0}; it opens once a node answers with proof")]
    Unverifiable(Arc<Unproven>),
    #[error("stops may have been missed, and no newer lease is here yet; it opens by itself")]
    StopsMissed,
    #[error(
        "the wall clock jumped, as after a pause of the whole machine; it opens by itself with a newer lease"
    )]
    ClockJumped,
    #[error("it holds more locks than a client keeps; start the process again once they are released")]
    TooManyLocks,
    #[error("more revoked grants came than a client keeps; start the process again")]
    TooManyRevokes,
    /// Of an essential call, while essential calls may begin.
    #[error(
        "no grant that holds names {class:?} as a class of essential calls; it takes a new signed grant that does"
    )]
    NotEssential { class: String },
    /// What an earlier process had stopped is not known: see [`state_folder`](crate::Builder::state_folder).
    #[error("{0}")]
    StateLost(Arc<StateError>),
    /// Of a call that would be one too many in a minute.
    #[error(
        "it has used up its share of what people allow, {}; {}", per_minute(.share), retry(.retry_after)
    )]
    Throttled {
        /// What this instance may use.
        share: CallLimits,
        /// When it fits; `None` if it never does, being more than the share of a whole minute.
        retry_after: Option<Duration>,
    },
    #[error("this process is a forked child; make a client of its own in it")]
    ForkedChild,
    /// Nothing is decided: whatever ran it stands still, as a program does that blocks its runtime.
    #[error("the client's thread has not moved for {} s; find what blocks it, or start the process again", .for_ms / 1_000)]
    ClientStuck { for_ms: u64 },
    #[error("the client has ended: {why}; start the process again, or make a new client")]
    ClientGone { why: Gone },
}

impl Reason {
    /// Whether both say the same to a program; error texts may differ.
    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::NotReady { .. }, Self::NotReady { .. }) | (Self::Lapsed { .. }, Self::Lapsed { .. }) => {
                true
            }
            _ => self == other,
        }
    }

    /// The kind of reason as one word, for programs in other languages and for metrics. It does not change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not_ready",
            Self::Lapsed { .. } => "lapsed",
            Self::Stopped(_) => "stopped",
            Self::NotEnrolled { .. } => "not_enrolled",
            Self::NoConsent { .. } => "no_consent",
            Self::GrantExpired { .. } => "grant_expired",
            Self::Unverifiable(_) => "unverifiable",
            Self::StopsMissed => "stops_missed",
            Self::ClockJumped => "clock_jumped",
            Self::TooManyLocks => "too_many_locks",
            Self::TooManyRevokes => "too_many_revokes",
            Self::NotEssential { .. } => "not_essential",
            Self::StateLost(_) => "state_lost",
            Self::Throttled { .. } => "throttled",
            Self::ForkedChild => "forked_child",
            Self::ClientStuck { .. } => "client_stuck",
            Self::ClientGone { .. } => "client_gone",
        }
    }

    /// What would lift it, in a few words; the text of the reason says it with the circumstances.
    pub fn lifted_by(&self) -> &'static str {
        match self {
            Self::NotReady { .. } | Self::Lapsed { .. } => "a node that answers; it opens by itself",
            Self::Unverifiable(_) => "a node that answers with proof; it opens by itself",
            Self::StopsMissed | Self::ClockJumped => "a newer lease; it opens by itself",
            Self::Stopped(lock) => lock.lifted_by(),
            Self::NotEnrolled { .. } => "a token that is enrolled for it",
            Self::NoConsent { .. } | Self::GrantExpired { .. } => "a new signed grant that covers it",
            Self::NotEssential { .. } => "a new signed grant that names its class",
            Self::TooManyLocks => "a new start of the process, once locks are released",
            Self::TooManyRevokes | Self::ClientGone { .. } => "a new start of the process",
            Self::StateLost(_) => "a state folder that is whole and of this client alone",
            Self::Throttled { retry_after: Some(_), .. } => "time",
            Self::Throttled { retry_after: None, .. } => "a higher limit, or asking for less",
            Self::ForkedChild => "a client of this process's own",
            Self::ClientStuck { .. } => "a runtime that is not blocked, or a new start of the process",
        }
    }

    /// Whether the guard cannot know what people want: it ends by itself, without a decision of theirs.
    pub fn is_lapse(&self) -> bool {
        match self {
            Self::NotReady { .. }
            | Self::Lapsed { .. }
            | Self::Unverifiable(_)
            | Self::StopsMissed
            | Self::ClockJumped
            | Self::ClientStuck { .. } => true,
            Self::Stopped(_)
            | Self::NotEnrolled { .. }
            | Self::NoConsent { .. }
            | Self::GrantExpired { .. }
            | Self::TooManyLocks
            | Self::TooManyRevokes
            | Self::NotEssential { .. }
            | Self::StateLost(_)
            | Self::Throttled { .. }
            | Self::ForkedChild
            | Self::ClientGone { .. } => false,
        }
    }
}

/// Why a client has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    #[error("its last handle and guard were dropped")]
    Closed,
    #[error("the runtime that it was given has ended")]
    RuntimeEnded,
    #[error("its thread panicked, which is a fault of this SDK: please report it")]
    Panicked,
}

/// What came from the service and was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
    #[error(transparent)]
    Chain(#[from] ChainRefused),
    #[error(transparent)]
    Push(#[from] PushRefused),
    #[error("a pushed event cannot be read: {0}")]
    Unreadable(String),
}

/// The lock that stops or restricts an agent: the strongest of them, by kind and then by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// SHA-256 of the document that placed it.
    pub id: Digest,
    pub scope: Scope,
    pub kind: LockKind,
    /// Released, and still in place until a start names it.
    pub released: bool,
    pub tag: Tag,
    /// The stop's entry's time, Unix milliseconds.
    pub since_ms: u64,
    /// Further locks that stop or restrict the agent.
    pub others: usize,
    /// What stands in the way of its end.
    pub held: Option<Obstacle>,
}

impl Lock {
    /// What people have to sign for its end.
    pub fn lifted_by(&self) -> &'static str {
        match (self.kind.needs_start(), self.released) {
            (true, false) => "a signed release and then a signed start that name it",
            (true, true) => "a signed start that names it; it is released already",
            (false, _) => "a signed release that names it",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// As the service says.
    #[error("{0}")]
    Service(String),
    /// As this guard says of what it was shown.
    #[error("the service says that it ended, but {0}")]
    Unproven(#[source] ClearanceRefused),
}

impl std::fmt::Display for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, scope, kind, tag, .. } = self;
        let what = match kind {
            LockKind::Restrict => "restrict (essential calls only)",
            _ => kind.name(),
        };
        write!(f, "{what} on {scope} since {}: ", format_instant_ms(self.since_ms))?;
        write!(f, "{:?}", tag.reason)?;
        if !tag.by.is_empty() {
            write!(f, " by {}", tag.by.join(", "))?;
        }
        if let Some(case) = &tag.case {
            write!(f, " ({case})")?;
        }
        write!(f, "; lock {} takes {}", id.short(), self.lifted_by())?;
        if self.others > 0 {
            write!(f, ", and {} more are on it", self.others)?;
        }
        match &self.held {
            Some(held) => write!(f, "; {held}"),
            None => Ok(()),
        }
    }
}

fn because(last_error: &Option<String>) -> String {
    last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
}

fn per_minute(share: &CallLimits) -> String {
    let named = [(share.calls_per_minute, "calls"), (share.tokens_per_minute, "tokens")];
    let limits = named.into_iter().filter_map(|(limit, what)| Some(format!("{} {what}", limit?)));
    format!("{} a minute", limits.collect::<Vec<_>>().join(" and "))
}

fn retry(retry_after: &Option<Duration>) -> String {
    match retry_after {
        Some(after) => format!("try again in {} ms", after.as_millis() + 1),
        None => "this never fits: ask for less, run fewer instances, or let people allow more".into(),
    }
}

fn refusals(refused: &[GrantRefused]) -> String {
    let Some(first) = refused.first() else { return String::new() };
    match refused.len() {
        1 => format!(" (one grant does not count: {first})"),
        n => format!(" ({n} grants do not count; the first: {first})"),
    }
}
