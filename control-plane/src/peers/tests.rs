//! Two ends on loopback, with certificates of a CA of their own.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::certificates::{self, NodeTls};
use crate::pki;

const WITHIN: Duration = Duration::from_secs(20);

pub(crate) struct Ca(tempfile::TempDir);

impl Ca {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::create_ca(dir.path(), "demo").unwrap();
        Self(dir)
    }

    pub(crate) fn client(&self) -> Arc<rustls::ClientConfig> {
        self.node().peer_client().unwrap()
    }

    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        self.node().peer_server().unwrap()
    }

    /// With a certificate of its own.
    fn node(&self) -> Arc<NodeTls> {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) =
            pki::issue(self.0.path(), "node", &["127.0.0.1"]).unwrap().write(dir.path(), "tls").unwrap();
        let ca = Some(self.0.path().join(pki::CA_CERT_FILE));
        NodeTls::load(certificates::Files { cert, key, ca, ca_folder: None }).unwrap()
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn member(seed: u8, address: &str) -> Member {
    Member {
        name: format!("demo/{seed}"),
        key: key(seed).verifying_key().to_bytes(),
        address: address.into(),
    }
}

fn me(id: u64) -> Me {
    Me { id, newest: PROTOCOL_NEWEST, deployment: "demo:0".into(), key: key(id as u8) }
}

/// Says back what it hears, with who said it; a `Tile` is refused and an `Entries` never answered.
#[derive(Default)]
struct Echo(AtomicU64);

impl Handler for Echo {
    fn handle(
        self: Arc<Self>,
        from: u64,
        kind: Kind,
        request: Vec<u8>,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match kind {
                Kind::Tile => Err(io::Error::other("no such tile")),
                Kind::Entries => std::future::pending().await,
                _ => Ok([&[from as u8], &request[..]].concat()),
            }
        })
    }
}

struct Server {
    address: String,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    echo: Arc<Echo>,
}

/// Node 2 listens; it knows node 1 by its key.
async fn server(ca: &Ca, me: Me, listen: &str) -> Server {
    let listener = TcpListener::bind(listen).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peers = Peers::new(me, ca.client());
    peers.know(1, &member(1, "127.0.0.1:1"));
    let (shutdown, echo) = (CancellationToken::new(), Arc::new(Echo::default()));
    let ended = tokio::spawn(serve(listener, ca.server(), peers, echo.clone(), shutdown.clone()));
    Server { address, shutdown, ended, echo }
}

fn caller(ca: &Ca, me: Me, address: &str) -> Arc<Peers> {
    let peers = Peers::new(me, ca.client());
    peers.know(2, &member(2, address));
    peers
}

#[tokio::test]
async fn calls_are_answered_many_at_once_and_on_every_lane() {
    let ca = Ca::new();
    let server = server(&ca, me(2), "127.0.0.1:0").await;
    let peers = caller(&ca, me(1), &server.address);
    assert_eq!((peers.others(), peers.name(2)), (vec![2], "demo/2".into()));
    let calls = (0..200u32).map(|n| {
        let peers = peers.clone();
        async move {
            let kind = [Kind::Append, Kind::Propose, Kind::Snapshot][n as usize % 3];
            let request = vec![n as u8; n as usize * 100];
            let answer = peers.call(2, kind, request.clone(), WITHIN).await.unwrap();
            assert_eq!(answer, [&[1], &request[..]].concat());
        }
    });
    futures_util::future::join_all(calls).await;
    let large = vec![7; 3 << 20];
    assert_eq!(peers.call(2, Kind::Snapshot, large.clone(), WITHIN).await.unwrap()[1..], large);

    let refused = peers.call(2, Kind::Tile, vec![], WITHIN).await.unwrap_err();
    assert_eq!(refused.to_string(), "node 2 answered: no such tile");
    let silent = peers.call(2, Kind::Entries, vec![], Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(silent.to_string(), "node 2 did not answer within 50 ms");
    let nobody = peers.call(3, Kind::Status, vec![], WITHIN).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no address of node 3 is known");
}

#[tokio::test]
async fn a_peer_that_comes_back_is_found_again() {
    let ca = Ca::new();
    let first = server(&ca, me(2), "127.0.0.1:0").await;
    let peers = caller(&ca, me(1), &first.address);
    peers.call(2, Kind::Status, vec![1], WITHIN).await.unwrap();
    let address = first.address.clone();
    first.shutdown.cancel();
    first.ended.await.unwrap();
    let gone = peers.call(2, Kind::Status, vec![], WITHIN).await.unwrap_err();
    assert!(matches!(gone, CallError::Unreachable { .. }), "{gone}");
    let _again = server(&ca, me(2), &address).await;
    let mut answer = peers.call(2, Kind::Status, vec![2], WITHIN).await;
    // The first may still find the connection that the other end has closed.
    if answer.is_err() {
        answer = peers.call(2, Kind::Status, vec![2], WITHIN).await;
    }
    assert_eq!(answer.unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_and_what_waits_is_told() {
    let ca = Ca::new();
    let server = server(&ca, me(2), "127.0.0.1:0").await;
    let peers = caller(&ca, me(1), &server.address);
    let gone = peers.call(2, Kind::Entries, vec![], WITHIN).await.unwrap_err();
    assert!(gone.to_string().contains("nothing came from it for 2000 ms"), "{gone}");
}

#[tokio::test]
async fn s5_whoever_does_not_prove_a_listed_nodes_key_is_no_peer() {
    let ca = Ca::new();
    let server = server(&ca, me(2), "127.0.0.1:0").await;
    // A certificate of the CA alone does not do: here are the key of another, an unknown id, another deployment.
    for wrong in [Me { key: key(9), ..me(1) }, me(3), Me { deployment: "other:0".into(), ..me(1) }] {
        let peers = caller(&ca, wrong, &server.address);
        let refused = peers.call(2, Kind::Vote, vec![], WITHIN).await.unwrap_err();
        assert!(matches!(refused, CallError::Unreachable { .. }), "{refused}");
    }
    // Nor does the key without a certificate of the CA.
    let stranger = Ca::new();
    let peers = caller(&stranger, me(1), &server.address);
    peers.call(2, Kind::Vote, vec![], WITHIN).await.unwrap_err();
    assert_eq!(server.echo.0.load(Ordering::SeqCst), 0, "a stranger's call was carried out");

    // The caller looks as closely: here listens one that is not node 2.
    let impostor = self::server(&ca, Me { key: key(9), ..me(2) }, "127.0.0.1:0").await;
    let peers = caller(&ca, me(1), &impostor.address);
    let refused = peers.call(2, Kind::Vote, vec![], WITHIN).await.unwrap_err();
    assert!(refused.to_string().contains("does not prove it with that node's key"), "{refused}");
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_in_words_on_both_ends() {
    let ca = Ca::new();
    let server = server(&ca, me(2), "127.0.0.1:0").await;
    // A newer node calls.
    let tcp = TcpStream::connect(&server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(ca.client()).connect(name, tcp).await.unwrap();
    stream.write_all(b"TGPR\x07\0\x09\0\0\0\0\0").await.unwrap();
    let mut said = [0; 8];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(said, *b"TGPR\x01\0\x01\0", "its versions, so that the newer one can tell its operator");

    // An older one answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = caller(&ca, me(1), &listener.local_addr().unwrap().to_string());
    let tls = ca.server();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await.unwrap();
        stream.write_all(b"TGPR\0\0\0\0\0\0\0\0").await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let refused = peers.call(2, Kind::Vote, vec![], WITHIN).await.unwrap_err();
    assert!(
        refused.to_string().contains("speaks versions 0 to 0 of the protocol between nodes"),
        "{refused}"
    );
}
