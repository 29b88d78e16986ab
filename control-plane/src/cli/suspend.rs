//! `tagout suspend`: keys are taken out of use, for ever. What it voids is shown beforehand.

use clap::Args;
use tagout_proto::command::{Action, Suspend};
use tagout_proto::limits::KEYS_PER_SUSPEND_MAX;
use tagout_proto::sshsig::PublicKey;
use tagout_proto::trust::Trust;

use super::failure::{Exit, Failure};
use super::files::read_public_key;
use super::out::{Ink, Out, count};
use super::session::Session;
use super::{Globals, KeyArgs, signing, status};

#[derive(Args)]
pub struct SuspendArgs {
    /// The keys: KEY.pub files, or fingerprints SHA256:… of keys that an authority names
    #[arg(required_unless_present = "principal", value_name = "KEY.pub|SHA256:…")]
    suspended: Vec<String>,
    /// All keys of this person or automation
    #[arg(long, value_name = "NAME")]
    principal: Vec<String>,
    /// Why
    #[arg(long)]
    reason: String,
    /// The incident that it belongs to, such as INC-4711
    #[arg(long)]
    case: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Sign and send nothing; show what it would take away
    #[arg(long)]
    dry_run: bool,
}

pub fn run(out: &Out, globals: &Globals, args: SuspendArgs) -> Result<Exit, Failure> {
    let mut session = Session::open_to_tighten(out, globals)?;
    // A principal's newest keys; but that a node does not show them keeps nobody from taking back those that are known.
    session.learn_if_shown();
    let keys = chosen(session.trust(), &args)?;
    out.line(format!("{}:", count(keys.len() as u64, "key")));
    for key in &keys {
        let owner = owner(session.trust(), key).unwrap_or("nobody in this deployment");
        let already = if session.trust().is_suspended(key) { ", suspended already" } else { "" };
        out.line(format!("  {} of {owner}{already}", key.fingerprint()));
    }
    let command = Action::Suspend(Suspend { keys, reason: args.reason, case: args.case });
    let voids = match session.client.impact(&signing::draft(session.deployment(), &command)?) {
        Ok(impact) => {
            let voids = impact.voids;
            out.line(format!("{} would be void by it, for ever:", count(voids.len() as u64, "grant")));
            status::say_grants(out, voids.iter());
            status::say_disabled(out, &impact.disables);
            Some(voids)
        }
        Err(failure) => {
            out.note(format!("warning: what it voids cannot be said: {failure}"));
            None
        }
    };
    if args.dry_run {
        out.document(&serde_json::json!({ "dry_run": true, "voids": voids }));
        out.line("nothing was signed");
        return Ok(Exit::Ok);
    }
    out.line(format!(
        "{} what these keys sign counts no more, and no authority brings them back: their owners need new ones",
        out.ink(Ink::Yellow, "note:")
    ));
    let signers = session.signers_to_tighten(&args.keys)?;
    let signed = session.sign_tightening(command, &signers)?;
    let answer = session.send_said(&signed)?;
    let done = session.prove_done(&signed, answer)?;
    out.document(&serde_json::json!({ "commands": [done], "voids": voids }));
    Ok(Exit::Ok)
}

fn chosen(trust: &Trust, args: &SuspendArgs) -> Result<Vec<PublicKey>, Failure> {
    let mut keys: Vec<PublicKey> = Vec::new();
    for name in &args.principal {
        let principal = trust.authority().principals.iter().find(|p| p.name == *name);
        let retired = trust.authority().retired().iter().filter(|r| r.principal == *name).map(|r| &r.key);
        let Some(principal) = principal else {
            let names: Vec<_> = trust.authority().principals.iter().map(|p| p.name.as_str()).collect();
            return Err(Failure::usage(format!("{name:?} is no principal: those are {}", names.join(", "))));
        };
        keys.extend(principal.keys.iter().chain(retired).filter(|key| !trust.is_suspended(key)).cloned());
    }
    for spec in &args.suspended {
        keys.push(key(trust, spec)?);
    }
    let mut distinct: Vec<PublicKey> = Vec::new();
    for key in keys {
        if !distinct.contains(&key) {
            distinct.push(key);
        }
    }
    match distinct.len() {
        0 => Err(Failure::new(Exit::Failed, "no-keys", "all of these keys are suspended already")),
        1..=KEYS_PER_SUSPEND_MAX => Ok(distinct),
        n => Err(Failure::usage(format!(
            "{n} keys are too many for one document: at most {KEYS_PER_SUSPEND_MAX}"
        ))),
    }
}

/// A key by its file, or by its fingerprint in any version of the authority.
pub fn key(trust: &Trust, spec: &str) -> Result<PublicKey, Failure> {
    if !spec.starts_with("SHA256:") {
        return read_public_key(spec.as_ref()).map_err(|e| Failure::new(Exit::Failed, "key", e));
    }
    let keys = trust.versions().iter().rev().flat_map(|version| {
        let principals = version.principals.iter().flat_map(|p| &p.keys);
        let retired = version.retired().iter().map(|r| &r.key);
        principals.chain(retired).chain(version.root.signers.iter().map(|s| &s.key))
    });
    let found = keys.into_iter().find(|key| key.fingerprint() == spec).cloned();
    found.ok_or_else(|| {
        let detail = format!("no version of the authority names a key {spec}: give its public key file");
        Failure::new(Exit::Failed, "no-such-key", detail)
    })
}

fn owner<'a>(trust: &'a Trust, key: &PublicKey) -> Option<&'a str> {
    trust.versions().iter().rev().find_map(|version| {
        let retired = || version.retired().iter().find(|r| r.key == *key).map(|r| r.principal.as_str());
        let root = || version.root.signers.iter().find(|s| s.key == *key).map(|s| s.name.as_str());
        version.principal_of(key).map(|p| p.name.as_str()).or_else(retired).or_else(root)
    })
}
