//! A restore: the root signers begin a new epoch after a restore from backup, with the whole fleet halted (S1).

use serde::{Deserialize, Serialize};

use crate::command::Deployment;
use crate::digest::Digest;
use crate::limits::{REASON_MAX_BYTES, STOP_MAX_BYTES};
use crate::strict::{self, DocumentError};

/// One uninterrupted life of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub number: u64,
    /// Random; the genesis digest in epoch 1.
    pub id: Digest,
}

/// Its SHA-256 is the id of a halt on `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    pub deployment: Deployment,
    pub epoch: Epoch,
    pub issued_at_ms: u64,
    /// The authority in force: at least as new as any that is known.
    pub authority_version: u64,
    pub authority: Digest,
    /// The newest checkpoint that is known of the old epoch.
    pub checkpoint_size: u64,
    pub checkpoint_root: Digest,
    /// The entries of the old epoch from here on may be lost; the restore takes this place in the log.
    pub lost_from: u64,
    pub reason: String,
}

impl Restore {
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > STOP_MAX_BYTES {
            let (size, limit) = (bytes.len(), STOP_MAX_BYTES);
            return Err(DocumentError::TooLarge { what: "a restore", size, limit });
        }
        let mut fields = strict::object(bytes, "the restore")?;
        fields.document_version()?;
        let deployment = fields.deployment()?;
        let mut epoch = fields.object("restore")?;
        let (number, id) = (epoch.number("number", 2..=u64::MAX)?, epoch.digest("id")?);
        epoch.finish()?;
        let issued_at_ms = fields.instant_ms("issued_at")?;
        let mut authority = fields.object("authority")?;
        let (authority_version, authority_digest) =
            (authority.number("version", 1..=u64::MAX)?, authority.digest("digest")?);
        authority.finish()?;
        let mut checkpoint = fields.object("checkpoint")?;
        let (checkpoint_size, checkpoint_root) =
            (checkpoint.number("size", 1..=u64::MAX)?, checkpoint.digest("root")?);
        checkpoint.finish()?;
        let lost_from = fields.number("lost_from", 1..=checkpoint_size)?;
        let reason = fields.text("reason", REASON_MAX_BYTES)?;
        fields.finish()?;
        Ok(Self {
            deployment,
            epoch: Epoch { number, id },
            issued_at_ms,
            authority_version,
            authority: authority_digest,
            checkpoint_size,
            checkpoint_root,
            lost_from,
            reason,
        })
    }

    /// The document's text, for the root signers.
    pub fn to_document(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            tagout: u64,
            deployment: String,
            restore: &'a Epoch,
            issued_at: String,
            authority: Authority,
            checkpoint: Checkpoint,
            lost_from: u64,
            reason: &'a str,
        }
        #[derive(Serialize)]
        struct Authority {
            version: u64,
            digest: Digest,
        }
        #[derive(Serialize)]
        struct Checkpoint {
            size: u64,
            root: Digest,
        }
        let document = Document {
            tagout: crate::command::DOCUMENT_VERSION,
            deployment: self.deployment.to_string(),
            restore: &self.epoch,
            issued_at: strict::format_instant_ms(self.issued_at_ms),
            authority: Authority { version: self.authority_version, digest: self.authority },
            checkpoint: Checkpoint { size: self.checkpoint_size, root: self.checkpoint_root },
            lost_from: self.lost_from,
            reason: &self.reason,
        };
        serde_json::to_string(&document).expect("a restore is plain data")
    }
}
