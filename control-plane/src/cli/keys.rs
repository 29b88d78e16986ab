//! `tagout key`: the keys with which people sign. They are OpenSSH's own, so `ssh-keygen` makes them just as well.

use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use tagout_proto::authority::{Authority, PrincipalKind, Role};
use tagout_proto::sshsig::PublicKey;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::files::read_public_key;
use super::out::{Ink, Out};
use super::profile::{self, Profile};
use super::{Globals, KeyArgs};
use crate::sign::{self, PASSPHRASE_VARIABLE, Signer};

#[derive(Subcommand)]
pub enum KeyVerb {
    /// Make an Ed25519 key: PATH, and PATH.pub for the authority (in a FIDO2 token: `ssh-keygen -t ed25519-sk`)
    New(NewArgs),
    /// Show a key's fingerprint, and what it may do in this deployment
    Show(KeyArgs),
}

#[derive(Args)]
pub struct NewArgs {
    /// The file to make, such as alice or ~/.ssh/tagout
    path: PathBuf,
    /// A remark inside the key [default: the file's name]
    #[arg(long)]
    comment: Option<String>,
    /// Do not ask for a passphrase
    #[arg(long)]
    no_passphrase: bool,
}

#[derive(Serialize)]
struct Shown {
    key: String,
    fingerprint: String,
    algorithm: &'static str,
    public: String,
    principal: Option<String>,
    kind: Option<PrincipalKind>,
    roles: Vec<Role>,
    root_signer: Option<String>,
}

pub fn run(out: &Out, globals: &Globals, verb: KeyVerb) -> Result<Exit, Failure> {
    match verb {
        KeyVerb::New(args) => new(out, args),
        KeyVerb::Show(args) => show(out, globals, args),
    }
}

fn new(out: &Out, args: NewArgs) -> Result<Exit, Failure> {
    let default = || args.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let comment = args.comment.clone().unwrap_or_else(default);
    let passphrase = if args.no_passphrase { None } else { passphrase()? };
    make_folder(&args.path)?;
    let public = sign::generate(&args.path, &comment, passphrase.as_ref().map(|p| p.as_str()))?;
    let public_file = format!("{}.pub", args.path.display());
    let made = serde_json::json!({
        "key": args.path, "public": public.line(), "fingerprint": public.fingerprint(),
        "passphrase": passphrase.is_some(),
    });
    out.document(&made);
    out.line(format!("made {} ({})", args.path.display(), public.fingerprint()));
    if passphrase.is_none() {
        out.line(format!("  it has no passphrase; set one with: ssh-keygen -p -f {}", args.path.display()));
    }
    out.line(format!(
        "  give {public_file} to whoever makes the authority; the other file stays with its owner"
    ));
    Ok(Exit::Ok)
}

/// Makes the folder that a new key lies in, for nobody else to look into; one that exists stays as it is.
fn make_folder(key: &Path) -> Result<(), Failure> {
    let Some(folder) = key.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
    else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Failure::file("make the folder", folder, &e))
}

/// From the environment, or asked twice on a terminal; an empty one is none.
fn passphrase() -> Result<Option<Zeroizing<String>>, Failure> {
    let given = std::env::var(PASSPHRASE_VARIABLE).ok().map(Zeroizing::new);
    if given.is_some() || !std::io::stdin().is_terminal() {
        return Ok(given.filter(|p| !p.is_empty()));
    }
    let ask = |question: &str| {
        let asked = rpassword::prompt_password(question).map(Zeroizing::new);
        asked.map_err(|e| {
            Failure::new(Exit::Failed, "passphrase", format!("cannot ask for the passphrase: {e}"))
        })
    };
    let first = ask("Passphrase (empty for none): ")?;
    if first.is_empty() {
        return Ok(None);
    }
    if *ask("The same again: ")? != *first {
        return Err(Failure::usage("the two passphrases differ: try again"));
    }
    Ok(Some(first))
}

fn show(out: &Out, globals: &Globals, args: KeyArgs) -> Result<Exit, Failure> {
    // Without any profile a key still has a fingerprint.
    let profile = match profile::locate(globals.profile.as_deref()) {
        Ok(path) => Some(Profile::load(&path)?),
        Err(failure) if args.keys.is_empty() => return Err(failure),
        Err(_) => None,
    };
    let profiled = profile.as_ref().map(|p| p.keys.as_slice()).unwrap_or_default();
    let specs = if args.keys.is_empty() { profiled } else { &args.keys };
    if specs.is_empty() {
        return Err(Failure::usage("which key? Name one with --key FILE, or list `keys` in the profile"));
    }
    let authority = profile.as_ref().map(Profile::authority);
    let shown = specs.iter().map(|spec| describe(spec, authority)).collect::<Result<Vec<_>, _>>()?;
    out.document(&serde_json::json!({ "keys": shown }));
    for key in &shown {
        say(out, key, authority);
    }
    Ok(Exit::Ok)
}

fn describe(spec: &str, authority: Option<&Authority>) -> Result<Shown, Failure> {
    let key = public_half(spec)?;
    let principal = authority.and_then(|a| a.principal_of(&key));
    let roles = authority.into_iter().flat_map(|a| &a.roles);
    let holds = |role: &&Role| principal.is_some_and(|p| role.principals.contains(&p.name));
    let root = authority.and_then(|a| a.root.signers.iter().find(|s| s.key == key));
    Ok(Shown {
        key: spec.into(),
        fingerprint: key.fingerprint(),
        algorithm: key.algorithm(),
        public: key.to_openssh(),
        principal: principal.map(|p| p.name.clone()),
        kind: principal.map(|p| p.kind),
        roles: roles.filter(holds).cloned().collect(),
        root_signer: root.map(|s| s.name.clone()),
    })
}

/// The public half lies beside most keys, and takes no passphrase.
fn public_half(spec: &str) -> Result<PublicKey, Failure> {
    let beside = PathBuf::from(format!("{spec}.pub"));
    let file = if spec.ends_with(".pub") { Path::new(spec) } else { &beside };
    if file.is_file() {
        return read_public_key(file).map_err(|e| Failure::new(Exit::Failed, "key", e));
    }
    Ok(Signer::open(spec)?.public_key().key().clone())
}

fn say(out: &Out, key: &Shown, authority: Option<&Authority>) {
    out.line(format!("{} {} ({})", out.ink(Ink::Bold, &key.fingerprint), key.key, key.algorithm));
    let Some(authority) = authority else {
        return out.line("  without a profile it has no meaning yet");
    };
    let deployment = &authority.deployment.name;
    match (&key.principal, &key.root_signer) {
        (Some(name), _) => out.line(format!("  {name} in {deployment}")),
        (None, Some(name)) => {
            out.line(format!("  root key {name} of {deployment}: it signs authorities only"))
        }
        (None, None) => {
            out.line(
                out.ink(Ink::Yellow, format!("  nobody in {deployment}: nothing that it signs counts there")),
            );
        }
    }
    for role in &key.roles {
        let actions: Vec<_> = role.actions.iter().map(|a| a.name()).collect();
        let scopes: Vec<_> = role.scopes.iter().map(|s| s.as_str()).collect();
        let (have, need) = (role.principals.len(), role.threshold);
        let role = &role.name;
        out.line(format!("  {role}: {} on {} ({need} of {have})", actions.join(", "), scopes.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    #[test]
    fn a_key_in_a_folder_that_is_not_there_makes_it_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ops");
        let key = |path: &Path| NewArgs { path: path.into(), comment: None, no_passphrase: true };
        new(&Out::new(true), key(&folder.join("alice"))).unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(folder.join("alice.pub").is_file());
        let failure = new(&Out::new(true), key(&folder.join("alice/below"))).unwrap_err();
        assert!(failure.to_string().contains("cannot make the folder"), "{failure}");
    }

    #[test]
    fn a_key_is_described_by_what_it_may_do() {
        let deployed = testing::deployed();
        let profile = Profile::load(&deployed.made.profile).unwrap();
        let alice = describe(&profile.keys[0], Some(profile.authority())).unwrap();
        assert_eq!(alice.principal.as_deref(), Some("alice"));
        let roles: Vec<_> = alice.roles.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(roles, ["operators", "restart", "enrolment"]);
        let root = describe(&profile.keys[0].replace("alice", "root"), Some(profile.authority())).unwrap();
        assert_eq!((root.principal, root.root_signer.as_deref()), (None, Some("root")));
        assert_eq!(root.algorithm, "ssh-ed25519");
    }

    #[test]
    fn a_security_key_is_shown_from_its_public_half_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id_ed25519_sk");
        // The key of OpenSSH's own tests.
        let line = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJsaDYXQYruc6bilCYDIK4Y\
            SOeG+zmrRO2M9t03//7LHAAAABHNzaDo=";
        std::fs::write(path.with_extension("pub"), format!("{line} anna@desk\n")).unwrap();
        for spec in [path.clone(), path.with_extension("pub")] {
            let shown = describe(spec.to_str().unwrap(), None).unwrap();
            assert_eq!((shown.algorithm, shown.public.as_str()), ("sk-ssh-ed25519@openssh.com", line));
            assert_eq!(shown.fingerprint, "SHA256:pbI9wlyrFSsUbp+GTiIAOqNMvoajbF2tHsPMECyrMYU");
        }
    }
}
