//! `tagout node`: the nodes of a deployment. Whoever votes is in the authority, so each change of them is one of it, signed by
//! its root keys; the leader then brings Raft's members after it, one at a time.

use clap::Subcommand;
use tagout_proto::authority::{Authority, Node};

use super::Globals;
use super::failure::{Exit, Failure};
use super::out::Out;
use super::session::Session;

mod add;
mod change;
mod list;
mod quorum;

#[derive(Subcommand)]
pub enum NodeVerb {
    /// Show every node: who leads and votes, who answers, and how far each one's log is
    List,
    /// Make a new node's folder and have it receive the log; `promote` lets it vote
    Add(Box<add::AddArgs>),
    /// Let a learner vote, as soon as it has caught up
    Promote(change::PromoteArgs),
    /// Take a node out, for good: its number is never used again
    Remove(change::RemoveArgs),
    /// Put a new node in a lost one's place: it votes as soon as it has caught up, and then the old one is taken out
    Replace(Box<add::ReplaceArgs>),
    /// Tell the other nodes where a node is now
    Move(change::MoveArgs),
}

pub fn run(out: &Out, globals: &Globals, verb: NodeVerb) -> Result<Exit, Failure> {
    match verb {
        NodeVerb::List => list::run(out, globals),
        NodeVerb::Add(args) => add::add(out, globals, *args),
        NodeVerb::Promote(args) => change::promote(out, globals, args),
        NodeVerb::Remove(args) => change::remove(out, globals, args),
        NodeVerb::Replace(args) => add::replace(out, globals, *args),
        NodeVerb::Move(args) => change::shift(out, globals, args),
    }
}

/// The name without the deployment's, as people use it and folders are called.
fn short<'a>(session: &Session<'_>, name: &'a str) -> &'a str {
    name.strip_prefix(&session.deployment().name).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name)
}

/// Where a node of this name, short or in full, stands among `authority`'s.
fn position(session: &Session<'_>, authority: &Authority, name: &str) -> Result<usize, Failure> {
    let is = |node: &Node| node.key.name == name || short(session, &node.key.name) == name;
    authority.nodes.iter().position(is).ok_or_else(|| {
        let names: Vec<_> = authority.nodes.iter().map(|node| short(session, &node.key.name)).collect();
        Failure::usage(format!("there is no node {name:?}: those are {}", names.join(", ")))
    })
}
