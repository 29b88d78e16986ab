//! Proofs as files, which convince somebody offline: that an entry is in the log (c2sp.org/tlog-proof), and that a
//! checkpoint continues an older one (what c2sp.org/tlog-witness sends to `add-checkpoint`, so that a witness takes it).

use data_encoding::BASE64;

use crate::digest::Digest;
use crate::log::checkpoint::{Checkpoint, CheckpointError};
use crate::log::tree::{leaf_hash, verify_consistency, verify_inclusion};
use crate::note::VerifierKey;
use crate::strict;

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A log whose paths are longer could not be held by anybody; tlog-witness allows no more.
const HASHES_MAX: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    pub index: u64,
    /// The leaf's sibling first.
    pub path: Vec<Digest>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    pub old_size: u64,
    /// As RFC 6962, 2.1.2, orders it.
    pub path: Vec<Digest>,
    /// The newer signed checkpoint, verbatim.
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
    #[error("the proof is for an older log of {proven} entries, the older checkpoint given is of {given}")]
    OtherSize { proven: u64, given: u64 },
    #[error(
        "the log of {size} entries does not continue the one of {old_size}: entries were changed or cut off between the two \
         checkpoints, or the proof was"
    )]
    NotContinued { old_size: u64, size: u64 },
}

impl InclusionProof {
    pub fn to_text(&self) -> String {
        let head = format!("{HEADER}\nindex {}\n", self.index);
        format!("{head}{}\n{}", lines_of(&self.path), self.checkpoint)
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
        let index = number(lines.next(), "index ").ok_or(ProofError::Malformed("it has no index line"))?;
        Ok(Self { index, path: hashes(lines)?, checkpoint: checkpoint.into() })
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

impl ConsistencyProof {
    pub fn to_text(&self) -> String {
        format!("old {}\n{}\n{}", self.old_size, lines_of(&self.path), self.checkpoint)
    }

    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(ProofError::Malformed("it has no blank line"))?;
        let mut lines = head.split('\n');
        let old_size = number(lines.next(), "old ")
            .ok_or(ProofError::Malformed("it does not begin with the old size"))?;
        Ok(Self { old_size, path: hashes(lines)?, checkpoint: checkpoint.into() })
    }

    /// Checks that the log `origin` whose node `key` signed the newer checkpoint begins with all entries of `old`.
    pub fn verify(
        &self,
        old: &Checkpoint,
        key: &VerifierKey,
        origin: &str,
    ) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key, origin)?;
        if self.old_size != old.size {
            return Err(ProofError::OtherSize { proven: self.old_size, given: old.size });
        }
        if !verify_consistency(old.size, checkpoint.size, &self.path, old.root, checkpoint.root) {
            return Err(ProofError::NotContinued { old_size: old.size, size: checkpoint.size });
        }
        Ok(checkpoint)
    }
}

fn lines_of(path: &[Digest]) -> String {
    path.iter().map(|hash| BASE64.encode(&hash.0) + "\n").collect()
}

/// A decimal number with one spelling, after `name`.
fn number(line: Option<&str>, name: &str) -> Option<u64> {
    let digits = line?.strip_prefix(name)?;
    digits.parse::<u64>().ok().filter(|n| n.to_string() == digits)
}

fn hashes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Digest>, ProofError> {
    let hash = |line| Some(Digest(strict::base64(line)?.try_into().ok()?));
    let path: Option<Vec<_>> = lines.map(hash).collect();
    let path = path.ok_or(ProofError::Malformed("a hash is not 32 bytes in base64"))?;
    if path.len() > HASHES_MAX {
        return Err(ProofError::Malformed("it has more than 63 hashes"));
    }
    Ok(path)
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

    #[test]
    fn a_consistency_proof_survives_its_text_and_convinces_for_its_two_checkpoints_only() {
        let signer = NoteSigner::new("demo/node-1", &[1; 32]).unwrap();
        let leaves: Vec<_> = (0..9u8).map(|i| leaf_hash(&[i])).collect();
        let checkpoint = |size: usize| {
            let root = tree::root(&leaves[..size]);
            Checkpoint { origin: "demo:00".into(), size: size as u64, root }
        };
        let verify = |proof: &ConsistencyProof, old: &Checkpoint| {
            proof.verify(old, &signer.verifier(), "demo:00").map(|new| new.size)
        };
        for old_size in 0..=9 {
            let path = tree::consistency_of(old_size as u64, &leaves);
            let proof =
                ConsistencyProof { old_size: old_size as u64, path, checkpoint: checkpoint(9).sign(&signer) };
            let read = ConsistencyProof::parse(&proof.to_text()).unwrap();
            assert_eq!(read, proof);
            assert_eq!(verify(&read, &checkpoint(old_size)), Ok(9));
            let forked = Checkpoint { root: leaf_hash(b"x"), ..checkpoint(old_size) };
            assert!(matches!(verify(&read, &forked), Err(ProofError::NotContinued { .. })), "{old_size}");
            let other = checkpoint((old_size + 1) % 10);
            assert!(matches!(verify(&read, &other), Err(ProofError::OtherSize { .. })), "{old_size}");
        }
    }

    #[test]
    fn a_consistency_proof_is_what_a_witness_takes() {
        let hash = BASE64.encode(&[7; 32]);
        let text = format!("old 20852014\n{hash}\n{hash}\n\norigin\n20852163\n{hash}\n\n\u{2014} name sig\n");
        let proof = ConsistencyProof::parse(&text).unwrap();
        assert_eq!((proof.old_size, proof.path.len(), proof.to_text()), (20_852_014, 2, text.clone()));
        assert!(proof.checkpoint.starts_with("origin\n"));
        for (good, bad) in
            [("old 2", "old 02"), ("old 2", "old -2"), ("old ", "Old "), (&*hash, "AAAA"), ("\n\n", "\n")]
        {
            assert!(ConsistencyProof::parse(&text.replace(good, bad)).is_err(), "{bad:?}");
        }
        let many = format!("old 1\n{}\norigin", format!("{hash}\n").repeat(64));
        assert!(ConsistencyProof::parse(&many).is_err());
    }
}
