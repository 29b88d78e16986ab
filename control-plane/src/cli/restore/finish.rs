//! `tagout restore finish`: the ledger itself judges the backup and what follows it, before any node sees either.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use tagout_proto::ledger::{Ledger, Proposal};
use tagout_proto::log::tile::{TILE_WIDTH, TileId, parse_bundle, push_entry};
use tagout_proto::note::{NoteSigner, VerifierKey};
use tagout_proto::wire::TrustChain;

use super::{Prepared, refused};
use crate::cli::backup::Backup;
use crate::cli::failure::{Exit, Failure, chain};
use crate::cli::files::quoted;
use crate::cli::log::entries;
use crate::cli::log::tiles::{TileDir, Tiles};
use crate::cli::out::{Ink, Out, now_ms};
use crate::config::NodeConfig;
use crate::seed::{self, Seed};
use crate::store::files;

#[derive(Args)]
pub struct FinishArgs {
    /// The folder that `prepare` made, with the signatures beside the two documents
    dir: PathBuf,
    /// Where the backup lies now [default: where `prepare` read it]
    #[arg(long, value_name = "BACKUP")]
    from: Option<PathBuf>,
}

pub fn run(out: &Out, args: FinishArgs) -> Result<Exit, Failure> {
    let mut prepared = Prepared::load(&args.dir)?;
    for (trust, draft) in [
        (prepared.trust_before()?, (&prepared.restore.path, &prepared.restore.envelope)),
        (prepared.trust_after()?, (&prepared.authority.path, &prepared.authority.envelope)),
    ] {
        let (mut trust, (path, envelope)) = (trust, draft);
        trust.learn(envelope).map_err(|error| {
            let mut failure = refused(path, error, Exit::Refused);
            let dir = quoted(&args.dir);
            failure
                .problem
                .detail
                .push_str(&format!("; sign both with: tagout restore sign {dir} --key ROOT_KEY"));
            failure
        })?;
    }
    let nodes = prepared.nodes()?;
    let from = args.from.unwrap_or_else(|| prepared.plan.backup.clone());
    let backup = Backup::open_whole(&from, &mut prepared.profile)?;
    let (size, root) = (prepared.plan.entries, prepared.plan.root);
    if (backup.checkpoint.size, backup.checkpoint.root) != (size, root) {
        let found = entries(backup.checkpoint.size);
        let detail = format!(
            "the backup in {} has {found} by now, and the restore was signed for one of {size} with root {}: prepare the \
             restore anew from it",
            quoted(&from),
            root.short()
        );
        return Err(Failure::new(Exit::Failed, "other-backup", detail));
    }
    let mut ledger = None;
    backup
        .verify(out, &prepared.profile, &[], false, &mut |replay| ledger = Some(replay.ledger().clone()))?;
    let mut ledger = ledger.expect("a log that verifies was replayed to its end");
    judge(&mut ledger, &prepared)?;

    let (first, others) = nodes.split_first().expect("a restore has a node");
    let tiles = TileDir { path: from };
    let deployment = prepared.profile.deployment().to_string();
    let written =
        Seed::write(&first.data, &deployment, (size, root), prepared.then(), |id| exact_bundle(&tiles, id));
    written.map_err(|error| Failure::new(Exit::Failed, "seed", chain(&error)))?;
    // Whom the others are to believe when the first node finds them: the genesis lists none of these nodes.
    let documents = [&prepared.plan.documents[..prepared.plan.in_backup], &prepared.then()].concat();
    let chain_of_trust = TrustChain { documents, entries: Vec::new() };
    let chain_of_trust = serde_json::to_string(&chain_of_trust).expect("it is plain data");
    for node in others {
        let path = node.data.join("join");
        let made =
            files::create_folder(&node.data).and_then(|()| files::replace(&path, chain_of_trust.as_bytes()));
        made.map_err(|e| Failure::file("write", &path, &e))?;
    }

    out.document(&serde_json::json!({
        "deployment": deployment, "entries": size, "epoch": prepared.restore.document.epoch,
        "lock": prepared.restore.envelope.digest(), "lost_from": prepared.restore.document.lost_from,
        "authority_version": prepared.authority.document.version,
        "nodes": nodes.iter().map(|node| &node.config).collect::<Vec<_>>(),
    }));
    prepared.say(out);
    out.line(format!("{} by replaying {}", out.ink(Ink::Green, "checked"), entries(size)));
    out.line("start the nodes, the first one first:");
    for node in &nodes {
        out.line(format!("  tagout serve --config {}", quoted(&node.config)));
    }
    out.line("what the old nodes' tagout.toml named, such as webhooks and notify, they need too: copy those lines and files");
    let profile = quoted(&args.dir.join(super::PROFILE_FILE));
    out.line(format!(
        "with {profile}, `tagout status` then shows the halt of the whole fleet; `tagout resume` and `tagout grant` bring back \
         what may run"
    ));
    Ok(Exit::Ok)
}

/// A bundle of just the entries that are asked for, though the backup may hold a wider one by now.
fn exact_bundle(tiles: &TileDir, id: TileId) -> io::Result<Vec<u8>> {
    let read = |id: TileId| tiles.read(&format!("tile/{id}")).map_err(io::Error::other);
    let bytes = match read(id)? {
        Some(bytes) => Some(bytes),
        None => read(TileId { width: TILE_WIDTH as u16, ..id })?,
    };
    let bytes = bytes.ok_or_else(|| io::Error::other(format!("the backup has no tile/{id}")))?;
    let mut exact = Vec::new();
    let entries = parse_bundle(&bytes).unwrap_or_default();
    entries.into_iter().take(id.width.into()).for_each(|entry| push_entry(&mut exact, entry));
    Ok(exact)
}

/// Has the ledger take what follows the backup, just as the first node will.
fn judge(ledger: &mut Ledger, prepared: &Prepared) -> Result<(), Failure> {
    for envelope in prepared.then() {
        let (kind, what) = seed::kind_of(&envelope);
        let applied = ledger.apply(&Proposal { kind, time_ms: now_ms(), envelope });
        if let Err(refusal) = applied.answer {
            let detail = format!("the {what} does not follow the backup: {refusal}");
            return Err(Failure::new(Exit::Refused, "restore", detail));
        }
    }
    Ok(())
}

struct NewNode {
    config: PathBuf,
    data: PathBuf,
}

impl Prepared {
    /// The new nodes, each with the key that the authority lists for it, and none of them begun.
    fn nodes(&self) -> Result<Vec<NewNode>, Failure> {
        let mut nodes = Vec::new();
        for name in &self.plan.nodes {
            let folder = self.dir.join(name);
            let path = folder.join("tagout.toml");
            let config =
                NodeConfig::load(&path).map_err(|error| Failure::new(Exit::Failed, "node", chain(&error)))?;
            let listed = self.authority.document.node(&config.node);
            if listed.is_none_or(|node| !has_key(&config.node_key, &config.node, &node.key)) {
                let detail = format!(
                    "{} is not the key that {} lists for {:?}: put the node back into the draft and sign it anew",
                    quoted(&config.node_key),
                    quoted(&self.authority.path),
                    config.node
                );
                return Err(Failure::new(Exit::Failed, "node-key", detail));
            }
            if config.data.join("raft").exists() {
                let detail = format!(
                    "{} was started already: a restore that has begun cannot be finished a second time",
                    quoted(&folder)
                );
                return Err(Failure::new(Exit::Failed, "begun", detail));
            }
            nodes.push(NewNode { config: path, data: config.data });
        }
        Ok(nodes)
    }
}

fn has_key(path: &Path, name: &str, listed: &VerifierKey) -> bool {
    let seed = std::fs::read_to_string(path).ok();
    let seed = seed.and_then(|text| data_encoding::BASE64.decode(text.trim().as_bytes()).ok());
    let seed: Option<[u8; 32]> = seed.and_then(|seed| seed.try_into().ok());
    seed.and_then(|seed| NoteSigner::new(name, &seed).ok()).is_some_and(|signer| signer.verifier() == *listed)
}
