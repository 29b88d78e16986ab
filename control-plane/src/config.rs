//! `tagout.toml`: everything a node is told. Paths are relative to the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::reserve;
use crate::store::StoreKind;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// `name:<SHA-256 of the genesis>`: what this node is bound to, for ever.
    pub deployment: String,
    /// The node's name in the authority; its key signs leases and checkpoints under it.
    pub node: String,
    /// Its number in its cluster, where the genesis does not list it: a later authority does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    pub listen: SocketAddr,
    pub data: PathBuf,
    pub genesis: PathBuf,
    pub node_key: PathBuf,
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    #[serde(default)]
    pub store: StoreKind,
    /// Where the other nodes reach this one. Without it the node takes none.
    pub peer_listen: Option<SocketAddr>,
    /// The CA, PEM, whose certificates nodes show one another.
    pub ca: Option<PathBuf>,
    /// The CA's folder with its key, for a node that renews its own certificate.
    pub ca_folder: Option<PathBuf>,
    /// What the disk reserve holds for stops; absent for ten thousand of them (reserve.rs).
    pub reserve_mib: Option<u64>,
    /// The newest rule of verdicts that may come into force; absent for the oldest.
    pub rule: Option<u64>,
    /// Which security platforms may take away by webhook, and what.
    pub webhooks: Option<PathBuf>,
    /// Who may read from this node.
    pub access: Option<PathBuf>,
    /// Who is told of what happens.
    pub notify: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}; name the node's configuration with --config FILE, or make one with `tagout init`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a valid configuration", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl NodeConfig {
    /// Reads the file and makes its paths absolute or relative to the caller's folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let named = [
            &mut config.data,
            &mut config.genesis,
            &mut config.node_key,
            &mut config.tls_cert,
            &mut config.tls_key,
        ];
        let optional = [
            &mut config.ca,
            &mut config.ca_folder,
            &mut config.webhooks,
            &mut config.access,
            &mut config.notify,
        ];
        for file in named.into_iter().chain(optional.into_iter().flatten()) {
            *file = folder.join(&file);
        }
        Ok(config)
    }

    /// The file with a line of explanation for each key, as `tagout init` writes it.
    pub fn documented(&self) -> String {
        let key = |name: &str, text: &str| format!("{name} = {}\n", toml::Value::String(text.into()));
        let path = |name: &str, path: &Path| key(name, &path.to_string_lossy());
        // A key that is not set is shown with what it could be.
        let or = |set: Option<String>, example: &str| set.unwrap_or_else(|| format!("# {example}\n"));
        let store = match self.store {
            StoreKind::Sled => "sled",
            StoreKind::Segment => "segment",
        };
        [
            "# A Tagout node. Paths are relative to this file. Start it with: tagout serve --config tagout.toml\n".into(),
            "\n# The deployment that this node serves: its name and the SHA-256 of its genesis. It never changes.\n".into(),
            key("deployment", &self.deployment),
            "\n# The signed first authority document: who may do what.\n".into(),
            path("genesis", &self.genesis),
            "\n# The node's name in the authority, and the seed of the Ed25519 key that it signs leases and checkpoints with.\n".into(),
            key("node", &self.node),
            path("node_key", &self.node_key),
            self.node_id.map_or_else(String::new, |id| {
                format!("\n# Its number in the cluster, since the genesis does not list it.\nnode_id = {id}\n")
            }),
            "\n# Where the API listens, and its certificate from the deployment's private CA.\n".into(),
            key("listen", &self.listen.to_string()),
            path("tls_cert", &self.tls_cert),
            path("tls_key", &self.tls_key),
            "\n# The node's state: Raft log, snapshots, audit log, security log. One node, one folder; never copy it to a second one.\n"
                .into(),
            path("data", &self.data),
            "\n# What keeps the Raft log: \"sled\" or \"segment\" (append-only files, faster). A change moves the log at the next start.\n"
                .into(),
            key("store", store),
            "\n# Where the other nodes reach this one; its address in the authority leads here. Without it the node takes none.\n"
                .into(),
            or(self.peer_listen.map(|at| key("peer_listen", &at.to_string())), "peer_listen = \"0.0.0.0:7471\""),
            "\n# The deployment's CA: nodes show one another certificates that it signed.\n".into(),
            or(self.ca.as_deref().map(|ca| path("ca", ca)), "ca = \"ca.pem\""),
            "\n# The CA's folder with its key, if it may lie on this machine: the node then renews its certificate by itself.\n".into(),
            or(self.ca_folder.as_deref().map(|folder| path("ca_folder", folder)), "ca_folder = \"../ca\""),
            format!(
                "\n# The disk reserve: so many MiB are held for stops, beside 24 for the stores to work in. {} hold ten thousand of the\n\
                 # largest. Below 32 MiB free beside it, the node takes only what stops agents.\n",
                reserve::default_mib()
            ),
            or(
                self.reserve_mib.map(|mib| format!("reserve_mib = {mib}\n")),
                &format!("reserve_mib = {}", reserve::default_mib()),
            ),
            "\n# The newest rule of verdicts that may come into force, once every voter allows it and every SDK in use knows it:\n\
             # guards that do not know the rule in force deny.\n"
                .into(),
            or(self.rule.map(|rule| format!("rule = {rule}\n")), "rule = 1"),
            "\n# The webhooks of security platforms that may stop agents through this node (\"SOAR platforms\" in README.md).\n".into(),
            or(self.webhooks.as_deref().map(|file| path("webhooks", file)), "webhooks = \"webhooks.toml\""),
            "\n# Who may read from this node (\"Who may read\" in README.md). Without it nobody may; what stops agents needs none of it.\n"
                .into(),
            or(self.access.as_deref().map(|file| path("access", file)), "access = \"access.toml\""),
            "\n# Who is told of stops, proposals and whatever else happens (\"Notifications\" in README.md); the same on every node.\n"
                .into(),
            or(self.notify.as_deref().map(|file| path("notify", file)), "notify = \"notify.toml\""),
        ]
        .concat()
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config() -> NodeConfig {
        NodeConfig {
            deployment: format!("demo:{}", "0".repeat(64)),
            node: "demo/node-1".into(),
            node_id: Some(4),
            listen: "127.0.0.1:7470".parse().unwrap(),
            data: "data".into(),
            genesis: "genesis.json".into(),
            node_key: "node.key".into(),
            tls_cert: "node.crt".into(),
            tls_key: "node.pem".into(),
            store: StoreKind::Segment,
            peer_listen: Some("[::1]:7471".parse().unwrap()),
            ca: Some("ca.pem".into()),
            ca_folder: Some("../ca".into()),
            reserve_mib: Some(64),
            rule: Some(1),
            webhooks: Some("webhooks.toml".into()),
            access: Some("access.toml".into()),
            notify: Some("notify.toml".into()),
        }
    }

    #[test]
    fn the_documented_file_reads_back_and_finds_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tagout.toml");
        std::fs::write(&path, config().documented()).unwrap();
        let read = NodeConfig::load(&path).unwrap();
        assert_eq!(read.genesis, dir.path().join("genesis.json"));
        assert_eq!((read.store, read.listen), (config().store, config().listen));
        assert_eq!((read.peer_listen, read.reserve_mib), (config().peer_listen, Some(64)));
        assert_eq!(read.ca.unwrap(), dir.path().join("ca.pem"));
        assert_eq!(read.ca_folder.unwrap(), dir.path().join("../ca"));
    }

    #[test]
    fn what_is_not_set_is_shown_and_says_nothing() {
        let bare = NodeConfig {
            peer_listen: None,
            ca: None,
            ca_folder: None,
            reserve_mib: None,
            node_id: None,
            rule: None,
            webhooks: None,
            access: None,
            notify: None,
            ..config()
        };
        let text = bare.documented();
        assert_eq!(toml::from_str::<NodeConfig>(&text).unwrap(), bare);
        let shown =
            text.replace("\n# peer_listen", "\npeer_listen").replace("\n# reserve_mib", "\nreserve_mib");
        let read: NodeConfig = toml::from_str(&shown).unwrap();
        assert_eq!(
            (read.peer_listen.unwrap().port(), read.reserve_mib),
            (7471, Some(reserve::default_mib()))
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tagout.toml");
        std::fs::write(&path, format!("{}lisen = \"x\"\n", config().documented())).unwrap();
        let error = format!("{:#}", anyhow::Error::from(NodeConfig::load(&path).unwrap_err()));
        assert!(error.contains("unknown field `lisen`"), "{error}");
    }
}
