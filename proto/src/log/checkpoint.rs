//! Checkpoints (c2sp.org/tlog-checkpoint): a node's signed word on the log's size and root.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::note::{NoteError, NoteSigner, VerifierKey};
use crate::sentence::sentence;
use crate::strict;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The log's identity: the deployment, `name:<genesis sha256>`.
    pub origin: String,
    pub size: u64,
    pub root: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("the checkpoint is malformed: {0}")]
    Malformed(&'static str),
    #[error("the checkpoint is of log {found}, not of {expected}")]
    Origin { found: String, expected: String },
}

impl Checkpoint {
    pub fn sign(&self, signer: &NoteSigner) -> String {
        signer.sign(&format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root.0)))
    }

    /// Opens a checkpoint that `key` signed for the log `origin`.
    pub fn open(note: &str, key: &VerifierKey, origin: &str) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse_text(key.open(note)?)?;
        if checkpoint.origin != origin {
            let (found, expected) = (sentence(checkpoint.origin), origin.into());
            return Err(CheckpointError::Origin { found, expected });
        }
        Ok(checkpoint)
    }

    fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.lines();
        let mut line = || lines.next().filter(|l| !l.is_empty());
        let origin = line().ok_or(CheckpointError::Malformed("it has no origin"))?.to_owned();
        let size = line()
            .and_then(|l| l.parse::<u64>().ok().filter(|n| n.to_string() == l))
            .ok_or(CheckpointError::Malformed("its size is no decimal number"))?;
        let root = line()
            .and_then(|l| strict::base64(l)?.try_into().ok())
            .map(Digest)
            .ok_or(CheckpointError::Malformed("its root is not 32 bytes in base64"))?;
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Malformed("an extension line is empty"));
        }
        Ok(Self { origin, size, root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_signs_for_its_own_log_only() {
        let signer = NoteSigner::new("demo/node-1", &[1; 32]).unwrap();
        let checkpoint = Checkpoint { origin: "demo:00".into(), size: 7, root: Digest([9; 32]) };
        let note = checkpoint.sign(&signer);
        assert_eq!(Checkpoint::open(&note, &signer.verifier(), "demo:00"), Ok(checkpoint));
        let other = Checkpoint::open(&note, &signer.verifier(), "prod:00");
        assert!(matches!(other, Err(CheckpointError::Origin { .. })));
    }

    #[test]
    fn refuses_sizes_and_roots_with_a_second_spelling() {
        let root = BASE64.encode(&[0; 32]);
        for bad in
            ["o\n07\nR\n", "o\n-1\nR\n", "o\n+1\nR\n", "o\n1\nAAAA\n", "o\n1\n", "\n1\nR\n", "o\n1\nR\n\n"]
        {
            let text = bad.replace('R', &root);
            assert!(Checkpoint::parse_text(&text).is_err(), "{text:?}");
        }
        assert!(Checkpoint::parse_text(&format!("o\n0\n{root}\nextension\n")).is_ok());
    }
}
