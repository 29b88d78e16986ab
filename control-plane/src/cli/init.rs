//! `tagout init`: makes a deployment. Its genesis is signed by the root keys; what comes out is sorted by who gets it.
//!
//! ```text
//! <dir>/profile.toml, genesis.json, ca.pem   for everybody who operates or guards agents
//! <dir>/genesis-document.json                the exact bytes that root keys sign
//! <dir>/operator.token                       for whoever operates: who has it may read. No agent gets it
//! <dir>/<node>/                              for each node: tagout.toml and all that it names (see node_folder.rs)
//! <dir>/ca/                                  the private CA; keep it offline
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tagout_proto::address::is_host;
use tagout_proto::authority::{Authority, Limits, Node, Principal, PrincipalKind, Role, Root, RootSigner};
use tagout_proto::command::{ActionKind, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::{LAPSE_GRACE_DEFAULT_MS, NODES_MAX};
use tagout_proto::profile::ProfileFile;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{NAMESPACE, PublicKey, SshSignature};

use super::failure::{Exit, Failure};
use super::files::{read_public_key, write_new};
use super::node_folder::{Beginning, CA_FILE, GENESIS_FILE, NodeFolder, NodeKey, NodePlan, SEED_FILE};
use super::out::{Ink, Out, count, now_ms};
use super::profile;
use super::signing;
use super::token;
use super::{authority, duration_ms};
use crate::access;
use crate::pki;
use crate::sign::Signer;
use crate::store::StoreKind;

#[derive(Args)]
pub struct InitArgs {
    /// The deployment's name, such as moltbook-prod
    #[arg(long, required_unless_present = "add_signature")]
    name: Option<String>,
    /// The folder to make; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A person who may stop agents and, with others, restart them; repeat it for several keys of one person
    #[arg(long, value_name = "NAME=KEY.pub", required_unless_present = "add_signature", value_parser = named_key)]
    person: Vec<(String, PublicKey)>,
    /// A program that may stop, restrict, throttle and isolate agents, and nothing else
    #[arg(long, value_name = "NAME=KEY.pub", value_parser = named_key)]
    automation: Vec<(String, PublicKey)>,
    /// How many people it takes to release, start or grant [default: 2, or 1 for a single person]
    #[arg(long, value_name = "M")]
    threshold: Option<u64>,
    /// An offline key that signs the authority; its name is the file's
    #[arg(long, value_name = "KEY.pub", required_unless_present = "add_signature", value_parser = root_key)]
    root_key: Vec<(String, PublicKey)>,
    /// How many root keys it takes to change the authority
    #[arg(long, value_name = "M", default_value_t = 1)]
    root_threshold: u64,
    /// A root key that signs the genesis now: a key file, or agent:SHA256:…
    #[arg(long, value_name = "KEY")]
    sign_root: Vec<String>,
    /// Add root signatures, made elsewhere with ssh-keygen -Y sign, to the genesis in --dir
    #[arg(long, value_name = "FILE.sig", conflicts_with_all = ["name", "person", "root_key", "sign_root"])]
    add_signature: Vec<PathBuf>,
    /// The nodes, three or five of them: each one's name and the host under which it is reached (IPv6 in brackets).
    /// PORT is the API's [default: 7470]; other nodes use PEER_PORT [default: PORT + 1]
    #[arg(long, value_name = "NAME=HOST[:PORT[:PEER_PORT]],…", value_delimiter = ',', value_parser = node_at,
          conflicts_with_all = ["node_name", "node_id", "listen"])]
    nodes: Vec<NodeAt>,
    /// Of a single node: its name
    #[arg(long, default_value = "node-1")]
    node_name: String,
    /// Of a single node: its number
    #[arg(long, default_value_t = 1)]
    node_id: u64,
    /// Where a single node listens; for other nodes, one port above
    #[arg(long, default_value = "0.0.0.0:7470")]
    listen: SocketAddr,
    /// A DNS name or IP address under which a single node is reached, the first one as the profile has it [default:
    /// localhost]; with --nodes, a name that every node's certificate gets besides
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// Give leases to every process that can reach a node, and not to enrolled agents only (`tagout agent enroll`)
    #[arg(long)]
    without_enrolment: bool,
    /// How long a guard may go on without hearing from a node: also the bound of a stop
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_ms)]
    ttl: u64,
    /// A key for the profile, which signs when no --key is given
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

/// A deployment to be made.
pub struct Plan {
    pub name: String,
    pub dir: PathBuf,
    pub people: Vec<(String, PublicKey)>,
    pub automation: Vec<(String, PublicKey)>,
    /// How many people it takes to loosen.
    pub threshold: u64,
    pub root_keys: Vec<(String, PublicKey)>,
    pub root_threshold: u64,
    /// The first one begins the log.
    pub nodes: Vec<NodePlan>,
    pub ttl_ms: u64,
    /// Leases are for enrolled agents only.
    pub enrolment: bool,
    pub store: StoreKind,
    /// For the profile.
    pub keys: Vec<String>,
    pub readers: Readers,
}

/// Who may read from a new deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Whoever has the token that is made with it.
    Token,
    /// Whoever is on this machine; its nodes listen on loopback.
    AnybodyHere,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    #[serde(serialize_with = "as_text")]
    pub deployment: Deployment,
    pub profile: PathBuf,
    pub genesis: PathBuf,
    pub ca: PathBuf,
    /// With it an operator may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Of the first node.
    pub node_config: PathBuf,
    /// Of all of them.
    pub node_configs: Vec<PathBuf>,
    /// Root signatures that the genesis still lacks before anybody takes it.
    pub signatures_missing: u64,
}

fn as_text<S: serde::Serializer>(deployment: &Deployment, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(deployment)
}

/// The genesis without its signatures: the exact bytes that root keys sign.
const UNSIGNED_FILE: &str = "genesis-document.json";
/// Where a node's API listens if nothing else is said.
const API_PORT: u16 = 7470;
const PROFILE_FILE: &str = "profile.toml";
pub const CA_FOLDER: &str = "ca";
pub const TOKEN_FILE: &str = "operator.token";

pub fn run(out: &Out, args: InitArgs) -> Result<Exit, Failure> {
    if !args.add_signature.is_empty() {
        return add_signatures(out, &args.dir, &args.add_signature);
    }
    let people = distinct_names(&args.person);
    let plan = Plan {
        name: args.name.expect("required by clap"),
        dir: args.dir,
        people: args.person,
        automation: args.automation,
        threshold: args.threshold.unwrap_or(people.min(2)),
        root_keys: args.root_key,
        root_threshold: args.root_threshold,
        nodes: match args.nodes.as_slice() {
            [] => {
                let sans = if args.san.is_empty() { vec!["localhost".into()] } else { args.san };
                vec![NodePlan::new(&args.node_name, args.node_id, args.listen, sans)]
            }
            nodes => several(nodes, &args.san)?,
        },
        ttl_ms: args.ttl,
        enrolment: !args.without_enrolment,
        store: StoreKind::default(),
        keys: args.keys.iter().map(|key| absolute(key)).collect(),
        readers: Readers::Token,
    };
    let signers = if args.sign_root.is_empty() { vec![] } else { signing::open_signers(&args.sign_root)? };
    let made = make(&plan, &signers)?;
    out.document(&made);
    out.line(format!("made {}", out.ink(Ink::Bold, made.deployment.to_string())));
    out.line(format!(
        "  for operators and guards  {} (with genesis.json and ca.pem beside it)",
        made.profile.display()
    ));
    if let Some(token) = &made.token_file {
        out.line(format!("  for operators alone       {}, with which they may read", token.display()));
    }
    for config in &made.node_configs {
        let folder = config.parent().unwrap_or(Path::new(""));
        out.line(format!("  for the node              {}", folder.display()));
    }
    out.line(format!("  keep offline              {} and the root keys", plan.dir.join("ca").display()));
    if made.signatures_missing > 0 {
        say_missing(out, &plan.dir, made.signatures_missing);
        return Ok(Exit::MissingSignatures);
    }
    match made.node_configs.as_slice() {
        [config] => out.line(format!("start the node: tagout serve --config {}", config.display())),
        _ => out.line("start each node where its folder is: tagout serve --config tagout.toml"),
    }
    Ok(Exit::Ok)
}

/// Paths in a profile are relative to it, those on the command line to where one stands.
fn absolute(key: &str) -> String {
    let named = key.starts_with("agent:") || key.starts_with("~/");
    let path = std::path::absolute(key).ok().filter(|_| !named);
    path.map_or_else(|| key.into(), |path| path.to_string_lossy().into_owned())
}

fn say_missing(out: &Out, dir: &Path, missing: u64) {
    let unsigned = dir.join(UNSIGNED_FILE);
    out.line(format!(
        "the genesis lacks {}; with each root key that is missing:",
        count(missing, "root signature")
    ));
    out.line(format!("  ssh-keygen -Y sign -n {NAMESPACE} -f ROOT_KEY {}", unsigned.display()));
    out.line(format!("  tagout init --dir {} --add-signature {}.sig", dir.display(), unsigned.display()));
}

/// A node of several, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAt {
    pub name: String,
    /// IPv6 in brackets.
    host: String,
    port: u16,
    peer_port: u16,
}

pub fn node_at(text: &str) -> Result<NodeAt, String> {
    let wrong = || "write NAME=HOST, NAME=HOST:PORT or NAME=HOST:PORT:PEER_PORT, IPv6 in brackets".to_owned();
    let (name, at) = text.split_once('=').ok_or_else(wrong)?;
    let end_of_host = if at.starts_with('[') { at.find(']').map(|end| end + 1) } else { at.find(':') };
    let (host, ports) = at.split_at(end_of_host.unwrap_or(at.len()));
    let host = host.to_lowercase();
    if !is_host(&host) {
        return Err(format!("{host:?} is neither a DNS name nor an IP address; {}", wrong()));
    }
    let mut ports = ports.split(':').skip(1);
    let port = ports.next().map_or(Ok(API_PORT), |port| port.parse()).map_err(|_| wrong())?;
    let peer_port = match ports.next() {
        Some(port) => port.parse().map_err(|_| wrong())?,
        None => port.checked_add(1).ok_or("no port is above 65535: give the PEER_PORT as well")?,
    };
    if ports.next().is_some() || port == 0 || peer_port == 0 {
        return Err(wrong());
    }
    Ok(NodeAt { name: name.into(), host, port, peer_port })
}

impl NodeAt {
    /// Where the other nodes reach it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.peer_port)
    }

    /// A node on loopback listens nowhere else; any other on all its addresses, since its host may be a name.
    pub fn plan(&self, id: u64, more_sans: &[String]) -> NodePlan {
        let bare = self.host.trim_matches(['[', ']']);
        let ip: Option<IpAddr> =
            if bare == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { bare.parse().ok() };
        let listen: IpAddr = match ip {
            Some(ip) if ip.is_loopback() => ip,
            Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            Some(IpAddr::V4(_)) | None => Ipv4Addr::UNSPECIFIED.into(),
        };
        let more_sans = more_sans.iter().filter(|san| *san != bare).cloned();
        NodePlan {
            name: self.name.clone(),
            id,
            listen: SocketAddr::new(listen, self.port),
            peer_listen: Some(SocketAddr::new(listen, self.peer_port)),
            address: Some(self.address()),
            sans: std::iter::once(bare.to_owned()).chain(more_sans).collect(),
            reserve_mib: None,
        }
    }
}

fn several(nodes: &[NodeAt], more_sans: &[String]) -> Result<Vec<NodePlan>, Failure> {
    if nodes.len() > NODES_MAX {
        return Err(Failure::usage(format!("a deployment has at most {NODES_MAX} nodes")));
    }
    let mut taken = BTreeSet::new();
    for (node, port) in nodes.iter().flat_map(|node| [(node, node.port), (node, node.peer_port)]) {
        if !taken.insert((&node.host, port)) {
            let host = &node.host;
            return Err(Failure::usage(format!(
                "port {port} of {host} is given twice: a node takes PORT, and PORT + 1 for the other nodes"
            )));
        }
    }
    Ok(nodes.iter().zip(1..).map(|(node, id)| node.plan(id, more_sans)).collect())
}

/// Makes the deployment's files. The genesis carries the signatures of `root_signers`, enough or not.
pub fn make(plan: &Plan, root_signers: &[Signer]) -> Result<Made, Failure> {
    plan.nodes.iter().try_for_each(NodePlan::check_name)?;
    let key = |node: &NodePlan| NodeKey::generate(&plan.name, &node.name);
    let keys = plan.nodes.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let nodes = plan.nodes.iter().zip(&keys).map(|(node, key)| node.listed(key, false)).collect();

    let document = genesis_document(plan, nodes, now_ms());
    let authority = Authority::parse_genesis(&document)?;
    let envelope = signing::sign(document, root_signers)?;
    let signatures_missing = missing_root_signatures(&authority, &envelope);

    let names = [GENESIS_FILE, UNSIGNED_FILE, PROFILE_FILE, TOKEN_FILE, CA_FILE, CA_FOLDER];
    let names = names.into_iter().chain(plan.nodes.iter().map(|node| node.name.as_str()));
    let places: Vec<_> = names.map(|name| plan.dir.join(name)).collect();
    if let Some(path) = places.iter().find(|path| path.symlink_metadata().is_ok()) {
        let path = path.display();
        let detail = format!(
            "{path} exists already and is left as it is: choose another --dir, or move it away first"
        );
        return Err(Failure::new(Exit::Failed, "exists", detail));
    }
    let made = write_all(plan, &authority.deployment, &keys, &envelope);
    if made.is_err() {
        // None of them was there before: half a deployment would only block the next attempt.
        places.iter().for_each(|path| drop(fs::remove_file(path).or_else(|_| fs::remove_dir_all(path))));
    }
    Ok(Made { signatures_missing, ..made? })
}

fn write_all(
    plan: &Plan,
    deployment: &Deployment,
    keys: &[NodeKey],
    envelope: &Envelope,
) -> Result<Made, Failure> {
    fs::create_dir_all(&plan.dir).map_err(|e| Failure::file("make the folder", &plan.dir, &e))?;
    let ca_dir = plan.dir.join(CA_FOLDER);
    let ca_pem = pki::create_ca(&ca_dir, &plan.name)?;
    let (token, access) = match plan.readers {
        Readers::Token => {
            let (token, access) = token::first()?;
            (Some(token), access)
        }
        Readers::AnybodyHere => (None, access::new_file("\"all\"", "")),
    };
    let mut node_configs = Vec::new();
    for (at, (node, key)) in plan.nodes.iter().zip(keys).enumerate() {
        let beginning = if at == 0 { Beginning::First } else { Beginning::Other };
        let (ca_dir, store) = (ca_dir.as_path(), plan.store);
        let access = Some(access.as_str());
        let folder =
            NodeFolder { plan: node, key, deployment, genesis: envelope, ca_dir, store, beginning, access };
        node_configs.push(folder.write(&plan.dir.join(&node.name))?);
    }
    let profile = ProfileFile {
        deployment: deployment.to_string(),
        nodes: plan.nodes.iter().map(NodePlan::url).collect(),
        ca: CA_FILE.into(),
        genesis: GENESIS_FILE.into(),
        keys: plan.keys.clone(),
        token: token.as_ref().map(|_| TOKEN_FILE.into()),
    };
    let envelope_text = serde_json::to_string(&envelope).expect("an envelope is text") + "\n";
    let (genesis, profile_path) = (plan.dir.join(GENESIS_FILE), plan.dir.join(PROFILE_FILE));
    let ca = plan.dir.join(CA_FILE);
    for (path, text) in [
        (&ca, &ca_pem),
        (&genesis, &envelope_text),
        (&plan.dir.join(UNSIGNED_FILE), &envelope.document),
        (&profile_path, &profile::text(&profile)),
    ] {
        write_new(path, text.as_bytes(), 0o644)?;
    }
    let token_file = plan.dir.join(TOKEN_FILE);
    if let Some(token) = &token {
        write_new(&token_file, format!("{}\n", token.reveal()).as_bytes(), 0o600)?;
    }
    Ok(Made {
        deployment: deployment.clone(),
        profile: profile_path,
        genesis,
        ca,
        token_file: token.map(|_| token_file),
        node_config: node_configs.first().cloned().unwrap_or_default(),
        node_configs,
        signatures_missing: 0,
    })
}

/// The first authority document: people stop alone and restart together, automation only tightens (S7).
fn genesis_document(plan: &Plan, nodes: Vec<Node>, issued_at_ms: u64) -> String {
    let people = principals(&plan.people, PrincipalKind::Person);
    let automation = principals(&plan.automation, PrincipalKind::Automation);
    let (loosening, tightening): (Vec<_>, Vec<_>) =
        ActionKind::for_roles().filter(|action| *action != ActionKind::Enroll).partition(|a| a.loosens());
    let mut roles =
        vec![role("operators", &people, tightening, 1), role("restart", &people, loosening, plan.threshold)];
    if !automation.is_empty() {
        // Not revoke or suspend: a program that runs wild could take the people's own keys from them.
        let actions = vec![ActionKind::Stop, ActionKind::Restrict, ActionKind::Throttle, ActionKind::Isolate];
        roles.push(role("automation", &automation, actions, 1));
    }
    // No consent, and wanted more often: one of them gives it.
    roles.push(role("enrolment", &people, vec![ActionKind::Enroll], 1));
    let signers = (plan.root_keys.iter())
        .map(|(name, key)| RootSigner { name: name.clone(), key: key.clone() })
        .collect();
    authority::document::line(&Authority {
        // Its own digest, which the name ends with, is not known before it is written.
        deployment: Deployment { name: plan.name.clone(), genesis: Digest::default() },
        digest: Digest::default(),
        version: 1,
        issued_at_ms,
        succession: None,
        principals: people.into_iter().chain(automation).collect(),
        roles,
        root: Root { signers, threshold: plan.root_threshold },
        nodes,
        limits: Limits { ttl_ms: plan.ttl_ms, lapse_grace_ms: LAPSE_GRACE_DEFAULT_MS },
        enrolment: plan.enrolment,
    })
}

fn role(name: &str, members: &[Principal], actions: Vec<ActionKind>, threshold: u64) -> Role {
    let principals = members.iter().map(|p| p.name.clone()).collect();
    let (presence, verification) = (false, false);
    Role {
        name: name.into(),
        principals,
        actions,
        scopes: vec![Scope::fleet()],
        threshold,
        presence,
        verification,
    }
}

/// One principal per name, with all its keys, in the order in which they were given.
fn principals(named: &[(String, PublicKey)], kind: PrincipalKind) -> Vec<Principal> {
    let mut list: Vec<Principal> = Vec::new();
    for (name, key) in named {
        match list.iter_mut().find(|p| p.name == *name) {
            Some(principal) => principal.keys.push(key.clone()),
            None => list.push(Principal { name: name.clone(), kind, keys: vec![key.clone()] }),
        }
    }
    list
}

fn distinct_names(named: &[(String, PublicKey)]) -> u64 {
    principals(named, PrincipalKind::Person).len() as u64
}

/// How many more root keys must sign `envelope`.
fn missing_root_signatures(authority: &Authority, envelope: &Envelope) -> u64 {
    let signed = |key: &PublicKey| {
        envelope.signatures.iter().any(|s| root_key_of(s, &envelope.document).as_ref() == Some(key))
    };
    let have = authority.root.signers.iter().filter(|s| signed(&s.key)).count() as u64;
    authority.root.threshold.saturating_sub(have)
}

fn root_key_of(signature: &str, document: &str) -> Option<PublicKey> {
    SshSignature::parse(signature).ok()?.verify(document.as_bytes()).ok().map(|proven| proven.key)
}

/// Puts signatures that were made elsewhere into the genesis, everywhere below `dir` where it lies.
fn add_signatures(out: &Out, dir: &Path, files: &[PathBuf]) -> Result<Exit, Failure> {
    let path = dir.join(GENESIS_FILE);
    let old = fs::read_to_string(&path).map_err(|e| Failure::file("read the genesis", &path, &e))?;
    let mut envelope: Envelope = serde_json::from_str(&old).map_err(|e| {
        Failure::new(Exit::Failed, "genesis", format!("{} is no genesis: {e}", path.display()))
    })?;
    let authority = Authority::parse_genesis(&envelope.document)?;
    for file in files {
        let signature =
            fs::read_to_string(file).map_err(|e| Failure::file("read the signature", file, &e))?;
        let refused = |why: String| Failure::unverified("signature", format!("{}: {why}", file.display()));
        let key = SshSignature::parse(&signature)
            .and_then(|s| s.verify(envelope.document.as_bytes()))
            .map_err(|e| refused(e.to_string()))?
            .key;
        if !authority.root.signers.iter().any(|signer| signer.key == key) {
            return Err(refused(format!("key {} is no root key of this genesis", key.fingerprint())));
        }
        if !envelope.signatures.contains(&signature) {
            envelope.signatures.push(signature);
        }
    }
    let text = serde_json::to_string(&envelope).expect("an envelope is text") + "\n";
    for path in places_of(dir, &old) {
        super::files::replace(&path, text.as_bytes())?;
    }
    let missing = missing_root_signatures(&authority, &envelope);
    out.document(&serde_json::json!({ "genesis": path, "signatures_missing": missing }));
    if missing > 0 {
        say_missing(out, dir, missing);
        return Ok(Exit::MissingSignatures);
    }
    let digest = Digest::of(envelope.document.as_bytes());
    out.line(format!("the genesis {} is signed by enough root keys", digest));
    Ok(Exit::Ok)
}

/// The genesis itself, and the nodes' copies of it.
fn places_of(dir: &Path, text: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let copies = folders.flat_map(|folder| [GENESIS_FILE, SEED_FILE].map(|name| folder.join(name)));
    let same = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|t| t == text);
    copies.filter(same).chain(std::iter::once(dir.join(GENESIS_FILE))).collect()
}

pub fn named_key(text: &str) -> Result<(String, PublicKey), String> {
    let (name, path) = text.split_once('=').ok_or("write NAME=KEY.pub")?;
    Ok((name.into(), read_public_key(Path::new(path))?))
}

pub fn root_key(path: &str) -> Result<(String, PublicKey), String> {
    let name = Path::new(path).file_stem().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    Ok((name, read_public_key(Path::new(path))?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use data_encoding::BASE64;

    use super::*;
    use crate::cli::profile::Profile;
    use crate::cli::testing::{self, Deployed};
    use crate::config::NodeConfig;

    #[test]
    fn what_it_makes_is_read_by_the_node_and_the_command() {
        let Deployed { dir, made, .. } = testing::deployed();
        let profile = Profile::load(&made.profile).unwrap();
        let authority = profile.authority();
        let config = NodeConfig::load(&made.node_config).unwrap();
        assert_eq!(config.deployment, made.deployment.to_string());
        let node = authority.node(&config.node).expect("the node is in the authority");
        let seed = BASE64.decode(fs::read_to_string(&config.node_key).unwrap().trim().as_bytes()).unwrap();
        let signer = tagout_proto::note::NoteSigner::new(&config.node, &seed.try_into().unwrap()).unwrap();
        assert_eq!(signer.verifier(), node.key);
        assert_eq!(fs::metadata(&config.node_key).unwrap().permissions().mode() & 0o777, 0o600);
        pki::load(&config.tls_cert, &config.tls_key).unwrap();
        assert_eq!(profile.nodes, ["https://localhost:7470"]);

        let role = |name: &str| authority.roles.iter().find(|r| r.name == name).unwrap();
        assert_eq!((role("operators").threshold, role("restart").threshold), (1, 2));
        assert!(role("automation").actions.iter().all(|a| !a.loosens()), "S7");
        assert!(dir.path().join("ca/ca.key").is_file());
    }

    #[test]
    fn nothing_is_overwritten() {
        let deployed = testing::deployed();
        let before = fs::read(&deployed.made.genesis).unwrap();
        let failure = make(&deployed.plan(), &[]).unwrap_err();
        assert!(failure.to_string().contains("left as it is"), "{failure}");
        assert_eq!(fs::read(&deployed.made.genesis).unwrap(), before);
    }

    #[test]
    fn root_signatures_may_come_later_and_only_from_root_keys() {
        let keys = testing::Keys::new();
        let dir = tempfile::tempdir().unwrap();
        let made = make(&keys.plan(dir.path()), &[]).unwrap();
        assert_eq!(made.signatures_missing, 1);
        assert_eq!(Profile::load(&made.profile).unwrap_err().exit, Exit::Unverified);

        let document = fs::read(dir.path().join(UNSIGNED_FILE)).unwrap();
        let sign = |name: &str| {
            let file = dir.path().join(format!("{name}.sig"));
            fs::write(&file, keys.signer(name).sign(NAMESPACE, &document).unwrap()).unwrap();
            file
        };
        let out = Out::new(true);
        let stranger = add_signatures(&out, dir.path(), &[sign("alice")]).unwrap_err();
        assert!(stranger.to_string().contains("no root key"), "{stranger}");
        assert_eq!(add_signatures(&out, dir.path(), &[sign("root")]).unwrap(), Exit::Ok);
        Profile::load(&made.profile).unwrap();
        for copy in [GENESIS_FILE, SEED_FILE] {
            let copy = made.node_config.with_file_name(copy);
            assert_eq!(fs::read(&made.genesis).unwrap(), fs::read(copy).unwrap());
        }
    }

    #[test]
    fn one_command_makes_three_nodes() {
        let (keys, dir) = (testing::Keys::new(), tempfile::tempdir().unwrap());
        let named = ["a=10.0.0.1", "b=[fd00::2]:8000", "c=C.example:8000:9000"].map(|n| node_at(n).unwrap());
        let nodes = several(&named, &["tagout.example".into()]).unwrap();
        let made = make(&Plan { nodes, ..keys.plan(dir.path()) }, &[keys.signer("root")]).unwrap();

        let profile = Profile::load(&made.profile).unwrap();
        assert_eq!(
            profile.nodes,
            ["https://10.0.0.1:7470", "https://[fd00::2]:8000", "https://c.example:8000"]
        );
        let listed: Vec<_> = (profile.authority().nodes.iter())
            .map(|node| (node.id, node.key.name.as_str(), node.address.as_deref().unwrap(), node.learner))
            .collect();
        let expected = [
            (1, "demo/a", "10.0.0.1:7471", false),
            (2, "demo/b", "[fd00::2]:8001", false),
            (3, "demo/c", "c.example:9000", false),
        ];
        assert_eq!(listed, expected);
        let listens =
            [("0.0.0.0:7470", "0.0.0.0:7471"), ("[::]:8000", "[::]:8001"), ("0.0.0.0:8000", "0.0.0.0:9000")];
        for (config, (listen, peers)) in made.node_configs.iter().zip(listens) {
            let read = NodeConfig::load(config).unwrap();
            assert_eq!(
                (read.listen, read.peer_listen),
                (listen.parse().unwrap(), Some(peers.parse().unwrap()))
            );
            pki::load(&read.tls_cert, &read.tls_key).unwrap();
            assert_eq!(fs::read(read.ca.unwrap()).unwrap(), fs::read(&made.ca).unwrap());
            assert_eq!(read.node_id, None, "the genesis has it");
            // One begins, the others join.
            assert_eq!(config.with_file_name(SEED_FILE).is_file(), config == &made.node_config);
            assert_eq!(read.data.join("join").is_file(), config != &made.node_config);
        }
    }

    #[test]
    fn nodes_on_one_host_and_what_is_no_node() {
        let loopback =
            ["a=127.0.0.1:7470", "b=127.0.0.1:7472", "c=localhost:7474"].map(|n| node_at(n).unwrap());
        for (node, port) in several(&loopback, &[]).unwrap().iter().zip([7470, 7472, 7474]) {
            assert_eq!(node.listen, SocketAddr::from(([127, 0, 0, 1], port)));
            assert_eq!(node.peer_listen, Some(SocketAddr::from(([127, 0, 0, 1], port + 1))));
        }
        let twice = ["a=127.0.0.1:7470", "b=127.0.0.1:7471"].map(|n| node_at(n).unwrap());
        let failure = several(&twice, &[]).err().unwrap();
        assert!(failure.to_string().contains("port 7471 of 127.0.0.1 is given twice"), "{failure}");
        let many: Vec<_> = (0..10).map(|n| node_at(&format!("n{n}=h{n}")).unwrap()).collect();
        assert!(several(&many, &[]).err().unwrap().to_string().contains("at most 9 nodes"));

        for (wrong, says) in [
            ("a", "write NAME=HOST"),
            ("a=::1", "neither a DNS name"),
            ("a=https://h", "write NAME=HOST"),
            ("a=h_1", "neither a DNS name"),
            ("a=h:", "write NAME=HOST"),
            ("a=h:0", "write NAME=HOST"),
            ("a=h:65535", "give the PEER_PORT"),
            ("a=h:1:2:3", "write NAME=HOST"),
            ("a=0.0.0.0", "neither a DNS name"),
        ] {
            let error = node_at(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_wrong_plan_is_refused_and_leaves_nothing() {
        let keys = testing::Keys::new();
        let dir = tempfile::tempdir().unwrap();
        let mut plan = keys.plan(dir.path());
        plan.people = vec![("alice".into(), keys.public("alice")), ("alice".into(), keys.public("bob"))];
        let failure = make(&plan, &[]).unwrap_err();
        assert!(failure.to_string().contains("needs 2 of 1"), "{failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a plan that is refused leaves nothing");

        for elsewhere in ["..", ".", "../x", "/x", "x/", ""] {
            let mut plan = keys.plan(&dir.path().join("new"));
            plan.nodes[0].name = elsewhere.into();
            assert_eq!(make(&plan, &[]).unwrap_err().exit, Exit::Usage, "{elsewhere:?}");
        }

        let mut plan = keys.plan(dir.path());
        plan.nodes[0].sans = vec!["https://node".into()];
        let failure = make(&plan, &[]).unwrap_err();
        assert!(failure.to_string().contains("without scheme"), "{failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nor does one that fails halfway");
    }
}
