//! A node's folder: its key, its certificate, `tagout.toml`, and in `data/` the mark that says how its empty store begins.
//!
//! ```text
//! <node>/tagout.toml, genesis.json, ca.pem, node.key, tls.crt, tls.key, access.toml
//! <node>/data/begin/genesis.json   in the deployment's first node: the log begins here, with this
//! <node>/data/join                 in every other: it waits until the nodes that are there let it in
//! ```
//!
//! The node removes the mark once its store knows who it is. An empty store without a mark is one that was lost, and is not
//! started again: the node might vote twice.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use tagout_proto::address::is_address;
use tagout_proto::authority::Node;
use tagout_proto::command::Deployment;
use tagout_proto::envelope::Envelope;
use tagout_proto::note::VerifierKey;
use tagout_proto::wire::TrustChain;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::files::write_new;
use crate::access;
use crate::config::NodeConfig;
use crate::pki;
use crate::store::StoreKind;

pub const GENESIS_FILE: &str = "genesis.json";
pub const CA_FILE: &str = "ca.pem";
pub const ACCESS_FILE: &str = "access.toml";
pub const CONFIG_FILE: &str = "tagout.toml";
/// Where the first node finds what the log begins with.
pub const SEED_FILE: &str = "data/begin/genesis.json";
const JOIN_FILE: &str = "data/join";

/// A node to be made.
#[derive(Clone)]
pub struct NodePlan {
    /// Also its folder's. Its key is called DEPLOYMENT/NAME.
    pub name: String,
    /// Its number in the cluster, never used twice.
    pub id: u64,
    pub listen: SocketAddr,
    /// Without it the node takes no peers.
    pub peer_listen: Option<SocketAddr>,
    /// Where the others reach it, `host:port`.
    pub address: Option<String>,
    /// DNS names and IP addresses for its certificate; the first one is the profile's.
    pub sans: Vec<String>,
    /// Disk space that is kept for stops, where the node shall not choose.
    pub reserve_mib: Option<u64>,
}

impl NodePlan {
    /// A node that listens at `listen`, for its peers one port above, and is reached under its first name. Without a port
    /// above, or under a name that is none for one machine (a wildcard), it cannot have peers.
    pub fn new(name: &str, id: u64, listen: SocketAddr, sans: Vec<String>) -> Self {
        let port = listen.port().checked_add(1).filter(|_| listen.port() > 0);
        let host = sans.first().map_or("localhost", String::as_str).to_lowercase();
        let address = port.map(|port| format!("{}:{port}", in_brackets(&host))).filter(|a| is_address(a));
        let peer_listen = port.filter(|_| address.is_some()).map(|port| SocketAddr::new(listen.ip(), port));
        Self { name: name.into(), id, listen, peer_listen, address, sans, reserve_mib: None }
    }

    /// Where guards and people reach it.
    pub fn url(&self) -> String {
        let host = self.sans.first().map_or("localhost", String::as_str);
        format!("https://{}:{}", in_brackets(host), self.listen.port())
    }

    /// It names a folder, which is removed again if something fails: it must not lead elsewhere.
    pub fn check_name(&self) -> Result<(), Failure> {
        if Path::new(&self.name).file_name() == Some(self.name.as_ref()) {
            return Ok(());
        }
        Err(Failure::usage(format!("a node's name is a plain name, and {:?} is none", self.name)))
    }

    /// As the authority lists it.
    pub fn listed(&self, key: &NodeKey, learner: bool) -> Node {
        Node { id: self.id, key: key.verifier.clone(), address: self.address.clone(), learner }
    }
}

fn in_brackets(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// What a node signs with.
pub struct NodeKey {
    pub verifier: VerifierKey,
    seed: Zeroizing<[u8; 32]>,
}

impl NodeKey {
    /// Under a name that is unique among all deployments that somebody may watch.
    pub fn generate(deployment: &str, name: &str) -> Result<Self, Failure> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|e| {
            Failure::new(Exit::Failed, "randomness", format!("no randomness for the node's key: {e}"))
        })?;
        let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        let verifier = VerifierKey::new(&format!("{deployment}/{name}"), public)
            .map_err(|e| Failure::usage(format!("a node cannot be called {name:?}: {e}")))?;
        Ok(Self { verifier, seed })
    }
}

/// How the node's store begins.
pub enum Beginning<'a> {
    /// The deployment's log begins in it.
    First,
    /// Others begin it; the genesis lists them.
    Other,
    /// It was added later and joins those whom these documents name.
    Later(&'a TrustChain),
    /// As `tagout restore finish` says, which makes its mark.
    Restored,
}

/// What a folder is made of.
pub struct NodeFolder<'a> {
    pub plan: &'a NodePlan,
    pub key: &'a NodeKey,
    pub deployment: &'a Deployment,
    pub genesis: &'a Envelope,
    /// The folder of the CA that signs its certificate.
    pub ca_dir: &'a Path,
    pub store: StoreKind,
    pub beginning: Beginning<'a>,
    /// Who may read from it; without this, whoever starts it has to say.
    pub access: Option<&'a str>,
}

impl NodeFolder<'_> {
    /// Makes it, and gives the path of its configuration. The folder must not be there.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, Failure> {
        let Self { plan, key, .. } = self;
        let ca_pem = pki::load_ca_cert(self.ca_dir)?;
        let tls = pki::issue(self.ca_dir, &plan.name, &plan.sans)?;
        let (data, begin) = (dir.join("data"), dir.join(SEED_FILE));
        make_folder(dir)?;
        make_folder(&data)?;
        let (tls_cert, tls_key) = tls.write(dir, "tls")?;
        let listed_later = matches!(self.beginning, Beginning::Later(_) | Beginning::Restored);
        let config = NodeConfig {
            deployment: self.deployment.to_string(),
            node: key.verifier.name.clone(),
            listen: plan.listen,
            data: "data".into(),
            genesis: GENESIS_FILE.into(),
            node_key: "node.key".into(),
            tls_cert: file_name(&tls_cert),
            tls_key: file_name(&tls_key),
            store: self.store,
            peer_listen: plan.peer_listen,
            ca: Some(CA_FILE.into()),
            ca_folder: None,
            node_id: listed_later.then_some(plan.id),
            reserve_mib: plan.reserve_mib,
            rule: None,
            webhooks: None,
            access: Some(ACCESS_FILE.into()),
            notify: None,
        };
        let genesis = serde_json::to_string(self.genesis).expect("an envelope is text") + "\n";
        let seed = Zeroizing::new(format!("{}\n", BASE64.encode(&*key.seed)));
        let config_file = dir.join(CONFIG_FILE);
        write_new(&dir.join("node.key"), seed.as_bytes(), 0o600)?;
        write_new(&dir.join(GENESIS_FILE), genesis.as_bytes(), 0o644)?;
        write_new(&dir.join(CA_FILE), ca_pem.as_bytes(), 0o644)?;
        let access = self.access.map_or_else(|| access::new_file("", ""), str::to_owned);
        write_new(&dir.join(ACCESS_FILE), access.as_bytes(), 0o600)?;
        write_new(&config_file, config.documented().as_bytes(), 0o644)?;
        match self.beginning {
            Beginning::First => {
                make_folder(begin.parent().expect("a file in a folder"))?;
                write_new(&begin, genesis.as_bytes(), 0o644)?;
            }
            Beginning::Other => write_new(&dir.join(JOIN_FILE), b"", 0o644)?,
            Beginning::Later(chain) => {
                let chain = serde_json::to_string(chain).expect("it is plain data") + "\n";
                write_new(&dir.join(JOIN_FILE), chain.as_bytes(), 0o644)?;
            }
            Beginning::Restored => {}
        }
        Ok(config_file)
    }
}

fn make_folder(dir: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    made.map_err(|e| Failure::file("make the folder", dir, &e))
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().expect("certificates are files").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_reached_under_its_first_name_and_its_peers_one_port_above() {
        let at = |listen: &str, sans: &[&str]| {
            let sans = sans.iter().map(|san| (*san).to_owned()).collect();
            let plan = NodePlan::new("n", 1, listen.parse().unwrap(), sans);
            assert_eq!(plan.peer_listen.is_some(), plan.address.is_some());
            (plan.url(), plan.address.unwrap_or_default())
        };
        let both = |url: &str, address: &str| (url.to_owned(), address.to_owned());
        assert_eq!(at("0.0.0.0:7470", &["N.example", "x"]), both("https://N.example:7470", "n.example:7471"));
        assert_eq!(at("[::]:1", &["::1"]), both("https://[::1]:1", "[::1]:2"));
        assert_eq!(at("0.0.0.0:7470", &["*.example"]), both("https://*.example:7470", ""));
        assert_eq!(at("0.0.0.0:65535", &["n.example"]), both("https://n.example:65535", ""));
        assert_eq!(at("127.0.0.1:0", &["127.0.0.1"]), both("https://127.0.0.1:0", ""));
    }
}
