use std::path::Path;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::pki::testing::{DAY_S, issue_between};

struct Deployment {
    dir: tempfile::TempDir,
}

impl Deployment {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::create_ca(&dir.path().join("ca"), "test").unwrap();
        Self { dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// A node whose certificate is valid from and until so many days from now.
    fn node(&self, name: &str, from_days: i64, until_days: i64) -> Files {
        let issued = issue_between(&self.ca(), name, &["127.0.0.1"], from_days * DAY_S, until_days * DAY_S);
        let (cert, key) = issued.write(self.dir.path(), name).unwrap();
        Files { cert, key, ca: Some(self.ca().join(pki::CA_CERT_FILE)), ca_folder: None }
    }
}

fn write(path: &Path, text: &str) {
    crate::store::files::replace(path, text.as_bytes()).unwrap();
}

fn shown(tls: &NodeTls) -> String {
    tls.in_use.lock().cert.clone()
}

/// A connection from one node to the other, and what was said over it.
async fn connect(from: Arc<ClientConfig>, to: Arc<ServerConfig>) -> std::io::Result<Vec<u8>> {
    tls_to(from, to, "another-name.example").await
}

async fn tls_to(
    from: Arc<ClientConfig>,
    to: Arc<ServerConfig>,
    name: &'static str,
) -> std::io::Result<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let accepting = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(to).accept(stream).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    });
    let name = ServerName::try_from(name).unwrap();
    let mut stream = TlsConnector::from(from).connect(name, TcpStream::connect(address).await?).await?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    accepting.await.unwrap()?;
    Ok(said)
}

#[tokio::test]
async fn nodes_connect_with_each_other_and_nobody_else_does() {
    let deployment = Deployment::new();
    let [a, b] = ["a", "b"].map(|name| NodeTls::load(deployment.node(name, -1, 300)).unwrap());
    assert_eq!(connect(a.peer_client().unwrap(), b.peer_server().unwrap()).await.unwrap(), b"hello");

    let elsewhere = Deployment::new();
    let stranger = NodeTls::load(elsewhere.node("a", -1, 300)).unwrap();
    connect(stranger.peer_client().unwrap(), b.peer_server().unwrap()).await.unwrap_err();
    connect(a.peer_client().unwrap(), stranger.peer_server().unwrap()).await.unwrap_err();

    // Whoever shows no certificate, and an agent, whose certificate serves nothing.
    let ca_pem = pki::load_ca_cert(&deployment.ca()).unwrap();
    let agent = pki::issue_client(&deployment.ca(), "agent").unwrap();
    let agent = tls::client_config_with_identity(&ca_pem, &agent.cert_pem, &agent.key_pem).unwrap();
    for mut config in [tls::client_config(&ca_pem).unwrap(), agent] {
        config.alpn_protocols = vec![mutual::ALPN.to_vec()];
        let refused = tls_to(Arc::new(config), b.peer_server().unwrap(), "127.0.0.1").await;
        refused.unwrap_err();
    }

    let without = Files { ca: None, ..deployment.node("c", -1, 300) };
    assert!(NodeTls::load(without).unwrap().peer_server().is_err());
}

#[tokio::test]
async fn an_ended_certificate_takes_no_quorum_away() {
    let deployment = Deployment::new();
    let fresh = NodeTls::load(deployment.node("fresh", -1, 300)).unwrap();
    for (name, from, until) in [("ended", -400, -35), ("to-come", 5, 300)] {
        let other = NodeTls::load(deployment.node(name, from, until)).unwrap();
        assert_eq!(
            connect(fresh.peer_client().unwrap(), other.peer_server().unwrap()).await.unwrap(),
            b"hello"
        );
        assert_eq!(
            connect(other.peer_client().unwrap(), fresh.peer_server().unwrap()).await.unwrap(),
            b"hello"
        );
    }
}

#[tokio::test]
async fn new_files_are_taken_over_if_they_are_good_and_connections_follow() {
    let deployment = Deployment::new();
    let files = deployment.node("a", -1, 300);
    let tls = NodeTls::load(files.clone()).unwrap();
    let peer = NodeTls::load(deployment.node("b", -1, 300)).unwrap();
    // Made before, and following all the same.
    let (server, client) = (tls.peer_server().unwrap(), tls.peer_client().unwrap());
    let (first, mut watch) = (shown(&tls), Watch::default());

    let other = pki::issue(&deployment.ca(), "other", &["127.0.0.1"]).unwrap();
    let ended = issue_between(&deployment.ca(), "a", &["127.0.0.1"], -9 * DAY_S, -DAY_S);
    let strange = Deployment::new();
    let strange = pki::issue(&strange.ca(), "a", &["127.0.0.1"]).unwrap();
    let key = std::fs::read_to_string(&files.key).unwrap();
    for (cert, key, why) in [
        ("no certificate", key.as_str(), "no certificate"),
        (other.cert_pem.as_str(), key.as_str(), "belongs to another"),
        (ended.cert_pem.as_str(), ended.key_pem.as_str(), "not valid at this time"),
        (strange.cert_pem.as_str(), strange.key_pem.as_str(), "would refuse"),
    ] {
        write(&files.cert, cert);
        std::fs::write(&files.key, key).unwrap();
        tls.look(&mut watch);
        let refused = watch.refused.clone().expect("it is told of");
        assert!(refused.contains(why), "{refused}");
        assert_eq!(shown(&tls), first, "the one in use stays");
    }
    std::fs::remove_file(&files.cert).unwrap();
    tls.look(&mut watch);
    assert!(watch.refused.is_some());
    assert_eq!(connect(peer.peer_client().unwrap(), server.clone()).await.unwrap(), b"hello");

    write(&files.cert, &other.cert_pem);
    std::fs::write(&files.key, &other.key_pem).unwrap();
    tls.look(&mut watch);
    assert_eq!((watch.refused, shown(&tls)), (None, other.cert_pem));
    assert_eq!(connect(peer.peer_client().unwrap(), server).await.unwrap(), b"hello");
    assert_eq!(connect(client, peer.peer_server().unwrap()).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_ca_is_succeeded_without_a_restart() {
    let (old, new) = (Deployment::new(), Deployment::new());
    let mut files = old.node("a", -1, 100);
    let bundle = old.dir.path().join("bundle.pem");
    std::fs::copy(files.ca.as_ref().unwrap(), &bundle).unwrap();
    files.ca = Some(bundle.clone());
    let tls = NodeTls::load(files.clone()).unwrap();
    let server = tls.peer_server().unwrap();
    let peer = NodeTls::load(Files { ca: Some(bundle.clone()), ..new.node("early", -1, 300) });
    assert!(peer.is_err(), "it would not be taken by its own peers");

    let other_ca = pki::renew(&new.ca(), &files.cert, &files.key, Some(&pki::load_pem(&bundle).unwrap()));
    assert!(other_ca.unwrap_err().to_string().contains("not one that this node's clients trust"));
    let both = [old.ca(), new.ca()].map(|ca| pki::load_ca_cert(&ca).unwrap()).concat();
    write(&bundle, &both);
    tls.look(&mut Watch::default());
    let peer = NodeTls::load(Files { ca: Some(bundle), ..new.node("b", -1, 300) }).unwrap();
    assert_eq!(connect(peer.peer_client().unwrap(), server.clone()).await.unwrap(), b"hello");
    pki::renew(&new.ca(), &files.cert, &files.key, Some(&both)).unwrap();
    tls.look(&mut Watch::default());
    assert_eq!(connect(peer.peer_client().unwrap(), server).await.unwrap(), b"hello");
}

#[test]
fn a_node_with_the_ca_renews_by_itself_in_the_last_third() {
    let deployment = Deployment::new();
    for (name, until_days, renews) in [("early", 200, false), ("late", 90, true), ("ended", -1, true)] {
        let mut files = deployment.node(name, -300, until_days);
        files.ca_folder = Some(deployment.ca());
        let tls = NodeTls::load(files.clone()).unwrap();
        let before = shown(&tls);
        let mut watch = Watch::default();
        tls.look(&mut watch);
        assert_eq!(shown(&tls) != before, renews, "{name}");
        assert_eq!(shown(&tls), std::fs::read_to_string(&files.cert).unwrap());
        let again = shown(&tls);
        tls.look(&mut watch);
        assert_eq!(shown(&tls), again, "once is enough");
    }

    let files = deployment.node("failing", -300, 5);
    let files = Files { ca_folder: Some(deployment.dir.path().join("gone")), ..files };
    let (tls, mut watch) = (NodeTls::load(files).unwrap(), Watch::default());
    tls.look(&mut watch);
    assert!(watch.renew_again.is_some() && watch.refused.is_none(), "it serves on, and tries again later");
}

#[tokio::test]
async fn the_task_looks_by_itself() {
    let deployment = Deployment::new();
    let mut files = deployment.node("a", -300, 5);
    files.ca_folder = Some(deployment.ca());
    let tls = NodeTls::load(files).unwrap();
    let (before, shutdown) = (shown(&tls), CancellationToken::new());
    let following = tokio::spawn(Arc::clone(&tls).follow(shutdown.clone()));
    while shown(&tls) == before {
        tokio::task::yield_now().await; // the first look comes at once
    }
    shutdown.cancel();
    following.await.unwrap();
}
