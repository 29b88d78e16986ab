//! The newest checkpoint that this machine has seen of a deployment: what makes a cut or forked log show (S9).

use std::path::PathBuf;

use tagout_proto::log::checkpoint::Checkpoint;

use super::tiles::{LogError, LogReader, Tiles, open_checkpoint};
use crate::cli::failure::Failure;
use crate::cli::files;
use crate::cli::profile::Profile;

/// The file that holds it, as the node signed it.
pub struct Seen {
    path: PathBuf,
    pub checkpoint: Option<Checkpoint>,
}

impl Seen {
    /// `$XDG_STATE_HOME/tagout/`, or the profile's folder.
    pub fn load(profile: &Profile) -> Result<Self, Failure> {
        let state = std::env::var_os("XDG_STATE_HOME").filter(|home| !home.is_empty());
        let folder = state.map_or_else(|| profile.folder.clone(), |home| PathBuf::from(home).join("tagout"));
        Self::load_from(folder, profile)
    }

    pub fn load_from(folder: PathBuf, profile: &Profile) -> Result<Self, Failure> {
        let deployment = profile.deployment();
        let name = format!("{}-{}.checkpoint", deployment.name, deployment.genesis.short());
        let path = folder.join(name);
        let note = match std::fs::read_to_string(&path) {
            Ok(note) => note,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path, checkpoint: None });
            }
            Err(error) => return Err(Failure::file("read the newest checkpoint", &path, &error)),
        };
        let checkpoint = open_checkpoint(&note, &profile.authority).map_err(|error| {
            let path = path.display();
            let detail = format!(
                "the remembered checkpoint {path} does not verify ({error}): find out who changed it"
            );
            Failure::unverified("seen", detail)
        })?;
        Ok(Self { path, checkpoint: Some(checkpoint) })
    }

    pub fn size(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |seen| seen.size)
    }

    /// Checks that a verified checkpoint continues the newest one.
    pub fn check(&self, checkpoint: &Checkpoint, tiles: &dyn Tiles) -> Result<(), LogError> {
        match &self.checkpoint {
            Some(seen) => {
                LogReader::new(tiles, checkpoint.size).check_continues(checkpoint.root, seen.size, seen.root)
            }
            None => Ok(()),
        }
    }

    /// Remembers a checkpoint that is known to continue the newest one.
    pub fn remember(&mut self, note: &str, checkpoint: &Checkpoint) -> Result<(), Failure> {
        if self.checkpoint.as_ref().is_some_and(|seen| seen.size >= checkpoint.size) {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))?;
        }
        files::replace(&self.path, note.as_bytes())?;
        self.checkpoint = Some(checkpoint.clone());
        Ok(())
    }
}
