//! Proposals: loosening commands that still lack signatures. For an hour they collect them, here and in the log, and
//! enable nothing (S7): what was collected takes effect as an ordinary command, with all of it, or not at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, Judged, Ledger, Receipt, Refusal, Signed};
use crate::authority::{Signer, Unauthorised};
use crate::command::{Action, ActionKind, Command, Refuse};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::limits::{PROPOSAL_TTL_MS, PROPOSALS_MAX, REFUSED_MAX, SIGNATURES_MAX};
use crate::scope::Scope;
use crate::sshsig::Proven;
use crate::trust::{Consent, Trust};

/// One proposal, for people too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    pub action: ActionKind,
    pub scope: Scope,
    /// The command's exact bytes, and of the signatures that came those that count.
    pub envelope: Envelope,
    /// What those prove, so that nobody who only looks has them verified again.
    proven: Vec<Proven>,
    /// Of a grant: the authority that its signers saw.
    seen_authority: Option<u64>,
    /// The entries that brought them, the first one first.
    pub entries: Vec<u64>,
    /// When it takes signatures no more, Unix milliseconds: an hour after its first entry's time.
    pub expires_at_ms: u64,
}

/// A command that can never take effect any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub action: ActionKind,
    pub scope: Scope,
    pub by: Vec<String>,
    pub reason: String,
    pub index: u64,
}

/// By the digests of their commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Proposals {
    open: BTreeMap<Digest, Proposed>,
    refused: BTreeMap<Digest, Refused>,
}

impl Proposals {
    /// The one of this command, if it takes signatures still.
    fn open(&self, id: &Digest, now_ms: u64) -> Option<&Proposed> {
        self.open.get(id).filter(|proposed| now_ms < proposed.expires_at_ms)
    }

    /// What a refusal of this command is about, also once it is refused.
    fn named(&self, id: &Digest) -> Option<(ActionKind, &Scope)> {
        let open = self.open.get(id).map(|proposed| (proposed.action, &proposed.scope));
        open.or_else(|| self.refused.get(id).map(|refused| (refused.action, &refused.scope)))
    }

    pub(super) fn check_not_refused(&self, id: &Digest) -> Result<(), Refusal> {
        let Some(Refused { by, reason, index, .. }) = self.refused.get(id) else { return Ok(()) };
        let (by, reason, index) = (by.join(", "), reason.clone(), *index);
        Err(Refusal::Refused { proposal: *id, by, reason, index })
    }

    /// Takes over what entry `index` brought; those that have expired make room.
    pub(super) fn put(&mut self, id: Digest, proposed: Proposed, time_ms: u64) {
        self.open.retain(|_, open| time_ms < open.expires_at_ms);
        self.open.insert(id, proposed);
    }

    pub(super) fn refuse(&mut self, refuse: Refuse, action: ActionKind, by: Vec<String>, index: u64) {
        let Refuse { scope, proposal, reason, case: _ } = refuse;
        self.open.remove(&proposal);
        self.refused.insert(proposal, Refused { action, scope, by, reason, index });
    }

    /// Its command took effect.
    pub(super) fn end(&mut self, id: &Digest) {
        self.open.remove(id);
    }

    /// What was asked of people before a restore is not what they would be asked after it.
    pub(super) fn end_all(&mut self) {
        self.open.clear();
    }
}

impl Ledger {
    /// Proposals that may be signed at `now_ms`, the oldest first.
    pub fn proposals(&self, now_ms: u64) -> Vec<(Digest, &Proposed)> {
        let mut open: Vec<_> = (self.proposals.open.iter())
            .filter(|(_, proposed)| now_ms < proposed.expires_at_ms)
            .map(|(id, proposed)| (*id, proposed))
            .collect();
        open.sort_by_key(|(_, proposed)| proposed.entries.first().copied());
        open
    }

    /// The proposal of the command with this digest; it may have expired.
    pub fn proposed(&self, id: &Digest) -> Option<&Proposed> {
        self.proposals.open.get(id)
    }

    /// Who has signed a proposal, of those who count; and what it still takes, if that is something.
    pub fn standing(&self, proposed: &Proposed) -> (Vec<String>, Option<Unauthorised>) {
        let Some(trust) = self.trust() else { return (Vec::new(), None) };
        let signed = proposed.signed(trust);
        (trust.counting(proposed.action, &signed), trust.lacking(proposed.action, &signed, None))
    }

    /// `envelope` with the signatures that its proposal has collected, if together they are enough.
    pub fn completed(&self, envelope: &Envelope, now_ms: u64) -> Option<Envelope> {
        let action = Command::parse(envelope.document.as_bytes()).ok()?.action;
        let trust = self.trust().filter(|_| action.kind().may_be_proposed())?;
        let known = self.proposals.open(&envelope.digest(), now_ms);
        let (merged, _) = merged(trust, &action, known, envelope);
        (merged.check_bounds().is_ok() && self.signed(&action, &merged).is_ok()).then_some(merged)
    }

    /// Whether a command would be taken as a proposal now, or more signatures for one. Its receipt if it took effect.
    pub fn check_proposal(&self, envelope: &Envelope, now_ms: u64) -> Result<Option<Receipt>, Refusal> {
        match self.judge_proposal(envelope, now_ms)? {
            Judged::New(_) => Ok(None),
            Judged::Repeated(receipt) => Ok(Some(receipt)),
        }
    }

    pub(super) fn judge_proposal(&self, envelope: &Envelope, time_ms: u64) -> Result<Judged, Refusal> {
        let (trust, command) = self.read(envelope)?;
        let (action, scope, id) = (command.action.kind(), command.action.scope(), envelope.digest());
        if !action.may_be_proposed() {
            return Err(Refusal::NotProposed(action));
        }
        let enough = match self.signed(&command.action, envelope) {
            Ok(_) => true,
            Err(refusal) if !refusal.lacks_signatures() => return Err(refusal),
            // They have a role for it, and show nothing that it asks of keys.
            Err(refusal) if merged(trust, &command.action, None, envelope).1.is_empty() => {
                return Err(refusal);
            }
            Err(_) => false,
        };
        self.check_not_ended(&command.action, &id)?;
        if let Some(receipt) = self.repeated(envelope)? {
            return Ok(Judged::Repeated(receipt));
        }
        if enough {
            return Err(Refusal::SignedByEnough);
        }
        let starts = action == ActionKind::Start;
        match self.judge_change(command.action.clone(), Signed::default(), envelope, time_ms) {
            // Its release may be a proposal, too: both are signed in one ceremony.
            Err(Refusal::NotReleased(_) | Refusal::OtherLocks { .. }) if starts => {}
            judged => drop(judged?),
        }

        let known = self.proposals.open(&id, time_ms);
        let (merged, proven) = merged(trust, &command.action, known, envelope);
        if merged.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures(merged.signatures.len()).into());
        }
        let Some(known) = known else {
            let next =
                self.proposals(time_ms).into_iter().map(|(id, proposed)| (proposed.expires_at_ms, id)).min();
            if let Some((expires_at_ms, id)) = next.filter(|_| self.proposals(time_ms).len() >= PROPOSALS_MAX)
            {
                return Err(Refusal::too_many_proposals(id, expires_at_ms));
            }
            let seen_authority = match &command.action {
                Action::Grant(grant) => Some(grant.seen.authority),
                _ => None,
            };
            let (entries, expires_at_ms) = (Vec::new(), time_ms.saturating_add(PROPOSAL_TTL_MS));
            let proposed =
                Proposed { action, scope, envelope: merged, proven, seen_authority, entries, expires_at_ms };
            return Ok(Judged::New(Change::Propose(proposed)));
        };
        let (before, _) = self.standing(known);
        let proposed = Proposed { envelope: merged, proven, ..known.clone() };
        let (after, missing) = self.standing(&proposed);
        if after.iter().all(|name| before.contains(name)) {
            let missing = missing.map(|lacking| format!(" ({lacking})")).unwrap_or_default();
            return Err(Refusal::NothingNew { proposal: id, signed: before.join(", "), missing });
        }
        Ok(Judged::New(Change::Propose(proposed)))
    }

    /// Who signed a refusal, if they may: that depends on what it refuses.
    pub(super) fn signed_refusal(
        &self,
        trust: &Trust,
        refuse: &Refuse,
        envelope: &Envelope,
    ) -> Result<Vec<String>, Refusal> {
        let signers = trust.signers(envelope);
        let Some((action, scope)) = self.proposals.named(&refuse.proposal) else {
            // S5: what is open is told to nobody who is unknown.
            return match signers.valid.is_empty() {
                true => Err(Unauthorised::NoValidSignature(signers.refused.join("; ")).into()),
                false => Err(Refusal::NoSuchProposal(refuse.proposal)),
            };
        };
        trust.authority().authorise_refusal(action, scope, &signers)?;
        Ok(signers.names())
    }

    /// What was refused of the command with this SHA-256, and where: by whom, and why.
    pub fn refused_proposal(&self, id: &Digest) -> Option<(&Scope, Refusal)> {
        let scope = &self.proposals.refused.get(id)?.scope;
        Some((scope, self.proposals.check_not_refused(id).err()?))
    }

    pub(super) fn judge_refuse(&self, refuse: Refuse, by: Vec<String>) -> Result<Change, Refusal> {
        let id = refuse.proposal;
        self.proposals.check_not_refused(&id)?;
        let proposed = self.proposals.open.get(&id).ok_or(Refusal::NoSuchProposal(id))?;
        if proposed.scope != refuse.scope {
            let (proposal_scope, scope) = (proposed.scope.clone(), refuse.scope);
            return Err(Refusal::ProposalElsewhere { proposal: id, proposal_scope, scope });
        }
        if self.proposals.refused.len() >= REFUSED_MAX {
            return Err(Refusal::TooManyRefused);
        }
        Ok(Change::Refuse(refuse, proposed.action, by))
    }
}

impl Proposed {
    fn signed<'a>(&'a self, trust: &Trust) -> Consent<'a> {
        let seen_authority = self.seen_authority.unwrap_or(trust.authority().version);
        let (digest, scope, proven) = (self.envelope.digest(), &self.scope, &self.proven[..]);
        Consent { digest, scope, seen_authority, proven }
    }
}

/// The command with those of its signatures, known and new, that are by people who count, one for each key; and what they
/// prove.
fn merged(
    trust: &Trust,
    action: &Action,
    known: Option<&Proposed>,
    envelope: &Envelope,
) -> (Envelope, Vec<Proven>) {
    let with = |signatures| Envelope { document: envelope.document.clone(), signatures };
    let known = known.map_or(&[][..], |known| &known.envelope.signatures);
    let new = envelope.signatures.iter().filter(|signature| !known.contains(signature));
    let all = with(known.iter().chain(new).cloned().collect());
    let signers = trust.signers(&all);
    let counting = trust.authority().counting(action.kind(), &action.scope(), &signers);
    let (mut merged, mut proven) = (Vec::new(), Vec::<Proven>::new());
    for signature in all.signatures {
        let alone = with(vec![signature.clone()]);
        let Some(Signer { principal, key, presence, verification }) = trust.signers(&alone).valid.pop()
        else {
            continue;
        };
        if counting.contains(principal.name.as_str()) && !proven.iter().any(|known| known.key == key) {
            merged.push(signature);
            proven.push(Proven { key, presence, verification });
        }
    }
    (with(merged), proven)
}

impl Refusal {
    /// Whether it is only that too few of those signed who may.
    fn lacks_signatures(&self) -> bool {
        matches!(self, Self::Unauthorised(Unauthorised::BelowThreshold { .. }))
    }
}
