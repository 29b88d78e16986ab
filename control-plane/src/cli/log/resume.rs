//! What `log verify` has replayed, kept so that the next run need not replay it again.
//!
//! ```text
//! [32]  SHA-256 of all that follows
//! [32]  which program wrote it: another build may judge otherwise, and keep its state in another form
//! []    the replay (postcard)
//! ```
//!
//! It lies beside the remembered checkpoint and is trusted as that is: whoever can write there can replace `tagout` too.
//! It vouches for no bytes by itself: every run hashes all entries, and goes on only if they are the ones replayed here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tagout_proto::digest::Digest;

use super::seen;
use super::verify::Replay;
use crate::cli::failure::{Failure, chain};
use crate::cli::profile::Profile;

/// The most work that an interruption costs.
const KEEP_EVERY: Duration = Duration::from_secs(10);

pub struct Kept {
    path: PathBuf,
    program: Digest,
    kept_at: Instant,
}

impl Kept {
    pub fn open(profile: &Profile) -> Result<Self, Failure> {
        let exe = std::env::current_exe().and_then(|exe| {
            let file = std::fs::metadata(exe)?;
            Ok((file.len(), file.modified()?))
        });
        let exe = exe.map_err(|e| Failure::file("find", Path::new("this program's own file"), &e))?;
        let program = format!("{} {exe:?}", env!("CARGO_PKG_VERSION"));
        Ok(Self::open_in(&seen::state_folder(profile), profile, Digest::of(program.as_bytes())))
    }

    pub fn open_in(folder: &Path, profile: &Profile, program: Digest) -> Self {
        let path = seen::state_file(folder, profile.deployment(), "verified");
        Self { path, program, kept_at: Instant::now() }
    }

    /// What was replayed before; `Err` says why what is there cannot be used.
    pub fn load(&self, pinned: Digest) -> Result<Option<Replay>, String> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        let damaged = || "it is damaged".to_owned();
        let (digest, rest) = bytes.split_first_chunk::<32>().ok_or_else(damaged)?;
        if Digest::of(rest) != Digest(*digest) {
            return Err(damaged());
        }
        let (program, replay) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        if Digest(*program) != self.program {
            return Err("another version of tagout wrote it".into());
        }
        let replay: Replay = postcard::from_bytes(replay).map_err(|error| chain(&error))?;
        if replay.pinned() != pinned {
            return Err("it is of another deployment".into());
        }
        Ok(Some(replay))
    }

    pub fn keep(&mut self, replay: &Replay) -> Result<(), Failure> {
        let mut bytes = self.program.0.to_vec();
        bytes.extend(postcard::to_stdvec(replay).expect("a ledger is plain data"));
        let digest = Digest::of(&bytes);
        bytes.splice(0..0, digest.0);
        seen::write_state(&self.path, &bytes)?;
        self.kept_at = Instant::now();
        Ok(())
    }

    /// As [`Kept::keep`], once enough has been done since the last time.
    pub fn keep_now_and_then(&mut self, replay: &Replay) -> Result<(), Failure> {
        if self.kept_at.elapsed() < KEEP_EVERY { Ok(()) } else { self.keep(replay) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
