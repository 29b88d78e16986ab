//! `tagout init`: makes a deployment. Its genesis is signed by the root keys; what comes out is sorted by who gets it.
//!
//! ```text
//! <dir>/profile.toml, genesis.json, ca.pem   for everybody who operates or guards agents
//! <dir>/genesis-document.json                the exact bytes that root keys sign
//! <dir>/<node>/                              for the node: tagout.toml and all that it names
//! <dir>/ca/                                  the private CA; keep it offline
//! ```

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use serde::Serialize;
use tagout_proto::authority::{Authority, Limits, Node, Principal, PrincipalKind, Role, Root, RootSigner};
use tagout_proto::command::{ActionKind, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::LAPSE_GRACE_DEFAULT_MS;
use tagout_proto::note::VerifierKey;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{NAMESPACE, PublicKey, SshSignature};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::files::{read_public_key, write_new};
use super::out::{Ink, Out, count, now_ms};
use super::profile::ProfileFile;
use super::signing;
use super::{authority, duration_ms};
use crate::config::NodeConfig;
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
    /// The first node's name
    #[arg(long, default_value = "node-1")]
    node_name: String,
    /// The first node's number in its cluster
    #[arg(long, default_value_t = 1)]
    node_id: u64,
    /// Where the node listens
    #[arg(long, default_value = "0.0.0.0:7470")]
    listen: SocketAddr,
    /// A DNS name or IP address under which the node is reached; the first one goes into the profile
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    san: Vec<String>,
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
    pub node_name: String,
    pub node_id: u64,
    pub listen: SocketAddr,
    pub sans: Vec<String>,
    pub ttl_ms: u64,
    pub store: StoreKind,
    /// For the profile.
    pub keys: Vec<String>,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    #[serde(serialize_with = "as_text")]
    pub deployment: Deployment,
    pub profile: PathBuf,
    pub genesis: PathBuf,
    pub ca: PathBuf,
    pub node_config: PathBuf,
    /// Root signatures that the genesis still lacks before anybody takes it.
    pub signatures_missing: u64,
}

fn as_text<S: serde::Serializer>(deployment: &Deployment, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(deployment)
}

const GENESIS_FILE: &str = "genesis.json";
/// The genesis without its signatures: the exact bytes that root keys sign.
const UNSIGNED_FILE: &str = "genesis-document.json";
const PROFILE_FILE: &str = "profile.toml";
const CA_FILE: &str = "ca.pem";
const CA_FOLDER: &str = "ca";

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
        node_name: args.node_name,
        node_id: args.node_id,
        listen: args.listen,
        sans: args.san,
        ttl_ms: args.ttl,
        store: StoreKind::default(),
        keys: args.keys.iter().map(|key| absolute(key)).collect(),
    };
    let signers = if args.sign_root.is_empty() { vec![] } else { signing::open_signers(&args.sign_root)? };
    let made = make(&plan, &signers)?;
    out.document(&made);
    out.line(format!("made {}", out.ink(Ink::Bold, made.deployment.to_string())));
    out.line(format!(
        "  for operators and guards  {} (with genesis.json and ca.pem beside it)",
        made.profile.display()
    ));
    out.line(format!("  for the node              {}", made.node_config.display()));
    out.line(format!("  keep offline              {} and the root keys", plan.dir.join("ca").display()));
    if made.signatures_missing > 0 {
        say_missing(out, &plan.dir, made.signatures_missing);
        return Ok(Exit::MissingSignatures);
    }
    out.line(format!("start the node: tagout serve --config {}", made.node_config.display()));
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

/// Makes the deployment's files. The genesis carries the signatures of `root_signers`, enough or not.
pub fn make(plan: &Plan, root_signers: &[Signer]) -> Result<Made, Failure> {
    // It names a folder, which is removed again if something fails: it must not lead elsewhere.
    if Path::new(&plan.node_name).file_name() != Some(plan.node_name.as_ref()) {
        return Err(Failure::usage(format!("--node-name {:?} is no plain name", plan.node_name)));
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|e| {
        Failure::new(Exit::Failed, "randomness", format!("no randomness for the node's key: {e}"))
    })?;
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let verifier = VerifierKey::new(&plan.note_key_name(), public)
        .map_err(|e| Failure::usage(format!("--node-name: {e}")))?;

    let document = genesis_document(plan, &verifier, now_ms());
    let authority = Authority::parse_genesis(&document)?;
    let envelope = signing::sign(document, root_signers)?;
    let signatures_missing = missing_root_signatures(&authority, &envelope);

    let places = [GENESIS_FILE, UNSIGNED_FILE, PROFILE_FILE, CA_FILE, CA_FOLDER, &plan.node_name];
    let places = places.map(|name| plan.dir.join(name));
    if let Some(path) = places.iter().find(|path| path.symlink_metadata().is_ok()) {
        let path = path.display();
        let detail = format!(
            "{path} exists already and is left as it is: choose another --dir, or move it away first"
        );
        return Err(Failure::new(Exit::Failed, "exists", detail));
    }
    let made = write_all(plan, &authority.deployment, &verifier, &seed, &envelope);
    if made.is_err() {
        // None of them was there before: half a deployment would only block the next attempt.
        places.iter().for_each(|path| drop(fs::remove_file(path).or_else(|_| fs::remove_dir_all(path))));
    }
    Ok(Made { signatures_missing, ..made? })
}

fn write_all(
    plan: &Plan,
    deployment: &Deployment,
    node_key: &VerifierKey,
    seed: &[u8; 32],
    envelope: &Envelope,
) -> Result<Made, Failure> {
    let node_dir = plan.dir.join(&plan.node_name);
    fs::create_dir_all(&plan.dir).map_err(|e| Failure::file("make the folder", &plan.dir, &e))?;
    let ca_dir = plan.dir.join(CA_FOLDER);
    let ca_pem = pki::create_ca(&ca_dir, &plan.name)?;
    let tls = pki::issue(&ca_dir, &plan.node_name, &plan.sans)?;
    let made = fs::DirBuilder::new().mode(0o700).create(&node_dir);
    made.map_err(|e| Failure::file("make the folder", &node_dir, &e))?;
    let (tls_cert, tls_key) = tls.write(&node_dir, "tls")?;

    let envelope_text = serde_json::to_string(&envelope).expect("an envelope is text") + "\n";
    let config = NodeConfig {
        deployment: deployment.to_string(),
        node: node_key.name.clone(),
        listen: plan.listen,
        data: "data".into(),
        genesis: GENESIS_FILE.into(),
        node_key: "node.key".into(),
        tls_cert: file_name(&tls_cert),
        tls_key: file_name(&tls_key),
        store: plan.store,
        peer_listen: None,
        ca: None,
        ca_folder: None,
        reserve_mib: None,
        node_id: None,
    };
    let profile = ProfileFile {
        deployment: deployment.to_string(),
        nodes: vec![node_url(&plan.sans, plan.listen)],
        ca: CA_FILE.into(),
        genesis: GENESIS_FILE.into(),
        keys: plan.keys.clone(),
    };
    let profile_text = format!(
        "# Which deployment the `tagout` command means. Paths are relative to this file.\n\n{}",
        toml::to_string(&profile).expect("a profile is text and lists of text")
    );
    let node_config = node_dir.join("tagout.toml");
    let seed_text = Zeroizing::new(format!("{}\n", BASE64.encode(seed)));
    let (genesis, profile_path) = (plan.dir.join(GENESIS_FILE), plan.dir.join(PROFILE_FILE));
    let ca = plan.dir.join(CA_FILE);
    for (path, text, mode) in [
        (&node_dir.join("node.key"), seed_text.as_str(), 0o600),
        (&node_dir.join(GENESIS_FILE), &envelope_text, 0o644),
        (&node_config, &config.documented(), 0o644),
        (&ca, &ca_pem, 0o644),
        (&genesis, &envelope_text, 0o644),
        (&plan.dir.join(UNSIGNED_FILE), &envelope.document, 0o644),
        (&profile_path, &profile_text, 0o644),
    ] {
        write_new(path, text.as_bytes(), mode)?;
    }
    let deployment = deployment.clone();
    Ok(Made { deployment, profile: profile_path, genesis, ca, node_config, signatures_missing: 0 })
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().expect("certificates are files").into()
}

/// Where the node is reached: its first name, at the port where it listens.
fn node_url(sans: &[String], listen: SocketAddr) -> String {
    let host = sans.first().map_or("localhost", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("https://{host}:{}", listen.port())
}

impl Plan {
    /// The name under which the node signs: unique among all deployments that somebody may watch.
    fn note_key_name(&self) -> String {
        format!("{}/{}", self.name, self.node_name)
    }
}

/// The first authority document: people stop alone and restart together, automation only tightens (S7).
fn genesis_document(plan: &Plan, node: &VerifierKey, issued_at_ms: u64) -> String {
    let people = principals(&plan.people, PrincipalKind::Person);
    let automation = principals(&plan.automation, PrincipalKind::Automation);
    let (loosening, tightening): (Vec<_>, Vec<_>) =
        ActionKind::for_roles().partition(|action| action.loosens());
    let mut roles =
        vec![role("operators", &people, tightening, 1), role("restart", &people, loosening, plan.threshold)];
    if !automation.is_empty() {
        // Not revoke or suspend: a program that runs wild could take the people's own keys from them.
        let actions = vec![ActionKind::Stop, ActionKind::Restrict, ActionKind::Throttle, ActionKind::Isolate];
        roles.push(role("automation", &automation, actions, 1));
    }
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
        nodes: vec![Node { id: plan.node_id, key: node.clone(), address: None, learner: false }],
        limits: Limits { ttl_ms: plan.ttl_ms, lapse_grace_ms: LAPSE_GRACE_DEFAULT_MS },
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
    let copies = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path().join(GENESIS_FILE));
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

    use super::*;
    use crate::cli::profile::Profile;
    use crate::cli::testing::{self, Deployed};

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
        assert_eq!(
            fs::read(&made.genesis).unwrap(),
            fs::read(made.node_config.with_file_name(GENESIS_FILE)).unwrap()
        );
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
            plan.node_name = elsewhere.into();
            assert_eq!(make(&plan, &[]).unwrap_err().exit, Exit::Usage, "{elsewhere:?}");
        }

        let mut plan = keys.plan(dir.path());
        plan.sans = vec!["https://node".into()];
        let failure = make(&plan, &[]).unwrap_err();
        assert!(failure.to_string().contains("without scheme"), "{failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nor does one that fails halfway");
    }

    #[test]
    fn addresses_of_nodes() {
        let listen = "0.0.0.0:7471".parse().unwrap();
        assert_eq!(node_url(&["n.example".into()], listen), "https://n.example:7471");
        assert_eq!(node_url(&["::1".into()], listen), "https://[::1]:7471");
    }
}
