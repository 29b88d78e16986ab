//! Trust: whom to believe. From the pinned genesis through every authority, suspension and restore that people signed.
//!
//! Nodes keep it in the ledger and guards keep their own: both judge consent with this code and no other (S5). It only
//! ever moves on: no version, epoch or suspension is taken back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::authority::{Authority, AuthorityError, Proofs, Signers, Unauthorised};
use crate::command::{Action, ActionKind, Command, Deployment, Grant, Suspend};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::limits::SUSPENDED_KEYS_MAX;
use crate::restore::{Epoch, Restore};
use crate::scope::Scope;
use crate::sshsig::{NAMESPACE, Proven, PublicKey};
use crate::strict::{self, DocumentError};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trust {
    /// Every version from the genesis on; the last one is in force.
    chain: Vec<Authority>,
    /// Every epoch; the last one is now.
    epochs: Vec<Epoch>,
    /// Curve points of keys that left a version: none ever comes back, under whatever name or algorithm.
    gone: BTreeSet<[u8; 32]>,
    /// Curve points of suspended keys.
    suspended: BTreeSet<[u8; 32]>,
}

/// What a document added to the trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    Authority,
    Suspended,
    /// A new epoch, with its halt on `*`: the lock's id.
    Restored(Digest),
    /// It was known.
    Nothing,
}

/// Why a document adds nothing to the trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TrustError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Unsigned(String),
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
    #[error("it is a {0}, which says nothing of whom to believe")]
    NothingToLearn(ActionKind),
    #[error("it is for deployment {theirs}, this is {ours}: sign one for this deployment")]
    OtherDeployment { theirs: String, ours: String },
    #[error(
        "it is version {found} of the authority, and version {needed} is next: versions follow without a gap"
    )]
    VersionGap { found: u64, needed: u64 },
    #[error("it succeeds version {previous}, and {ours} is in force: propose it again on that one")]
    OtherPredecessor { previous: Digest, ours: Digest },
    #[error("{0}")]
    RootThreshold(String),
    #[error(
        "key {key} of {owner} was suspended or left an earlier version, and no key comes back: give {owner} a new one"
    )]
    KeyReturns { key: String, owner: String },
    #[error(
        "key {key} of {owner} is suspended and still in the authority, which takes no other change until it is out. Take it out \
         first, or in the same change: `tagout authority propose --remove-key {key} --add-key {owner}=NEW.pub`, or without a new \
         key for {owner} `--remove-principal {owner}`"
    )]
    KeyStays { key: String, owner: String },
    #[error(
        "key {key} cannot be retired for {owner}: it is suspended, was not {owner}'s key, or counted on other grants"
    )]
    NotRetirable { key: String, owner: String },
    #[error(
        "key {key}, retired for {owner}, is suspended and still in the authority, which takes no other change until it is out. \
         Take it out first, or in the same change: `tagout authority propose --remove-key {key}`"
    )]
    RetiredStays { key: String, owner: String },
    #[error("key {0} is a root signer's: only an authority change takes it out of use")]
    RootKey(String),
    #[error(
        "{SUSPENDED_KEYS_MAX} keys are suspended already, which is the most: change the authority instead"
    )]
    TooManySuspended,
    #[error("it begins epoch {found}, and epoch {ours} is known: a restore counts up")]
    EpochRollback { found: u64, ours: u64 },
    #[error("epoch {0} has been, and none comes back: a restore begins one with a new random id")]
    EpochReturns(Digest),
    #[error(
        "it knows authority version {found} {digest}, and version {ours} is in force: a restore needs the newest"
    )]
    RestoreAuthority { found: u64, digest: Digest, ours: u64 },
}

/// Why one trust does not go on from another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNewer {
    #[error("it ends with version {found} of the authority, and version {ours} is known")]
    AuthorityRollback { found: u64, ours: u64 },
    #[error("its version {version} of the authority is {found}, and {ours} is known: the roots signed two")]
    OtherAuthority { version: u64, found: Digest, ours: Digest },
    #[error("it ends in epoch {found}, and epoch {ours} is known")]
    EpochRollback { found: u64, ours: u64 },
    #[error("its epoch {number} is {found}, and {ours} is known: the roots began two")]
    OtherEpoch { number: u64, found: Digest, ours: Digest },
}

/// Why a grant is no consent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefused {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is a {0}, not a grant")]
    NotAGrant(ActionKind),
    #[error("it is of deployment {0}, another one")]
    OtherDeployment(Deployment),
    #[error("it is for {0}, elsewhere")]
    Elsewhere(Scope),
    #[error("it was signed in epoch {0}, another one")]
    OtherEpoch(Digest),
    #[error("it says it saw {seen} entries, but the log has {size}")]
    SeenAhead { seen: u64, size: u64 },
    #[error("it says it saw authority version {seen}, but version {version} is in force")]
    AuthorityAhead { seen: u64, version: u64 },
    #[error("authority version {version} voids it: {error}")]
    Voided { version: u64, error: Unauthorised },
    #[error("it was revoked")]
    Revoked,
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
}

impl Trust {
    /// Trusts the genesis that `pinned` names, and nothing else.
    pub fn begin(genesis: &Envelope, pinned: Digest) -> Result<Self, AuthorityError> {
        let chain = vec![Authority::genesis(genesis, pinned)?];
        let epochs = vec![Epoch { number: 1, id: pinned }];
        Ok(Self { chain, epochs, gone: BTreeSet::new(), suspended: BTreeSet::new() })
    }

    /// The authority in force.
    pub fn authority(&self) -> &Authority {
        self.chain.last().expect("it begins with the genesis")
    }

    /// Every version, the genesis first.
    pub fn versions(&self) -> &[Authority] {
        &self.chain
    }

    pub fn epoch(&self) -> Epoch {
        *self.epochs.last().expect("it begins with the first")
    }

    pub fn deployment(&self) -> &Deployment {
        &self.authority().deployment
    }

    pub fn is_suspended(&self, key: &PublicKey) -> bool {
        self.suspended.contains(key.raw())
    }

    /// The curve points of every suspended key, in order.
    pub fn suspended(&self) -> impl Iterator<Item = [u8; 32]> {
        self.suspended.iter().copied()
    }

    /// Suspends keys without a document, by their curve points, as a guard remembers them. It only ever takes trust away.
    pub fn distrust(&mut self, points: impl IntoIterator<Item = [u8; 32]>) {
        self.suspended.extend(points);
    }

    /// Takes a document of the trust chain, in the log's order: an authority, a suspend or a restore.
    pub fn learn(&mut self, envelope: &Envelope) -> Result<Learned, TrustError> {
        let bytes = envelope.document.as_bytes();
        envelope.check_bounds()?;
        if strict::object(bytes, "the document")?.has("restore") {
            let restore = Restore::parse(bytes)?;
            if self.epochs.contains(&restore.epoch) {
                return Ok(Learned::Nothing);
            }
            self.check_restore(&restore, envelope)?;
            self.restore(&restore);
            return Ok(Learned::Restored(envelope.digest()));
        }
        match Command::parse(bytes)?.action {
            Action::Authority(authority) => {
                let version = usize::try_from(authority.version).unwrap_or(usize::MAX);
                if self.chain.get(version - 1).is_some_and(|known| known.digest == authority.digest) {
                    return Ok(Learned::Nothing);
                }
                self.check_successor(&authority, envelope)?;
                self.succeed(*authority);
                Ok(Learned::Authority)
            }
            Action::Suspend(suspend) => {
                if suspend.keys.iter().all(|key| self.is_suspended(key)) {
                    return Ok(Learned::Nothing);
                }
                self.check_deployment(&Command::parse(bytes)?.deployment)?;
                self.authorise(ActionKind::Suspend, &Scope::fleet(), envelope)?;
                self.check_suspend(&suspend)?;
                self.suspend(&suspend);
                Ok(Learned::Suspended)
            }
            other => Err(TrustError::NothingToLearn(other.kind())),
        }
    }

    pub(crate) fn check_deployment(&self, theirs: &Deployment) -> Result<(), TrustError> {
        let ours = self.deployment();
        if theirs == ours {
            return Ok(());
        }
        Err(TrustError::OtherDeployment { theirs: theirs.to_string(), ours: ours.to_string() })
    }

    /// Whether `next` follows the version in force, with its envelope signed by the root thresholds of both.
    pub(crate) fn check_successor(&self, next: &Authority, envelope: &Envelope) -> Result<(), TrustError> {
        self.check_place(next)?;
        self.authority().check_root(envelope, "authority")?;
        next.check_root(envelope, "authority")?;
        self.check_keys(next)
    }

    /// Whether `next` follows the version in force, its signatures aside: for those who shall sign it.
    pub fn check_succession(&self, next: &Authority) -> Result<(), TrustError> {
        self.check_place(next)?;
        self.check_keys(next)
    }

    /// Whether `next` is the version after this one.
    fn check_place(&self, next: &Authority) -> Result<(), TrustError> {
        let current = self.authority();
        self.check_deployment(&next.deployment)?;
        let needed = current.version + 1;
        let Some(succession) = next.succession.as_ref().filter(|_| next.version == needed) else {
            return Err(TrustError::VersionGap { found: next.version, needed });
        };
        if succession.previous != current.digest {
            return Err(TrustError::OtherPredecessor { previous: succession.previous, ours: current.digest });
        }
        Ok(())
    }

    /// Whether no key of `next` comes back, and its retired ones were their owners'.
    fn check_keys(&self, next: &Authority) -> Result<(), TrustError> {
        let current = self.authority();
        let back = |key: &PublicKey| self.gone.contains(key.raw()) || self.is_suspended(key);
        if let Some((key, owner)) = next.signing_keys().find(|(key, _)| back(key)) {
            let stays = current.signing_keys().any(|known| known == (key, owner));
            let (key, owner) = (key.fingerprint(), owner.into());
            return Err(match stays {
                true => TrustError::KeyStays { key, owner },
                false => TrustError::KeyReturns { key, owner },
            });
        }
        for retired in next.retired() {
            let owned = current.principal_of(&retired.key).is_some_and(|p| p.name == retired.principal);
            let known =
                current.retired().iter().find(|r| r.key == retired.key && r.principal == retired.principal);
            let before =
                known.is_some_and(|known| retired.grants.iter().all(|grant| known.grants.contains(grant)));
            let suspended = self.is_suspended(&retired.key);
            if suspended || !(owned || before) {
                let (key, owner) = (retired.key.fingerprint(), retired.principal.clone());
                return Err(match suspended && known.is_some() {
                    true => TrustError::RetiredStays { key, owner },
                    false => TrustError::NotRetirable { key, owner },
                });
            }
        }
        Ok(())
    }

    /// Puts a checked successor in force.
    pub(crate) fn succeed(&mut self, next: Authority) {
        let stays: BTreeSet<[u8; 32]> = next.signing_keys().map(|(key, _)| *key.raw()).collect();
        let before = self.authority().signing_keys().map(|(key, _)| *key.raw());
        let gone: Vec<_> = before.filter(|key| !stays.contains(key)).collect();
        self.gone.extend(gone);
        self.chain.push(next);
    }

    pub(crate) fn check_suspend(&self, suspend: &Suspend) -> Result<(), TrustError> {
        let root = &self.authority().root.signers;
        if let Some(key) = suspend.keys.iter().find(|key| root.iter().any(|s| s.key.raw() == key.raw())) {
            return Err(TrustError::RootKey(key.fingerprint()));
        }
        if self.suspended.len() + suspend.keys.len() > SUSPENDED_KEYS_MAX {
            return Err(TrustError::TooManySuspended);
        }
        Ok(())
    }

    pub(crate) fn suspend(&mut self, suspend: &Suspend) {
        self.suspended.extend(suspend.keys.iter().map(|key| *key.raw()));
    }

    /// Whether the root signers began the epoch of `restore`, and know the authority that is in force here; their names.
    pub(crate) fn check_restore(
        &self,
        restore: &Restore,
        envelope: &Envelope,
    ) -> Result<Vec<String>, TrustError> {
        self.check_deployment(&restore.deployment)?;
        let (found, ours) = (restore.epoch.number, self.epoch().number);
        if found <= ours {
            return Err(TrustError::EpochRollback { found, ours });
        }
        // Its grants would hold again.
        if self.epochs.iter().any(|epoch| epoch.id == restore.epoch.id) {
            return Err(TrustError::EpochReturns(restore.epoch.id));
        }
        let current = self.authority();
        if (restore.authority_version, restore.authority) != (current.version, current.digest) {
            let (found, digest) = (restore.authority_version, restore.authority);
            return Err(TrustError::RestoreAuthority { found, digest, ours: current.version });
        }
        Ok(current.check_root(envelope, "restore")?)
    }

    pub(crate) fn restore(&mut self, restore: &Restore) {
        self.epochs.push(restore.epoch);
    }

    /// Takes over what `newer` learned by itself from the genesis on, if it goes on from what is known here. Says whether
    /// anything was new.
    ///
    /// A follower learns a chain from its beginning, because each document holds by what stood before it in the log, and
    /// not by what the follower heard out of turn: a pushed suspend comes before versions that still name its key. What
    /// is suspended here stays so.
    pub fn overtake(&mut self, newer: Self) -> Result<bool, NotNewer> {
        let pairs = self.chain.iter().zip(&newer.chain);
        if let Some((ours, theirs)) = pairs.into_iter().find(|(ours, theirs)| ours.digest != theirs.digest) {
            let (version, ours, found) = (ours.version, ours.digest, theirs.digest);
            return Err(NotNewer::OtherAuthority { version, found, ours });
        }
        let (found, ours) = (newer.authority().version, self.authority().version);
        if found < ours {
            return Err(NotNewer::AuthorityRollback { found, ours });
        }
        let (theirs, epoch) = (newer.epoch(), self.epoch());
        if theirs.number < epoch.number {
            return Err(NotNewer::EpochRollback { found: theirs.number, ours: epoch.number });
        }
        if theirs.number == epoch.number && theirs.id != epoch.id {
            return Err(NotNewer::OtherEpoch { number: theirs.number, found: theirs.id, ours: epoch.id });
        }
        let suspends = !newer.suspended.is_subset(&self.suspended);
        let suspended = self.suspended.union(&newer.suspended).copied().collect();
        // An epoch that a restore skipped has been all the same.
        let skipped = self.epochs.iter().filter(|known| !newer.epochs.contains(known)).copied();
        let epochs = skipped.chain(newer.epochs.iter().copied()).collect();
        *self = Self { suspended, epochs, ..newer };
        Ok(found > ours || theirs != epoch || suspends)
    }

    /// Who signed `envelope`, by the authority in force and without suspended keys.
    pub fn signers(&self, envelope: &Envelope) -> Signers<'_> {
        self.signers_in(NAMESPACE, envelope)
    }

    /// The same for a document that is signed in another namespace than a command.
    pub fn signers_in(&self, namespace: &str, envelope: &Envelope) -> Signers<'_> {
        let (authority, digest) = (self.authority(), envelope.digest());
        let owner = |key: &PublicKey| {
            self.usable(key)?;
            authority.owner(key, &digest).map(|owner| owner.name.as_str())
        };
        authority.attribute(&Proofs::of(namespace, envelope, owner), &digest)
    }

    /// Whether those who signed `envelope` may do `action` on `scope`; their names.
    pub fn authorise(
        &self,
        action: ActionKind,
        scope: &Scope,
        envelope: &Envelope,
    ) -> Result<Vec<String>, Unauthorised> {
        let signers = self.signers(envelope);
        self.authority().authorise(action, scope, &signers)?;
        Ok(signers.names())
    }

    fn usable(&self, key: &PublicKey) -> Result<(), String> {
        if self.is_suspended(key) {
            return Err(format!(
                "key {} is suspended for good; its owner needs a new one",
                key.fingerprint()
            ));
        }
        Ok(())
    }

    /// Whether enough people signed a grant, whatever it is for, under every version since they did. Gives the proofs that
    /// `still_consents` asks for later.
    pub fn judge_grant(&self, envelope: &Envelope) -> Result<(Grant, Vec<Proven>), GrantRefused> {
        envelope.check_bounds()?;
        let command = Command::parse(envelope.document.as_bytes())?;
        let grant = match command.action {
            Action::Grant(grant) => grant,
            other => return Err(GrantRefused::NotAGrant(other.kind())),
        };
        if command.deployment != *self.deployment() {
            return Err(GrantRefused::OtherDeployment(command.deployment));
        }
        let version = self.authority().version;
        if grant.seen.authority > version {
            return Err(GrantRefused::AuthorityAhead { seen: grant.seen.authority, version });
        }
        let digest = envelope.digest();
        let since = self.since(grant.seen.authority);
        let owner = |key: &PublicKey| {
            self.usable(key)?;
            let owners = since.iter().rev().map(|version| version.owner(key, &digest));
            // Nobody's in any version: the newest one has the best reason.
            let known = owners.clone().find_map(Result::ok).map(Ok);
            known
                .or(owners.into_iter().next())
                .expect("a version is in force")
                .map(|owner| owner.name.as_str())
        };
        let proofs = Proofs::of(NAMESPACE, envelope, owner);
        for authority in since {
            let signers = authority.attribute(&proofs, &digest);
            authority.authorise(ActionKind::Grant, &grant.scope, &signers).map_err(|error| {
                match authority.version == grant.seen.authority {
                    true => GrantRefused::Unauthorised(error),
                    false => GrantRefused::Voided { version: authority.version, error },
                }
            })?;
        }
        Ok((grant, proofs.proven))
    }

    /// The version that a grant's signers saw, and every later one.
    fn since(&self, version: u64) -> &[Authority] {
        &self.chain[version as usize - 1..]
    }

    /// Whether a grant that was signed by `proven` holds by every version since and without the keys suspended since.
    ///
    /// More versions and more suspensions can only take consent away: a grant that is void once is void for ever, for
    /// whoever judges it from the same documents.
    pub(crate) fn still_consents(&self, grant: &Consent, next: Option<&Authority>) -> bool {
        self.lacking(ActionKind::Grant, grant, next).is_none()
    }

    /// Why those who signed are not enough for `action`, by some version since what they saw, if they are not.
    pub(crate) fn lacking(
        &self,
        action: ActionKind,
        signed: &Consent,
        next: Option<&Authority>,
    ) -> Option<Unauthorised> {
        let proofs = self.usable_proofs(signed);
        self.since(signed.seen_authority).iter().chain(next).find_map(|authority| {
            let signers = authority.attribute(&proofs, &signed.digest);
            authority.authorise(action, signed.scope, &signers).err()
        })
    }

    /// Those who count towards `action`, be they enough or not, by the authority in force.
    pub(crate) fn counting(&self, action: ActionKind, signed: &Consent) -> Vec<String> {
        let signers = self.authority().attribute(&self.usable_proofs(signed), &signed.digest);
        let counting = self.authority().counting(action, signed.scope, &signers);
        counting.into_iter().map(str::to_owned).collect()
    }

    fn usable_proofs(&self, signed: &Consent) -> Proofs {
        let proven = signed.proven.iter().filter(|proof| !self.is_suspended(&proof.key)).cloned().collect();
        Proofs { proven, refused: Vec::new() }
    }
}

/// What is needed to judge a grant again without its bytes, or a proposal.
pub(crate) struct Consent<'a> {
    pub(crate) digest: Digest,
    pub(crate) scope: &'a Scope,
    pub(crate) seen_authority: u64,
    pub(crate) proven: &'a [Proven],
}

/// Whether a grant holds for `agent`, in `epoch` and a log of `size` entries.
pub fn place_grant(grant: &Grant, agent: &Scope, epoch: Digest, size: u64) -> Result<(), GrantRefused> {
    if !grant.scope.covers(agent) {
        return Err(GrantRefused::Elsewhere(grant.scope.clone()));
    }
    if grant.seen.epoch != epoch {
        return Err(GrantRefused::OtherEpoch(grant.seen.epoch));
    }
    if grant.seen.size > size {
        return Err(GrantRefused::SeenAhead { seen: grant.seen.size, size });
    }
    Ok(())
}

impl From<DocumentError> for TrustError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            _ => Self::Malformed(error.to_string()),
        }
    }
}

impl From<EnvelopeError> for TrustError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Unsigned => Self::Unsigned(error.to_string()),
            EnvelopeError::DocumentTooLarge(_)
            | EnvelopeError::TooManySignatures(_)
            | EnvelopeError::SignatureTooLarge(_) => Self::TooLarge(error.to_string()),
        }
    }
}

impl From<AuthorityError> for TrustError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Envelope(error) => error.into(),
            AuthorityError::Document(error) => error.into(),
            AuthorityError::NotThePinnedGenesis { .. } => Self::Malformed(error.to_string()),
            AuthorityError::RootThreshold { .. } => Self::RootThreshold(error.to_string()),
        }
    }
}
