//! Where a log comes from, and its tiles as hashes and entries (c2sp.org/tlog-tiles). Nothing read here is trusted yet.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::{Checkpoint, CheckpointError};
use tagout_proto::log::proof::{ConsistencyProof, InclusionProof};
use tagout_proto::log::tile::{
    TILE_HEIGHT, TILE_WIDTH, TileId, TileKind, hashes_at, parse_hashes, split_bundle, subtree_root,
};
use tagout_proto::log::tree::{
    leaf_hash, prove_consistency, prove_inclusion, root_of_first, verify_consistency, verify_inclusion,
};
use tagout_proto::note::{NoteError, VerifierKey};
use tagout_proto::trust::Trust;

use crate::cli::failure::{Exit, Failure};

/// A log's files, by their paths below `/log/`.
pub trait Tiles {
    /// `None` if there is no such file.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure>;
}

/// What is wrong with a log. `Read` says nothing about it: the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{0}")]
    Read(#[from] Failure),
    #[error("the log has no checkpoint")]
    NoCheckpoint,
    #[error("no node of this deployment signed the checkpoint: {0}")]
    Checkpoint(String),
    #[error("tile/{0} is missing, though the checkpoint covers it")]
    Missing(TileId),
    #[error("tile/{0} is malformed")]
    Malformed(TileId),
    #[error("entry {index}{}: {what}", in_brackets(.of))]
    Entry {
        index: u64,
        /// What it is, as far as that can be read: `stop of demo/a`.
        of: String,
        what: String,
    },
    #[error("tile/{tile}: its hash {at} is not the one that follows from the entries: the tile was changed")]
    Tile { tile: TileId, at: usize },
    #[error(
        "the {size} entries have root {found}, but the signed checkpoint says {signed}: the log is not what the node signed"
    )]
    Root { size: u64, found: Digest, signed: Digest },
    #[error(
        "the log has {size} entries, but an older signed checkpoint has {seen}: its end was cut off, or the node was set \
         back"
    )]
    Shorter { size: u64, seen: u64 },
    #[error(
        "the log is a fork: its first {size} entries have root {found}, but an older signed checkpoint of as many says \
         {seen}: find out which of the two people were shown, and keep both checkpoints"
    )]
    Forked { size: u64, found: Digest, seen: Digest },
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let code = match &error {
            LogError::Read(_) => "",
            LogError::NoCheckpoint => "no-checkpoint",
            LogError::Checkpoint(_) => "checkpoint",
            LogError::Missing(_) | LogError::Malformed(_) | LogError::Tile { .. } => "tile",
            LogError::Entry { .. } => "entry",
            LogError::Root { .. } => "root",
            LogError::Shorter { .. } => "shorter",
            LogError::Forked { .. } => "forked",
        };
        match error {
            LogError::Read(failure) => failure,
            error => Failure::unverified(code, error.to_string()),
        }
    }
}

fn in_brackets(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" ({what})") }
}

/// The keys of all nodes that ever were in force: what they signed then stays signed.
pub fn node_keys(trust: &Trust) -> impl Iterator<Item = &VerifierKey> {
    trust.versions().iter().rev().flat_map(|version| &version.nodes).map(|node| &node.key)
}

/// Opens a checkpoint that any node of the deployment signed.
pub fn open_checkpoint(note: &str, trust: &Trust) -> Result<Checkpoint, LogError> {
    let origin = trust.deployment().to_string();
    let mut why = "its authority names no nodes".to_owned();
    for key in node_keys(trust) {
        match Checkpoint::open(note, key, &origin) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(CheckpointError::Note(NoteError::NotSigned(name))) => why = format!("it is not by {name}"),
            Err(error) => return Err(LogError::Checkpoint(error.to_string())),
        }
    }
    Err(LogError::Checkpoint(why))
}

/// A folder with a copy of a log, or a node's own.
pub struct TileDir {
    pub path: PathBuf,
}

impl Tiles for TileDir {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let exact = self.path.join(path);
        if let Some(bytes) = read_file(&exact)? {
            return Ok(Some(bytes));
        }
        // A partial tile may have grown since: a wider one begins with the same hashes or entries.
        let Some((tile, width)) = path.rsplit_once(".p/") else { return Ok(None) };
        let wanted: u64 = width.parse().unwrap_or(TILE_WIDTH);
        let width_of = |path: &Path| path.file_name()?.to_str()?.parse::<u64>().ok();
        let folder = fs::read_dir(self.path.join(format!("{tile}.p"))).into_iter().flatten().flatten();
        let wider = folder.map(|e| e.path()).filter(|path| width_of(path).is_some_and(|w| w > wanted));
        match wider.min_by_key(|path| width_of(path)) {
            Some(path) => read_file(&path),
            None => Ok(None),
        }
    }
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Failure::file("read", path, &error)),
    }
}

/// The tiles of a log, as far as `size` entries go.
pub struct LogReader<'a> {
    tiles: &'a dyn Tiles,
    size: u64,
    hashes: RefCell<HashMap<(u8, u64), Hashes>>,
    bundle: RefCell<Option<Found>>,
}

/// An entry bundle as somebody published it.
#[derive(Clone)]
pub struct Found {
    pub id: TileId,
    /// At most as many as the log has there.
    pub entries: Bundle,
    /// Whether none are missing and nothing is left over.
    pub whole: bool,
}

type Hashes = Rc<[Digest]>;
pub type Bundle = Rc<[Vec<u8>]>;

impl<'a> LogReader<'a> {
    pub fn new(tiles: &'a dyn Tiles, size: u64) -> Self {
        Self { tiles, size, hashes: RefCell::default(), bundle: RefCell::default() }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// How much of tile `n` of `level` the log fills; `None` where it has no such tile.
    pub fn width(&self, level: u8, n: u64) -> Option<u16> {
        let left = hashes_at(level, self.size).checked_sub(n.checked_mul(TILE_WIDTH)?)?;
        (left > 0).then(|| left.min(TILE_WIDTH) as u16)
    }

    /// The hashes of a tile as it was published, or `None` for a partial tile that nobody kept.
    pub fn published_hashes(&self, level: u8, n: u64) -> Result<Option<Vec<Digest>>, LogError> {
        let width = self.width(level, n).expect("asked within the tree");
        let id = TileId { kind: TileKind::Hashes { level }, n, width };
        match self.tile(id)? {
            Some(bytes) => {
                let mut hashes = parse_hashes(&bytes).ok_or(LogError::Malformed(id))?;
                if hashes.len() < usize::from(width) {
                    return Err(LogError::Malformed(id));
                }
                hashes.truncate(width.into());
                Ok(Some(hashes))
            }
            None if id.is_full() => Err(LogError::Missing(id)),
            None => Ok(None),
        }
    }

    /// The entries of bundle `n`, all of them.
    pub fn bundle(&self, n: u64) -> Result<Bundle, LogError> {
        let found = self.bundle_as_found(n)?;
        if found.whole { Ok(found.entries) } else { Err(LogError::Malformed(found.id)) }
    }

    /// The entries of bundle `n` as far as they go.
    pub fn bundle_as_found(&self, n: u64) -> Result<Found, LogError> {
        if let Some(found) = self.bundle.borrow().as_ref().filter(|found| found.id.n == n) {
            return Ok(found.clone());
        }
        let width = self.width(0, n).expect("asked within the log");
        let id = TileId { kind: TileKind::Entries, n, width };
        let bytes = self.tile(id)?.ok_or(LogError::Missing(id))?;
        let (entries, torn) = split_bundle(&bytes);
        let whole = !torn && (usize::from(width)..=TILE_WIDTH as usize).contains(&entries.len());
        let entries = entries.iter().take(width.into()).map(|e| e.to_vec()).collect();
        let found = Found { id, entries, whole };
        *self.bundle.borrow_mut() = Some(found.clone());
        Ok(found)
    }

    /// The bytes of entry `index`, proven to be in the tree with `root`.
    pub fn proven_entry(&self, index: u64, root: Digest) -> Result<(Vec<u8>, Vec<Digest>), LogError> {
        let bundle = self.bundle(index / TILE_WIDTH)?;
        let entry = bundle[(index % TILE_WIDTH) as usize].clone();
        let path = prove_inclusion(index, self.size, &mut |level, n| self.perfect(level, n))?;
        if !verify_inclusion(leaf_hash(&entry), index, self.size, &path, root) {
            let what = "it is not what the node signed at this place: the entry or a tile was changed".into();
            return Err(LogError::Entry { index, of: String::new(), what });
        }
        Ok((entry, path))
    }

    /// A proof that convinces somebody offline.
    pub fn prove(&self, index: u64, note: &str, root: Digest) -> Result<InclusionProof, LogError> {
        let (_, path) = self.proven_entry(index, root)?;
        Ok(InclusionProof { index, path, checkpoint: note.into() })
    }

    /// The consistency proof that the log with `root` continues `old`, verified; it takes a few tiles, however long the log.
    pub fn continues(&self, root: Digest, old: &Checkpoint) -> Result<Vec<Digest>, LogError> {
        if old.size > self.size {
            return Err(LogError::Shorter { size: self.size, seen: old.size });
        }
        let mut perfect = |level, n| self.perfect(level, n);
        let path = prove_consistency(old.size, self.size, &mut perfect)?;
        if verify_consistency(old.size, self.size, &path, old.root, root) {
            return Ok(path);
        }
        // Which of the two checkpoints it is that the tiles contradict.
        let found = root_of_first(old.size, &mut perfect)?;
        if found != old.root {
            return Err(LogError::Forked { size: old.size, found, seen: old.root });
        }
        let found = root_of_first(self.size, &mut perfect)?;
        Err(LogError::Root { size: self.size, found, signed: root })
    }

    /// A proof that convinces somebody offline who has the older checkpoint.
    pub fn prove_since(
        &self,
        old: &Checkpoint,
        note: &str,
        root: Digest,
    ) -> Result<ConsistencyProof, LogError> {
        let path = self.continues(root, old)?;
        Ok(ConsistencyProof { old_size: old.size, path, checkpoint: note.into() })
    }

    /// The root of the n-th perfect subtree of 2^level leaves.
    fn perfect(&self, level: u32, n: u64) -> Result<Digest, LogError> {
        let (tile_level, height) = ((level / TILE_HEIGHT) as u8, level % TILE_HEIGHT);
        let first = n << height;
        let hashes = self.hashes(tile_level, first / TILE_WIDTH)?;
        let at = (first % TILE_WIDTH) as usize;
        Ok(subtree_root(&hashes[at..at + (1 << height)]))
    }

    /// The hashes of a tile, computed from below where a partial one was not kept.
    fn hashes(&self, level: u8, n: u64) -> Result<Hashes, LogError> {
        if let Some(hashes) = self.hashes.borrow().get(&(level, n)) {
            return Ok(hashes.clone());
        }
        let hashes: Hashes = match self.published_hashes(level, n)? {
            Some(hashes) => hashes.into(),
            None if level == 0 => self.bundle(n)?.iter().map(|entry| leaf_hash(entry)).collect(),
            None => {
                let width = self.width(level, n).expect("asked within the tree");
                let below = (0..u64::from(width)).map(|i| self.hashes(level - 1, n * TILE_WIDTH + i));
                below.map(|hashes| Ok(subtree_root(&hashes?))).collect::<Result<_, LogError>>()?
            }
        };
        self.hashes.borrow_mut().insert((level, n), hashes.clone());
        Ok(hashes)
    }

    fn tile(&self, id: TileId) -> Result<Option<Vec<u8>>, LogError> {
        let bytes = self.tiles.read(&format!("tile/{id}"))?;
        if bytes.is_some() || id.is_full() {
            return Ok(bytes);
        }
        // The specification lets a server drop a partial tile once it is full.
        Ok(self.tiles.read(&format!("tile/{}", TileId { width: TILE_WIDTH as u16, ..id }))?)
    }
}

/// The checkpoint of a folder with a log.
pub fn read_checkpoint(tiles: &dyn Tiles) -> Result<String, LogError> {
    let bytes = tiles.read("checkpoint")?.ok_or(LogError::NoCheckpoint)?;
    String::from_utf8(bytes).map_err(|_| LogError::Checkpoint("it is not UTF-8".into()))
}

/// An index that somebody asked for.
pub fn check_index(index: u64, size: u64) -> Result<(), Failure> {
    if index < size {
        return Ok(());
    }
    let detail = match size {
        0 => "the log is empty".into(),
        size => format!("the log has no entry {index}: it ends with entry {}", size - 1),
    };
    Err(Failure::new(Exit::Failed, "no-such-entry", detail))
}
