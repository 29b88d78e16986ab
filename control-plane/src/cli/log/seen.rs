//! The newest checkpoint that this machine has seen of a deployment: what makes a cut or forked log show (S9).

use std::path::{Path, PathBuf};

use tagout_proto::command::Deployment;
use tagout_proto::log::checkpoint::Checkpoint;

use super::tiles::{LogError, LogReader, Tiles, open_checkpoint};
use crate::cli::failure::Failure;
use crate::cli::files;
use crate::cli::profile::Profile;

/// The file that holds it, as the node signed it.
pub struct Seen {
    path: PathBuf,
    pub checkpoint: Option<Checkpoint>,
    /// Of the epoch before, where its end was lost: a restore, which root signers signed, says so.
    pub lost: Option<Lost>,
}

/// A newest checkpoint that the log of the epoch after it does not continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub checkpoint: Checkpoint,
    /// The restore's entry: from here on what was seen is gone.
    pub from: u64,
}

impl Seen {
    pub fn load(profile: &Profile) -> Result<Self, Failure> {
        Self::load_from(&state_folder(profile), profile)
    }

    pub fn load_from(folder: &Path, profile: &Profile) -> Result<Self, Failure> {
        let epoch = profile.trust().epoch().number;
        let path = state_file(folder, profile.deployment(), &kind(epoch));
        if let Some(checkpoint) = read_note(&path, profile)? {
            return Ok(Self { path, checkpoint: Some(checkpoint), lost: None });
        }
        // The newest one of an epoch before. It holds on unless the restore says that its end was lost: then a log begins
        // that may be shorter, and it is kept where it lies as what was once shown.
        let mut lost_from = u64::MAX;
        for restore in profile.chain.restores().rev() {
            lost_from = lost_from.min(restore.lost_from);
            let before = profile.chain.epoch_before(restore.epoch.number);
            let older = state_file(folder, profile.deployment(), &kind(before));
            let Some(checkpoint) = read_note(&older, profile)? else { continue };
            if checkpoint.size > lost_from {
                return Ok(Self { path, checkpoint: None, lost: Some(Lost { checkpoint, from: lost_from }) });
            }
            return Ok(Self { path, checkpoint: Some(checkpoint), lost: None });
        }
        Ok(Self { path, checkpoint: None, lost: None })
    }

    /// Entries that a log has at least which goes on from what was seen.
    pub fn size(&self) -> u64 {
        let begun = self.lost.as_ref().map_or(0, |lost| lost.from + 1);
        self.checkpoint.as_ref().map_or(begun, |seen| seen.size)
    }

    /// Checks that a verified checkpoint continues the newest one.
    pub fn check(&self, checkpoint: &Checkpoint, tiles: &dyn Tiles) -> Result<(), LogError> {
        match &self.checkpoint {
            Some(seen) => {
                LogReader::new(tiles, checkpoint.size).continues(checkpoint.root, seen).map(|_proof| ())
            }
            None => Ok(()),
        }
    }

    /// Remembers a checkpoint that is known to continue the newest one.
    pub fn remember(&mut self, note: &str, checkpoint: &Checkpoint) -> Result<(), Failure> {
        if self.checkpoint.as_ref().is_some_and(|seen| seen.size >= checkpoint.size) {
            return Ok(());
        }
        write_state(&self.path, note.as_bytes())?;
        self.checkpoint = Some(checkpoint.clone());
        Ok(())
    }
}

/// Each epoch has a file of its own: what an earlier one has shown is never overwritten by a later.
fn kind(epoch: u64) -> String {
    if epoch == 1 { "checkpoint".into() } else { format!("epoch-{epoch}.checkpoint") }
}

fn read_note(path: &Path, profile: &Profile) -> Result<Option<Checkpoint>, Failure> {
    let note = match std::fs::read_to_string(path) {
        Ok(note) => note,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file("read the newest checkpoint", path, &error)),
    };
    let checkpoint = open_checkpoint(&note, profile.trust()).map_err(|error| {
        let path = path.display();
        let detail =
            format!("the remembered checkpoint {path} does not verify ({error}): find out who changed it");
        Failure::unverified("seen", detail)
    })?;
    Ok(Some(checkpoint))
}

/// What this machine remembers of logs: `$XDG_STATE_HOME/tagout/`, or the profile's folder.
pub fn state_folder(profile: &Profile) -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|home| !home.is_empty());
    state.map_or_else(|| profile.folder.clone(), |home| PathBuf::from(home).join("tagout"))
}

pub fn state_file(folder: &Path, deployment: &Deployment, kind: &str) -> PathBuf {
    folder.join(format!("{}-{}.{kind}", deployment.name, deployment.genesis.short()))
}

pub fn write_state(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))?;
    }
    files::replace(path, bytes)
}

fn check_size(size: u64, seen: u64) -> Result<(), Failure> {
    if size >= seen {
        return Ok(());
    }
    let detail = format!(
        "this node's log ends at {size} entries, this machine has seen {seen}: it was cut off or put back; do not trust \
         this node"
    );
    Err(Failure::unverified("shorter", detail))
}

/// What a node means that has no checkpoint of `wanted` entries and a signed one of `size`: it is only behind, as it
/// `said`, or its log has lost what was seen of it.
pub fn behind(size: u64, wanted: u64, seen: u64, said: Failure) -> Result<(), Failure> {
    check_size(size, seen)?;
    if size < wanted { Err(said) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;

    #[test]
    fn s9_a_log_shorter_than_the_one_seen_is_cut_off_and_one_that_is_behind_is_not() {
        let said = || Failure::new(Exit::Unreachable, "no-checkpoint", "try again");
        let cut = behind(30, 42, 42, said()).unwrap_err();
        assert_eq!((cut.exit, cut.problem.code.as_str()), (Exit::Unverified, "shorter"));
        assert_eq!(
            cut.to_string(),
            "this node's log ends at 30 entries, this machine has seen 42: it was cut off or put back; do not trust this \
             node"
        );
        // After a stop, an entry is wanted beyond what was seen; with as many as were seen, the node may be slow.
        assert_eq!(behind(41, 43, 42, said()).unwrap_err().exit, Exit::Unverified);
        assert_eq!(behind(42, 43, 42, said()).unwrap_err().exit, Exit::Unreachable);
        behind(43, 43, 42, said()).unwrap();
        behind(1, 0, 0, said()).unwrap();
    }
}
