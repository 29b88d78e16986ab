//! `tagout authority diff`: what a draft changes, in words, and what it takes from agents.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use tagout_proto::authority::{Authority, Node, Role};
use tagout_proto::command::ActionKind;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::PublicKey;

use super::document;
use super::show::{asks, kind_name};
use crate::cli::Globals;
use crate::cli::failure::{Exit, Failure};
use crate::cli::out::{Out, count, span};
use crate::cli::session::Session;
use crate::cli::status;

#[derive(Args)]
pub struct DiffArgs {
    /// The draft [default: authority-N.json, N being the next version]
    file: Option<PathBuf>,
}

pub fn run(out: &Out, globals: &Globals, args: DiffArgs) -> Result<Exit, Failure> {
    let (session, online) = Session::open_or_remembered(out, globals)?;
    let current = session.authority();
    let file = args.file.unwrap_or_else(|| PathBuf::from(format!("authority-{}.json", current.version + 1)));
    let (text, draft) = document::read(&file)?;
    session.trust().check_succession(&draft)?;
    let changes = changes(current, &draft);
    out.line(format!("from version {} to version {}:", current.version, draft.version));
    if changes.is_empty() {
        out.line("  nothing changes");
    }
    changes.iter().for_each(|change| out.line(format!("  {change}")));
    let impact = match online {
        Some(_) => Some(session.client.impact(&text)?),
        None => None,
    };
    if let Some(impact) = &impact {
        out.line(format!("{} would be void by it, for ever:", count(impact.voids.len() as u64, "grant")));
        status::say_grants(out, impact.voids.iter());
        status::say_disabled(out, &impact.disables);
    }
    out.document(&serde_json::json!({ "version": draft.version, "changes": changes, "impact": impact }));
    Ok(Exit::Ok)
}

/// Every difference, one sentence each.
pub fn changes(old: &Authority, new: &Authority) -> Vec<String> {
    let mut said = Vec::new();
    principals(old, new, &mut said);
    roles(old, new, &mut said);
    powers(old, new, &mut said);
    root(old, new, &mut said);
    nodes(old, new, &mut said);
    for (what, before, after) in [
        ("ttl", old.limits.ttl_ms, new.limits.ttl_ms),
        ("lapse grace", old.limits.lapse_grace_ms, new.limits.lapse_grace_ms),
    ] {
        if before != after {
            said.push(format!("the {what} goes from {} to {}", span(before), span(after)));
        }
    }
    if old.enrolment != new.enrolment {
        said.push(match new.enrolment {
            true => "only enrolled agents get leases: one without a token is denied".into(),
            false => "agents get leases without being enrolled".into(),
        });
    }
    said
}

fn principals(old: &Authority, new: &Authority, said: &mut Vec<String>) {
    for principal in &new.principals {
        let name = &principal.name;
        match old.principals.iter().find(|p| p.name == *name) {
            None => {
                let keys = fingerprints(&principal.keys);
                said.push(format!("{name} joins ({}), with key {keys}", kind_name(principal.kind)));
            }
            Some(before) => {
                if before.kind != principal.kind {
                    said.push(format!(
                        "{name} is {} now, and was {}",
                        kind_name(principal.kind),
                        kind_name(before.kind)
                    ));
                }
                for key in principal.keys.iter().filter(|key| !before.keys.contains(key)) {
                    said.push(format!("{name} gets the key {}", key.fingerprint()));
                }
            }
        }
    }
    for before in &old.principals {
        let name = &before.name;
        let Some(after) = new.principals.iter().find(|p| p.name == *name) else {
            said.push(format!("{name} leaves, with key {}", fingerprints(&before.keys)));
            continue;
        };
        for key in before.keys.iter().filter(|key| !after.keys.contains(key)) {
            match new.retired().iter().find(|r| r.key == *key) {
                Some(retired) => {
                    let grants = count(retired.grants.len() as u64, "grant");
                    said.push(format!(
                        "{name}'s key {} retires, and counts on {grants} still",
                        key.fingerprint()
                    ));
                }
                None => said.push(format!("{name}'s key {} goes", key.fingerprint())),
            }
        }
    }
    for retired in old.retired().iter().filter(|r| !new.retired().iter().any(|n| n.key == r.key)) {
        let key = retired.key.fingerprint();
        said.push(format!("{}'s retired key {key} counts on nothing any more", retired.principal));
    }
}

fn fingerprints(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::fingerprint).collect::<Vec<_>>().join(", ")
}

fn roles(old: &Authority, new: &Authority, said: &mut Vec<String>) {
    let find = |roles: &[Role], name: &str| roles.iter().find(|role| role.name == name).cloned();
    for role in &new.roles {
        let name = &role.name;
        let (takes, who) = (role.threshold, role.principals.join(", "));
        let Some(before) = find(&old.roles, name) else {
            said.push(format!("role {name} is new: {takes} of {who}{}", asks(role)));
            continue;
        };
        if before.threshold != takes {
            said.push(format!("role {name} takes {takes} of {who}, where it took {}", before.threshold));
        }
        if asks(&before) != asks(role) {
            let asks = |role| match asks(role) {
                "" => "nothing of keys",
                asks => asks.trim_start(),
            };
            said.push(format!("role {name} asks {}, where it asked {}", asks(role), asks(&before)));
        }
    }
    for role in old.roles.iter().filter(|role| find(&new.roles, &role.name).is_none()) {
        said.push(format!("role {} is gone", role.name));
    }
}

/// What a principal may do, alone or with others.
type Power = (ActionKind, Scope);

fn powers_of(authority: &Authority, name: &str) -> BTreeSet<Power> {
    let roles = authority.roles.iter().filter(|role| role.principals.iter().any(|member| member == name));
    let powers = |role: &Role| -> Vec<Power> {
        let on = |action: ActionKind| role.scopes.iter().map(move |scope| (action, scope.clone()));
        role.actions.iter().flat_map(|action| on(*action)).collect()
    };
    roles.flat_map(powers).collect()
}

fn powers(old: &Authority, new: &Authority, said: &mut Vec<String>) {
    let names: BTreeSet<_> = old.principals.iter().chain(&new.principals).map(|p| p.name.as_str()).collect();
    for name in names {
        let (before, after) = (powers_of(old, name), powers_of(new, name));
        for (word, powers) in [("gains", &after - &before), ("loses", &before - &after)] {
            let scopes: BTreeSet<_> = powers.iter().map(|(_, scope)| scope.clone()).collect();
            for scope in scopes {
                let actions = powers.iter().filter(|(_, on)| *on == scope).map(|(action, _)| action.name());
                said.push(format!("{name} {word} {} on {scope}", actions.collect::<Vec<_>>().join(", ")));
            }
        }
    }
}

fn root(old: &Authority, new: &Authority, said: &mut Vec<String>) {
    let (before, after) = (&old.root, &new.root);
    for signer in after.signers.iter().filter(|signer| !before.signers.contains(signer)) {
        said.push(format!("root signer {} joins, with key {}", signer.name, signer.key.fingerprint()));
    }
    for signer in before.signers.iter().filter(|signer| !after.signers.contains(signer)) {
        said.push(format!("root signer {} leaves, with key {}", signer.name, signer.key.fingerprint()));
    }
    if before.threshold != after.threshold {
        let (takes, of, took) = (after.threshold, after.signers.len(), before.threshold);
        said.push(format!("a change of the authority takes {takes} of {of} root keys, where it took {took}"));
    }
}

fn nodes(old: &Authority, new: &Authority, said: &mut Vec<String>) {
    let role = |node: &Node| if node.learner { "a learner" } else { "a voter" };
    let place = |node: &Node| node.address.as_ref().map_or_else(String::new, |at| format!(", at {at}"));
    for node in &new.nodes {
        let who = format!("node {} ({})", node.id, node.key.name);
        match old.nodes.iter().find(|before| before.id == node.id && before.key == node.key) {
            None => said.push(format!("{who} joins as {}{}", role(node), place(node))),
            Some(before) => {
                if before.learner != node.learner {
                    said.push(format!("{who} is {} now, and was {}", role(node), role(before)));
                }
                match (&before.address, &node.address) {
                    (before, now) if before == now => {}
                    (_, Some(now)) => said.push(format!("{who} is at {now} now")),
                    (_, None) => said.push(format!("{who} has no address any more")),
                }
            }
        }
    }
    let stays = |node: &&Node| new.nodes.iter().any(|n| n.id == node.id && n.key == node.key);
    for node in old.nodes.iter().filter(|node| !stays(node)) {
        said.push(format!("node {} ({}) leaves", node.id, node.key.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::profile::Profile;
    use crate::cli::testing;
    use tagout_proto::authority::{Principal, PrincipalKind, RootSigner};
    use tagout_proto::note::NoteSigner;

    #[test]
    fn a_change_is_said_in_words() {
        let deployed = testing::deployed();
        let profile = Profile::load(&deployed.made.profile).unwrap();
        let old = profile.authority();
        assert_eq!(changes(old, old), [""; 0]);

        let mut new = old.clone();
        let (key, root) = (deployed.keys.public("stranger"), deployed.keys.public("spare"));
        let print = |key: &PublicKey| key.fingerprint();
        let bob = new.principals.remove(1);
        new.principals.push(Principal {
            name: "carol".into(),
            kind: PrincipalKind::Person,
            keys: vec![key.clone()],
        });
        new.roles[0].principals = vec!["alice".into()];
        new.roles[1].principals = vec!["alice".into(), "carol".into()];
        new.roles[1].presence = true;
        new.root.signers.push(RootSigner { name: "spare".into(), key: root.clone() });
        new.root.threshold = 2;
        new.limits.ttl_ms = 20_000;
        new.enrolment = false;
        let node = |id: u64, learner| {
            let key = NoteSigner::new(&format!("demo/node-{id}"), &[id as u8; 32]).unwrap().verifier();
            Node { id, key, address: Some(format!("n{id}:7471")), learner }
        };
        let (mut old, gone) = (old.clone(), node(4, false));
        old.nodes.extend([node(2, true), gone]);
        new.nodes[0].address = Some("elsewhere:7471".into());
        new.nodes.extend([node(2, false), node(3, true)]);
        let expected = [
            format!("carol joins (person), with key {}", print(&key)),
            format!("bob leaves, with key {}", print(&bob.keys[0])),
            "role restart asks with a touch of a security key, where it asked nothing of keys".into(),
            "bob loses stop, restrict, throttle, isolate, revoke, suspend, release, start, grant on *".into(),
            "carol gains release, start, grant on *".into(),
            format!("root signer spare joins, with key {}", print(&root)),
            "a change of the authority takes 2 of 2 root keys, where it took 1".into(),
            "node 1 (demo/node-1) is at elsewhere:7471 now".into(),
            "node 2 (demo/node-2) is a voter now, and was a learner".into(),
            "node 3 (demo/node-3) joins as a learner, at n3:7471".into(),
            "node 4 (demo/node-4) leaves".into(),
            "the ttl goes from 10s to 20s".into(),
            "agents get leases without being enrolled".into(),
        ];
        assert_eq!(changes(&old, &new), expected);
    }
}
