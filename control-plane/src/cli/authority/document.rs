//! An authority as its JSON document: the inverse of `proto::authority::Authority::parse`, which has the last word.

use std::path::Path;

use serde::Serialize;
use tagout_proto::authority::{Authority, Limits, Node, Role};
use tagout_proto::command::DOCUMENT_VERSION;
use tagout_proto::digest::Digest;
use tagout_proto::limits::COMMAND_MAX_BYTES;
use tagout_proto::note::VerifierKey;
use tagout_proto::strict::format_instant_ms;

use crate::cli::failure::Failure;

#[derive(Serialize)]
struct Document<'a> {
    tagout: u64,
    action: &'static str,
    /// The genesis names the deployment; from then on its digest is part of the name.
    deployment: String,
    version: u64,
    #[serde(flatten)]
    succession: Option<SuccessionPart<'a>>,
    issued_at: String,
    principals: Vec<PrincipalPart<'a>>,
    roles: &'a [Role],
    root: RootPart<'a>,
    nodes: Vec<NodePart<'a>>,
    limits: Limits,
    /// Written only where it is true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    enrolment: bool,
}

#[derive(Serialize)]
struct SuccessionPart<'a> {
    previous: Digest,
    disables: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    retired: Vec<RetiredPart<'a>>,
}

#[derive(Serialize)]
struct RetiredPart<'a> {
    key: String,
    principal: &'a str,
    grants: &'a [Digest],
}

#[derive(Serialize)]
struct PrincipalPart<'a> {
    name: &'a str,
    kind: tagout_proto::authority::PrincipalKind,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct RootPart<'a> {
    signers: Vec<SignerPart<'a>>,
    threshold: u64,
}

#[derive(Serialize)]
struct SignerPart<'a> {
    name: &'a str,
    key: String,
}

#[derive(Serialize)]
struct NodePart<'a> {
    id: u64,
    key: &'a VerifierKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    /// Written only where it is true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    learner: bool,
}

fn node(node: &Node) -> NodePart<'_> {
    NodePart { id: node.id, key: &node.key, address: node.address.as_deref(), learner: node.learner }
}

fn document(authority: &Authority) -> Document<'_> {
    let retired = |r: &'_ tagout_proto::authority::Retired| r.key.to_openssh();
    let succession = authority.succession.as_ref().map(|s| SuccessionPart {
        previous: s.previous,
        disables: s.disables,
        reason: s.reason.as_deref(),
        retired: (s.retired.iter())
            .map(|r| RetiredPart { key: retired(r), principal: &r.principal, grants: &r.grants })
            .collect(),
    });
    let principals = authority.principals.iter().map(|p| {
        let keys = p.keys.iter().map(|key| key.to_openssh()).collect();
        PrincipalPart { name: &p.name, kind: p.kind, keys }
    });
    let signers =
        authority.root.signers.iter().map(|s| SignerPart { name: &s.name, key: s.key.to_openssh() });
    Document {
        tagout: DOCUMENT_VERSION,
        action: "authority",
        deployment: match authority.version {
            1 => authority.deployment.name.clone(),
            _ => authority.deployment.to_string(),
        },
        version: authority.version,
        succession,
        issued_at: format_instant_ms(authority.issued_at_ms),
        principals: principals.collect(),
        roles: &authority.roles,
        root: RootPart { signers: signers.collect(), threshold: authority.root.threshold },
        nodes: authority.nodes.iter().map(node).collect(),
        limits: authority.limits,
        enrolment: authority.enrolment,
    }
}

/// On one line.
pub fn line(authority: &Authority) -> String {
    serde_json::to_string(&document(authority)).expect("an authority has text keys only")
}

/// To be read and edited by people; on one line only where it would be too long otherwise.
pub fn text(authority: &Authority) -> String {
    let pretty =
        serde_json::to_string_pretty(&document(authority)).expect("an authority has text keys only") + "\n";
    if pretty.len() <= COMMAND_MAX_BYTES { pretty } else { line(authority) }
}

/// A draft as it stands in its file, and what it says.
pub fn read(file: &Path) -> Result<(String, Authority), Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::file("read the draft", file, &e))?;
    let wrong = |e| Failure::usage(format!("{}: {e}", file.display()));
    let authority = Authority::parse(text.as_bytes()).map_err(wrong)?;
    Ok((text, authority))
}

/// The same text with another number of disabled agents, whatever else people made of it.
pub fn with_disables(text: &str, disables: u64) -> Option<String> {
    // As a key: inside of a text its quotes would be escaped, and as a value no colon follows.
    let name = "\"disables\"";
    text.match_indices(name).find_map(|(at, _)| {
        let rest = &text[at + name.len()..];
        let number = rest.trim_start().strip_prefix(':')?.trim_start();
        let digits = number.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
        let start = text.len() - number.len();
        Some(format!("{}{disables}{}", &text[..start], &text[start + digits..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::profile::Profile;
    use crate::cli::testing;
    use tagout_proto::authority::{Retired, Succession};
    use tagout_proto::note::NoteSigner;

    #[test]
    fn an_authority_reads_back_as_it_was_written() {
        let deployed = testing::deployed();
        let profile = Profile::load(&deployed.made.profile).unwrap();
        let genesis = profile.authority();
        assert_eq!(Authority::parse(line(genesis).as_bytes()).unwrap().principals, genesis.principals);

        let mut next = genesis.clone();
        let key = next.principals[0].keys.remove(0);
        next.principals[0].keys.push(next.root.signers[0].key.clone());
        next.root.signers[0].key = key.clone();
        next.version = 2;
        let retired = Retired {
            key: deployed.keys.public("stranger"),
            principal: "bob".into(),
            grants: vec![Digest([7; 32])],
        };
        let reason = Some("says \"disables\": 9 in words".into());
        next.succession =
            Some(Succession { previous: genesis.digest, disables: 0, retired: vec![retired], reason });
        next.roles[0].presence = true;
        next.enrolment = true;
        let (address, learner) = (Some("[fd00::2]:7471".into()), true);
        let key = NoteSigner::new("demo/node-2", &[2; 32]).unwrap().verifier();
        next.nodes[0].address = Some("node-1.example:7471".into());
        next.nodes.push(Node { id: 2, key, address, learner });
        for text in [text(&next), line(&next)] {
            let read = Authority::parse(text.as_bytes()).unwrap();
            next.digest = read.digest;
            assert_eq!(read, next);
            let filled = with_disables(&text, 12).unwrap();
            let read = Authority::parse(filled.as_bytes()).unwrap();
            assert_eq!(read.succession.unwrap().disables, 12);
            assert_eq!(filled.replacen("12", "0", 1).len(), text.len());
        }
        assert_eq!(with_disables(&line(genesis), 1), None);
    }
}
