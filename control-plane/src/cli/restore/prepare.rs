//! `tagout restore prepare`: the new nodes, the two drafts, and what is lost, in words.
//!
//! ```text
//! <dir>/restore.json, authority-N.json       what the root keys sign
//! <dir>/plan.json                            for the next steps
//! <dir>/profile.toml, genesis.json, ca.pem   for everybody who operates or guards agents
//! <dir>/operator.token                       for whoever operates: who has it may read
//! <dir>/<node>/                              for each new node: tagout.toml and all that it names
//! ```

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use tagout_proto::authority::{Authority, Succession};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::profile::ProfileFile;
use tagout_proto::restore::{Epoch, Restore};

use super::{PLAN_FILE, PLAN_FORMAT, PROFILE_FILE, Plan, RESTORE_FILE, authority_file, document, say_loss};
use crate::cli::Globals;
use crate::cli::backup::{self, Backup, read_chain};
use crate::cli::chain::Disagreement;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::{quoted, write_new};
use crate::cli::init::TOKEN_FILE;
use crate::cli::log::tiles::open_checkpoint;
use crate::cli::log::{entries, read_older};
use crate::cli::node_folder::{Beginning, NodeFolder, NodeKey, NodePlan};
use crate::cli::out::{Out, count, now_ms};
use crate::cli::profile::{self, Profile};
use crate::cli::token;
use crate::pki;
use crate::store::StoreKind;

#[derive(Args)]
pub struct PrepareArgs {
    /// The backup, as `tagout backup` made it
    #[arg(long, value_name = "BACKUP")]
    from: PathBuf,
    /// The folder to make; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A new node, and the name or IP address under which it is reached; repeat it for each. The first one begins the log
    #[arg(long, value_name = "NAME=HOST[:PORT]", required = true, value_parser = node_spec)]
    new_node: Vec<NodeSpec>,
    /// The folder of the deployment's private CA
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Why; it stands in both documents
    #[arg(long)]
    reason: String,
    /// A signed checkpoint that somebody kept: the newest one tells what is lost
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Whom another machine remembers to believe (`*.authority` where it keeps its state), if it knows more than this one
    #[arg(long, value_name = "FILE")]
    authority: Vec<PathBuf>,
    /// Do not ask the profile's nodes whether one is left after all
    #[arg(long)]
    offline: bool,
}

#[derive(Clone, Debug)]
struct NodeSpec {
    name: String,
    host: String,
    port: u16,
}

/// Where a node listens when nothing else is said.
const PORT: u16 = 7470;

fn node_spec(text: &str) -> Result<NodeSpec, String> {
    let (name, place) = text.split_once('=').ok_or("write NAME=HOST or NAME=HOST:PORT")?;
    // It names a folder.
    if Path::new(name).file_name() != Some(name.as_ref()) {
        return Err(format!("{name:?} is no plain name"));
    }
    let (host, port) = match (place.parse::<SocketAddr>(), place.rsplit_once(':')) {
        (Ok(address), _) => (address.ip().to_string(), address.port()),
        (Err(_), Some((host, port))) if place.parse::<IpAddr>().is_err() => {
            (host.to_owned(), port.parse().map_err(|_| format!("{port:?} is no port"))?)
        }
        _ => (place.to_owned(), PORT),
    };
    if port == u16::MAX {
        return Err(format!("after port {port} comes none, where the other nodes reach it"));
    }
    Ok(NodeSpec { name: name.into(), host, port })
}

impl NodeSpec {
    fn plan(&self, id: u64) -> NodePlan {
        // Everywhere, unless it is reached from its own machine only.
        let ip = self.host.parse().ok().filter(IpAddr::is_loopback).unwrap_or(IpAddr::from([0, 0, 0, 0]));
        NodePlan::new(&self.name, id, SocketAddr::new(ip, self.port), vec![self.host.clone()])
    }
}

/// A node that is being made.
type Made = (NodePlan, NodeKey);

pub fn run(out: &Out, globals: &Globals, args: PrepareArgs) -> Result<Exit, Failure> {
    let mut profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    for path in &args.authority {
        learn(&mut profile, path)?;
    }
    let backup = Backup::open_whole(&args.from, &mut profile)?;
    let mut seen = backup::seen(&profile)?;
    for file in &args.checkpoint {
        seen.push(read_older(file, profile.trust())?);
    }
    let mut found = None;
    backup.verify(out, &profile, &seen, false, &mut |replay| found = Some(replay.ledger().clone()))?;
    let ledger = found.expect("a log that verifies was replayed to its end");
    let size = backup.checkpoint.size;
    if !args.offline {
        check_nobody_left(out, globals, &profile, &backup)?;
    }
    let newest =
        seen.iter().chain([&backup.checkpoint]).max_by_key(|seen| seen.size).expect("the backup has one");

    // Whom to believe: the backup's part of it, and what was lost with the log and is known here.
    let in_backup = ledger.trust_entries().len();
    let known = profile.chain.documents();
    let lost: Vec<Envelope> = known.iter().skip(in_backup).filter(|e| !is_restore(e)).cloned().collect();
    let documents: Vec<Envelope> =
        known.iter().take(in_backup).cloned().chain(lost.iter().cloned()).collect();
    // A restore knows the newest authority, so that what was lost of it comes first; but nothing is put where the log is
    // known to have ended, since its root there would be another.
    let put_before = if newest.size > size + lost.len() as u64 { lost.len() } else { 0 };
    let in_force =
        if put_before > 0 { profile.authority() } else { ledger.authority().expect("a log has a genesis") };
    let mut id = [0; 32];
    getrandom::fill(&mut id).map_err(|e| no_randomness(&e))?;
    let restore = Restore {
        deployment: profile.deployment().clone(),
        epoch: Epoch { number: profile.trust().epoch().number + 1, id: Digest(id) },
        issued_at_ms: now_ms(),
        authority_version: in_force.version,
        authority: in_force.digest,
        checkpoint_size: newest.size,
        checkpoint_root: newest.root,
        lost_from: size + put_before as u64,
        reason: args.reason.clone(),
    };
    Restore::parse(restore.to_document().as_bytes())?;
    let nodes = make_nodes(&profile, &args.new_node)?;
    let next = next_authority(&profile, &nodes, &args.reason);
    let draft = document::text(&next);
    Authority::parse(draft.as_bytes())?;

    let plan = Plan {
        format: PLAN_FORMAT,
        backup: std::path::absolute(&args.from).unwrap_or_else(|_| args.from.clone()),
        entries: size,
        root: backup.checkpoint.root,
        documents,
        in_backup,
        before_restore: in_backup + put_before,
        nodes: nodes.iter().map(|(plan, _)| plan.name.clone()).collect(),
    };
    write_all(&args, &profile, &nodes, &plan, &restore, (next.version, &draft))?;

    let prepared = super::Prepared::load(&args.dir)?;
    out.document(&serde_json::json!({
        "deployment": profile.deployment().to_string(), "dir": args.dir, "restore": prepared.restore.path,
        "authority": prepared.authority.path, "entries": size, "newest_checkpoint": newest.size,
        "lost": newest.size.saturating_sub(size), "lost_from": restore.lost_from, "put_back": lost.len(),
    }));
    out.line(format!("the backup in {}: {}, verified", quoted(&args.from), entries(size)));
    say_loss(out, size, newest.size);
    if !lost.is_empty() {
        out.line(format!(
            "  put back: {} of whom to believe that the backup lacks",
            count(lost.len() as u64, "document")
        ));
    }
    let dir = quoted(&args.dir);
    for (plan, _) in &nodes {
        out.line(format!("made {dir}/{} (node {}, {})", plan.name, plan.id, plan.url()));
    }
    out.line(format!(
        "made {dir}/{RESTORE_FILE} and {dir}/{}; next, with root keys enough:",
        authority_file(next.version)
    ));
    out.line(format!("  tagout restore sign {dir} --key ROOT_KEY"));
    out.line(format!("  tagout restore finish {dir}"));
    Ok(Exit::Ok)
}

fn is_restore(envelope: &Envelope) -> bool {
    Restore::parse(envelope.document.as_bytes()).is_ok()
}

fn learn(profile: &mut Profile, path: &Path) -> Result<(), Failure> {
    let chain = read_chain(path)?.ok_or_else(|| {
        Failure::usage(format!(
            "{} does not exist: --authority names what another machine remembers",
            path.display()
        ))
    })?;
    match profile.chain.go_on(chain.documents) {
        Ok(_) | Err(Disagreement::Behind { .. }) => Ok(()),
        Err(wrong) => Err(Failure::unverified(wrong.code(), format!("{}: {wrong}", path.display()))),
    }
}

/// A restore is for what is lost: as long as a node has more than the backup, less is.
fn check_nobody_left(
    out: &Out,
    globals: &Globals,
    profile: &Profile,
    backup: &Backup,
) -> Result<(), Failure> {
    let Some((node, checkpoint)) = node_left(out, globals, profile) else { return Ok(()) };
    if checkpoint.size <= backup.checkpoint.size {
        out.note(format!("warning: {node} still answers: end it for good before the new nodes begin"));
        return Ok(());
    }
    let detail = format!(
        "{node} still has {}, more than the backup's {}: run `tagout backup --out {}` first, and less is lost; --offline asks \
         no node",
        entries(checkpoint.size),
        backup.checkpoint.size,
        quoted(&backup.dir)
    );
    Err(Failure::new(Exit::Refused, "node-left", detail))
}

/// A node that is not lost after all.
fn node_left(out: &Out, globals: &Globals, profile: &Profile) -> Option<(String, Checkpoint)> {
    let client = Client::new(profile, globals).ok()?;
    let note = client.checkpoint(0).ok()?;
    match open_checkpoint(&note, profile.trust()) {
        Ok(checkpoint) => Some((client.node().to_owned(), checkpoint)),
        Err(error) => {
            out.note(format!("warning: {} answers, and {error}", client.node()));
            None
        }
    }
}

fn make_nodes(profile: &Profile, specs: &[NodeSpec]) -> Result<Vec<Made>, Failure> {
    // Also those of nodes that left: an id whose store is lost never votes again.
    let versions = profile.trust().versions();
    let used = versions.iter().flat_map(|version| &version.nodes).map(|node| node.id).max().unwrap_or(0);
    let deployment = &profile.deployment().name;
    let make = |(id, spec): (u64, &NodeSpec)| Ok((spec.plan(id), NodeKey::generate(deployment, &spec.name)?));
    (used + 1..).zip(specs).map(make).collect()
}

fn no_randomness(error: &getrandom::Error) -> Failure {
    Failure::new(Exit::Failed, "randomness", format!("no randomness for what must never come again: {error}"))
}

/// The version after the newest one that is known, with the new nodes and none of the old. It disables nobody: the restore
/// before it has voided every grant.
fn next_authority(profile: &Profile, nodes: &[Made], reason: &str) -> Authority {
    let current = profile.authority();
    Authority {
        version: current.version + 1,
        digest: Digest::default(),
        issued_at_ms: now_ms(),
        succession: Some(Succession {
            previous: current.digest,
            disables: 0,
            // They counted on grants only.
            retired: vec![],
            reason: Some(reason.into()),
        }),
        nodes: nodes.iter().map(|(plan, key)| plan.listed(key, false)).collect(),
        ..current.clone()
    }
}

fn write_all(
    args: &PrepareArgs,
    profile: &Profile,
    nodes: &[Made],
    plan: &Plan,
    restore: &Restore,
    (version, draft): (u64, &str),
) -> Result<(), Failure> {
    let dir = &args.dir;
    if dir.symlink_metadata().is_ok() {
        let path = dir.display();
        let detail = format!(
            "{path} exists already and is left as it is: choose another --dir, or move it away first"
        );
        return Err(Failure::new(Exit::Failed, "exists", detail));
    }
    let written = (|| {
        fs::create_dir_all(dir).map_err(|e| Failure::file("make the folder", dir, &e))?;
        let ca = pki::load_ca_cert(&args.ca)?;
        let (token, access) = token::first()?;
        let genesis = serde_json::to_string(&plan.documents[0]).expect("an envelope is text") + "\n";
        for (node, key) in nodes {
            let folder = NodeFolder {
                plan: node,
                key,
                deployment: profile.deployment(),
                genesis: &plan.documents[0],
                ca_dir: &args.ca,
                store: StoreKind::default(),
                beginning: Beginning::Restored,
                access: Some(&access),
            };
            folder.write(&dir.join(&node.name))?;
        }
        let file = ProfileFile {
            deployment: profile.deployment().to_string(),
            nodes: nodes.iter().map(|(plan, _)| plan.url()).collect(),
            ca: "ca.pem".into(),
            genesis: "genesis.json".into(),
            keys: vec![],
            token: Some(TOKEN_FILE.into()),
        };
        let plan = serde_json::to_string(plan).expect("a plan is plain data") + "\n";
        for (name, text) in [
            ("genesis.json", genesis.as_str()),
            ("ca.pem", &ca),
            (PROFILE_FILE, &profile::text(&file)),
            (RESTORE_FILE, &restore.to_document()),
            (&authority_file(version), draft),
            (PLAN_FILE, &plan),
        ] {
            write_new(&dir.join(name), text.as_bytes(), 0o644)?;
        }
        write_new(&dir.join(TOKEN_FILE), format!("{}\n", token.reveal()).as_bytes(), 0o600)?;
        Ok(())
    })();
    if written.is_err() {
        // It was not there before: half a restore would only block the next attempt.
        let _ = fs::remove_dir_all(dir);
    }
    written
}
