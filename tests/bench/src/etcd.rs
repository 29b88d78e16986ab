//! etcd as a peer: its processes, and the few messages of its gRPC API that are needed, written by hand.
//!
//! gRPC is HTTP/2 with five bytes before each message and the verdict in a trailer
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>); the messages are those of etcd's `rpc.proto`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderValue, TE};
use rustls::ClientConfig;

use crate::http::{Answer, Connection, connect};

pub const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// How long until a leader is missed; `None` is etcd's default (100 and 1000 ms).
#[derive(Clone, Copy)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_ms: u64,
}

/// Where a member answers: its clients, and its peers.
#[derive(Clone, Copy)]
pub struct Member {
    pub client: SocketAddr,
    pub peer: SocketAddr,
}

/// The certificate, key and CA of a member, for both ports.
pub struct Tls<'a> {
    pub cert: &'a Path,
    pub key: &'a Path,
    pub ca: &'a Path,
}

/// The command line of member `n` of `members`.
pub fn arguments(
    n: usize,
    members: &[Member],
    data: &Path,
    tls: Option<&Tls>,
    timing: Option<Timing>,
) -> Vec<String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let cluster: Vec<_> =
        members.iter().enumerate().map(|(i, m)| format!("m{i}={scheme}://{}", m.peer)).collect();
    let Member { client, peer } = members[n];
    let mut arguments = vec![
        format!("--name=m{n}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={scheme}://{client}"),
        format!("--advertise-client-urls={scheme}://{client}"),
        format!("--listen-peer-urls={scheme}://{peer}"),
        format!("--initial-advertise-peer-urls={scheme}://{peer}"),
        format!("--initial-cluster={}", cluster.join(",")),
        "--initial-cluster-state=new".into(),
        "--logger=zap".into(),
        "--log-level=warn".into(),
        // Above what the benchmarks write.
        format!("--quota-backend-bytes={}", 4u64 << 30),
    ];
    if let Some(Tls { cert, key, ca }) = tls {
        let (cert, key, ca) = (cert.display(), key.display(), ca.display());
        arguments.extend([
            format!("--cert-file={cert}"),
            format!("--key-file={key}"),
            format!("--peer-cert-file={cert}"),
            format!("--peer-key-file={key}"),
            format!("--peer-trusted-ca-file={ca}"),
            "--peer-client-cert-auth".into(),
        ]);
    }
    if let Some(Timing { heartbeat_ms, election_ms }) = timing {
        arguments.push(format!("--heartbeat-interval={heartbeat_ms}"));
        arguments.push(format!("--election-timeout={election_ms}"));
    }
    arguments
}

/// `PutRequest`, ready to be sent.
pub fn put(key: &[u8], value: &[u8]) -> Bytes {
    framed(&fields(&[key, value]))
}

/// A linearizable read, which takes a quorum.
pub async fn read(connection: &Connection) -> anyhow::Result<()> {
    let answer = connection.post(RANGE, &GRPC, framed(&fields(&[b"x"]))).await?;
    accepted(&answer).map(drop)
}

/// A message of byte strings, numbered from 1.
fn fields(fields: &[&[u8]]) -> BytesMut {
    let mut message = BytesMut::new();
    for (tag, bytes) in (1u8..).map(|number| number << 3 | 2).zip(fields) {
        message.put_u8(tag);
        put_varint(&mut message, bytes.len() as u64);
        message.put_slice(bytes);
    }
    message
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// The answer's message, if the call went well.
pub fn accepted(answer: &Answer) -> anyhow::Result<&[u8]> {
    let verdict = answer.trailers.get("grpc-status").map(HeaderValue::as_bytes);
    if verdict != Some(b"0") {
        bail!("etcd refused: status {verdict:?}, {:?}", answer.trailers.get("grpc-message"));
    }
    answer.body.get(5..).context("an answer without a message")
}

pub async fn leads(connection: &Connection) -> anyhow::Result<bool> {
    // StatusResponse: header = 1 (its member_id = 2), leader = 4.
    let answer = connection.post(STATUS, &GRPC, framed(&[])).await?;
    let message = accepted(&answer)?;
    let header = field(message, 1).and_then(|value| if let Value::Bytes(b) = value { Some(b) } else { None });
    let own = field(header.context("a status without a header")?, 2);
    let leader = field(message, 4);
    Ok(matches!((own, leader), (Some(Value::Number(own)), Some(Value::Number(leader))) if own == leader))
}

/// A watcher of one key, on a connection of its own.
pub struct Watch {
    body: Incoming,
    received: BytesMut,
    /// Ends the connection with it.
    _sender: http2::SendRequest<UnsyncBoxBody<Bytes, Infallible>>,
}

impl Watch {
    /// Returns once the member has said that it watches.
    pub async fn open(
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        key: &[u8],
    ) -> anyhow::Result<Self> {
        let (mut sender, base) = connect(address, tls).await?;
        // WatchRequest: create_request = 1, of which key = 1. The stream stays open: its end would end the watch.
        let create = framed(&fields(&[&fields(&[key])]));
        let create = stream::once(async { Ok(Frame::data(create)) }).chain(stream::pending());
        let request = Request::post(format!("{base}/etcdserverpb.Watch/Watch"))
            .header(CONTENT_TYPE, GRPC)
            .header(TE, HeaderValue::from_static("trailers"))
            .body(StreamBody::new(create).boxed_unsync())?;
        let body = sender.send_request(request).await?.into_body();
        let mut watch = Self { body, received: BytesMut::new(), _sender: sender };
        // WatchResponse: created = 3.
        let first = watch.message().await?;
        if !matches!(field(&first, 3), Some(Value::Number(1))) {
            bail!("etcd did not say that it watches");
        }
        Ok(watch)
    }

    /// Waits for the next change of the key.
    pub async fn next(&mut self) -> anyhow::Result<()> {
        // WatchResponse: events = 11.
        while field(&self.message().await?, 11).is_none() {}
        Ok(())
    }

    async fn message(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(length) = self.received.get(1..5) {
                let length = 5 + u32::from_be_bytes(length.try_into()?) as usize;
                if self.received.len() >= length {
                    return Ok(self.received.split_to(length).freeze().slice(5..));
                }
            }
            let frame = self.body.frame().await.context("etcd ended the watch")??;
            self.received.extend_from_slice(frame.data_ref().context("etcd ended the watch")?);
        }
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A field of a protobuf message (<https://protobuf.dev/programming-guides/encoding/>).
fn field(mut message: &[u8], wanted: u64) -> Option<Value<'_>> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)?),
            2 => {
                let length = varint(&mut message)? as usize;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
