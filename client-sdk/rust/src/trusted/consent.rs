//! Grants: which of them are consent. Only what enough people signed for this agent, here and now, and nobody took back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tagout_proto::command::{Grant, Revoke};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::scope::Scope;
use tagout_proto::trust::{GrantRefused, Trust, place_grant};

use crate::limits::REVOKED_MAX;

/// A grant that holds, with its bytes: whoever is trusted less later, it is judged again.
pub(super) struct Consent {
    envelope: Envelope,
    pub(super) grant: Grant,
}

/// Grants that are void for this guard for good, also those that come later.
#[derive(Clone, Default)]
pub(super) struct Revoked {
    /// By the grant's digest, each with the scope of a revoke that names it: it voids what lies there.
    pub(super) named: BTreeSet<(Digest, Scope)>,
    /// A revoke came that there was no room for.
    pub(super) overflowed: bool,
}

/// Judges grants. One for a team covers many agents of one client: its signatures are verified once.
pub(super) struct Judge<'a> {
    trust: &'a Trust,
    revoked: &'a Revoked,
    log_size: u64,
    judged: BTreeMap<Digest, Result<Arc<Consent>, GrantRefused>>,
}

impl Consent {
    pub(super) fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

impl Revoked {
    pub(super) fn add(&mut self, revoke: &Revoke) {
        for grant in &revoke.grants {
            let named = (*grant, revoke.scope.clone());
            if self.named.len() < REVOKED_MAX {
                self.named.insert(named);
            } else if !self.named.contains(&named) {
                self.overflowed = true;
            }
        }
    }

    fn voids(&self, id: Digest, grant: &Grant) -> bool {
        grant.scope.upward().any(|scope| self.named.contains(&(id, scope)))
    }
}

impl<'a> Judge<'a> {
    pub(super) fn new(trust: &'a Trust, revoked: &'a Revoked, log_size: u64) -> Self {
        Self { trust, revoked, log_size, judged: BTreeMap::new() }
    }

    /// The consent that `envelope` is for `agent`.
    pub(super) fn place(&mut self, envelope: &Envelope, agent: &Scope) -> Result<Arc<Consent>, GrantRefused> {
        let Self { trust, revoked, log_size, .. } = *self;
        let judged = self.judged.entry(digest_of(envelope)).or_insert_with(|| {
            let (grant, _) = trust.judge_grant(envelope)?;
            if revoked.voids(envelope.digest(), &grant) {
                return Err(GrantRefused::Revoked);
            }
            Ok(Arc::new(Consent { envelope: envelope.clone(), grant }))
        });
        let consent = Arc::clone(judged.as_ref().map_err(Clone::clone)?);
        place_grant(&consent.grant, agent, trust.epoch().id, log_size)?;
        Ok(consent)
    }
}

/// Over the document and its signatures: the same document with other signatures is another case.
fn digest_of(envelope: &Envelope) -> Digest {
    let parts = std::iter::once(&envelope.document).chain(&envelope.signatures);
    let digests: Vec<_> = parts.map(|part| Digest::of(part.as_bytes())).collect();
    Digest::of_parts(&digests.iter().map(|digest| digest.0.as_slice()).collect::<Vec<_>>())
}
