//! Step ① of a stop, as the command does it: a document is built, shown, and signed with the operator's own keys.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use tagout_proto::authority::Unauthorised;
use tagout_proto::command::{Action, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::sshsig::NAMESPACE;
use tagout_proto::trust::Trust;

use super::failure::Failure;
use super::files::quoted;
use super::out::{Ink, Out, now_ms};
use crate::document;
use crate::sign::{SignError, Signer};

/// A command with its signatures, ready to be sent.
pub struct Signed {
    pub action: Action,
    pub envelope: Envelope,
}

/// What programs see of it.
#[derive(Serialize)]
pub struct SignedSummary {
    pub digest: Digest,
    pub document: String,
    pub signed_by: Vec<String>,
}

pub fn open_signers(specs: &[String]) -> Result<Vec<Signer>, Failure> {
    if specs.is_empty() {
        return Err(Failure::usage(
            "no key signs this: give --key FILE, or list `keys` in the profile (make one with `tagout key new`)",
        ));
    }
    specs.iter().map(|spec| Signer::open(spec).map_err(|error| not_opened(spec, error))).collect()
}

/// A public key without an agent does not sign; its private half often lies beside it.
fn not_opened(spec: &str, error: SignError) -> Failure {
    let of_agent = matches!(
        error,
        SignError::NoAgent | SignError::AgentUnreachable { .. } | SignError::AgentLacksKey { .. }
    );
    let mut failure = Failure::from(error);
    if let Some(private) = spec.strip_suffix(".pub").filter(|p| of_agent && Path::new(p).is_file()) {
        let private = quoted(Path::new(private));
        failure.problem.detail.push_str(&format!("; the private key lies beside it: --key {private}"));
    }
    failure
}

/// The document of `action` as of now, unsigned.
pub fn draft(deployment: &Deployment, action: &Action) -> Result<String, Failure> {
    Ok(document::build(deployment, &document::new_id(), now_ms(), action)?)
}

pub fn sign(document: String, signers: &[Signer]) -> Result<Envelope, Failure> {
    let sign = |signer: &Signer| signer.sign(NAMESPACE, document.as_bytes());
    let signatures = signers.iter().map(sign).collect::<Result<_, _>>()?;
    Ok(Envelope { document, signatures })
}

impl Signed {
    pub fn new(deployment: &Deployment, action: Action, signers: &[Signer]) -> Result<Self, Failure> {
        let envelope = sign(draft(deployment, &action)?, signers)?;
        Ok(Self { action, envelope })
    }

    /// Whether its signers may do this; a refusal says who is missing. Nothing has been sent then.
    pub fn check(&self, trust: &Trust) -> Result<(), Failure> {
        trust.authorise(self.action.kind(), &self.action.scope(), &self.envelope)?;
        Ok(())
    }

    /// What its signers lack to do this, if others can add it; a failure says why they may not at all. Nothing has been sent.
    pub fn lacking(&self, trust: &Trust) -> Result<Option<Unauthorised>, Failure> {
        let (action, scope) = (self.action.kind(), self.action.scope());
        match trust.authorise(action, &scope, &self.envelope) {
            Ok(_) => Ok(None),
            Err(lacking @ Unauthorised::BelowThreshold { .. })
                if action.may_be_proposed() && !self.counting(trust).is_empty() =>
            {
                Ok(Some(lacking))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Those of its signers who count.
    pub fn counting<'a>(&self, trust: &'a Trust) -> BTreeSet<&'a str> {
        let (action, scope) = (self.action.kind(), self.action.scope());
        trust.authority().counting(action, &scope, &trust.signers(&self.envelope))
    }

    pub fn summary(&self, trust: &Trust) -> SignedSummary {
        SignedSummary {
            digest: self.envelope.digest(),
            document: self.envelope.document.clone(),
            signed_by: trust.signers(&self.envelope).names(),
        }
    }

    /// Shows the exact text that is signed, and by whom.
    pub fn show(&self, out: &Out, trust: &Trust) {
        let signers = trust.signers(&self.envelope);
        out.line(format!("signing {}", out.ink(Ink::Dim, &self.envelope.document)));
        for signer in &signers.valid {
            out.line(format!("  as {} ({})", signer.principal.name, signer.key.fingerprint()));
        }
        for refused in &signers.refused {
            out.line(format!("  {} {refused}", out.ink(Ink::Yellow, "does not count:")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::generate;

    #[test]
    fn a_public_key_without_an_agent_points_to_the_private_one_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("alice");
        generate(&key, "alice", None).unwrap();
        let public = format!("{}.pub", key.display());
        let hint = format!("; the private key lies beside it: --key {}", key.display());
        let said = not_opened(&public, SignError::NoAgent).to_string();
        assert!(said.ends_with(&hint), "{said}");
        std::fs::remove_file(&key).unwrap();
        assert!(!not_opened(&public, SignError::NoAgent).to_string().contains("beside it"));
    }
}
