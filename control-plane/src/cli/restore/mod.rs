//! `tagout restore`: all nodes are lost, and a backup is left. New nodes go on with its log in a new epoch, which begins
//! with the whole fleet halted (S1). Three steps, each of them offline:
//!
//! 1. `prepare` makes the new nodes and drafts two documents: the restore, and the authority that lists those nodes;
//! 2. `sign`, or `ssh-keygen -Y sign`: the root threshold signs both;
//! 3. `finish` replays the backup, has the ledger judge both documents, and gives the first node what it begins with.
//!
//! The restore comes first and the authority after it: so it takes the place in the log where the backup ends, and
//! `lost_from`, which people must sign again before anything runs, says the truth to the entry.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tagout_proto::authority::Authority;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::restore::Restore;
use tagout_proto::strict::DocumentError;
use tagout_proto::trust::{Trust, TrustError};

use super::Globals;
use super::authority::document;
use super::authority::sign::signed_beside;
use super::failure::{Exit, Failure};
use super::files::quoted;
use super::log::entries;
use super::out::{Ink, Out};
use super::profile::Profile;

mod finish;
mod prepare;
mod sign;

#[derive(Subcommand)]
pub enum RestoreVerb {
    /// Make new nodes, and draft what the root keys sign; says what is lost
    Prepare(Box<prepare::PrepareArgs>),
    /// Sign the restore and the authority with a root key; `ssh-keygen -Y sign -n tagout-command` does it as well
    Sign(sign::SignArgs),
    /// Check the signatures against the whole backup, and give the new nodes what they begin with
    Finish(finish::FinishArgs),
}

pub fn run(out: &Out, globals: &Globals, verb: RestoreVerb) -> Result<Exit, Failure> {
    match verb {
        RestoreVerb::Prepare(args) => prepare::run(out, globals, *args),
        RestoreVerb::Sign(args) => sign::run(out, &args),
        RestoreVerb::Finish(args) => finish::run(out, args),
    }
}

/// The format of `plan.json`.
const PLAN_FORMAT: u64 = 1;
const PLAN_FILE: &str = "plan.json";
const RESTORE_FILE: &str = "restore.json";
const PROFILE_FILE: &str = "profile.toml";

/// `plan.json`: what `prepare` found, for the steps after it. Nothing of it is trusted: `finish` verifies all of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    format: u64,
    backup: PathBuf,
    entries: u64,
    root: Digest,
    /// Whom to believe: what the backup says, and what only this machine remembers and is put back into the log.
    documents: Vec<Envelope>,
    /// How many of them are in the backup, and how many come before the restore.
    in_backup: usize,
    before_restore: usize,
    /// The folders of the new nodes; the first one begins.
    nodes: Vec<String>,
}

/// A restore on its way: the folder that `prepare` made, verified as far as signatures that are there go.
struct Prepared {
    dir: PathBuf,
    profile: Profile,
    plan: Plan,
    restore: Draft<Restore>,
    authority: Draft<Authority>,
}

/// A document that root keys sign.
struct Draft<T> {
    path: PathBuf,
    /// With the signatures that lie beside it, each of them good.
    envelope: Envelope,
    document: T,
}

impl Prepared {
    fn load(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(PLAN_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let dir = dir.display();
            let detail = format!(
                "{dir} is no restore that was prepared ({error}): `tagout restore prepare` makes one"
            );
            Failure::new(Exit::Failed, "no-plan", detail)
        })?;
        let damaged =
            |e: serde_json::Error| Failure::new(Exit::Failed, "bad-plan", format!("{}: {e}", path.display()));
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let Format { format } = serde_json::from_str(&text).map_err(damaged)?;
        if format > PLAN_FORMAT {
            let path = path.display();
            let detail =
                format!("{path} was written by a newer version of tagout (format {format}): use that one");
            return Err(Failure::new(Exit::Failed, "newer-plan", detail));
        }
        let plan: Plan = serde_json::from_str(&text).map_err(damaged)?;
        let sound =
            (plan.in_backup..=plan.documents.len()).contains(&plan.before_restore) && !plan.nodes.is_empty();
        if !sound {
            let detail = format!("{} contradicts itself: prepare the restore anew", path.display());
            return Err(Failure::new(Exit::Failed, "bad-plan", detail));
        }
        // Not with what this machine remembers: the restore goes on from what its signers were shown.
        let mut profile = Profile::load_pinned(&dir.join(PROFILE_FILE))?;
        profile
            .chain
            .go_on(plan.documents.clone())
            .map_err(|wrong| Failure::unverified(wrong.code(), format!("{}: {wrong}", path.display())))?;

        let path = dir.join(RESTORE_FILE);
        let restore = Draft::read(&path, |text| Restore::parse(text.as_bytes()))?;
        let version = profile.authority().version + 1;
        let path = dir.join(authority_file(version));
        let authority = Draft::read(&path, |text| Authority::parse(text.as_bytes()))?;
        let prepared = Self { dir: dir.into(), profile, plan, restore, authority };
        let refused = |path: &Path, error| Err(refused(path, error, Exit::Refused));
        // What no signature can heal is said before anybody looks for a key.
        if let Err(error) = prepared.trust_after()?.check_succession(&prepared.authority.document) {
            return refused(&prepared.authority.path, error);
        }
        match prepared.trust_before()?.learn(&prepared.restore.envelope) {
            Ok(_) | Err(TrustError::RootThreshold(_) | TrustError::Unsigned(_)) => Ok(prepared),
            Err(error) => refused(&prepared.restore.path, error),
        }
    }

    /// Whom to believe where the restore stands.
    fn trust_before(&self) -> Result<Trust, Failure> {
        self.learned(&self.plan.documents[..self.plan.before_restore])
    }

    /// Whom to believe where the authority stands, the restore aside.
    fn trust_after(&self) -> Result<Trust, Failure> {
        self.learned(&self.plan.documents)
    }

    fn learned(&self, documents: &[Envelope]) -> Result<Trust, Failure> {
        let wrong = |why: String| {
            Failure::unverified("plan", format!("{}: {why}", self.dir.join(PLAN_FILE).display()))
        };
        let (genesis, rest) = documents.split_first().ok_or_else(|| wrong("it has no genesis".into()))?;
        let pinned = self.profile.deployment().genesis;
        let mut trust = Trust::begin(genesis, pinned).map_err(|e| wrong(e.to_string()))?;
        for envelope in rest {
            trust.learn(envelope).map_err(|e| wrong(e.to_string()))?;
        }
        Ok(trust)
    }

    /// The documents that follow the backup's entries, in the log's order.
    fn then(&self) -> Vec<Envelope> {
        let mut then = self.plan.documents[self.plan.in_backup..].to_vec();
        then.insert(self.plan.before_restore - self.plan.in_backup, self.restore.envelope.clone());
        then.push(self.authority.envelope.clone());
        then
    }

    /// What is missing until the ledger takes both.
    fn missing(&self) -> Result<Vec<String>, Failure> {
        let mut missing = Vec::new();
        let mut learn = |mut trust: Trust, envelope| {
            missing.extend(trust.learn(envelope).err().map(|error| error.to_string()));
        };
        learn(self.trust_before()?, &self.restore.envelope);
        learn(self.trust_after()?, &self.authority.envelope);
        Ok(missing)
    }

    /// What the signers put their names to, in words.
    fn say(&self, out: &Out) {
        let Restore { epoch, checkpoint_size, lost_from, authority_version, ref reason, .. } =
            self.restore.document;
        let deployment = self.profile.deployment();
        out.line(format!("{}: epoch {} of {deployment} begins", quoted(&self.restore.path), epoch.number));
        out.line(format!(
            "  after {}, under version {authority_version} of the authority: {reason:?}",
            entries(lost_from)
        ));
        say_loss(out, self.plan.entries, checkpoint_size);
        out.line("  the whole fleet is halted, and every grant is void, until people release, start and grant anew");
        let draft = &self.authority.document;
        out.line(format!("{}: version {}", quoted(&self.authority.path), draft.version));
        let changes = super::authority::diff::changes(self.profile.authority(), draft);
        changes.iter().for_each(|change| out.line(format!("  {change}")));
    }
}

impl<T> Draft<T> {
    fn read(path: &Path, parse: impl FnOnce(&str) -> Result<T, DocumentError>) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read the draft", path, &e))?;
        let document = parse(&text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        let envelope = signed_beside(path, &text)?;
        Ok(Self { path: path.into(), envelope, document })
    }
}

/// What became of the entries after the backup, as far as anybody knows.
fn say_loss(out: &Out, in_backup: u64, checkpoint: u64) {
    match checkpoint.saturating_sub(in_backup) {
        0 => out
            .line("  no checkpoint that is known here is newer than the backup: nothing is known to be lost"),
        lost => out.line(format!(
            "  {}: the newest checkpoint that is known has {}, and the backup ends at {in_backup}",
            out.ink(
                Ink::Red,
                if lost == 1 { "1 entry is lost".into() } else { format!("{lost} entries are lost") }
            ),
            entries(checkpoint),
        )),
    }
    out.line(
        "  what else came after it is lost too, but for the stops that guards, pending stores or files hold",
    );
}

fn authority_file(version: u64) -> String {
    format!("authority-{version}.json")
}

/// A document that the chain does not take.
fn refused(path: &Path, error: TrustError, exit: Exit) -> Failure {
    let exit = match &error {
        TrustError::RootThreshold(_) | TrustError::Unsigned(_) => Exit::MissingSignatures,
        _ => exit,
    };
    let code = if exit == Exit::MissingSignatures { "root-threshold" } else { "restore" };
    let why = match error {
        TrustError::Unsigned(_) => "nobody has signed it yet".into(),
        error => error.to_string(),
    };
    Failure::new(exit, code, format!("{}: {why}", quoted(path)))
}
