//! `tagout node list`: how the nodes are, as one of them sees the others. No decision rests on it.

use serde::Serialize;
use tagout_proto::wire::{Cluster, ClusterNode, NodeNews, NodeRole};

use super::quorum::majority;
use super::short;
use crate::cli::Globals;
use crate::cli::failure::{Exit, Failure};
use crate::cli::out::{Ink, Out, count, span};
use crate::cli::session::Session;

/// A clock that is further off makes its node sign no leases.
const CLOCK_SHOWN_MS: i64 = 500;

/// Nodes hear of each other every half second. The service itself waits longer before it holds one for dead.
const SILENT_AFTER_MS: u64 = 1_500;

#[derive(Serialize)]
struct Listing<'a> {
    node: u64,
    leader: Option<u64>,
    term: u64,
    voters: &'a [u64],
    nodes: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    node: &'a ClusterNode,
    leads: bool,
    votes: bool,
    /// It was heard of in the last second and a half.
    reachable: bool,
    /// Entries that it lacks, of those that some node has.
    lag: Option<u64>,
}

pub fn run(out: &Out, globals: &Globals) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let cluster = session.client.cluster()?;
    let newest = cluster.nodes.iter().filter_map(|n| n.heard.as_ref()).map(|news| news.log_size).max();
    let row = |node| row(&cluster, node, newest.unwrap_or(0));
    let nodes: Vec<Row<'_>> = cluster.nodes.iter().map(row).collect();
    let table: Vec<_> = nodes.iter().map(|row| cells(&session, row)).collect();
    out.table(&table);
    let votes = cluster.voters.len();
    let (needed, answer) = (majority(votes), nodes.iter().filter(|row| row.votes && row.reachable).count());
    let lost = match cluster.leader {
        _ if answer < needed => out.ink(Ink::Red, "; that is no majority, and nothing can be committed"),
        None => out.ink(Ink::Yellow, "; none leads"),
        Some(_) => String::new(),
    };
    out.line(format!("{}, {needed} of which it takes; {answer} answer{lost}", count(votes as u64, "voter")));
    let Cluster { node, leader, term, ref voters, .. } = cluster;
    out.document(&Listing { node, leader, term, voters, nodes });
    Ok(Exit::Ok)
}

fn row<'a>(cluster: &Cluster, node: &'a ClusterNode, newest: u64) -> Row<'a> {
    Row {
        node,
        leads: cluster.leader == Some(node.id),
        votes: cluster.voters.contains(&node.id),
        reachable: node.heard.as_ref().is_some_and(answers),
        lag: node.heard.as_ref().map(|news| newest - news.log_size),
    }
}

fn answers(news: &NodeNews) -> bool {
    news.ms_ago < SILENT_AFTER_MS
}

fn cells(session: &Session<'_>, row: &Row<'_>) -> Vec<String> {
    let (out, node) = (session.out, row.node);
    let role = match (node.role, row.votes) {
        (NodeRole::Voter, true) if row.leads => out.ink(Ink::Bold, "leader"),
        (NodeRole::Voter, true) => "voter".into(),
        (NodeRole::Voter, false) => out.ink(Ink::Yellow, "voter once it has caught up"),
        (NodeRole::Learner, false) => "learner".into(),
        (NodeRole::Learner, true) => out.ink(Ink::Yellow, "voter, a learner soon"),
        (NodeRole::Removed, _) => out.ink(Ink::Yellow, "removed, on its way out"),
    };
    let mut cells = vec![
        node.id.to_string(),
        short(session, &node.name).to_owned(),
        role,
        node.address.clone().unwrap_or_else(|| "alone".into()),
    ];
    let Some(news) = &node.heard else {
        cells.push(out.ink(Ink::Red, "silent"));
        return cells;
    };
    let ready = match news.ready {
        _ if !answers(news) => out.ink(Ink::Red, format!("silent for {}", span(news.ms_ago))),
        true => out.ink(Ink::Green, "ready"),
        false => out.ink(Ink::Yellow, "not ready"),
    };
    let behind = match row.lag {
        None | Some(0) => count_entries(news.log_size),
        Some(lag) => format!("{} behind", count_entries(lag)),
    };
    let clock = match news.clock_offset_ms {
        off if off.abs() < CLOCK_SHOWN_MS => String::new(),
        off => format!("clock {}{}", if off < 0 { "-" } else { "+" }, span(off.unsigned_abs())),
    };
    cells.extend([ready, behind, news.version.clone(), clock]);
    cells
}

fn count_entries(n: u64) -> String {
    if n == 1 { "1 entry".into() } else { format!("{n} entries") }
}
