//! The codes of SPEC.md section 17 for our refusals.

use tagout_proto::authority::{AuthorityError, Unauthorised};
use tagout_proto::envelope::EnvelopeError;
use tagout_proto::ledger::{NotEnrolled, Refusal};
use tagout_proto::sshsig::SshsigError;
use tagout_proto::strict::DocumentError;
use tagout_proto::trust::{GrantRefused, TrustError};

pub(crate) trait Code {
    fn code(&self) -> String;
}

impl Code for DocumentError {
    fn code(&self) -> String {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Json(_)
            | Self::UnknownKey { .. }
            | Self::Missing { .. }
            | Self::Wrong { .. }
            | Self::Scope(_)
            | Self::Invalid(_) => "bad-document",
        }
        .into()
    }
}

impl Code for EnvelopeError {
    fn code(&self) -> String {
        match self {
            Self::Unsigned => "unsigned",
            Self::DocumentTooLarge(_) | Self::TooManySignatures(_) | Self::SignatureTooLarge(_) => {
                "too-large"
            }
        }
        .into()
    }
}

impl Code for Unauthorised {
    fn code(&self) -> String {
        match self {
            Self::NoValidSignature(_) => "no-valid-signature",
            Self::NoRole { .. } => "no-role",
            Self::BelowThreshold { .. } => "below-threshold",
        }
        .into()
    }
}

impl Code for AuthorityError {
    fn code(&self) -> String {
        match self {
            Self::Document(error) => error.code(),
            Self::Envelope(error) => error.code(),
            Self::NotThePinnedGenesis { .. } => "not-pinned".into(),
            Self::RootThreshold { .. } => "root-threshold".into(),
        }
    }
}

impl Code for TrustError {
    fn code(&self) -> String {
        match self {
            Self::Malformed(_) => "bad-document",
            Self::TooLarge(_) => "too-large",
            Self::Unsigned(_) => "unsigned",
            Self::Unauthorised(error) => return error.code(),
            Self::NothingToLearn(_) => "nothing-to-learn",
            Self::OtherDeployment { .. } => "wrong-deployment",
            Self::VersionGap { .. } => "version-gap",
            Self::OtherPredecessor { .. } => "other-predecessor",
            Self::RootThreshold(_) => "root-threshold",
            Self::KeyReturns { .. } | Self::KeyStays { .. } => "key-returns",
            Self::NotRetirable { .. } | Self::RetiredStays { .. } => "not-retirable",
            Self::RootKey(_) => "root-key",
            Self::TooManySuspended => "too-many-suspended",
            Self::EpochRollback { .. } => "epoch-rollback",
            Self::EpochReturns(_) => "epoch-returns",
            Self::RestoreAuthority { .. } => "restore-authority",
        }
        .into()
    }
}

impl Code for GrantRefused {
    fn code(&self) -> String {
        match self {
            Self::Envelope(error) => return error.code(),
            Self::Document(error) => return error.code(),
            Self::Unauthorised(error) => return error.code(),
            Self::NotAGrant(_) => "not-a-grant",
            Self::OtherDeployment(_) => "wrong-deployment",
            Self::Elsewhere(_) => "elsewhere",
            Self::OtherEpoch(_) => "other-epoch",
            Self::SeenAhead { .. } => "seen-ahead",
            Self::AuthorityAhead { .. } => "authority-ahead",
            Self::Voided { .. } => "void-before",
            Self::Revoked => "void",
        }
        .into()
    }
}

impl Code for NotEnrolled {
    fn code(&self) -> String {
        match self {
            Self::NoToken { .. } | Self::Unknown { .. } | Self::Revoked { .. } | Self::Ended { .. } => {
                "not-enrolled"
            }
            Self::Elsewhere { .. } => "enrolled-elsewhere",
        }
        .into()
    }
}

impl Code for Refusal {
    fn code(&self) -> String {
        match self {
            Self::Malformed(_) => "bad-document",
            Self::TooLarge(_) => "too-large",
            Self::Unsigned(_) => "unsigned",
            Self::NoGenesis => "not-ready",
            Self::WrongDeployment { .. } => "wrong-deployment",
            Self::Unauthorised(error) => return error.code(),
            Self::Used { .. } => "used",
            Self::NoSuchLock(_) => "no-such-lock",
            Self::LockOutsideScope { .. } => "lock-outside-scope",
            Self::NotReleased(_) => "not-released",
            Self::AlreadyReleased(..) => "already-released",
            Self::TakesNoStart(_) => "takes-no-start",
            Self::StartElsewhere { .. } => "start-elsewhere",
            Self::TooManyWaves(_) => "too-many-waves",
            Self::OtherLocks { .. } => "other-locks",
            Self::LostFrom { .. } => "lost-from",
            Self::NothingLost => "nothing-lost",
            Self::TooManyRemembered => "too-many-remembered",
            Self::WrongEpoch { .. } => "wrong-epoch",
            Self::SeenAhead { .. } => "seen-ahead",
            Self::AuthorityAhead { .. } => "authority-ahead",
            Self::VoidBefore { .. } => "void-before",
            Self::Void(_) => "void",
            Self::GrantOutsideScope { .. } => "grant-outside-scope",
            Self::Expired(_) => "expired",
            Self::OutcomeKnown(_) => "outcome-known",
            Self::NoSuchStop(_) => "no-such-stop",
            Self::NoOutcome(_) => "no-outcome",
            Self::DrillElsewhere { .. } => "drill-elsewhere",
            Self::DrillDiffers { .. } => "drill-differs",
            Self::DrillKnown { .. } => "drill-known",
            Self::TooManyGrants { .. } => "too-many-grants",
            Self::Trust(error) => return error.code(),
            Self::NotProposed(_) => "not-proposed",
            Self::SignedByEnough => "signed-by-enough",
            Self::NothingNew { .. } => "nothing-new",
            Self::TooManyProposals { .. } => "too-many-proposals",
            Self::Refused { .. } => "refused",
            Self::NoSuchProposal(_) => "no-such-proposal",
            Self::ProposalElsewhere { .. } => "proposal-elsewhere",
            Self::TooManyRefused => "too-many-refused",
            Self::DisablesMore { .. } => "disables-more",
            Self::RestoreElsewhere(_) => "restore-elsewhere",
            Self::RuleInForce(_) => "rule-in-force",
            Self::RuleUnknown { .. } => "rule-unknown",
        }
        .into()
    }
}

/// The classes of SPEC.md section 6; they reach no HTTP answer, since a signature that does not count is one of several.
impl Code for SshsigError {
    fn code(&self) -> String {
        match self {
            Self::TooLarge => "too-large",
            Self::Armor => "armor",
            Self::Malformed(_) => "malformed",
            Self::Namespace { .. } => "namespace",
            Self::Algorithm => "algorithm",
            Self::AlgorithmOfKey { .. } => "algorithm-of-key",
            Self::Application(_) => "application",
            Self::MoreIsSigned(_) => "more-is-signed",
            Self::WeakKey => "weak-key",
            Self::Mismatch => "mismatch",
        }
        .into()
    }
}
