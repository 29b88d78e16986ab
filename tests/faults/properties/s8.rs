//! S8, everything that happened is in the log: every node has the same bytes at the same index, every acknowledged command
//! stands where its answer said, with the bytes that were sent, and no document is there twice.

use std::collections::BTreeMap;

use tagout_proto::log::entry::{Entry, EntryKind};

use super::Run;
use crate::faults::history::{Answer, Ending};

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    let mut nodes = run.by_node();
    let Some((one, first)) = nodes.next() else { return found };
    for (node, other) in nodes {
        if other.entries.len() != first.entries.len() {
            found.push(format!(
                "node {one} has {} entries, node {node} {}",
                first.entries.len(),
                other.entries.len()
            ));
        }
        if let Some(at) = first.entries.iter().zip(&other.entries).position(|(one, other)| one != other) {
            found.push(format!("nodes {one} and {node} differ at entry {at}"));
        }
    }
    for (node, ending) in run.by_node() {
        found.extend(wrong_in(run, ending).into_iter().map(|what| format!("node {node}: {what}")));
    }
    found
}

fn wrong_in(run: &Run, ending: &Ending) -> Vec<String> {
    let mut found = Vec::new();
    let entries: Vec<Entry> = ending.decoded().collect();
    for attempt in run.record.acknowledged() {
        let Answer::Took { index } = attempt.answer else { unreachable!("it is acknowledged") };
        let digest = attempt.digest.short();
        match usize::try_from(index).ok().and_then(|index| entries.get(index)) {
            None => found.push(format!("{digest} was acknowledged as entry {index}, past the end")),
            Some(entry) if entry.envelope.digest() != attempt.digest => {
                found.push(format!("{digest} was acknowledged as entry {index}, which is another"));
            }
            Some(entry) => {
                let sent = run.record.commands.get(&attempt.digest).map(|command| command.document.as_str());
                if sent.is_some_and(|sent| sent != entry.envelope.document) {
                    found.push(format!("entry {index} has other bytes than were sent"));
                }
            }
        }
    }
    let mut places = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Command) {
        if let Some(before) = places.insert(entry.envelope.digest(), entry.index) {
            found.push(format!("entries {before} and {} are the same document", entry.index));
        }
    }
    found
}
