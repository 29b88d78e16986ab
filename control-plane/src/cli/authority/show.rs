//! `tagout authority show`: who may do what, in the newest version or in any earlier one.

use clap::Args;
use serde::Serialize;
use tagout_proto::authority::{Authority, Node, PrincipalKind, Role};
use tagout_proto::digest::Digest;
use tagout_proto::restore::Epoch;
use tagout_proto::sshsig::PublicKey;
use tagout_proto::trust::Trust;

use super::history::{Dated, dated};
use crate::cli::Globals;
use crate::cli::chain::Chain;
use crate::cli::failure::{Exit, Failure};
use crate::cli::grant::instant_ms;
use crate::cli::out::{Ink, Out, instant, span};
use crate::cli::session::Session;

#[derive(Args)]
pub struct ShowArgs {
    /// What was in force then, by the log's times, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "INSTANT", value_parser = instant_ms)]
    at: Option<u64>,
    /// This version, as it was when the next one came
    #[arg(long, value_name = "N", conflicts_with = "at")]
    version: Option<u64>,
}

#[derive(Serialize)]
struct Shown<'a> {
    deployment: String,
    version: u64,
    digest: Digest,
    epoch: Epoch,
    /// Where the log has it; absent if no node could be asked.
    index: Option<u64>,
    time_ms: Option<u64>,
    /// As it was signed.
    document: serde_json::Value,
    keys: Vec<KeyShown<'a>>,
}

#[derive(Serialize)]
struct KeyShown<'a> {
    owner: &'a str,
    role: &'static str,
    fingerprint: String,
    algorithm: &'static str,
    suspended: bool,
}

pub fn run(out: &Out, globals: &Globals, args: ShowArgs) -> Result<Exit, Failure> {
    if args.at.is_none() && args.version.is_none() {
        let (session, online) = Session::open_or_remembered(out, globals)?;
        let chain = &session.profile.chain;
        let place = match online {
            Some(entries) => newest_place(&dated(&session, &entries)?, chain.trust().authority()),
            None => None,
        };
        return show(out, chain, place);
    }
    let (session, entries) = Session::open_with_entries(out, globals)?;
    let dated = dated(&session, &entries)?;
    let until = match (args.at, args.version) {
        (Some(at), _) => dated.iter().take_while(|document| document.time_ms <= at).count(),
        (None, version) => before_next(&dated, version.unwrap_or(1), session.authority().version)?,
    };
    let Some((genesis, rest)) = dated[..until].split_first() else {
        let detail = format!("nothing was in force then: the genesis is of {}", instant(dated[0].time_ms));
        return Err(Failure::new(Exit::Failed, "before-genesis", detail));
    };
    // What was verified as a whole is verified again up to there.
    let unverified = |why: String| Failure::unverified("authority", why);
    let mut chain =
        Chain::begin(genesis.envelope.clone(), session.deployment().genesis).map_err(unverified)?;
    let shown = std::iter::once(genesis).chain(rest).map(|document| document.envelope.clone()).collect();
    chain.go_on(shown).map_err(|e| unverified(e.to_string()))?;
    let place = newest_place(&dated[..until], chain.trust().authority());
    show(out, &chain, place)
}

/// How many documents there were before the version after `version` came.
fn before_next(dated: &[Dated], version: u64, newest: u64) -> Result<usize, Failure> {
    if version == 0 || version > newest {
        return Err(Failure::usage(format!("there is no version {version}: the newest is {newest}")));
    }
    let next = dated.iter().position(|document| version_of(document) == Some(version + 1));
    Ok(next.unwrap_or(dated.len()))
}

fn version_of(document: &Dated) -> Option<u64> {
    Authority::parse(document.envelope.document.as_bytes()).ok().map(|authority| authority.version)
}

fn newest_place(dated: &[Dated], authority: &Authority) -> Option<(u64, u64)> {
    let found = dated.iter().find(|document| document.envelope.digest() == authority.digest);
    found.map(|document| (document.index, document.time_ms))
}

fn show(out: &Out, chain: &Chain, place: Option<(u64, u64)>) -> Result<Exit, Failure> {
    let (trust, authority) = (chain.trust(), chain.trust().authority());
    let document = chain.documents().iter().find(|envelope| envelope.digest() == authority.digest);
    let document = document.and_then(|envelope| serde_json::from_str(&envelope.document).ok());
    out.document(&Shown {
        deployment: authority.deployment.to_string(),
        version: authority.version,
        digest: authority.digest,
        epoch: trust.epoch(),
        index: place.map(|(index, _)| index),
        time_ms: place.map(|(_, time_ms)| time_ms),
        document: document.expect("an authority in force was parsed"),
        keys: keys(trust),
    });
    say(out, trust, place);
    Ok(Exit::Ok)
}

fn keys(trust: &Trust) -> Vec<KeyShown<'_>> {
    let authority = trust.authority();
    let shown = |owner, role, key: &PublicKey| KeyShown {
        owner,
        role,
        fingerprint: key.fingerprint(),
        algorithm: key.algorithm(),
        suspended: trust.is_suspended(key),
    };
    let principals =
        authority.principals.iter().flat_map(|p| p.keys.iter().map(move |key| (p.name.as_str(), key)));
    let principals = principals.map(|(name, key)| shown(name, "principal", key));
    let retired = authority.retired().iter().map(|r| shown(&r.principal, "retired", &r.key));
    let root = authority.root.signers.iter().map(|s| shown(&s.name, "root", &s.key));
    principals.chain(retired).chain(root).collect()
}

fn say(out: &Out, trust: &Trust, place: Option<(u64, u64)>) {
    let authority = trust.authority();
    let name = out.ink(Ink::Bold, &authority.deployment.name);
    let since = place.map(|(index, time_ms)| format!(", since entry {index} at {}", instant(time_ms)));
    let (version, digest, epoch) = (authority.version, authority.digest.short(), trust.epoch().number);
    out.line(format!(
        "{name}: authority version {version} ({digest}){}, epoch {epoch}",
        since.unwrap_or_default()
    ));

    out.line("\nprincipals");
    let mut rows = Vec::new();
    for principal in &authority.principals {
        let kind = kind_name(principal.kind).to_owned();
        for key in &principal.keys {
            rows.push(vec![principal.name.clone(), kind.clone(), key_text(out, trust, key)]);
        }
        for retired in authority.retired().iter().filter(|r| r.principal == principal.name) {
            let grants = retired.grants.len();
            let key = format!("{} (retired, counts on {grants} grants)", key_text(out, trust, &retired.key));
            rows.push(vec![principal.name.clone(), kind.clone(), key]);
        }
    }
    out.table(&rows);
    out.line("\nroles");
    let rows: Vec<_> = authority.roles.iter().map(role_row).collect();
    out.table(&rows);
    let root = &authority.root;
    out.line(format!("\nroot: {} of", root.threshold));
    let rows: Vec<_> =
        root.signers.iter().map(|s| vec![s.name.clone(), key_text(out, trust, &s.key)]).collect();
    out.table(&rows);
    out.line("\nnodes");
    let row = |n: &Node| {
        let role = if n.learner { "learner" } else { "voter" };
        vec![n.id.to_string(), role.into(), n.address.clone().unwrap_or_default(), n.key.to_string()]
    };
    let rows: Vec<_> = authority.nodes.iter().map(row).collect();
    out.table(&rows);
    let limits = authority.limits;
    out.line(format!(
        "\nlimits: ttl {}, calls in flight outlive a lapsed lease by {}",
        span(limits.ttl_ms),
        span(limits.lapse_grace_ms)
    ));
    out.line(match authority.enrolment {
        true => "leases: for enrolled agents only",
        false => "leases: for every agent, enrolled or not",
    });
}

pub fn kind_name(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::Person => "person",
        PrincipalKind::Automation => "automation",
    }
}

fn role_row(role: &Role) -> Vec<String> {
    let actions: Vec<_> = role.actions.iter().map(|a| a.name()).collect();
    let scopes: Vec<_> = role.scopes.iter().map(|s| s.as_str()).collect();
    let who = format!("{} of {}{}", role.threshold, role.principals.join(", "), asks(role));
    vec![role.name.clone(), who, format!("{} on {}", actions.join(", "), scopes.join(", "))]
}

/// What a role asks of the keys that sign.
pub fn asks(role: &Role) -> &'static str {
    match (role.presence, role.verification) {
        (_, true) => " with a PIN or finger on a security key",
        (true, false) => " with a touch of a security key",
        (false, false) => "",
    }
}

fn key_text(out: &Out, trust: &Trust, key: &PublicKey) -> String {
    let sk = if key.algorithm().starts_with("sk-") { " (security key)" } else { "" };
    let suspended = if trust.is_suspended(key) { out.ink(Ink::Red, " SUSPENDED") } else { String::new() };
    format!("{}{sk}{suspended}", key.fingerprint())
}
