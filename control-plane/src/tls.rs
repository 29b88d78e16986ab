//! The node's listener: TLS and HTTP with a bound on everything that a stranger can make it hold.
//!
//! Who has not been authenticated yet must not be able to keep a stop out (S10), so every wait on a peer has a
//! deadline, one peer's handshake never waits for another peer, and a reconnect storm leaves processor time for
//! those who are connected already. No address has a small bound of its own, since ten thousand guards may stand behind
//! one; but it cannot take the last connections, and its handshakes take turns with those of others (fair.rs).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, header::CONTENT_TYPE};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::RwLock;
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use self::clients::ClientCertificates;
use crate::fair::{Held, Lane, Share};

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";
/// The pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged before the kernel gives up on the peer.
const UNACKNOWLEDGED_MS: u32 = 30_000;
/// How long a peer without open requests may take to close its side once it was asked to.
const GOODBYE: Duration = Duration::from_secs(1);
/// The window of an HTTP/2 connection, in windows of one of its requests.
const H2_CONNECTION_WINDOWS: u32 = 8;
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Of the connections, one in so many is kept for addresses that have few, and how many are few.
const CONNECTIONS_KEPT: usize = 10;
const FEW_CONNECTIONS: usize = 64;

/// What one listener may hold.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections, handshakes included. One more is closed at once, so that its client tries another node. The last
    /// tenth is for addresses that have at most 64.
    pub max_connections: usize,
    /// Handshakes whose public-key operations may run at one moment. They occupy this many threads; the others
    /// stay free for requests. Waiting for a peer's bytes does not count.
    pub max_handshakes_at_once: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// For one HTTP/1.1 request head; also how long such a connection may be idle between requests.
    pub header_read_timeout: Duration,
    /// From a request's head to the end of its body.
    pub body_read_timeout: Duration,
    /// A connection that had no request for this long, and has none open, is closed (after twice this, at most).
    pub idle_timeout: Duration,
    /// Bytes of a request's head.
    pub max_header_bytes: u32,
    /// Requests open at once on one HTTP/2 connection.
    pub h2_max_concurrent_streams: u32,
    /// Body bytes that one HTTP/2 request may have under way before the node reads them; eight times as many may all
    /// requests of a connection. On long distances this, per round trip, is the most that they can send.
    pub h2_window_bytes: u32,
    /// How long requests may go on after the shutdown has begun.
    pub shutdown_grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            max_connections: 20_000,
            max_handshakes_at_once: (threads / 2).max(1),
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(30),
            body_read_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            // A bearer token that is too long to count for anything keeps no stop out (S10), up to here.
            max_header_bytes: 32 * 1024,
            h2_max_concurrent_streams: 128,
            h2_window_bytes: 128 * 1024,
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// Who is at the other end; an extension of every request, beside axum's `ConnectInfo<SocketAddr>`.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client certificate chain, its own first; empty if it showed none. It holds the key; nothing else is verified here.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Serves `app` on `listener` until `shutdown`, then lets open requests finish for
/// [`ServerLimits::shutdown_grace`]; event streams, which never finish, are ended at once. Returns when the last
/// connection is gone. Dropping this future closes them all.
pub async fn serve_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    app: axum::Router,
    limits: ServerLimits,
    shutdown: CancellationToken,
) {
    let cut = CancellationToken::new();
    let _cut_if_dropped = cut.clone().drop_guard();
    let connection_slots =
        Share::new(limits.max_connections, limits.max_connections / CONNECTIONS_KEPT, FEW_CONNECTIONS);
    let shared = Arc::new(Shared {
        handshake_slots: Lane::new(
            limits.max_handshakes_at_once,
            limits.max_connections,
            limits.max_connections,
        ),
        http: http_builder(&limits),
        config,
        app: TowerToHyperService::new(app),
        shutdown: shutdown.clone(),
        cut: cut.clone(),
        limits,
    });
    let connections = TaskTracker::new();
    let mut acceptor = Acceptor { listener, last_logged: None };

    loop {
        let (stream, address) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = acceptor.accept() => accepted,
        };
        match connection_slots.take(address.ip().into(), 1) {
            Some(slot) => {
                connections.spawn(serve_connection(Arc::clone(&shared), stream, address, slot));
            }
            None => metrics::counter!("tagout_connections_refused_total").increment(1),
        }
    }

    drop(acceptor); // from here on, new clients are refused by the kernel and try another node
    connections.close();
    if timeout(shared.limits.shutdown_grace, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "closing connections whose requests did not finish in time");
        cut.cancel();
        connections.wait().await;
    }
}

struct Shared {
    config: Arc<ServerConfig>,
    app: TowerToHyperService<axum::Router>,
    http: auto::Builder<TokioExecutor>,
    limits: ServerLimits,
    handshake_slots: Arc<Lane>,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

struct Acceptor {
    listener: TcpListener,
    last_logged: Option<Instant>,
}

impl Acceptor {
    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    // Trying again at once would spin: the connection stays in the backlog until there is room.
                    if self.last_logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG_INTERVAL) {
                        self.last_logged = Some(Instant::now());
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "cannot accept connections; if files ran out, raise LimitNOFILE (ulimit -n)"
                        );
                    }
                    metrics::counter!("tagout_accept_errors_total").increment(1);
                    sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
}

/// The one connection failed between arriving and being accepted; the next may be fine.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn serve_connection(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr, _slot: Held) {
    if let Err(error) = prepare_socket(&stream) {
        tracing::debug!(%address, %error, "the peer left before its handshake");
        return;
    }
    let handshake = timeout(shared.limits.handshake_timeout, handshake(&shared, stream, address));
    let stream = tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => return,
        finished = handshake => match finished {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                metrics::counter!("tagout_handshakes_failed_total", "reason" => "refused").increment(1);
                tracing::debug!(%address, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                metrics::counter!("tagout_handshakes_failed_total", "reason" => "timeout").increment(1);
                tracing::debug!(%address, "TLS handshake took too long");
                return;
            }
        },
    };
    let open = metrics::gauge!("tagout_connections_open");
    open.increment(1);
    if let Err(error) = serve_http(&shared, stream, address).await {
        tracing::debug!(%address, error = &*error as &dyn std::error::Error, "connection ended early");
    }
    open.decrement(1);
}

fn prepare_socket(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A peer that vanished without a word holds its slot no longer than this, whatever is being sent to it.
    rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?;
    Ok(())
}

async fn handshake(
    shared: &Shared,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let mut accept = {
        // Signing and key agreement happen here, in one go. The slot is not held while waiting for the peer's
        // answer, so peers that never answer take no slot from others.
        let slot = shared.handshake_slots.enter(address.ip().into()).await;
        let slot = slot.map_err(|_| io::Error::other("too many handshakes are under way"))?;
        let mut accept = start.into_stream(Arc::clone(&shared.config));
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut accept).poll(context))).await;
        drop(slot);
        if let Poll::Ready(finished) = first {
            return finished;
        }
        accept
    };
    poll_fn(|context| Pin::new(&mut accept).poll(context)).await
}

fn http_builder(limits: &ServerLimits) -> auto::Builder<TokioExecutor> {
    const SMALLEST_HTTP_1_BUFFER: usize = 8 * 1024; // hyper's own minimum

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size((limits.max_header_bytes as usize).max(SMALLEST_HTTP_1_BUFFER));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .max_header_list_size(limits.max_header_bytes)
        .initial_stream_window_size(limits.h2_window_bytes)
        // h2 takes half of it as its budget for small frames that nobody has read yet, and closes the connection beyond:
        // clients that send each line of a multipart form as a frame need more of it than of window.
        .initial_connection_window_size(limits.h2_window_bytes.saturating_mul(H2_CONNECTION_WINDOWS))
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .max_concurrent_streams(limits.h2_max_concurrent_streams);
    builder
}

async fn serve_http(
    shared: &Arc<Shared>,
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let session = stream.get_ref().1;
    // The handshake has settled the version. Guessing it from the first bytes would be one more wait on the peer.
    let speaks_h2 = session.alpn_protocol() == Some(H2);
    let peer = Peer { address, certificates: session.peer_certificates().unwrap_or_default().into() };
    let activity = Arc::new(Activity::default());

    let service = {
        let (shared, activity) = (Arc::clone(shared), Arc::clone(&activity));
        service_fn(move |request: Request<Incoming>| answer(&shared, &activity, &peer, request))
    };
    let http = shared.http.clone();
    let http = if speaks_h2 { http.http2_only() } else { http.http1_only() };
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));

    tokio::select! {
        biased;
        () = shared.cut.cancelled() => return Ok(()),
        ended = connection.as_mut() => return ended,
        () = shared.shutdown.cancelled() => {}
        () = activity.becomes_idle(shared.limits.idle_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = shared.cut.cancelled() => Ok(()),
        ended = connection => ended,
        // Open requests go on; but a silent peer would never answer the goodbye.
        () = activity.becomes_idle(GOODBYE) => Ok(()),
    }
}

fn answer(
    shared: &Shared,
    activity: &Arc<Activity>,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<hyper::Response<ResponseBody>, Infallible>> + use<> {
    request.extensions_mut().insert(ConnectInfo(peer.address));
    request.extensions_mut().insert(peer.clone());
    let body_read_timeout = shared.limits.body_read_timeout;
    let response = shared.app.call(request.map(|body| RequestBody::wrap(body, body_read_timeout)));
    let in_flight = InFlight::begin(activity);
    let shutdown = shared.shutdown.clone();
    async move {
        let response = response.await?;
        let never_ends = is_event_stream(response.headers());
        Ok(response.map(|inner| ResponseBody {
            inner,
            ends_at: never_ends.then(|| Box::pin(shutdown.cancelled_owned())),
            _in_flight: in_flight,
        }))
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// The requests of one connection, to tell an idle one.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    in_flight: AtomicUsize,
}

impl Activity {
    async fn becomes_idle(&self, idle_timeout: Duration) {
        let mut seen = 0;
        loop {
            sleep(idle_timeout).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.in_flight.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = begun;
        }
    }
}

/// A request whose answer has not been sent to its end.
struct InFlight(Arc<Activity>);

impl InFlight {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's body with a deadline.
struct RequestBody {
    inner: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl RequestBody {
    fn wrap(inner: Incoming, body_read_timeout: Duration) -> Body {
        if inner.is_end_stream() {
            return Body::empty();
        }
        Body::new(Self { inner, deadline: Box::pin(sleep(body_read_timeout)) })
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|result| result.map_err(Into::into)));
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err("the request's body did not arrive in time".into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body; an event stream ends in good order when the server shuts down.
struct ResponseBody {
    inner: Body,
    ends_at: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _in_flight: InFlight,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(end) = &mut self.ends_at
            && end.as_mut().poll(context).is_ready()
        {
            self.ends_at = None;
            self.inner = Body::empty();
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A node's certificate and key, which it shows as a server and to the other nodes as their client. Replaceable while it
/// serves: a renewal needs no restart, and an expired certificate never has to become a kill switch.
#[derive(Debug)]
pub struct ServerIdentity(RwLock<Arc<CertifiedKey>>);

impl ServerIdentity {
    /// # Errors
    /// If one of the texts is not what it should be, or the key belongs to another certificate.
    pub fn new(cert_pem: &str, key_pem: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(certified_key(cert_pem, key_pem)?))))
    }

    /// New connections get the new certificate; open ones go on.
    ///
    /// # Errors
    /// As [`ServerIdentity::new`]; then the old one stays.
    pub fn replace(&self, cert_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let new = certified_key(cert_pem, key_pem)?;
        *self.0.write() = new;
        Ok(())
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl ResolvesClientCert for ServerIdentity {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, and session tickets, which make a returning client's handshake cheap.
///
/// # Errors
/// As [`ServerIdentity::new`].
pub fn server_config(cert_pem: &str, key_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_for(ServerIdentity::new(cert_pem, key_pem)?, Arc::default())
}

/// As [`server_config`], with a replaceable certificate. Where `clients` asks them to, clients may show a certificate of
/// their own (see [`Peer::certificates`]).
///
/// # Errors
/// If TLS cannot be set up.
pub fn server_config_for(
    identity: Arc<ServerIdentity>,
    clients: Arc<ClientCertificates>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_client_cert_verifier(clients).with_cert_resolver(identity);
    config.ticketer = ring::Ticketer::new()?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// For clients that trust only the CAs in `ca_pem`. It offers HTTP/2 and HTTP/1.1; a client that speaks only
/// HTTP/1.1 clears `alpn_protocols`.
///
/// # Errors
/// If `ca_pem` holds no CA certificate.
pub fn client_config(ca_pem: &str) -> Result<ClientConfig, TlsError> {
    trusting(roots(ca_pem)?)
}

/// As [`client_config`], with the CAs that this machine trusts: for services that are not of the deployment.
///
/// # Errors
/// If it trusts none.
pub fn client_config_of_system() -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoSystemCa) } else { trusting(roots) }
}

/// For clients that trust nobody, since they connect without TLS.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_of_nobody() -> Result<ClientConfig, TlsError> {
    trusting(RootCertStore::empty())
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(with_alpn(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// As [`client_config`], whatever the date is: for what takes away, which a certificate that has ended must not keep.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_to_tighten(ca_pem: &str) -> Result<ClientConfig, TlsError> {
    Ok(tagout::tls::client_config(roots(ca_pem)?)?)
}

/// As [`client_config`], for a client that shows its own certificate (mutual TLS).
///
/// # Errors
/// As [`client_config`] and [`ServerIdentity::new`].
pub fn client_config_with_identity(
    ca_pem: &str,
    cert_pem: &str,
    key_pem: &str,
) -> Result<ClientConfig, TlsError> {
    certified_key(cert_pem, key_pem)?; // says which of the two is wrong
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots(ca_pem)?);
    Ok(with_alpn(builder.with_client_auth_cert(certificates(cert_pem)?, private_key(key_pem)?)?))
}

fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    config
}

/// Named here, once, rather than installed for the whole process, where a library could be first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certified_key(cert_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = CertifiedKey::from_der(certificates(cert_pem)?, private_key(key_pem)?, &provider());
    key.map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyOfAnother,
        error => TlsError::Rustls(error),
    })
}

/// Whether the two were issued together.
///
/// # Errors
/// As [`ServerIdentity::new`].
pub fn check_pair(cert_pem: &str, key_pem: &str) -> Result<(), TlsError> {
    certified_key(cert_pem, key_pem).map(drop)
}

/// Whether one of the CAs in `ca_pem` issued the certificate, for servers; the dates are not looked at. Gives that CA.
///
/// # Errors
/// If none of them did, or one of the texts is not what it should be.
pub fn check_issuer(cert_pem: &str, ca_pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    let chain = certificates(cert_pem)?;
    let mut refused = TlsError::NoCa;
    for ca in certificates(ca_pem).map_err(|_| TlsError::NoCa)? {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|_| TlsError::NoCa)?;
        match mutual::check_issuer(&chain[0], &chain[1..], &roots, UnixTime::now()) {
            Ok(_) => return Ok(ca),
            Err(error) => refused = TlsError::Issuer(error),
        }
    }
    Err(refused)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsError::NoCertificate)
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::NoKey)
}

pub(crate) fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem).map_err(|_| TlsError::NoCa)? {
        roots.add(certificate).map_err(|_| TlsError::NoCa)?;
    }
    Ok(roots)
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error(
        "there is no certificate in the TLS certificate file: give a PEM file that begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate,
    #[error(
        "there is no unencrypted private key in the TLS key file: give a PEM file that begins with -----BEGIN PRIVATE KEY-----"
    )]
    NoKey,
    #[error("the TLS key belongs to another certificate: give the two files that were issued together")]
    KeyOfAnother,
    #[error("there is no usable CA certificate in the CA file: give the deployment's ca.crt")]
    NoCa,
    #[error("this machine trusts no CA: install ca-certificates, or name a CA with \"ca\"")]
    NoSystemCa,
    #[error("clients that trust this CA would refuse the certificate")]
    Issuer(#[source] rustls::Error),
    #[error("TLS cannot use this certificate and key: issue new ones from the deployment's CA")]
    Rustls(#[from] rustls::Error),
}

pub mod clients;
pub mod mutual;
#[cfg(test)]
mod tests;
