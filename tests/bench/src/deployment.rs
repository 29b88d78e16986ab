//! A deployment of ours: keys, genesis, nodes' folders, and stops that are signed before the clock runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use tagout_control_plane::cli::signing::{draft, sign};
use tagout_control_plane::sign::{Signer, generate};
use tagout_control_plane::store::StoreKind;
use tagout_proto::command::{Action, Deployment as Name, Grant, LockCommand, LockSet, Release, Seen, Start};
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::LockKind;
use tagout_proto::profile::ProfileFile;
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;
use tagout_proto::wire::Status;

use crate::http::{Answer, Connection};

pub const COMMANDS: &str = "/v1/commands";
pub const FORM: HeaderValue = HeaderValue::from_static("multipart/form-data; boundary=tagout-bench");

pub struct Deployment {
    dir: PathBuf,
    name: Name,
    alice: Signer,
    bob: Signer,
    stops: u64,
}

impl Deployment {
    /// Makes one in `folder`, whose nodes listen at these addresses, for clients and for one another.
    pub fn make(
        folder: &Path,
        store: StoreKind,
        nodes: &[(SocketAddr, SocketAddr)],
        ttl_s: u64,
    ) -> anyhow::Result<Self> {
        let keys = folder.join("keys");
        std::fs::create_dir_all(&keys)?;
        let key = |name: &str| -> anyhow::Result<Signer> {
            let path = keys.join(name);
            generate(&path, name, None)?;
            Ok(Signer::open(&path.to_string_lossy())?)
        };
        let (alice, bob, _root) = (key("alice")?, key("bob")?, key("root")?);
        let dir = folder.join("deployment");
        let at = |(n, (api, peer)): (usize, &(SocketAddr, SocketAddr))| {
            format!("node-{}={}:{}:{}", n + 1, api.ip(), api.port(), peer.port())
        };
        let nodes: Vec<_> = nodes.iter().enumerate().map(at).collect();
        let public = |name: &str| keys.join(name).with_extension("pub").display().to_string();
        let made = Command::new(tagout())
            .args(["init", "--without-enrolment", "--name", "bench", "--dir"])
            .arg(&dir)
            .args([
                "--person",
                &format!("alice={}", public("alice")),
                "--person",
                &format!("bob={}", public("bob")),
            ])
            .args(["--root-key", &public("root"), "--sign-root", &keys.join("root").display().to_string()])
            .args(["--nodes", &nodes.join(","), "--ttl", &format!("{ttl_s}s")])
            .output()
            .context("cannot run the tagout command")?;
        if !made.status.success() {
            bail!("tagout init failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        let name = profile(&dir.join("profile.toml"))?.deployment.parse()?;
        let deployment = Self { dir, name, alice, bob, stops: 0 };
        for n in 0..nodes.len() {
            let config = deployment.config(n);
            // Nobody is asked who they are: etcd and Redis do not ask either.
            std::fs::write(config.with_file_name("access.toml"), "open = [\"all\"]\n")?;
            let text = std::fs::read_to_string(&config)?;
            if store == StoreKind::Segment {
                let segment = text.replace("store = \"sled\"", "store = \"segment\"");
                std::fs::write(&config, segment)?;
            }
        }
        Ok(deployment)
    }

    pub fn config(&self, n: usize) -> PathBuf {
        self.dir.join(format!("node-{}/tagout.toml", n + 1))
    }

    pub fn data(&self, n: usize) -> PathBuf {
        self.dir.join(format!("node-{}/data", n + 1))
    }

    pub fn profile(&self) -> PathBuf {
        self.dir.join("profile.toml")
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A signed stop of a scope of its own.
    pub fn stop(&mut self) -> anyhow::Result<Envelope> {
        self.stops += 1;
        self.stop_of(&format!("stopped/agent_{}", self.stops))
    }

    pub fn stop_of(&self, scope: &str) -> anyhow::Result<Envelope> {
        let (scope, reason) = (Scope::parse(scope)?, "policy violation 4.1".into());
        let lock = LockCommand { scope, kind: LockKind::Halt, reason, case: None };
        self.signed(&[&self.alice], &Action::Lock(lock))
    }

    /// Releases the stop and starts what it had stopped.
    pub async fn resume(&self, connection: &Connection, scope: &str, stop: &Envelope) -> anyhow::Result<()> {
        let locks = || LockSet::Ids(vec![stop.digest()]);
        let (scope, reason) = (Scope::parse(scope)?, || "benchmark".to_owned());
        let release = Action::Release(Release {
            scope: scope.clone(),
            locks: locks(),
            reason: reason(),
            lost_from: None,
        });
        let start = Action::Start(Start { scope, locks: locks(), reason: reason() });
        for action in [release, start] {
            let signed = self.signed(&[&self.alice, &self.bob], &action)?;
            accepted(&connection.post(COMMANDS, &FORM, form(&signed)).await?)?;
        }
        Ok(())
    }

    /// A day's consent for `scope`.
    pub async fn grant(&self, connection: &Connection, scope: &str, terms: Terms) -> anyhow::Result<()> {
        let status: Status = serde_json::from_slice(&connection.get("/v1/status").await?.body)?;
        let grant = Grant {
            scope: Scope::parse(scope)?,
            expires_at_ms: status.time_ms + 24 * 3600 * 1000,
            seen: Seen { epoch: status.epoch.id, size: status.log_size, authority: status.authority_version },
            terms,
            reason: "benchmark".into(),
        };
        let grant = self.signed(&[&self.alice, &self.bob], &Action::Grant(grant))?;
        accepted(&connection.post(COMMANDS, &FORM, form(&grant)).await?)
    }

    fn signed(&self, signers: &[&Signer], action: &Action) -> anyhow::Result<Envelope> {
        let document = draft(&self.name, action).map_err(|failure| anyhow!("{failure}"))?;
        let mut envelope = Envelope { document: document.clone(), signatures: vec![] };
        for signer in signers {
            let signed = sign(document.clone(), std::slice::from_ref(signer));
            envelope.signatures.extend(signed.map_err(|failure| anyhow!("{failure}"))?.signatures);
        }
        Ok(envelope)
    }
}

/// The `tagout` command that was built beside this one.
pub fn tagout() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("tagout")
}

/// The profile in `path`, with its own paths made good.
pub fn profile(path: &Path) -> anyhow::Result<ProfileFile> {
    let mut profile: ProfileFile = toml::from_str(&std::fs::read_to_string(path)?)?;
    let folder = path.parent().context("a profile lies in a folder")?;
    (profile.ca, profile.genesis) = (folder.join(&profile.ca), folder.join(&profile.genesis));
    Ok(profile)
}

/// What `curl -F command=@stop.json -F signature=@stop.json.sig` sends.
pub fn form(envelope: &Envelope) -> Bytes {
    let parts = std::iter::once(("command", &envelope.document));
    let parts = parts.chain(envelope.signatures.iter().map(|signature| ("signature", signature)));
    let mut body: String = parts
        .map(|(name, text)| {
            format!("--tagout-bench\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
        })
        .collect();
    body.push_str("--tagout-bench--\r\n");
    body.into()
}

pub fn accepted(answer: &Answer) -> anyhow::Result<()> {
    match answer.status {
        StatusCode::CREATED | StatusCode::OK => Ok(()),
        status => bail!("refused: {status} {}", String::from_utf8_lossy(&answer.body)),
    }
}

pub fn ready(answer: &Answer) -> anyhow::Result<()> {
    match answer.status {
        StatusCode::OK => Ok(()),
        status => bail!("not ready: {status} {}", String::from_utf8_lossy(&answer.body)),
    }
}

pub async fn leads(connection: &Connection) -> anyhow::Result<bool> {
    let metrics = connection.get("/metrics").await?;
    Ok(String::from_utf8_lossy(&metrics.body).lines().any(|line| line == "tagout_raft_leader 1"))
}
