//! `tagout node promote`, `remove` and `move`: the authority's list of nodes, with one of them changed.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tagout_proto::authority::Authority;
use tagout_proto::wire::Cluster;

use super::quorum;
use super::{position, short};
use crate::cli::Globals;
use crate::cli::authority::change::{ChangeArgs, Changed, Prepared};
use crate::cli::authority::successor;
use crate::cli::failure::{Exit, Failure};
use crate::cli::init::{NodeAt, node_at};
use crate::cli::out::{Ink, Out};
use crate::cli::session::Session;

/// How long it is looked whether the members have followed. A node that must first catch up takes longer.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Args)]
pub struct PromoteArgs {
    /// The learner
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub struct RemoveArgs {
    /// The node
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub struct MoveArgs {
    /// The node's name and the host under which the others reach it now (IPv6 in brackets); PORT is its API's [default: 7470],
    /// and PEER_PORT what counts here [default: PORT + 1]. Its certificate must name the host
    #[arg(value_name = "NAME=HOST[:PORT[:PEER_PORT]]", value_parser = node_at)]
    moved: NodeAt,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Serialize)]
struct Done<'a> {
    node: &'a str,
    id: u64,
    #[serde(flatten)]
    changed: &'a Changed,
    /// Whether Raft's members are the authority's by now.
    followed: bool,
}

pub fn promote(out: &Out, globals: &Globals, args: PromoteArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let mut next = successor(session.authority(), args.change.reason.clone());
    let at = position(&session, &next, &args.name)?;
    if !next.nodes[at].learner {
        return Err(Failure::usage(format!("{} votes already", args.name)));
    }
    next.nodes[at].learner = false;
    let (id, cluster) = (next.nodes[at].id, session.client.cluster()?);
    if !cluster.nodes.iter().any(|node| node.id == id && node.heard.is_some()) {
        out.line(format!(
            "{} {} is silent: it votes as soon as it is there and has caught up",
            out.ink(Ink::Yellow, "note:"),
            args.name
        ));
    }
    carry_out(session, &next, id, &args.change, |cluster| cluster.voters.contains(&id))
}

pub fn remove(out: &Out, globals: &Globals, args: RemoveArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let mut next = successor(session.authority(), args.change.reason.clone());
    let at = position(&session, &next, &args.name)?;
    let id = next.nodes.remove(at).id;
    if next.nodes.iter().all(|node| node.learner) {
        return Err(Failure::usage(format!(
            "{} is the only node that votes: add another and promote it first",
            args.name
        )));
    }
    quorum::check(&session, &next)?;
    carry_out(session, &next, id, &args.change, |cluster| !cluster.nodes.iter().any(|node| node.id == id))
}

pub fn shift(out: &Out, globals: &Globals, args: MoveArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let mut next = successor(session.authority(), args.change.reason.clone());
    let at = position(&session, &next, &args.moved.name)?;
    let address = args.moved.address();
    if next.nodes[at].address.as_ref() == Some(&address) {
        return Err(Failure::usage(format!("{} is at {address} already", args.moved.name)));
    }
    next.nodes[at].address = Some(address.clone());
    let id = next.nodes[at].id;
    carry_out(session, &next, id, &args.change, |cluster| {
        cluster.nodes.iter().any(|node| node.id == id && node.address.as_ref() == Some(&address))
    })
}

/// Changes the authority, and looks whether the members follow.
fn carry_out(
    mut session: Session<'_>,
    next: &Authority,
    id: u64,
    args: &ChangeArgs,
    followed: impl Fn(&Cluster) -> bool,
) -> Result<Exit, Failure> {
    let listed = |authority: &Authority| {
        let node = authority.nodes.iter().find(|node| node.id == id);
        node.map(|node| short(&session, &node.key.name).to_owned())
    };
    let name = listed(next).or_else(|| listed(session.authority())).unwrap_or_default();
    let changed = Prepared::new(&session, next, args)?.carry_out(&mut session)?;
    let followed = changed.in_force() && follow(&session, followed)?;
    if changed.in_force() {
        session.out.line(match followed {
            true => "the nodes have followed",
            false => "the nodes are about to follow: tagout node list shows how far they are",
        });
    }
    session.out.document(&Done { node: &name, id, changed: &changed, followed });
    Ok(changed.exit(args))
}

fn follow(session: &Session<'_>, followed: impl Fn(&Cluster) -> bool) -> Result<bool, Failure> {
    let begun = Instant::now();
    loop {
        // A leader that was taken out hands over: for a moment nobody may answer.
        match session.client.cluster() {
            Ok(cluster) if followed(&cluster) => return Ok(true),
            Err(failure) if failure.exit != Exit::Unreachable => return Err(failure),
            _ if begun.elapsed() > FOLLOW_PATIENCE => return Ok(false),
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}
