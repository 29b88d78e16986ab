//! The answering end: the listener of a node for its peers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::{self, DONE, Frame, REFUSED};
use super::hello::{self, End};
use super::{Handler, Kind, Peers};

/// Far above three lanes from each node that a deployment can have; strangers fail at their certificate.
const CONNECTIONS_MAX: usize = 512;
/// From accept to the end of the first words.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls of one connection that are being carried out.
const CALLS_AT_ONCE: usize = 1024;
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Answers peers until `shutdown`; then what was begun may end. `tls` demands a certificate of the deployment's CA.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    peers: Arc<Peers>,
    handler: Arc<impl Handler>,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a peer's connection failed");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (tls, peers, handler, shutdown) = (tls.clone(), peers.clone(), handler.clone(), shutdown.clone());
        connections.spawn(async move {
            let _slot = slot;
            let ended = shutdown.run_until_cancelled(answer(stream, address, tls, peers, handler)).await;
            if let Some(Err(error)) = ended {
                tracing::debug!(%address, %error, "a peer's connection ended");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    peers: Arc<Peers>,
    handler: Arc<impl Handler>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let greeting = async {
        let mut stream = TlsAcceptor::from(tls).accept(stream).await?;
        let (theirs, ours) = {
            let session = stream.get_ref().1;
            (hello::binding(session, End::Connecting)?, hello::binding(session, End::Answering)?)
        };
        let heard = hello::hear(&mut stream, &peers.me, &theirs, |id| peers.member(id).map(|m| m.key)).await;
        let from = match heard {
            Ok(from) => from,
            Err(error) => {
                metrics::counter!("tagout_peers_refused_total").increment(1);
                tracing::warn!(%address, %error, "a connection to the peer port was refused");
                if error.kind() == io::ErrorKind::Unsupported {
                    // So that the other end can tell its operator of the versions, too.
                    hello::say(&mut stream, &peers.me, 0, &ours).await?;
                }
                return Err(error);
            }
        };
        hello::say(&mut stream, &peers.me, from, &ours).await?;
        io::Result::Ok((stream, from))
    };
    let greeted = timeout(HELLO_TIMEOUT, greeting).await;
    let (stream, from) =
        greeted.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no hello in time"))??;

    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let (answers, mut answered) = mpsc::channel::<Frame>(CALLS_AT_ONCE);
    let writing = async move {
        let mut writer = BufWriter::with_capacity(64 * 1024, writer);
        while let Some(mut next) = answered.recv().await {
            loop {
                frame::write(&mut writer, &next).await?;
                match answered.try_recv() {
                    Ok(more) => next = more,
                    Err(_) => break,
                }
            }
            writer.flush().await?;
        }
        io::Result::Ok(())
    };
    let reading = async move {
        let at_once = Arc::new(Semaphore::new(CALLS_AT_ONCE));
        loop {
            let Frame { call, tag, body } = frame::read(&mut reader).await?;
            let slot = at_once.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (handler, answers) = (handler.clone(), answers.clone());
            tokio::spawn(async move {
                let said = match Kind::from_byte(tag) {
                    Some(kind) => handler.handle(from, kind, body).await,
                    None => Err(io::Error::other(format!("this version knows no call {tag}: upgrade it"))),
                };
                let frame = match said {
                    Ok(body) => Frame { call, tag: DONE, body },
                    Err(error) => Frame { call, tag: REFUSED, body: error.to_string().into_bytes() },
                };
                // The peer may have hung up.
                let _ = answers.send(frame).await;
                drop(slot);
            });
        }
        #[allow(unreachable_code)]
        io::Result::Ok(())
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}
