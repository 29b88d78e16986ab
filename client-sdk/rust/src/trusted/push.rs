//! Pushed and delivered documents: whatever people signed to take away, believed by one signature (S6). Step ⑦ of a stop,
//! first half. And trips, which nobody signs: the process takes away from itself.

use tagout_proto::authority::Unauthorised;
use tagout_proto::command::{Action, ActionKind, Command, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::{Envelope, EnvelopeError};
use tagout_proto::lock::{Placed, Trip, parse_placing};
use tagout_proto::scope::Scope;
use tagout_proto::strict::DocumentError;
use tagout_proto::trust::{Learned, TrustError};
use tagout_proto::wire::{StopEvent, StopPath};

use super::Trusted;
use super::latch::{Came, Latched};
use crate::clock::Now;

/// Why a pushed or delivered document takes nothing away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushRefused {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is a {0}, which takes nothing away")]
    Loosens(ActionKind),
    #[error("it is of deployment {0}, another one")]
    OtherDeployment(Deployment),
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Trusted {
    /// Verifies a pushed document and lets it take effect. Gives the agents that it touches, in order.
    ///
    /// It needs one signature (a restore those of the roots), no date and no knowledge of the log (S6).
    pub fn accept_push(&mut self, event: &StopEvent, now: Now) -> Result<Vec<Scope>, PushRefused> {
        let StopEvent { stop, index, time_ms, .. } = event;
        let came = Came { by: StopPath::Push, received_ns: now.boot_ns, index: *index, time_ms: *time_ms };
        self.accept_signed(stop, came)
    }

    /// The same for a document that came past the service: the service may not have it, so a lock goes to it with the next
    /// lease request, and agents that come later are under it too.
    pub fn accept_delivered(
        &mut self,
        stop: &Envelope,
        by: StopPath,
        now: Now,
    ) -> Result<Vec<Scope>, PushRefused> {
        let came = Came { by, received_ns: now.boot_ns, index: None, time_ms: self.now_ms(now) };
        self.accept_signed(stop, came)
    }

    /// Latches what this process itself places on the scope of an agent. Gives the document, and the agents that it touches,
    /// in order. A lease says whether the service has it.
    pub fn trip(&mut self, trip: Trip, nonce: &Digest, now: Now) -> (Envelope, Vec<Scope>) {
        let document = Envelope { document: trip.to_document(nonce), signatures: Vec::new() };
        let came =
            Came { by: StopPath::Deliver, received_ns: now.boot_ns, index: None, time_ms: self.now_ms(now) };
        let (id, lock) = (document.digest(), Latched::trip(trip, &document, came));
        self.deliver(id, &lock);
        let covered = self.latch(id, &lock);
        (document, covered)
    }

    fn accept_signed(&mut self, envelope: &Envelope, came: Came) -> Result<Vec<Scope>, PushRefused> {
        envelope.check_bounds()?;
        let bytes = envelope.document.as_bytes();
        let command = match Command::parse(bytes) {
            Ok(command) => command,
            // A restore is no command.
            Err(_) if matches!(parse_placing(bytes), Ok(Placed { lost_from: Some(_), .. })) => {
                return self.learn_pushed(envelope, came);
            }
            Err(refused) => return Err(refused.into()),
        };
        if command.deployment != *self.deployment() {
            return Err(PushRefused::OtherDeployment(command.deployment));
        }
        match command.action {
            Action::Lock(lock) => {
                let by = self.trust.authorise(lock.kind.action(), &lock.scope, envelope)?;
                let (id, lock) = (envelope.digest(), Latched::command(lock, by, envelope, came));
                match came.by {
                    StopPath::File | StopPath::Deliver => self.deliver(id, &lock),
                    StopPath::Push | StopPath::Lease => {}
                }
                Ok(self.latch(id, &lock))
            }
            Action::Revoke(revoke) => {
                self.trust.authorise(ActionKind::Revoke, &revoke.scope, envelope)?;
                self.revoked.add(&revoke);
                self.judge_again();
                Ok(self.agents.keys().filter(|agent| revoke.scope.covers(agent)).cloned().collect())
            }
            Action::Suspend(_) => self.learn_pushed(envelope, came),
            // It ends what no guard ever saw.
            Action::Refuse(_) => Ok(Vec::new()),
            other @ (Action::Release(_)
            | Action::Start(_)
            | Action::Grant(_)
            | Action::Enroll(_)
            | Action::Authority(_)) => Err(PushRefused::Loosens(other.kind())),
        }
    }

    /// A suspend or a restore: it touches everybody.
    fn learn_pushed(&mut self, envelope: &Envelope, came: Came) -> Result<Vec<Scope>, PushRefused> {
        match self.trust.learn(envelope)? {
            Learned::Restored(_) => {
                self.begin_epoch(envelope, came);
                self.forget_views();
            }
            Learned::Suspended => {}
            Learned::Authority | Learned::Nothing => return Ok(Vec::new()),
        }
        self.judge_again();
        Ok(self.agents.keys().cloned().collect())
    }
}
