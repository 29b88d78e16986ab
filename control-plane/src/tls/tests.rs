use std::path::Path;

use axum::Router;
use axum::extract::Extension;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::pki;

/// Against a hang only; nothing here is expected to take a noticeable part of it.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::from_millis(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(FAR_TOO_LONG, future).await.expect("this hangs")
}

struct Server {
    address: SocketAddr,
    ca_dir: tempfile::TempDir,
    ca_pem: String,
    identity: Arc<ServerIdentity>,
    shutdown: CancellationToken,
    gate: Arc<Gate>,
    task: JoinHandle<()>,
}

/// Where `/gate` waits.
#[derive(Default)]
struct Gate {
    entered: Notify,
    open: Notify,
}

async fn start(limits: ServerLimits) -> Server {
    let ca_dir = tempfile::tempdir().unwrap();
    let ca_pem = pki::create_ca(ca_dir.path(), "test").unwrap();
    let issued = pki::issue(ca_dir.path(), "node", &["localhost", "127.0.0.1"]).unwrap();
    let identity = ServerIdentity::new(&issued.cert_pem, &issued.key_pem).unwrap();
    let clients = Arc::new(ClientCertificates::default());
    clients.ask(true);
    let config = server_config_for(Arc::clone(&identity), clients).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let gate = Arc::new(Gate::default());
    let task = tokio::spawn(serve_tls(listener, config, app(Arc::clone(&gate)), limits, shutdown.clone()));
    Server { address, ca_dir, ca_pem, identity, shutdown, gate, task }
}

fn app(gate: Arc<Gate>) -> Router {
    let who = |ConnectInfo(address): ConnectInfo<SocketAddr>,
               Extension(peer): Extension<Peer>,
               request: Request<Body>| async move {
        assert_eq!(address, peer.address);
        format!("{:?} {} {}", request.version(), address.ip(), peer.certificates.len())
    };
    let events = || async {
        let first = stream::iter([Ok::<_, Infallible>(Event::default().data("first"))]);
        Sse::new(first.chain(stream::pending()))
    };
    let wait = move || async move {
        gate.entered.notify_one();
        gate.open.notified().await;
        "through"
    };
    Router::new()
        .route("/who", get(who))
        .route("/events", get(events))
        .route("/gate", get(wait))
        .route("/echo", post(|body: String| async { body }))
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A client with connections of its own.
    fn client(&self) -> reqwest::Client {
        client_with(client_config(&self.ca_pem).unwrap())
    }

    fn http_1_client(&self) -> reqwest::Client {
        client_with(ClientConfig::clone(&self.http_1_config()))
    }

    fn http_1_config(&self) -> Arc<ClientConfig> {
        let mut config = client_config(&self.ca_pem).unwrap();
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Arc::new(config)
    }

    async fn connect_tls(&self, config: &Arc<ClientConfig>) -> io::Result<client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }

    async fn end(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }
}

fn client_with(config: ClientConfig) -> reqwest::Client {
    reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().unwrap()
}

async fn text(request: reqwest::RequestBuilder) -> String {
    within(async { request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap() }).await
}

/// The peer has gone: an end of file, or a reset if something that it did not read was on its way.
async fn assert_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    match within(stream.read_to_end(&mut rest)).await {
        Ok(_) => {}
        Err(error) => {
            let kind = error.kind();
            let gone = matches!(
                kind,
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
            );
            assert!(gone, "{error}");
        }
    }
}

/// Nothing more comes, and no error: HTTP's own end of the body was sent.
async fn assert_ends_in_order(mut answer: reqwest::Response) {
    while let Some(chunk) = within(answer.chunk()).await.expect("an end, not an error") {
        assert_eq!(chunk, "");
    }
}

async fn curl(ca: &Path, args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--noproxy",
        "*",
        "--max-time",
        "60",
        "--cacert",
    ]);
    let output = command.arg(ca).args(args).kill_on_drop(true).output().await.expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn both_versions_of_http_answer_and_know_the_peer() {
    let server = start(ServerLimits::default()).await;
    assert_eq!(text(server.client().get(server.url("/who"))).await, "HTTP/2.0 127.0.0.1 0");
    assert_eq!(text(server.http_1_client().get(server.url("/who"))).await, "HTTP/1.1 127.0.0.1 0");
    assert_eq!(text(server.client().post(server.url("/echo")).body("some bytes")).await, "some bytes");
    let more_than_the_window = "x".repeat(1_000_000);
    let echoed = text(server.client().post(server.url("/echo")).body(more_than_the_window.clone())).await;
    assert_eq!(echoed, more_than_the_window);
    server.end().await;
}

#[tokio::test]
async fn the_real_curl_is_served() {
    let server = start(ServerLimits::default()).await;
    let ca = server.ca_dir.path().join(pki::CA_CERT_FILE);
    let who = server.url("/who");
    assert_eq!(curl(&ca, &["--http2", &who]).await, "HTTP/2.0 127.0.0.1 0");
    assert_eq!(curl(&ca, &["--http1.1", &who]).await, "HTTP/1.1 127.0.0.1 0");
    assert_eq!(curl(&ca, &["--no-alpn", &who]).await, "HTTP/1.1 127.0.0.1 0");
    assert_eq!(curl(&ca, &["--tlsv1.2", "--tls-max", "1.2", &who]).await, "HTTP/2.0 127.0.0.1 0");
    assert_eq!(curl(&ca, &["--data-binary", "x", &server.url("/echo")]).await, "x");
    server.end().await;
}

#[tokio::test]
async fn client_certificates_are_shown_to_handlers_with_proof_of_their_keys() {
    let server = start(ServerLimits::default()).await;
    let mine = pki::issue_client(server.ca_dir.path(), "agent").unwrap();
    let config = client_config_with_identity(&server.ca_pem, &mine.cert_pem, &mine.key_pem).unwrap();
    assert_eq!(text(client_with(config).get(server.url("/who"))).await, "HTTP/2.0 127.0.0.1 1");

    let elsewhere = tempfile::tempdir().unwrap();
    pki::create_ca(elsewhere.path(), "test").unwrap();
    let foreign = pki::issue_client(elsewhere.path(), "agent").unwrap();
    let config = client_config_with_identity(&server.ca_pem, &foreign.cert_pem, &foreign.key_pem).unwrap();
    assert_eq!(text(client_with(config).get(server.url("/who"))).await, "HTTP/2.0 127.0.0.1 1");

    let other_ca = pki::load_ca_cert(elsewhere.path()).unwrap();
    within(client_with(client_config(&other_ca).unwrap()).get(server.url("/who")).send()).await.unwrap_err();
    server.end().await;
}

#[tokio::test]
async fn a_returning_client_resumes_its_session() {
    let server = start(ServerLimits::default()).await;
    let config = server.http_1_config();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut stream = within(server.connect_tls(&config)).await.unwrap();
        stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert_closed(&mut stream).await; // the tickets come with the answer
        kinds.push(stream.get_ref().1.handshake_kind());
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    server.end().await;
}

#[tokio::test]
async fn a_renewed_certificate_needs_no_restart() {
    let server = start(ServerLimits::default()).await;
    let config = server.http_1_config();
    let first = within(server.connect_tls(&config)).await.unwrap();
    let renewed = pki::issue(server.ca_dir.path(), "node", &["localhost"]).unwrap();
    let other = pki::issue(server.ca_dir.path(), "node", &["localhost"]).unwrap();
    assert!(matches!(
        server.identity.replace(&renewed.cert_pem, &other.key_pem),
        Err(TlsError::KeyOfAnother)
    ));
    server.identity.replace(&renewed.cert_pem, &renewed.key_pem).unwrap();

    let config = server.http_1_config(); // one that has no session to resume
    let second = within(server.connect_tls(&config)).await.unwrap();
    let shown =
        |stream: &client::TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    assert_ne!(shown(&first), shown(&second));
    assert_eq!(shown(&second), certificates(&renewed.cert_pem).unwrap()[0].to_vec());
    server.end().await;
}

#[tokio::test]
async fn event_streams_end_in_good_order_at_shutdown() {
    for http_1 in [true, false] {
        let server = start(ServerLimits { shutdown_grace: FAR_TOO_LONG * 10, ..Default::default() }).await;
        let client = if http_1 { server.http_1_client() } else { server.client() };
        let mut events = within(client.get(server.url("/events")).send()).await.unwrap();
        assert_eq!(within(events.chunk()).await.unwrap().unwrap(), "data: first\n\n");
        server.shutdown.cancel();
        assert_ends_in_order(events).await;
        server.end().await;
    }
}

#[tokio::test]
async fn open_requests_finish_at_shutdown_and_new_clients_are_refused() {
    let server = start(ServerLimits { shutdown_grace: FAR_TOO_LONG * 10, ..Default::default() }).await;
    let open = tokio::spawn(text(server.client().get(server.url("/gate"))));
    within(server.gate.entered.notified()).await;
    server.shutdown.cancel();
    // The listener goes away a moment after the token.
    within(async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
    server.gate.open.notify_one();
    assert_eq!(within(open).await.unwrap(), "through");
    server.end().await;
}

#[tokio::test]
async fn requests_that_never_finish_are_cut_after_the_grace() {
    let server = start(ServerLimits { shutdown_grace: AT_ONCE, ..Default::default() }).await;
    let stuck = tokio::spawn(server.client().get(server.url("/gate")).send());
    within(server.gate.entered.notified()).await;
    server.end().await;
    within(stuck).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn dropping_the_server_closes_its_connections() {
    let server = start(ServerLimits::default()).await;
    let mut events = within(server.client().get(server.url("/events")).send()).await.unwrap();
    within(events.chunk()).await.unwrap().unwrap();
    server.task.abort();
    while let Ok(Some(_)) = within(events.chunk()).await {}
}

#[tokio::test]
async fn a_stalled_handshake_is_dropped() {
    let server = start(ServerLimits { handshake_timeout: AT_ONCE, ..Default::default() }).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_closed(&mut silent).await;
    server.end().await;
}

#[tokio::test]
async fn stalled_and_garbage_handshakes_hold_nobody_up() {
    let limits = ServerLimits {
        max_handshakes_at_once: 1,
        handshake_timeout: FAR_TOO_LONG * 10,
        ..Default::default()
    };
    let server = start(limits).await;
    let silent = TcpStream::connect(server.address).await.unwrap();

    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_closed(&mut garbage).await;

    // These get the server's flight, for which it signs, and never answer it.
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let config = Arc::new(client_config(&server.ca_pem).unwrap());
        let mut session =
            rustls::ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        within(stream.readable()).await.unwrap();
        stalled.push(stream);
    }
    assert_eq!(text(server.client().get(server.url("/who"))).await, "HTTP/2.0 127.0.0.1 0");

    // Nor do they hold up the shutdown.
    server.end().await;
    drop((silent, stalled));
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let limits =
        ServerLimits { max_connections: 1, handshake_timeout: FAR_TOO_LONG * 10, ..Default::default() };
    let server = start(limits).await;
    let client = server.client();
    assert_eq!(text(client.get(server.url("/who"))).await, "HTTP/2.0 127.0.0.1 0");

    let mut refused = TcpStream::connect(server.address).await.unwrap();
    assert_closed(&mut refused).await;
    assert_eq!(text(client.get(server.url("/who"))).await, "HTTP/2.0 127.0.0.1 0");

    drop(client);
    // The slot is free once the server has seen the first one leave.
    let config = server.http_1_config();
    within(async { while server.connect_tls(&config).await.is_err() {} }).await;
    server.end().await;
}

/// A flood from one address leaves the last connections to others: from there a stop still gets in.
#[tokio::test]
async fn s10_one_address_cannot_hold_every_connection() {
    let limits = ServerLimits { max_connections: 200, ..Default::default() };
    let server = start(limits).await;
    let mut held = Vec::new();
    for _ in 0..180 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    assert_closed(&mut refused).await;
    let elsewhere = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(&server.ca_pem).unwrap())
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .build()
        .unwrap();
    assert_eq!(text(elsewhere.get(server.url("/who"))).await, "HTTP/2.0 127.0.0.2 0");
    drop(held);
    server.end().await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    for alpn in [HTTP_1_1, H2] {
        let limits =
            ServerLimits { idle_timeout: AT_ONCE, handshake_timeout: AT_ONCE * 50, ..Default::default() };
        let server = start(limits).await;
        let mut events = within(server.client().get(server.url("/events")).send()).await.unwrap();
        within(events.chunk()).await.unwrap().unwrap();

        let mut config = client_config(&server.ca_pem).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let mut idle = within(server.connect_tls(&Arc::new(config))).await.unwrap();
        assert_closed(&mut idle).await;

        server.shutdown.cancel();
        assert_ends_in_order(events).await;
        server.end().await;
    }
}

#[tokio::test]
async fn an_open_request_keeps_its_connection_from_being_idle() {
    let activity = Arc::new(Activity::default());
    let open = InFlight::begin(&activity);
    let idle = || activity.becomes_idle(Duration::from_millis(1));
    timeout(AT_ONCE, idle()).await.expect_err("a request is open");
    drop(open);
    within(idle()).await;
}

#[tokio::test]
async fn a_slow_request_head_or_body_is_given_up() {
    let limits =
        ServerLimits { header_read_timeout: AT_ONCE * 50, body_read_timeout: AT_ONCE, ..Default::default() };
    let server = start(limits).await;
    let config = server.http_1_config();

    let mut slow_head = within(server.connect_tls(&config)).await.unwrap();
    slow_head.write_all(b"GET /who HTTP/1.1\r\nhost:").await.unwrap();
    let mut slow_body = within(server.connect_tls(&config)).await.unwrap();
    slow_body
        .write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this")
        .await
        .unwrap();

    let mut answer = Vec::new();
    let _ = within(slow_body.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    assert_closed(&mut slow_head).await;
    server.end().await;
}

#[tokio::test]
async fn http_2_clients_are_told_the_limits() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const MAX_CONCURRENT_STREAMS: u16 = 3; // RFC 9113, section 6.5.2
    const MAX_HEADER_LIST_SIZE: u16 = 6;

    let limits = ServerLimits { h2_max_concurrent_streams: 7, max_header_bytes: 9000, ..Default::default() };
    let server = start(limits).await;
    let config = Arc::new(client_config(&server.ca_pem).unwrap());
    let mut stream = within(server.connect_tls(&config)).await.unwrap();
    stream.write_all(&[PREFACE, EMPTY_SETTINGS].concat()).await.unwrap();
    let mut head = [0; 9];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!((head[0], head[1], head[3]), (0, 0, 4), "a short SETTINGS frame comes first");
    let mut settings = vec![0; usize::from(head[2])];
    within(stream.read_exact(&mut settings)).await.unwrap();
    let settings: Vec<(u16, u32)> = settings
        .as_chunks::<6>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
        .collect();
    assert!(settings.contains(&(MAX_CONCURRENT_STREAMS, 7)), "{settings:?}");
    assert!(settings.contains(&(MAX_HEADER_LIST_SIZE, 9000)), "{settings:?}");
    drop(stream);
    server.end().await;
}

#[test]
fn only_errors_of_the_machine_make_the_acceptor_pause() {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ECONNABORTED: i32 = 103;
    for code in [EMFILE, ENFILE, ENOBUFS] {
        assert!(!is_of_the_peer(&io::Error::from_raw_os_error(code)));
    }
    assert!(is_of_the_peer(&io::Error::from_raw_os_error(ECONNABORTED)));
}

#[test]
fn wrong_pem_texts_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let ca = pki::create_ca(dir.path(), "test").unwrap();
    let issued = pki::issue(dir.path(), "node", &["localhost"]).unwrap();
    let (cert, key) = (&issued.cert_pem, &issued.key_pem);
    let sentence = |error: Option<TlsError>| error.expect("it is wrong").to_string();

    assert!(sentence(server_config("", key).err()).contains("no certificate in the TLS certificate file"));
    assert!(sentence(server_config(key, key).err()).contains("no certificate in the TLS certificate file"));
    assert!(sentence(server_config(cert, cert).err()).contains("no unencrypted private key"));
    assert!(sentence(server_config(&ca, key).err()).contains("belongs to another certificate"));
    assert!(sentence(client_config("").err()).contains("give the deployment's ca.crt"));
    assert!(
        sentence(client_config_with_identity(&ca, &ca, key).err()).contains("belongs to another certificate")
    );
}
