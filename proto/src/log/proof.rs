//! Inclusion proofs as files (c2sp.org/tlog-proof): they convince somebody offline that an entry is in the log.

use data_encoding::BASE64;

use crate::digest::Digest;
use crate::log::checkpoint::{Checkpoint, CheckpointError};
use crate::log::tree::{leaf_hash, verify_inclusion};
use crate::note::VerifierKey;
use crate::strict;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    pub index: u64,
    /// The leaf's sibling first.
    pub path: Vec<Digest>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("the proof is malformed: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the entry is not at index {index} of the log of {size} entries that the checkpoint names")]
    NotIncluded { index: u64, size: u64 },
}

impl InclusionProof {
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\nindex {}\n", self.index);
        for hash in &self.path {
            text.push_str(&BASE64.encode(&hash.0));
            text.push('\n');
        }
        text + "\n" + &self.checkpoint
    }

    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(ProofError::Malformed("it has no blank line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ProofError::Malformed("its first line is not c2sp.org/tlog-proof@v1"));
        }
        // Extra data is not authenticated and Tagout writes none.
        lines.next_if(|l| l.starts_with("extra "));
        let index = lines.next().and_then(|l| l.strip_prefix("index "));
        let index = index
            .and_then(|l| l.parse::<u64>().ok().filter(|n| n.to_string() == l))
            .ok_or(ProofError::Malformed("it has no index line"))?;
        let path = lines
            .map(|l| Some(Digest(strict::base64(l)?.try_into().ok()?)))
            .collect::<Option<Vec<_>>>()
            .filter(|path| path.len() <= 64)
            .ok_or(ProofError::Malformed("a hash is not 32 bytes in base64"))?;
        Ok(Self { index, path, checkpoint: checkpoint.into() })
    }

    /// Checks that `entry` is in the log `origin` whose node `key` signed the checkpoint.
    pub fn verify(&self, entry: &[u8], key: &VerifierKey, origin: &str) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key, origin)?;
        if !verify_inclusion(leaf_hash(entry), self.index, checkpoint.size, &self.path, checkpoint.root) {
            return Err(ProofError::NotIncluded { index: self.index, size: checkpoint.size });
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tree;
    use crate::note::NoteSigner;

    #[test]
    fn a_proof_survives_its_text_and_convinces() {
        let signer = NoteSigner::new("demo/node-1", &[1; 32]).unwrap();
        let entries: Vec<_> = (0..5u8).map(|i| vec![i]).collect();
        let leaves: Vec<_> = entries.iter().map(|e| leaf_hash(e)).collect();
        let checkpoint =
            Checkpoint { origin: "demo:00".into(), size: 5, root: tree::root(&leaves) }.sign(&signer);
        for (index, path) in tree::prove_all(&leaves).into_iter().enumerate() {
            let proof = InclusionProof { index: index as u64, path, checkpoint: checkpoint.clone() };
            let read = InclusionProof::parse(&proof.to_text()).unwrap();
            assert_eq!(read, proof);
            assert!(read.verify(&entries[index], &signer.verifier(), "demo:00").is_ok());
            let other = &entries[(index + 1) % 5];
            assert!(matches!(
                read.verify(other, &signer.verifier(), "demo:00"),
                Err(ProofError::NotIncluded { .. })
            ));
        }
    }
}
