//! `tagout backup`: a copy of the log, from which everything else follows.
//!
//! ```text
//! <dir>/genesis.json       the signed genesis
//! <dir>/authority.json     whom to believe, from the genesis on
//! <dir>/tile/…             the log's tiles, as c2sp.org/tlog-tiles has them
//! <dir>/checkpoint         written last: what the tiles below it hold is whole, and verified
//! ```
//!
//! A backup is a verification that keeps what it reads: only what is proven gets under the checkpoint. It goes on where
//! the last one ended, also one that was interrupted, and takes nothing from a node that shows another history.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::tile::{TILE_HEIGHT, TILE_WIDTH, TileId, TileKind, hashes_at};
use tagout_proto::wire::TrustChain;

use super::Globals;
use super::chain::Disagreement;
use super::failure::{Exit, Failure};
use super::files::quoted;
use super::log::seen::Seen;
use super::log::tiles::{LogError, LogReader, TileDir, Tiles, open_checkpoint, read_checkpoint};
use super::log::verify::{Replay, Verified};
use super::log::{entries, verify_all};
use super::out::{Ink, Out, count};
use super::profile::{self, Profile};
use super::session::Session;
use crate::store::files;

#[derive(Args)]
pub struct BackupArgs {
    /// The folder of the backup: it is made, or goes on where it ended
    #[arg(long, value_name = "DIR", required_unless_present = "verify")]
    out: Option<PathBuf>,
    /// Verify this backup instead, offline
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    verify: Option<PathBuf>,
    /// Replay every entry, also those that this machine has verified before
    #[arg(long)]
    from_start: bool,
}

const CHECKPOINT: &str = "checkpoint";
const GENESIS: &str = "genesis.json";
const AUTHORITY: &str = "authority.json";
const LOCK: &str = ".lock";

#[derive(Serialize)]
struct Report<'a> {
    deployment: String,
    dir: &'a Path,
    /// Entries that it did not have before.
    new: u64,
    /// Entries that this machine has seen and that are not in it.
    behind: u64,
    #[serde(flatten)]
    verified: &'a Verified,
}

pub fn run(out: &Out, globals: &Globals, args: BackupArgs) -> Result<Exit, Failure> {
    if let Some(dir) = &args.verify {
        return verify(out, globals, dir, args.from_start);
    }
    let dir = args.out.expect("required by clap");
    let folder = dir.join("tile");
    files::create_folder(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let _lock = lock(&dir)?;
    let (mut session, positions) = Session::open_with_entries(out, globals)?;
    let kept = Backup::open(&dir, &mut session.profile)?;
    let mut known = 0;
    if let Some(kept) = &kept {
        // First what lies here: a copy that was changed must not be gone on with.
        kept.verify(out, &session.profile, &seen(&session.profile)?, args.from_start, &mut |_| ())?;
        known = kept.checkpoint.size;
    }
    let (note, checkpoint) = session.checkpoint_note(0)?;
    let older: Vec<Checkpoint> = kept.map(|kept| kept.checkpoint).into_iter().collect();
    let copying = Copying::new(&session.client, &dir, known);
    let copied = (older.iter())
        .try_for_each(|kept| {
            LogReader::new(&copying, checkpoint.size).continues(checkpoint.root, kept).map(drop)
        })
        .map_err(Failure::from)
        .and_then(|()| {
            verify_all(out, &session.profile, &copying, &note, &older, args.from_start, &mut |_| ())
        });
    let verified = copied.map_err(|failure| copying.not_kept(failure, session.client.node()))?;
    if verified.size > known {
        copying.finish(verified.size)?;
    }
    let chain = TrustChain { documents: session.profile.chain.documents().to_vec(), entries: positions };
    let text = serde_json::to_string(&chain).expect("it is plain data") + "\n";
    let genesis = serde_json::to_string(&chain.documents[0]).expect("an envelope is text") + "\n";
    for (name, text) in [(GENESIS, &genesis), (AUTHORITY, &text), (CHECKPOINT, &note)] {
        let path = dir.join(name);
        files::replace(&path, text.as_bytes()).map_err(|e| Failure::file("write", &path, &e))?;
    }

    let new = verified.size - known;
    let deployment = session.deployment().to_string();
    out.document(&Report { deployment, dir: &dir, new, behind: 0, verified: &verified });
    let done = out.ink(Ink::Green, "backed up");
    let more = if known > 0 { format!(", {new} of them new") } else { String::new() };
    out.line(format!("{done}: {} in {}{more}", entries(verified.size), quoted(&dir)));
    out.line(format!("  root {}, verified from the first entry on", verified.root));
    Ok(Exit::Ok)
}

fn verify(out: &Out, globals: &Globals, dir: &Path, from_start: bool) -> Result<Exit, Failure> {
    let mut profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let backup = Backup::open_whole(dir, &mut profile)?;
    let seen = seen(&profile)?;
    let verified = backup.verify(out, &profile, &seen, from_start, &mut |_| ())?;
    let behind = seen.iter().map(|seen| seen.size.saturating_sub(verified.size)).max().unwrap_or(0);
    let deployment = profile.deployment().to_string();
    out.document(&Report { deployment, dir, new: 0, behind, verified: &verified });
    let (done, size) = (out.ink(Ink::Green, "verified"), entries(verified.size));
    out.line(format!(
        "{done}: {size} of {}, {}",
        profile.deployment().name,
        count(verified.signatures, "signature")
    ));
    out.line(format!("  root {}", verified.root));
    if behind > 0 {
        out.line(format!(
            "{} this machine has seen {behind} more since: they are not in this backup",
            out.ink(Ink::Yellow, "note:")
        ));
    }
    Ok(Exit::Ok)
}

/// The newest checkpoint that this machine has seen.
pub(super) fn seen(profile: &Profile) -> Result<Vec<Checkpoint>, Failure> {
    Ok(Seen::load(profile)?.checkpoint.into_iter().collect())
}

/// A backup as it lies on the disk.
pub(super) struct Backup {
    pub dir: PathBuf,
    pub note: String,
    pub checkpoint: Checkpoint,
}

impl Backup {
    /// Opens it, with whom it says to believe. `None` where nothing was ever finished.
    pub fn open(dir: &Path, profile: &mut Profile) -> Result<Option<Self>, Failure> {
        let tiles = TileDir { path: dir.into() };
        let note = match read_checkpoint(&tiles) {
            Ok(note) => note,
            Err(LogError::NoCheckpoint) => return Ok(None),
            Err(error) => return Err(blamed(dir, error.into())),
        };
        learn(dir, profile)?;
        let checkpoint = open_checkpoint(&note, profile.trust()).map_err(|e| blamed(dir, e.into()))?;
        Ok(Some(Self { dir: dir.into(), note, checkpoint }))
    }

    pub fn open_whole(dir: &Path, profile: &mut Profile) -> Result<Self, Failure> {
        Self::open(dir, profile)?.ok_or_else(|| {
            let dir = quoted(dir);
            let detail = format!("{dir} holds no finished backup: make one with `tagout backup --out {dir}`");
            Failure::new(Exit::Failed, "no-backup", detail)
        })
    }

    /// Verifies all of it, and compares it with what this machine has `seen` of the log as far as it goes: a backup is
    /// older than what came after it, which is no fault. `ended` gets the state at its end.
    pub fn verify(
        &self,
        out: &Out,
        profile: &Profile,
        seen: &[Checkpoint],
        from_start: bool,
        ended: &mut dyn FnMut(&Replay),
    ) -> Result<Verified, Failure> {
        let older: Vec<_> = seen.iter().filter(|seen| seen.size <= self.checkpoint.size).cloned().collect();
        let tiles = TileDir { path: self.dir.clone() };
        verify_all(out, profile, &tiles, &self.note, &older, from_start, ended)
            .map_err(|failure| blamed(&self.dir, failure))
    }
}

/// Lets `profile` learn whom a backup says to believe, if it says so: nodes that came later may have signed its checkpoint.
pub(super) fn learn(dir: &Path, profile: &mut Profile) -> Result<(), Failure> {
    let Some(chain) = read_chain(&dir.join(AUTHORITY))? else { return Ok(()) };
    match profile.chain.go_on(chain.documents) {
        // It is older than what this machine knows, as backups are.
        Ok(_) | Err(Disagreement::Behind { .. }) => Ok(()),
        Err(wrong) => Err(blamed(dir, Failure::unverified(wrong.code(), format!("{AUTHORITY}: {wrong}")))),
    }
}

/// Whom somebody says to believe; nothing of it is verified yet.
pub(super) fn read_chain(path: &Path) -> Result<Option<TrustChain>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file("read", path, &error)),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let detail = format!("{} does not say whom to believe: {error}", path.display());
        Failure::unverified("authority", detail)
    })
}

/// What is wrong is wrong with the backup, whoever is asked next.
fn blamed(dir: &Path, mut failure: Failure) -> Failure {
    if failure.exit == Exit::Unverified {
        let detail = &mut failure.problem.detail;
        *detail = format!(
            "the backup in {}: {detail}; keep it as it is, and make a new one elsewhere",
            quoted(dir)
        );
    }
    failure
}

/// One run at a time: two would remove each other's tiles.
fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join(LOCK);
    let file = File::create(&path).map_err(|e| Failure::file("write", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let detail = format!("another `tagout backup` is writing {}: wait for it", quoted(dir));
            Err(Failure::new(Exit::Failed, "busy", detail))
        }
        Err(TryLockError::Error(error)) => Err(Failure::file("lock", &path, &error)),
    }
}

/// A node's log on its way into the folder: what lies there is not asked for again.
struct Copying<'a> {
    from: &'a dyn Tiles,
    to: TileDir,
    /// Entries under the folder's checkpoint.
    known: u64,
    /// Files that it does not cover.
    beyond: RefCell<BTreeSet<PathBuf>>,
}

impl Tiles for Copying<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let file = self.to.path.join(path);
        let id = path.strip_prefix("tile/").and_then(TileId::parse);
        if id.is_none_or(|id| covered(id) > self.known) {
            self.beyond.borrow_mut().insert(file.clone());
        }
        if let Some(bytes) = self.to.read(path)? {
            return Ok(Some(bytes));
        }
        let Some(bytes) = self.from.read(path)? else { return Ok(None) };
        let folder = file.parent().expect("a tile lies in a folder");
        let written = files::create_folder(folder).and_then(|()| files::create_once(&file, &bytes));
        written.map_err(|e| Failure::file("write", &file, &e))?;
        Ok(Some(bytes))
    }
}

impl<'a> Copying<'a> {
    fn new(from: &'a dyn Tiles, dir: &Path, known: u64) -> Self {
        Self { from, to: TileDir { path: dir.into() }, known, beyond: RefCell::default() }
    }

    /// After a failure: what cannot be verified is not kept, what could only not be read on is gone on with the next time.
    fn not_kept(&self, mut failure: Failure, node: &str) -> Failure {
        if failure.exit == Exit::Unverified {
            for path in self.beyond.borrow().iter() {
                let _ = fs::remove_file(path);
            }
            let detail = &mut failure.problem.detail;
            *detail = format!(
                "{node}: {detail}; the backup keeps its {} and takes nothing of this",
                entries(self.known)
            );
        }
        failure
    }

    /// Removes the partial tiles of the checkpoint before, which wider ones hold now.
    fn finish(&self, size: u64) -> Result<(), Failure> {
        let levels = (0..8).map(|level| TileKind::Hashes { level });
        for kind in levels.chain([TileKind::Entries]) {
            let (before, now) = (hashes_at(level_of(kind), self.known), hashes_at(level_of(kind), size));
            let width = (before % TILE_WIDTH) as u16;
            if width == 0 || before == now {
                continue;
            }
            let id = TileId { kind, n: before / TILE_WIDTH, width };
            let path = self.to.path.join("tile").join(id.to_string());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::file("remove", &path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The entries that a log has at least which has this tile.
fn covered(id: TileId) -> u64 {
    let at_its_level = id.n * TILE_WIDTH + u64::from(id.width);
    at_its_level.checked_shl(TILE_HEIGHT * u32::from(level_of(id.kind))).unwrap_or(u64::MAX)
}

fn level_of(kind: TileKind) -> u8 {
    match kind {
        TileKind::Entries => 0,
        TileKind::Hashes { level } => level,
    }
}
