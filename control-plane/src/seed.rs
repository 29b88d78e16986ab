//! The seed: what the first node of a cluster begins its log with. The genesis; or, after all nodes were lost, the entries
//! of a backup and then the documents by which the root signers begin a new epoch (S1).
//!
//! ```text
//! <data>/begin/genesis.json        the signed genesis, as `tagout init` writes it; or, of `tagout restore finish`:
//! <data>/begin/tile/entries/<N>    the entries of the backup, in bundles as c2sp.org/tlog-tiles has them
//! <data>/begin/seed.json           written last: how many they are, their root, and what follows them
//! ```
//!
//! A crash loses nothing: what was planted is in the Raft log, and the next start goes on after it. The folder goes only
//! once all of it has grown. Until then this node answers nobody: neither is `*` halted yet, nor the epoch a new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tagout_proto::authority::Authority;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Proposal, Receipt, Refusal};
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, parse_bundle};
use tagout_proto::log::tree::{Frontier, leaf_hash};
use tagout_proto::restore::Restore;

use crate::clock;
use crate::store::files;

/// The format of `seed.json`.
const SEED_FORMAT: u64 = 1;
const BEGIN: &str = "begin";
/// What has grown and is on its way out.
const BEGUN: &str = "begun";
const SEED_FILE: &str = "seed.json";
const GENESIS_FILE: &str = "genesis.json";

/// A seed on the disk, with nothing of it planted yet, or some.
#[derive(Clone, Debug)]
pub struct Seed {
    data: PathBuf,
    entries: u64,
    root: Digest,
    then: Vec<Envelope>,
}

/// `seed.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedFile {
    format: u64,
    deployment: String,
    /// Entries of the backup.
    entries: u64,
    /// The root of the tree over them.
    root: Digest,
    /// Signed documents that follow them, in this order.
    then: Vec<Envelope>,
}

/// Only to know the format of a file of another version.
#[derive(Deserialize)]
struct Format {
    format: u64,
}

/// The node in which a seed grows.
pub trait Ground {
    /// The size and root of the log that is applied here, whatever was committed before included.
    fn tree(&self) -> (u64, Digest);

    /// Commits the proposals in this order; all of them are applied here when it returns.
    fn commit(
        &self,
        proposals: Vec<Proposal>,
    ) -> impl Future<Output = anyhow::Result<Vec<Result<Receipt, Refusal>>>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("what this node shall begin with, at {}, cannot be {doing}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{} was written by a newer version of tagout (format {found}, this one reads {SEED_FORMAT}): start that one",
        path.display()
    )]
    Newer { path: PathBuf, found: u64 },
    #[error(
        "{} is not whole: `tagout restore finish` was interrupted before it could say what it is. Run it again",
        path.display()
    )]
    Incomplete { path: PathBuf },
    #[error("{} is of deployment {found}, and this node of {configured}", path.display())]
    OtherDeployment { path: PathBuf, found: String, configured: String },
    #[error(
        "this node's log of {size} entries is not the beginning of what {} holds: it belongs to another history. Begin with \
         an empty data folder",
        path.display()
    )]
    Elsewhere { path: PathBuf, size: u64 },
    #[error(
        "the entries {from} to {to} of the backup came out otherwise than they were: this version of tagout judges them \
         differently than the one that wrote them. Nothing is served; empty the data folder but for \"begin\" and start the \
         version that made the backup"
    )]
    Differs { from: u64, to: u64 },
    #[error("the {what} that shall follow the backup is refused: {refusal}")]
    Refused { what: &'static str, refusal: Refusal },
    #[error("the seed could not be committed; start the node again, and it goes on where it ended")]
    Commit(#[source] anyhow::Error),
}

/// What has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planted {
    /// Entries of the log before, and after.
    pub from: u64,
    pub to: u64,
}

impl Seed {
    /// The genesis alone.
    pub fn of_genesis(data: &Path, genesis: Envelope) -> Self {
        Self { data: data.into(), entries: 0, root: Frontier::default().root(), then: vec![genesis] }
    }

    /// What lies in `data`; `None` where nothing is left to begin with.
    pub fn load(data: &Path, deployment: &str, pinned: Digest) -> Result<Option<Self>, SeedError> {
        sweep(data)?;
        let folder = data.join(BEGIN);
        if !folder.is_dir() {
            return Ok(None);
        }
        let (seed, genesis) = (folder.join(SEED_FILE), folder.join(GENESIS_FILE));
        if let Some(text) = read(&seed)? {
            return Self::parse(data, &seed, &text, deployment).map(Some);
        }
        let text = read(&genesis)?.ok_or(SeedError::Incomplete { path: folder })?;
        let damaged = |what| SeedError::Damaged { path: genesis.clone(), what };
        let envelope: Envelope =
            serde_json::from_str(&text).map_err(|e| damaged(format!("it holds no signed genesis: {e}")))?;
        if envelope.digest() != pinned {
            return Err(damaged(format!("it is {}, and the configuration pins {pinned}", envelope.digest())));
        }
        Ok(Some(Self::of_genesis(data, envelope)))
    }

    fn parse(data: &Path, path: &Path, text: &str, deployment: &str) -> Result<Self, SeedError> {
        let damaged = |e: serde_json::Error| SeedError::Damaged { path: path.into(), what: e.to_string() };
        let Format { format } = serde_json::from_str(text).map_err(damaged)?;
        if format > SEED_FORMAT {
            return Err(SeedError::Newer { path: path.into(), found: format });
        }
        let file: SeedFile = serde_json::from_str(text).map_err(damaged)?;
        if file.deployment != deployment {
            let (path, found, configured) = (path.into(), file.deployment, deployment.into());
            return Err(SeedError::OtherDeployment { path, found, configured });
        }
        Ok(Self { data: data.into(), entries: file.entries, root: file.root, then: file.then })
    }

    /// Writes the seed of a restore into `data`, whole or not at all: the first `entries` of the log whose files `bundle`
    /// gives, with this root, and the documents `then`.
    pub fn write(
        data: &Path,
        deployment: &str,
        (entries, root): (u64, Digest),
        then: Vec<Envelope>,
        mut bundle: impl FnMut(TileId) -> io::Result<Vec<u8>>,
    ) -> Result<(), SeedError> {
        let folder = data.join(BEGIN);
        let at = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| SeedError::Io { doing, path, source }
        };
        for id in bundles(entries) {
            let path = folder.join("tile").join(id.to_string());
            let bytes = bundle(id).map_err(at("read", &path))?;
            let parent = path.parent().expect("a tile lies in a folder");
            files::create_folder(parent).map_err(at("written", parent))?;
            files::replace(&path, &bytes).map_err(at("written", &path))?;
        }
        let file = SeedFile { format: SEED_FORMAT, deployment: deployment.into(), entries, root, then };
        let text = serde_json::to_string(&file).expect("a seed is plain data") + "\n";
        let path = folder.join(SEED_FILE);
        files::replace(&path, text.as_bytes()).map_err(at("written", &path))
    }

    /// Whether a deployment begins with it, and not only a new epoch.
    pub fn is_genesis(&self) -> bool {
        self.entries == 0
    }

    /// The newest authority that it will put in force, if it brings one: whom this node is to ask who it is.
    pub fn authority(&self) -> Option<Authority> {
        self.then.iter().rev().find_map(|envelope| Authority::parse(envelope.document.as_bytes()).ok())
    }

    /// Whether its entries are whole, and continue a log of `size` entries with `root`: before the first one is proposed,
    /// since what is committed stays.
    fn check(&self, size: u64, root: Digest) -> Result<(), SeedError> {
        let mut tree = Frontier::default();
        for id in bundles(self.entries) {
            for bytes in self.bundle(id)? {
                tree.push(leaf_hash(&bytes));
                if tree.size() == size && tree.root() != root {
                    return Err(SeedError::Elsewhere { path: self.folder(), size });
                }
            }
        }
        if tree.root() != self.root {
            let what = "its entries are not those that its seed.json tells of: copy the seed once more";
            return Err(SeedError::Damaged { path: self.folder(), what: what.into() });
        }
        Ok(())
    }

    fn decode(&self, id: TileId, bytes: &[u8]) -> Result<Entry, SeedError> {
        Entry::decode(bytes).map_err(|e| SeedError::Damaged { path: self.path(id), what: e.to_string() })
    }

    fn path(&self, id: TileId) -> PathBuf {
        self.folder().join("tile").join(id.to_string())
    }

    fn folder(&self) -> PathBuf {
        self.data.join(BEGIN)
    }

    fn bundle(&self, id: TileId) -> Result<Vec<Vec<u8>>, SeedError> {
        let path = self.path(id);
        let bytes =
            fs::read(&path).map_err(|source| SeedError::Io { doing: "read", path: path.clone(), source })?;
        let entries = parse_bundle(&bytes).unwrap_or_default();
        if entries.len() != usize::from(id.width) {
            let what = format!("it is no bundle of {} entries: copy the seed once more", id.width);
            return Err(SeedError::Damaged { path, what });
        }
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Takes it off the disk: from here on this node is one like any other.
    fn remove(&self) -> Result<(), SeedError> {
        let folder = self.folder();
        if !folder.is_dir() {
            return Ok(());
        }
        let renamed =
            fs::rename(&folder, self.data.join(BEGUN)).and_then(|()| files::sync_folder(&self.data));
        renamed.map_err(|source| SeedError::Io { doing: "removed", path: folder, source })?;
        sweep(&self.data)
    }
}

/// Makes the seed grow: what of it is not in the log yet is committed, in order. When this returns all of it is, and the
/// seed is off the disk.
///
/// An entry of the backup is proposed with its own kind, time and envelope, so that the ledger must write the very same
/// bytes again; that it did shows in the tree's root, which is compared after each bundle.
pub async fn plant(seed: &Seed, ground: &impl Ground) -> Result<Planted, SeedError> {
    let (from, root) = ground.tree();
    let checking = seed.clone();
    // A file for each 256 entries: not for an async thread.
    let checked = tokio::task::spawn_blocking(move || checking.check(from, root)).await;
    checked.map_err(|e| SeedError::Commit(e.into()))??;
    let mut grown = Frontier::default();
    for id in bundles(seed.entries) {
        let mut proposals = Vec::new();
        for bytes in seed.bundle(id)? {
            let index = grown.size();
            grown.push(leaf_hash(&bytes));
            if index >= from {
                let Entry { kind, time_ms, envelope, .. } = seed.decode(id, &bytes)?;
                proposals.push(Proposal { kind, time_ms, envelope });
            }
        }
        if proposals.is_empty() {
            continue;
        }
        let first = grown.size() - proposals.len() as u64;
        // What each is answered says nothing here: a stop that was released before it came is in the log, and refused.
        ground.commit(proposals).await.map_err(SeedError::Commit)?;
        if ground.tree() != (grown.size(), grown.root()) {
            return Err(SeedError::Differs { from: first, to: grown.size() - 1 });
        }
        tracing::info!(entries = grown.size(), of = seed.entries, "planted");
    }
    // A document takes effect once, so that one that did before the last crash is only answered again.
    for envelope in &seed.then {
        let (kind, what) = kind_of(envelope);
        let proposal = Proposal { kind, time_ms: clock::wall_ms(), envelope: envelope.clone() };
        let answers = ground.commit(vec![proposal]).await.map_err(SeedError::Commit)?;
        if let Some(refusal) = answers.into_iter().find_map(Result::err) {
            return Err(SeedError::Refused { what, refusal });
        }
    }
    seed.remove()?;
    Ok(Planted { from, to: ground.tree().0 })
}

/// Of which kind of entry a document of the root signers is, and what people call it.
pub fn kind_of(envelope: &Envelope) -> (EntryKind, &'static str) {
    let document = envelope.document.as_bytes();
    if Restore::parse(document).is_ok() {
        return (EntryKind::Restore, "restore");
    }
    let is_authority = Authority::parse(document).is_ok();
    (EntryKind::Command, if is_authority { "authority" } else { "suspend" })
}

/// The bundles of a log of `entries`.
fn bundles(entries: u64) -> impl Iterator<Item = TileId> {
    (0..entries.div_ceil(TILE_WIDTH)).map(move |n| {
        let width = (entries - n * TILE_WIDTH).min(TILE_WIDTH) as u16;
        TileId { kind: TileKind::Entries, n, width }
    })
}

fn sweep(data: &Path) -> Result<(), SeedError> {
    let path = data.join(BEGUN);
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SeedError::Io { doing: "removed", path, source })
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<String>, SeedError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SeedError::Io { doing: "read", path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests;
