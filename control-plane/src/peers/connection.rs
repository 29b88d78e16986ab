//! The calling end of a lane: one connection, opened when there is something to say, and again after it broke.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Frame};
use super::hello::{self, End};
use super::{CallError, Kind, Peers};

/// From the name to the end of the first words.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that may wait for the connection.
const QUEUE_MAX: usize = 4096;
/// A connection on which calls wait and nothing has come for so long is a dead one: the peer has lost it, or a partition
/// has swallowed what was sent, and TCP would find out much later.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a peer that cannot be reached is told of in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    id: u64,
    calls: mpsc::Sender<Call>,
}

struct Call {
    kind: Kind,
    body: Vec<u8>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Vec<u8>, CallError>>;

impl Connection {
    pub(super) fn start(peers: &Arc<Peers>, id: u64) -> Arc<Self> {
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(Arc::downgrade(peers), id, queue));
        Arc::new(Self { id, calls })
    }

    pub(super) fn send(&self, kind: Kind, body: Vec<u8>, answer: Answer) -> Result<(), CallError> {
        self.calls.try_send(Call { kind, body, answer }).map_err(|_| CallError::Unreachable {
            id: self.id,
            why: format!("{QUEUE_MAX} calls wait for it already"),
        })
    }
}

/// Ends when the last handle is gone.
async fn run(peers: Weak<Peers>, id: u64, mut queue: mpsc::Receiver<Call>) {
    let mut complained: Option<Instant> = None;
    while let Some(first) = queue.recv().await {
        if first.answer.is_closed() {
            continue;
        }
        let Some(peers) = peers.upgrade() else { return };
        let opened = match timeout(CONNECT_TIMEOUT, open(&peers, id)).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")),
        };
        drop(peers);
        match opened {
            Ok(stream) => {
                complained = None;
                tracing::debug!(node = id, "connected");
                talk(id, stream, first, &mut queue).await;
            }
            Err(error) => {
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    complained = Some(Instant::now());
                    tracing::warn!(node = id, %error, "a peer cannot be reached");
                }
                let unreachable = CallError::Unreachable { id, why: error.to_string() };
                let _ = first.answer.send(Err(unreachable.clone()));
                // Those that came meanwhile would wait for the same.
                while let Ok(call) = queue.try_recv() {
                    let _ = call.answer.send(Err(unreachable.clone()));
                }
            }
        }
    }
}

async fn open(peers: &Arc<Peers>, id: u64) -> io::Result<TlsStream<TcpStream>> {
    let member = peers.member(id).ok_or_else(|| io::Error::other("its address is not known any more"))?;
    let tls = peers.tls.as_ref().ok_or_else(|| io::Error::other("this node takes no peers"))?;
    let tcp = TcpStream::connect(&member.address).await?;
    tcp.set_nodelay(true)?;
    let host = member.address.rsplit_once(':').map_or(member.address.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(tls.clone()).connect(name, tcp).await?;
    let (ours, theirs) = {
        let session = stream.get_ref().1;
        (hello::binding(session, End::Connecting)?, hello::binding(session, End::Answering)?)
    };
    hello::say(&mut stream, &peers.me, id, &ours).await?;
    let answered =
        hello::hear(&mut stream, &peers.me, &theirs, |claimed| (claimed == id).then_some(member.key));
    answered.await?;
    Ok(stream)
}

/// Calls that wait for their answers, by number.
type Waiting = Arc<Mutex<HashMap<u64, (Instant, Answer)>>>;

/// Uses the connection until it breaks; what waits then is told.
async fn talk(id: u64, stream: TlsStream<TcpStream>, first: Call, queue: &mut mpsc::Receiver<Call>) {
    let (reader, writer) = tokio::io::split(stream);
    let waiting = Waiting::default();
    let broken = CancellationToken::new();
    let began = Instant::now();
    let heard_ms = Arc::new(AtomicU64::new(0));
    let listening =
        tokio::spawn(listen(reader, waiting.clone(), broken.clone(), began, heard_ms.clone(), id));
    let speaking = speak(writer, first, queue, &waiting);
    let silent = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let heard = began + Duration::from_millis(heard_ms.load(Ordering::Relaxed));
            let mut waiting = waiting.lock();
            // Whoever gave up is not waiting.
            waiting.retain(|_, (at, answer)| !answer.is_closed() || at.elapsed() < SILENCE_MAX * 2);
            let oldest = waiting.values().map(|(at, _)| *at).min();
            if oldest.is_some_and(|at| at.max(heard).elapsed() > SILENCE_MAX) {
                return;
            }
        }
    };
    let ended = tokio::select! {
        () = broken.cancelled() => "it closed the connection".to_owned(),
        result = speaking => result.err().map_or_else(|| "this node is done with it".into(), |e| e.to_string()),
        () = silent => format!("nothing came from it for {} ms", SILENCE_MAX.as_millis()),
    };
    listening.abort();
    for (_, (_, answer)) in waiting.lock().drain() {
        let _ = answer.send(Err(CallError::Unreachable { id, why: ended.clone() }));
    }
}

async fn speak(
    writer: WriteHalf<TlsStream<TcpStream>>,
    first: Call,
    queue: &mut mpsc::Receiver<Call>,
    waiting: &Waiting,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 * 1024, writer);
    let mut number = 0;
    let mut next = Some(first);
    loop {
        let Some(call) = next else { return Ok(()) };
        number += 1;
        waiting.lock().insert(number, (Instant::now(), call.answer));
        frame::write(&mut writer, &Frame { call: number, tag: call.kind as u8, body: call.body }).await?;
        next = match queue.try_recv() {
            Ok(call) => Some(call),
            Err(_) => {
                writer.flush().await?;
                queue.recv().await
            }
        };
    }
}

async fn listen(
    reader: ReadHalf<TlsStream<TcpStream>>,
    waiting: Waiting,
    broken: CancellationToken,
    began: Instant,
    heard_ms: Arc<AtomicU64>,
    id: u64,
) {
    let _broken = broken.drop_guard();
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    loop {
        let frame = match frame::read(&mut reader).await {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(node = id, %error, "the connection to a peer ended");
                return;
            }
        };
        heard_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        let Some((_, answer)) = waiting.lock().remove(&frame.call) else { continue };
        // Whoever asked may have given up.
        let _ = answer.send(match frame.tag {
            frame::DONE => Ok(frame.body),
            _ => Err(CallError::Refused { id, said: String::from_utf8_lossy(&frame.body).into_owned() }),
        });
    }
}
