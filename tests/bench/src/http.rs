//! One persistent HTTP/2 connection. Both sides are asked over this same client, so what it costs, it costs both.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderValue, TE};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection for requests with bodies of any kind, and what its URLs begin with.
pub async fn connect<B>(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
) -> anyhow::Result<(http2::SendRequest<B>, String)>
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok((speak(stream).await?, format!("http://{address}")));
    };
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        bail!("{address} does not speak HTTP/2");
    }
    Ok((speak(stream).await?, format!("https://{address}")))
}

async fn speak<S, B>(stream: S) -> anyhow::Result<http2::SendRequest<B>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(stream))
        .await?;
    // It ends with the connection; a request under way hears of it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

#[derive(Clone)]
pub struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    base: String,
}

pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    /// What comes behind the body, as gRPC's verdict does.
    pub trailers: HeaderMap,
}

impl Connection {
    /// With `tls` over TLS, else in the clear.
    pub async fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Self> {
        let (sender, base) = connect(address, tls).await?;
        Ok(Self { sender, base })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::builder().method(Method::GET).uri(self.uri(path)?).body(Full::default())?).await
    }

    pub async fn post(&self, path: &str, kind: &HeaderValue, body: Bytes) -> anyhow::Result<Answer> {
        let request = Request::builder().method(Method::POST).uri(self.uri(path)?);
        let request = request.header(CONTENT_TYPE, kind).header(TE, HeaderValue::from_static("trailers"));
        self.send(request.body(Full::new(body))?).await
    }

    fn uri(&self, path: &str) -> anyhow::Result<Uri> {
        Ok(Uri::try_from(format!("{}{path}", self.base))?)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let collected = body.collect().await?;
        let mut trailers = collected.trailers().cloned().unwrap_or_default();
        if trailers.is_empty() {
            // A gRPC answer without a body has them in its head.
            trailers = head.headers;
        }
        Ok(Answer { status: head.status, body: collected.to_bytes(), trailers })
    }
}
