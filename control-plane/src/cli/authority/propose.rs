//! `tagout authority propose`: a draft of the next version, from the one in force.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use tagout_proto::authority::{Authority, Principal, PrincipalKind, Retired, Role, RootSigner, Succession};
use tagout_proto::command::ActionKind;
use tagout_proto::digest::Digest;
use tagout_proto::log::entry::Entry;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{PublicKey, SshSignature};

use super::show::kind_name;
use super::{diff, document};
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::{quoted, write_new};
use crate::cli::init::{named_key, root_key};
use crate::cli::log::tiles::LogReader;
use crate::cli::out::{Out, count, now_ms};
use crate::cli::session::Session;
use crate::cli::suspend::key;
use crate::cli::{Globals, duration_ms};

#[derive(Args)]
pub struct ProposeArgs {
    /// Where the draft goes [default: authority-N.json, N being the next version]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Why; it stands in the document
    #[arg(long)]
    reason: Option<String>,
    /// A person more; give them a place in a role with --role and --members
    #[arg(long, value_name = "NAME=KEY.pub", value_parser = named_key)]
    add_person: Vec<(String, PublicKey)>,
    /// A program more
    #[arg(long, value_name = "NAME=KEY.pub", value_parser = named_key)]
    add_automation: Vec<(String, PublicKey)>,
    /// A person or program less, also in every role
    #[arg(long, value_name = "NAME")]
    remove_principal: Vec<String>,
    /// A key more for somebody
    #[arg(long, value_name = "NAME=KEY.pub", value_parser = named_key)]
    add_key: Vec<(String, PublicKey)>,
    /// A key less; grants that it signed may be void by that
    #[arg(long, value_name = "KEY.pub|SHA256:…")]
    remove_key: Vec<String>,
    /// A key that signs nothing new, and goes on to count on the grants in force that it signed
    #[arg(long, value_name = "KEY.pub|SHA256:…")]
    retire_key: Vec<String>,
    /// The role that the following options change, or make
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// How many of its members it takes
    #[arg(long, value_name = "M", requires = "role")]
    threshold: Option<u64>,
    /// Its members: all of them, or with + and - those more and less
    #[arg(long, value_name = "NAME,…", requires = "role", value_delimiter = ',', allow_hyphen_values = true)]
    members: Vec<String>,
    /// What it allows
    #[arg(long, value_name = "ACTION,…", requires = "role", value_delimiter = ',', value_parser = action)]
    actions: Vec<ActionKind>,
    /// Where it allows it
    #[arg(long, value_name = "SCOPE,…", requires = "role", value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// Whether signatures count only from a security key that was touched
    #[arg(long, value_name = "BOOL", requires = "role", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    presence: Option<bool>,
    /// Whether signatures count only from a security key that saw a PIN or a finger
    #[arg(long, value_name = "BOOL", requires = "role", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    verification: Option<bool>,
    /// How long a guard may go on without hearing from a node: also the bound of a stop
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    ttl: Option<u64>,
    /// How long calls in flight may outlive a lapsed lease
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    lapse_grace: Option<u64>,
    /// A root key more; its name is the file's
    #[arg(long, value_name = "KEY.pub", value_parser = root_key)]
    add_root: Vec<(String, PublicKey)>,
    /// A root signer less
    #[arg(long, value_name = "NAME")]
    remove_root: Vec<String>,
    /// How many root keys it takes to change the authority
    #[arg(long, value_name = "M")]
    root_threshold: Option<u64>,
}

fn action(text: &str) -> Result<ActionKind, String> {
    ActionKind::for_roles().find(|kind| kind.name() == text).ok_or_else(|| {
        format!(
            "it is one of {}",
            ActionKind::for_roles().map(ActionKind::name).collect::<Vec<_>>().join(", ")
        )
    })
}

pub fn run(out: &Out, globals: &Globals, args: ProposeArgs) -> Result<Exit, Failure> {
    let (session, online) = Session::open_or_remembered(out, globals)?;
    let current = session.authority();
    let mut next = successor(current, args.reason.clone());
    change(&session, &mut next, &args, online.is_some())?;
    let text = document::text(&next);
    let draft = Authority::parse(text.as_bytes())?;
    session.trust().check_succession(&draft)?;
    let default = || PathBuf::from(format!("authority-{}.json", draft.version));
    let file = args.out.unwrap_or_else(default);
    write_new(&file, text.as_bytes(), 0o644)?;
    let changes = diff::changes(current, &draft);
    out.document(&serde_json::json!({ "file": file, "version": draft.version, "changes": changes }));
    let file = quoted(&file);
    out.line(format!("wrote {file}: version {}, on version {}", draft.version, current.version));
    changes.iter().for_each(|change| out.line(format!("  {change}")));
    out.line(format!("edit it, then: tagout authority diff {file}"));
    out.line(format!("  tagout authority sign {file} --key ROOT_KEY    for each root key that it takes"));
    out.line(format!("  tagout authority submit {file}"));
    Ok(Exit::Ok)
}

/// The next version, with nothing changed yet.
pub fn successor(current: &Authority, reason: Option<String>) -> Authority {
    let retired = current.retired().to_vec();
    Authority {
        version: current.version + 1,
        issued_at_ms: now_ms(),
        succession: Some(Succession { previous: current.digest, disables: 0, retired, reason }),
        ..current.clone()
    }
}

fn change(
    session: &Session<'_>,
    next: &mut Authority,
    args: &ProposeArgs,
    online: bool,
) -> Result<(), Failure> {
    let people = args.add_person.iter().map(|named| (named, PrincipalKind::Person));
    let automation = args.add_automation.iter().map(|named| (named, PrincipalKind::Automation));
    for ((name, key), kind) in people.chain(automation) {
        match next.principals.iter_mut().find(|p| p.name == *name) {
            // Given twice for two keys.
            Some(known) if known.kind == kind => known.keys.push(key.clone()),
            Some(known) => {
                return Err(Failure::usage(format!(
                    "{name:?} is there already, as {}",
                    kind_name(known.kind)
                )));
            }
            None => next.principals.push(Principal { name: name.clone(), kind, keys: vec![key.clone()] }),
        }
    }
    for (name, key) in &args.add_key {
        principal(next, name)?.keys.push(key.clone());
    }
    for spec in &args.remove_key {
        take_key(next, &key(session.trust(), spec)?)?;
    }
    for spec in &args.retire_key {
        let key = key(session.trust(), spec)?;
        let principal = take_key(next, &key)?;
        let grants = if online { grants_signed_by(session, &key)? } else { Vec::new() };
        if grants.is_empty() {
            let why = if online {
                "no grant in force bears its signature"
            } else {
                "no node says which grants it signed"
            };
            return Err(Failure::usage(format!(
                "{} cannot be retired: {why}; --remove-key removes it",
                key.fingerprint()
            )));
        }
        session.out.line(format!(
            "{} goes on to count on {}",
            key.fingerprint(),
            count(grants.len() as u64, "grant")
        ));
        succession(next).retired.push(Retired { key, principal, grants });
    }
    for name in &args.remove_principal {
        principal(next, name)?;
        next.principals.retain(|p| p.name != *name);
        next.roles.iter_mut().for_each(|role| role.principals.retain(|member| member != name));
        next.roles.retain(|role| !role.principals.is_empty());
        succession(next).retired.retain(|r| r.principal != *name);
    }
    if let Some(name) = &args.role {
        change_role(next, name, args)?;
    }
    next.limits.ttl_ms = args.ttl.unwrap_or(next.limits.ttl_ms);
    next.limits.lapse_grace_ms = args.lapse_grace.unwrap_or(next.limits.lapse_grace_ms);
    let root = &mut next.root;
    for (name, key) in &args.add_root {
        root.signers.push(RootSigner { name: name.clone(), key: key.clone() });
    }
    for name in &args.remove_root {
        let before = root.signers.len();
        root.signers.retain(|signer| signer.name != *name);
        if root.signers.len() == before {
            let names: Vec<_> = root.signers.iter().map(|s| s.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "{name:?} is no root signer: those are {}",
                names.join(", ")
            )));
        }
    }
    root.threshold = args.root_threshold.unwrap_or(root.threshold);
    Ok(())
}

fn succession(next: &mut Authority) -> &mut Succession {
    next.succession.as_mut().expect("a next version succeeds")
}

fn principal<'a>(next: &'a mut Authority, name: &str) -> Result<&'a mut Principal, Failure> {
    let names: Vec<_> = next.principals.iter().map(|p| p.name.clone()).collect();
    let found = next.principals.iter_mut().find(|p| p.name == name);
    found.ok_or_else(|| Failure::usage(format!("{name:?} is no principal: those are {}", names.join(", "))))
}

/// Takes a key from whoever has it, and gives the name.
fn take_key(next: &mut Authority, key: &PublicKey) -> Result<String, Failure> {
    for principal in &mut next.principals {
        if let Some(at) = principal.keys.iter().position(|have| have == key) {
            principal.keys.remove(at);
            return Ok(principal.name.clone());
        }
    }
    let retired = &mut succession(next).retired;
    match retired.iter().position(|r| r.key == *key) {
        Some(at) => Ok(retired.remove(at).principal),
        None => Err(Failure::usage(format!("key {} is no principal's", key.fingerprint()))),
    }
}

fn change_role(next: &mut Authority, name: &str, args: &ProposeArgs) -> Result<(), Failure> {
    if !next.roles.iter().any(|role| role.name == name) {
        if args.members.is_empty() || args.actions.is_empty() {
            return Err(Failure::usage(format!(
                "there is no role {name:?}: to make it, give --members and --actions"
            )));
        }
        next.roles.push(Role {
            name: name.into(),
            principals: Vec::new(),
            actions: Vec::new(),
            scopes: vec![Scope::fleet()],
            threshold: 1,
            presence: false,
            verification: false,
        });
    }
    let role = next.roles.iter_mut().find(|role| role.name == name).expect("it is there now");
    role.threshold = args.threshold.unwrap_or(role.threshold);
    role.presence = args.presence.unwrap_or(role.presence);
    role.verification = args.verification.unwrap_or(role.verification);
    if !args.actions.is_empty() {
        role.actions = args.actions.clone();
    }
    if !args.scopes.is_empty() {
        role.scopes = args.scopes.clone();
    }
    let relative = |member: &String| member.starts_with(['+', '-']);
    if args.members.iter().any(|member| !relative(member)) {
        role.principals.clear();
    }
    for member in &args.members {
        match member.strip_prefix('-') {
            Some(gone) => role.principals.retain(|have| have != gone),
            None => role.principals.push(member.strip_prefix('+').unwrap_or(member).into()),
        }
    }
    Ok(())
}

/// The grants in force that bear a signature of `key`, by what the signed log has of them.
fn grants_signed_by(session: &Session<'_>, key: &PublicKey) -> Result<Vec<Digest>, Failure> {
    let grants = session.client.status()?.grants;
    let checkpoint = session.checkpoint(grants.iter().map(|grant| grant.index + 1).max().unwrap_or(0))?;
    let reader = LogReader::new(&session.client, checkpoint.size);
    let mut signed = Vec::new();
    for grant in grants {
        let (bytes, _) = reader.proven_entry(grant.index, checkpoint.root)?;
        let entry = Entry::decode(&bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
        if entry.envelope.digest() != grant.id {
            let detail = format!("entry {} is not the grant that the node says it is", grant.index);
            return Err(Failure::unverified("entry", detail));
        }
        let by_key = |armored: &String| SshSignature::parse(armored).is_ok_and(|s| s.claimed_key() == key);
        if entry.envelope.signatures.iter().any(by_key) {
            signed.push(grant.id);
        }
    }
    Ok(signed)
}
