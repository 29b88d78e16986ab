//! The trust chain as this machine knows it: from the pinned genesis to the newest authority, suspend and restore.
//!
//! It is remembered beside the newest checkpoint and verified again whenever it is read. A node that shows less of it, or
//! something else, is behind, was set back, or lies.

use std::io;

use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::restore::Restore;
use tagout_proto::trust::Trust;
use tagout_proto::wire::TrustChain;

use super::failure::Failure;
use super::log::seen::{state_file, state_folder, write_state};
use super::profile::Profile;

#[derive(Clone, Debug)]
pub struct Chain {
    /// The genesis first, in the log's order.
    documents: Vec<Envelope>,
    trust: Trust,
}

impl Chain {
    /// The genesis alone, if it is the pinned one and its root keys signed it.
    pub fn begin(genesis: Envelope, pinned: Digest) -> Result<Self, String> {
        let trust = Trust::begin(&genesis, pinned).map_err(|e| e.to_string())?;
        Ok(Self { documents: vec![genesis], trust })
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    pub fn documents(&self) -> &[Envelope] {
        &self.documents
    }

    /// The restores, in order: each began an epoch.
    pub fn restores(&self) -> impl DoubleEndedIterator<Item = Restore> {
        self.documents.iter().filter_map(|envelope| Restore::parse(envelope.document.as_bytes()).ok())
    }

    /// The number of the epoch before `epoch`: a restore may skip some.
    pub fn epoch_before(&self, epoch: u64) -> u64 {
        self.restores()
            .map(|restore| restore.epoch.number)
            .filter(|number| *number < epoch)
            .max()
            .unwrap_or(1)
    }

    /// Takes what `shown` goes on with, verified; true if there was something. It must begin with all that is known, or
    /// else prove a later epoch: a restore may have lost documents that this machine remembers, as guards allow it too.
    pub fn go_on(&mut self, shown: Vec<Envelope>) -> Result<bool, Disagreement> {
        let disagreement = match self.append(&shown) {
            Err(wrong @ (Disagreement::Forked { .. } | Disagreement::Behind { .. })) => wrong,
            answer => return answer,
        };
        match self.restored(shown) {
            Some(restored) => {
                *self = restored;
                Ok(true)
            }
            None => Err(disagreement),
        }
    }

    /// The chain that `shown` is by itself, if it begins a later epoch than this one and takes back no authority.
    fn restored(&self, shown: Vec<Envelope>) -> Option<Self> {
        let (genesis, rest) = shown.split_first()?;
        let mut alone = Trust::begin(genesis, self.trust.versions()[0].digest).ok()?;
        for envelope in rest {
            alone.learn(envelope).ok()?;
        }
        let (theirs, ours) = (alone.epoch().number, self.trust.epoch().number);
        // What it takes back it cannot overtake. Its own documents must prove it the next time too.
        (theirs > ours && self.trust.clone().overtake(alone.clone()).is_ok())
            .then_some(Self { documents: shown, trust: alone })
    }

    fn append(&mut self, shown: &[Envelope]) -> Result<bool, Disagreement> {
        let known = self.documents.len();
        for (at, (ours, theirs)) in self.documents.iter().zip(shown).enumerate() {
            if ours.document != theirs.document {
                return Err(Disagreement::Forked { at });
            }
        }
        if shown.len() < known {
            return Err(Disagreement::Behind {
                shown: shown.len(),
                known,
                version: self.trust.authority().version,
            });
        }
        let mut trust = self.trust.clone();
        for (at, envelope) in shown.iter().enumerate().skip(known) {
            let learned = trust.learn(envelope);
            learned.map_err(|error| Disagreement::Refused { at, why: error.to_string() })?;
        }
        self.trust = trust;
        self.documents.extend(shown.iter().skip(known).cloned());
        Ok(self.documents.len() > known)
    }
}

/// What is wrong with a chain that somebody shows.
#[derive(Debug, thiserror::Error)]
pub enum Disagreement {
    #[error(
        "it shows {shown} documents of whom to believe, and this machine has verified {known}, up to version {version} \
         of the authority: it is behind, or was set back"
    )]
    Behind { shown: usize, known: usize, version: u64 },
    #[error(
        "document {at} of whom to believe is another one than this machine has verified: two histories were signed"
    )]
    Forked { at: usize },
    #[error("document {at} of whom to believe does not follow from those before it: {why}")]
    Refused { at: usize, why: String },
}

impl Disagreement {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Behind { .. } => "authority-behind",
            Self::Forked { .. } => "authority-forked",
            Self::Refused { .. } => "authority-refused",
        }
    }
}

/// Goes on with what was remembered for this profile.
pub fn recall(profile: &mut Profile) -> Result<(), Failure> {
    let path = state_file(&state_folder(profile), profile.deployment(), "authority");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::file("read the remembered authority", &path, &error)),
    };
    let wrong = |why: String| {
        let path = path.display();
        let detail =
            format!("the remembered authority {path} does not verify ({why}): find out who changed it");
        Failure::unverified("remembered-authority", detail)
    };
    let remembered: TrustChain = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    profile.chain.go_on(remembered.documents).map(|_| ()).map_err(|e| wrong(e.to_string()))
}

pub fn remember(profile: &Profile, entries: Vec<u64>) -> Result<(), Failure> {
    let path = state_file(&state_folder(profile), profile.deployment(), "authority");
    let chain = TrustChain { documents: profile.chain.documents.clone(), entries };
    write_state(&path, serde_json::to_string(&chain).expect("it is plain data").as_bytes())
}
