//! The profile: which deployment a person means, and how to reach it. Nothing is believed before the genesis is verified.

use std::path::{Path, PathBuf};

use tagout_proto::authority::Authority;
use tagout_proto::command::Deployment;
use tagout_proto::envelope::Envelope;
use tagout_proto::profile::ProfileFile;
use tagout_proto::trust::Trust;

use super::chain::{self, Chain};
use super::failure::{Exit, Failure};
use super::files::replace;
use super::out::Out;

/// As `tagout init` writes it.
pub fn text(file: &ProfileFile) -> String {
    format!(
        "# Which deployment the `tagout` command means. Paths are relative to this file.\n\n{}",
        toml::to_string(file).expect("a profile is text and lists of text")
    )
}

/// Adds a node to a profile that is as `tagout init` writes it; false, and nothing done, if people have edited it.
pub fn add_node(path: &Path, url: &str) -> Result<bool, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read the profile", path, &e))?;
    let Some(mut file) = toml::from_str::<ProfileFile>(&text).ok().filter(|file| self::text(file) == text)
    else {
        return Ok(false);
    };
    if !file.nodes.iter().any(|node| node == url) {
        file.nodes.push(url.into());
        replace(path, self::text(&file).as_bytes())?;
    }
    Ok(true)
}

/// A profile whose genesis is the pinned one, signed by its root keys.
#[derive(Debug)]
pub struct Profile {
    /// The folder of `profile.toml`.
    pub folder: PathBuf,
    pub nodes: Vec<String>,
    pub ca: PathBuf,
    pub keys: Vec<String>,
    /// The file with what shows nodes that whoever has this profile may read.
    pub token: Option<PathBuf>,
    /// Whom this machine believes, as far as it knows.
    pub chain: Chain,
}

/// Where a profile is looked for when none is named.
pub fn places(current_dir: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let here = current_dir.join(".tagout/profile.toml");
    std::iter::once(here).chain(home.map(|h| h.join(".config/tagout/profile.toml"))).collect()
}

/// The profile that was named (`--profile` or `TAGOUT_PROFILE`), or the first that exists.
pub fn find(named: Option<&Path>, places: &[PathBuf]) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.into());
    }
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        let detail = format!(
            "no profile says which deployment you mean: there is none at {}. Name one with --profile FILE or \
             TAGOUT_PROFILE, make a deployment with `tagout init`, or try one out with `tagout dev`",
            places.join(" nor at ")
        );
        Failure::new(Exit::Failed, "no-profile", detail)
    })
}

/// As [`find`], on this machine.
pub fn locate(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    find(named, &places(&here, std::env::home_dir().as_deref()))
}

impl Profile {
    /// With all that this machine remembers of whom to believe.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let mut profile = Self::load_pinned(path)?;
        chain::recall(&mut profile)?;
        Ok(profile)
    }

    /// As [`Profile::load`], for whoever takes away: that something is wrong with the memory must not keep a stop (S10).
    pub fn load_to_tighten(out: &Out, path: &Path) -> Result<Self, Failure> {
        let mut profile = Self::load_pinned(path)?;
        if let Err(failure) = chain::recall(&mut profile) {
            out.note(format!("warning: {failure}"));
        }
        Ok(profile)
    }

    /// With nothing but the genesis.
    pub fn load_pinned(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read the profile", path, &e))?;
        let wrong =
            |what: String| Failure::new(Exit::Failed, "bad-profile", format!("{}: {what}", path.display()));
        let file: ProfileFile = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let deployment: Deployment = file.deployment.parse().map_err(|e| wrong(format!("{e}")))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let chain = load_genesis(&folder.join(&file.genesis), &deployment)?;
        Ok(Self {
            nodes: file.nodes,
            ca: folder.join(&file.ca),
            keys: file.keys.iter().map(|key| beside(&folder, key)).collect(),
            token: file.token.map(|token| folder.join(token)),
            chain,
            folder,
        })
    }

    pub fn deployment(&self) -> &Deployment {
        self.trust().deployment()
    }

    pub fn trust(&self) -> &Trust {
        self.chain.trust()
    }

    /// The newest authority that this machine has verified.
    pub fn authority(&self) -> &Authority {
        self.trust().authority()
    }
}

/// Reads the genesis envelope and verifies it against the digest that the deployment's name pins.
fn load_genesis(path: &Path, deployment: &Deployment) -> Result<Chain, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read the genesis", path, &e))?;
    let wrong =
        |what: String| Failure::unverified("genesis", format!("the genesis {}: {what}", path.display()));
    let envelope: Envelope =
        serde_json::from_str(&text).map_err(|e| wrong(format!("it is no signed document: {e}")))?;
    let chain = Chain::begin(envelope, deployment.genesis).map_err(wrong)?;
    let made = chain.trust().deployment();
    if made != deployment {
        let (found, named) = (&made.name, &deployment.name);
        return Err(wrong(format!("it makes deployment {found:?}, but {named:?} is named")));
    }
    Ok(chain)
}

/// A key spec of the profile, seen from elsewhere: only plain relative paths move.
fn beside(folder: &Path, key: &str) -> String {
    if key.starts_with("agent:") || key.starts_with("~/") {
        return key.into();
    }
    folder.join(key).to_string_lossy().into_owned()
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{self, Deployed};

    #[test]
    fn the_named_one_wins_then_the_nearest() {
        let dir = tempfile::tempdir().unwrap();
        let (here, home) = (dir.path().join("here"), dir.path().join("home"));
        let places = places(&here, Some(&home));
        assert_eq!(find(Some(Path::new("x.toml")), &places).unwrap(), Path::new("x.toml"));
        let missing = find(None, &places).unwrap_err();
        assert_eq!(missing.exit, Exit::Failed);
        assert!(missing.to_string().contains("tagout init"), "{missing}");

        for place in places.iter().rev() {
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, "").unwrap();
            assert_eq!(&find(None, &places).unwrap(), place);
        }
    }

    #[test]
    fn nothing_but_the_pinned_genesis_is_believed() {
        let Deployed { dir, made, keys: _keys } = testing::deployed();
        let profile = Profile::load(&made.profile).unwrap();
        assert_eq!(profile.deployment(), &made.deployment);
        assert!(profile.ca.is_file() && Path::new(&profile.keys[0]).is_file());

        let genesis = dir.path().join("genesis.json");
        let text = std::fs::read_to_string(&genesis).unwrap();
        std::fs::write(&genesis, text.replace("\\\"threshold\\\":2", "\\\"threshold\\\":1")).unwrap();
        let failure = Profile::load(&made.profile).unwrap_err();
        assert_eq!(failure.exit, Exit::Unverified);
        assert!(failure.to_string().contains("is pinned"), "{failure}");
    }

    #[test]
    fn a_node_is_added_to_what_nobody_has_edited() {
        let Deployed { made, dir: _dir, keys: _keys } = testing::deployed();
        for _twice in 0..2 {
            assert!(add_node(&made.profile, "https://n2:7470").unwrap());
            assert_eq!(
                Profile::load(&made.profile).unwrap().nodes,
                ["https://localhost:7470", "https://n2:7470"]
            );
        }
        let edited = std::fs::read_to_string(&made.profile).unwrap() + "# ours\n";
        std::fs::write(&made.profile, &edited).unwrap();
        assert!(!add_node(&made.profile, "https://n3:7470").unwrap());
        assert_eq!(std::fs::read_to_string(&made.profile).unwrap(), edited);
    }

    #[test]
    fn keys_move_with_the_profile_unless_they_are_elsewhere() {
        let folder = Path::new("/etc/tagout");
        for (spec, seen) in [
            ("keys/alice", "/etc/tagout/keys/alice"),
            ("/k", "/k"),
            ("~/k", "~/k"),
            ("agent:SHA256:x", "agent:SHA256:x"),
        ] {
            assert_eq!(beside(folder, spec), seen);
        }
    }
}
