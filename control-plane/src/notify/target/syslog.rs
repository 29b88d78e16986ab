//! OCSF lines by syslog: RFC 5424 over UDP (RFC 5426), over TCP with counted octets (RFC 6587) and over TLS (RFC 5425).
//!
//! Syslog has no answers. Over TCP and TLS what was written to a connection that breaks at that moment may be lost, and over
//! UDP anything: a receiver that must miss nothing listens by HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use rustls_pki_types::ServerName;
use tagout_proto::strict::format_instant_ms;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ATTEMPT_TIMEOUT, Answer};
use crate::notify::event::{Event, Severity};
use crate::notify::format::ocsf;

/// The facility "log audit" (RFC 5424, section 6.2.1).
const FACILITY: u8 = 13;
const MSGID_MAX_BYTES: usize = 32;

#[derive(Clone)]
pub enum Transport {
    Udp,
    Tcp,
    Tls(Arc<rustls::ClientConfig>),
}

pub struct SyslogTarget {
    transport: Transport,
    host: String,
    port: u16,
    /// This node's name, for the field HOSTNAME.
    node: String,
    open: Mutex<Option<Connection>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Connection {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

impl SyslogTarget {
    pub fn new(transport: Transport, host: String, port: u16, node: String) -> Self {
        Self { transport, host, port, node, open: Mutex::default() }
    }

    pub fn transport_name(&self) -> &'static str {
        match self.transport {
            Transport::Udp => "syslog-udp",
            Transport::Tcp => "syslog-tcp",
            Transport::Tls(_) => "syslog-tls",
        }
    }

    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub async fn send(&self, event: &Event) -> Answer {
        let sent = timeout(ATTEMPT_TIMEOUT, self.write(&message(event, &self.node))).await;
        let error = match sent {
            Ok(Ok(())) => return Answer::Taken("sent; syslog has no answers".into()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took nothing within {} s", ATTEMPT_TIMEOUT.as_secs()),
        };
        *self.open.lock().await = None;
        Answer::Later { why: error, after: None }
    }

    async fn write(&self, message: &str) -> std::io::Result<()> {
        let mut open = self.open.lock().await;
        if let Some(Connection::Stream(stream)) = open.as_mut()
            && has_ended(stream).await
        {
            *open = None;
        }
        let connection = match open.as_mut() {
            Some(connection) => connection,
            None => open.insert(self.connect().await?),
        };
        match connection {
            Connection::Udp(socket) => socket.send(message.as_bytes()).await.map(drop),
            Connection::Stream(stream) => {
                stream.write_all(format!("{} {message}", message.len()).as_bytes()).await?;
                stream.flush().await
            }
        }
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let to = (self.host.as_str(), self.port);
        Ok(match &self.transport {
            Transport::Udp => {
                let mut found = tokio::net::lookup_host(to).await?;
                let to = found.next().ok_or_else(|| std::io::Error::other("its name has no address"))?;
                let from = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(from).await?;
                socket.connect(to).await?;
                Connection::Udp(socket)
            }
            Transport::Tcp => Connection::Stream(Box::new(TcpStream::connect(to).await?)),
            Transport::Tls(config) => {
                let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
                let stream = TcpStream::connect(to).await?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
                Connection::Stream(Box::new(stream))
            }
        })
    }
}

/// Whether the other end has closed it: what is written then is lost without an error. It says nothing otherwise, and what
/// it says all the same is read and means nothing.
async fn has_ended(stream: &mut Box<dyn Stream>) -> bool {
    std::future::poll_fn(|cx| {
        loop {
            let mut bytes = [0; 256];
            let mut buffer = ReadBuf::new(&mut bytes);
            return Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => false,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => continue,
                Poll::Ready(_) => true,
            });
        }
    })
    .await
}

/// One message, without the octet count that stands before it on a stream.
fn message(event: &Event, node: &str) -> String {
    let severity = match event.severity {
        Severity::Critical => 2,
        Severity::High => 3,
        Severity::Medium => 4,
        Severity::Low => 5,
        Severity::Informational => 6,
    };
    let priority = FACILITY * 8 + severity;
    let time = format_instant_ms(event.time_ms);
    let kind = &event.kind[..event.kind.len().min(MSGID_MAX_BYTES)];
    format!("<{priority}>1 {time} {node} tagout - {kind} - {}", ocsf(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::stop;

    #[test]
    fn a_message_is_this() {
        let event = stop();
        let expected = format!(
            "<107>1 2025-11-24T16:00:00.000Z moltbook/node-1 tagout - tagout.stop - {}",
            ocsf(&event)
        );
        assert_eq!(message(&event, "moltbook/node-1"), expected);
        assert!(!expected.contains('\n'), "a reason's line break is escaped");
    }
}
