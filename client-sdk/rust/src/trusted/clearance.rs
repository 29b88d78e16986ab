//! The end of a lock: its release and, after a halt or drain, its start, verified from people's signatures (S2, S5).

use tagout_proto::authority::Unauthorised;
use tagout_proto::command::{Action, ActionKind, Command, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::{Envelope, EnvelopeError};
use tagout_proto::lease::Clearing;
use tagout_proto::lock::{LockKind, Placed, parse_placing};
use tagout_proto::scope::Scope;
use tagout_proto::strict::DocumentError;
use tagout_proto::trust::Trust;

/// Why a lock stays although the service says that it ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClearanceRefused {
    #[error("the document that came with it is not what placed this lock: its SHA-256 is {0}")]
    OtherDocument(Digest),
    #[error("what placed it cannot be read: {0}")]
    Placing(DocumentError),
    #[error("the {what} cannot be read: {error}")]
    Document { what: ActionKind, error: DocumentError },
    #[error("the {what}'s envelope is refused: {error}")]
    Envelope { what: ActionKind, error: EnvelopeError },
    #[error("the document in the {what}'s place is a {found}")]
    WrongAction { what: ActionKind, found: ActionKind },
    #[error("the {what} is of deployment {found}, another one")]
    OtherDeployment { what: ActionKind, found: Deployment },
    #[error("the {what} names other locks")]
    OtherLock { what: ActionKind },
    #[error("the {what} is for {found} and does not cover {needed}")]
    OtherScope { what: ActionKind, found: Scope, needed: Scope },
    #[error("the {what} is not authorised: {error}")]
    Unauthorised { what: ActionKind, error: Unauthorised },
    #[error(
        "the release does not say that locks from entry {needed} on may be lost, which this lock asks for"
    )]
    LostFrom { needed: u64 },
    #[error("no start came with it, and a {} takes one", .0.name())]
    StartMissing(LockKind),
}

/// Proves that a lock no longer holds an agent.
pub(super) struct Clearance<'a> {
    pub(super) trust: &'a Trust,
    pub(super) id: Digest,
    pub(super) agent: &'a Scope,
}

impl Clearance<'_> {
    pub(super) fn verify(
        &self,
        placed: &Envelope,
        release: &Clearing,
        start: Option<&Clearing>,
    ) -> Result<(), ClearanceRefused> {
        let Placed { scope, kind, lost_from } = self.placed(placed)?;
        self.names_and_covers(ActionKind::Release, release, &scope, lost_from)?;
        // S2: the release alone restarts nothing.
        match (kind.needs_start(), start) {
            (true, Some(start)) => self.names_and_covers(ActionKind::Start, start, self.agent, None),
            (true, None) => Err(ClearanceRefused::StartMissing(kind)),
            (false, _) => Ok(()),
        }
    }

    /// The lock's own document. Its digest is the id, so its bytes need no signature to be the right ones.
    fn placed(&self, envelope: &Envelope) -> Result<Placed, ClearanceRefused> {
        let found = envelope.digest();
        if found != self.id {
            return Err(ClearanceRefused::OtherDocument(found));
        }
        parse_placing(envelope.document.as_bytes()).map_err(ClearanceRefused::Placing)
    }

    /// Whether people signed that this lock is released or started, for all of `needed`.
    fn names_and_covers(
        &self,
        what: ActionKind,
        clearing: &Clearing,
        needed: &Scope,
        lost_from: Option<u64>,
    ) -> Result<(), ClearanceRefused> {
        let Clearing { envelope, listed } = clearing;
        envelope.check_bounds().map_err(|error| ClearanceRefused::Envelope { what, error })?;
        let command = Command::parse(envelope.document.as_bytes())
            .map_err(|error| ClearanceRefused::Document { what, error })?;
        if command.deployment != *self.trust.deployment() {
            return Err(ClearanceRefused::OtherDeployment { what, found: command.deployment });
        }
        let (scope, locks, said_lost) = match command.action {
            Action::Release(release) if what == ActionKind::Release => {
                (release.scope, release.locks, release.lost_from)
            }
            Action::Start(start) if what == ActionKind::Start => (start.scope, start.locks, None),
            other => return Err(ClearanceRefused::WrongAction { what, found: other.kind() }),
        };
        if !locks.names(&self.id, listed.as_ref()) {
            return Err(ClearanceRefused::OtherLock { what });
        }
        if !scope.covers(needed) {
            return Err(ClearanceRefused::OtherScope { what, found: scope, needed: needed.clone() });
        }
        if let Some(needed) = lost_from.filter(|needed| said_lost != Some(*needed)) {
            return Err(ClearanceRefused::LostFrom { needed });
        }
        self.trust
            .authorise(what, &scope, envelope)
            .map(drop)
            .map_err(|error| ClearanceRefused::Unauthorised { what, error })
    }
}
