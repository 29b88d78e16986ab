//! `tagout node add` and `replace`: a new node. Its folder is there before the change is sent, so that no node stands in the
//! authority whose key got lost.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tagout_proto::authority::Authority;
use tagout_proto::limits::NODES_MAX;
use tagout_proto::wire::TrustChain;

use super::{position, short};
use crate::cli::Globals;
use crate::cli::authority::change::{ChangeArgs, Changed, Prepared};
use crate::cli::authority::successor;
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::quoted;
use crate::cli::init::{CA_FOLDER, NodeAt, node_at};
use crate::cli::node_folder::{ACCESS_FILE, Beginning, CONFIG_FILE, NodeFolder, NodeKey, NodePlan};
use crate::cli::out::Out;
use crate::cli::profile;
use crate::cli::session::Session;
use crate::store::StoreKind;

#[derive(Args)]
pub struct AddArgs {
    /// The new node's name and the host under which it is reached (IPv6 in brackets). PORT is the API's [default: 7470]; other
    /// nodes use PEER_PORT [default: PORT + 1]
    #[arg(value_name = "NAME=HOST[:PORT[:PEER_PORT]]", value_parser = node_at)]
    new: NodeAt,
    /// Let it vote as soon as it has caught up, without `promote`
    #[arg(long)]
    voter: bool,
    #[command(flatten)]
    make: MakeArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub struct ReplaceArgs {
    /// The node that is lost, or is to go
    old: String,
    /// The new node's name and the host under which it is reached, as for `add`
    #[arg(long, value_name = "NAME=HOST[:PORT[:PEER_PORT]]", value_parser = node_at)]
    with: NodeAt,
    #[command(flatten)]
    make: MakeArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
struct MakeArgs {
    /// The folder to make, which goes to the new node's machine [default: its name, beside the profile]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The folder of the deployment's CA [default: ca, beside the profile]
    #[arg(long, value_name = "CA_DIR")]
    ca: Option<PathBuf>,
    /// The file of who may read from it, which is copied [default: that of a node whose folder lies beside the profile]
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,
    /// A further DNS name or IP address for its certificate
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// What keeps its Raft log
    #[arg(long, value_enum, default_value = "sled")]
    store: StoreKind,
}

#[derive(Serialize)]
struct Done<'a> {
    node: &'a str,
    id: u64,
    folder: &'a Path,
    url: &'a str,
    #[serde(flatten)]
    changed: &'a Changed,
}

pub fn add(out: &Out, globals: &Globals, args: AddArgs) -> Result<Exit, Failure> {
    let (session, entries) = Session::open_with_entries(out, globals)?;
    let next = successor(session.authority(), args.change.reason.clone());
    // Whoever is alone and nowhere would never be found by the second one.
    if let Some(node) = next.nodes.iter().find(|node| node.address.is_none()) {
        let name = short(&session, &node.key.name);
        return Err(Failure::usage(format!(
            "{name} has no address, so a second node could not find it: give it \"peer_listen\" and \"ca\" in its \
             tagout.toml, restart it, and tell where it is: tagout node move {name}=HOST"
        )));
    }
    let new = New { session, entries, next, node: args.new, learner: !args.voter, make: args.make };
    new.carry_out(globals, &args.change)
}

pub fn replace(out: &Out, globals: &Globals, args: ReplaceArgs) -> Result<Exit, Failure> {
    let (session, entries) = Session::open_with_entries(out, globals)?;
    let mut next = successor(session.authority(), args.change.reason.clone());
    // If it votes, so does the new one, from the start: the leader counts its vote once it has caught up, and only then takes
    // the old one out. With one of three dead there are two of three, then three of four, and never two of two.
    let at = position(&session, &next, &args.old)?;
    let old = next.nodes.remove(at);
    let learner = old.learner;
    let new = New { session, entries, next, node: args.with, learner, make: args.make };
    new.carry_out(globals, &args.change)
}

struct New<'a> {
    session: Session<'a>,
    /// Where the documents of whom to believe lie in the log.
    entries: Vec<u64>,
    /// The next authority, without the new node.
    next: Authority,
    node: NodeAt,
    learner: bool,
    make: MakeArgs,
}

impl New<'_> {
    fn carry_out(self, globals: &Globals, args: &ChangeArgs) -> Result<Exit, Failure> {
        let Self { mut session, entries, mut next, node, learner, make } = self;
        let out = session.out;
        let plan = node.plan(next_id(&session), &make.san);
        plan.check_name()?;
        let deployment = session.deployment().clone();
        let key = NodeKey::generate(&deployment.name, &plan.name)?;
        check_new(&session, &next, &key)?;
        next.nodes.push(plan.listed(&key, learner));
        let prepared = Prepared::new(&session, &next, args)?;

        let beside = |name: &str| session.profile.folder.join(name);
        let dir = make.dir.unwrap_or_else(|| beside(&plan.name));
        let access = access_of(&session.profile.folder, make.access.as_deref())?;
        let documents = session.profile.chain.documents().to_vec();
        let genesis = documents[0].clone();
        let folder = NodeFolder {
            plan: &plan,
            key: &key,
            deployment: &deployment,
            genesis: &genesis,
            ca_dir: &make.ca.unwrap_or_else(|| beside(CA_FOLDER)),
            store: make.store,
            beginning: Beginning::Later(&TrustChain { documents, entries }),
            access: access.as_deref(),
        };
        if dir.symlink_metadata().is_ok() {
            let detail =
                format!("{} exists already and is left as it is: choose another --dir", dir.display());
            return Err(Failure::new(Exit::Failed, "exists", detail));
        }
        // It was not there before: half a folder would only block the next attempt.
        folder.write(&dir).inspect_err(|_| drop(std::fs::remove_dir_all(&dir)))?;
        out.line(format!("made {}", quoted(&dir)));
        if access.is_none() {
            out.note(format!(
                "note: nobody may read from it: put another node's {ACCESS_FILE} into {} before it starts",
                quoted(&dir)
            ));
        }
        let changed = prepared.carry_out(&mut session)?;
        let url = plan.url();
        say_next(&session, globals, &dir, &plan, &changed)?;
        out.document(&Done { node: &plan.name, id: plan.id, folder: &dir, url: &url, changed: &changed });
        Ok(changed.exit(args))
    }
}

/// Who may read from the new node: whoever may from the others.
fn access_of(folder: &Path, named: Option<&Path>) -> Result<Option<String>, Failure> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => {
            let beside = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut files: Vec<_> = beside.map(|entry| entry.path().join(ACCESS_FILE)).collect();
            files.retain(|file| file.is_file());
            files.sort();
            let Some(first) = files.into_iter().next() else { return Ok(None) };
            first
        }
    };
    std::fs::read_to_string(&path).map(Some).map_err(|e| Failure::file("read", &path, &e))
}

/// One that no version of the authority has used: an id with an empty store could vote twice.
fn next_id(session: &Session<'_>) -> u64 {
    let used = session.trust().versions().iter().flat_map(|version| &version.nodes).map(|node| node.id);
    used.max().unwrap_or(0) + 1
}

fn check_new(session: &Session<'_>, next: &Authority, key: &NodeKey) -> Result<(), Failure> {
    let name = &key.verifier.name;
    let mut known = session.trust().versions().iter().flat_map(|version| &version.nodes);
    if let Some(node) = known.find(|node| node.key.name == *name) {
        return Err(Failure::usage(format!(
            "{:?} is or was node {}: choose another name, so that what the two sign stays apart",
            short(session, name),
            node.id
        )));
    }
    if next.nodes.len() >= NODES_MAX {
        return Err(Failure::usage(format!(
            "there are {NODES_MAX} nodes, and no more can be: remove one first"
        )));
    }
    Ok(())
}

fn say_next(
    session: &Session<'_>,
    globals: &Globals,
    dir: &Path,
    plan: &NodePlan,
    changed: &Changed,
) -> Result<(), Failure> {
    let out = session.out;
    out.line(format!(
        "{} to the new node's machine, and start it there: tagout serve --config {CONFIG_FILE}",
        if changed.in_force() {
            format!("bring {}", quoted(dir))
        } else {
            format!("then bring {}", quoted(dir))
        }
    ));
    out.line(
        "what the other nodes' tagout.toml names, such as webhooks and notify, it needs too: copy those lines and files",
    );
    let url = plan.url();
    let path = profile::locate(globals.profile.as_deref())?;
    match profile::add_node(&path, &url) {
        Ok(true) => {
            out.line(format!("{} names {url} too now; tell other operators and agents", quoted(&path)))
        }
        Ok(false) => out
            .line(format!("add {url} to `nodes` in {}, and tell other operators and agents", quoted(&path))),
        Err(failure) => out.note(format!("warning: the profile does not name {url} yet: {failure}")),
    }
    Ok(())
}
