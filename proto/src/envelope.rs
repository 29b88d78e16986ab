//! An envelope: a document's exact bytes and the signatures over them, carried verbatim from the signer to the verifier.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{COMMAND_MAX_BYTES, SIGNATURE_MAX_BYTES, SIGNATURES_MAX};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// JSON is UTF-8, so text keeps every byte.
    pub document: String,
    /// Armored SSHSIG, as `ssh-keygen -Y sign` wrote them.
    pub signatures: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the document has {0} bytes, at most {COMMAND_MAX_BYTES} are allowed")]
    DocumentTooLarge(usize),
    #[error("the command has no signature; sign it with: ssh-keygen -Y sign -n tagout-command -f KEY FILE")]
    Unsigned,
    #[error("{0} signatures were given, at most {SIGNATURES_MAX} are allowed")]
    TooManySignatures(usize),
    #[error(
        "a signature has {0} bytes, at most {SIGNATURE_MAX_BYTES} are allowed; one by an Ed25519 key has about 300 (an RSA key does not do)"
    )]
    SignatureTooLarge(usize),
}

impl Envelope {
    /// The document's SHA-256: the command's name for ever, and for a tightening its lock's id.
    pub fn digest(&self) -> Digest {
        Digest::of(self.document.as_bytes())
    }

    pub fn check_bounds(&self) -> Result<(), EnvelopeError> {
        if self.document.len() > COMMAND_MAX_BYTES {
            return Err(EnvelopeError::DocumentTooLarge(self.document.len()));
        }
        if self.signatures.is_empty() {
            return Err(EnvelopeError::Unsigned);
        }
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures(self.signatures.len()));
        }
        match self.signatures.iter().find(|s| s.len() > SIGNATURE_MAX_BYTES) {
            Some(signature) => Err(EnvelopeError::SignatureTooLarge(signature.len())),
            None => Ok(()),
        }
    }
}
