//! A cluster on loopback addresses: node i listens on 127.a.b.i, and is found at 127.a.b.(100+i), where a proxy of ours
//! stands that holds back what must not arrive. Held back, not closed: a partition says nothing to either end.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tagout_tests::deployment::Seat;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Place, Trouble};

const API: u16 = 7470;
const PEERS: u16 = 7471;
/// A node that comes later has its seat already.
pub const SPARE: usize = 1;
/// Chunks on their way in one direction of a connection.
const UNDER_WAY_MAX: usize = 64;

pub struct Loopback {
    seats: Vec<Seat>,
    trouble: watch::Sender<Trouble>,
    pids: Pids,
    _runtime: Runtime,
}

/// The nodes' processes: whose connection a proxy has accepted is told by who holds its other end.
type Pids = Arc<Mutex<Vec<Option<u32>>>>;

impl Loopback {
    pub fn new(nodes: usize) -> Self {
        let [a, b, ..] = getrandom::u32().expect("randomness").to_le_bytes();
        let at = |host: usize, port| {
            let ip = Ipv4Addr::new(127, a | 1, b, u8::try_from(host).expect("few nodes"));
            SocketAddr::V4(SocketAddrV4::new(ip, port))
        };
        let seats: Vec<Seat> = (1..=nodes + SPARE)
            .map(|node| Seat {
                api: at(node, API),
                peers: at(node, PEERS),
                api_found_at: at(100 + node, API),
                peers_found_at: at(100 + node, PEERS),
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let trouble = watch::Sender::new(Trouble::default());
        let pids: Pids = Arc::new(Mutex::new(vec![None; nodes + SPARE]));
        for (index, seat) in seats.iter().enumerate() {
            let to = Place::Node(index + 1);
            runtime.block_on(listen(seat.api_found_at, seat.api, to, None, trouble.subscribe()));
            let among_nodes = Some(pids.clone());
            runtime.block_on(listen(seat.peers_found_at, seat.peers, to, among_nodes, trouble.subscribe()));
        }
        Self { seats, trouble, pids, _runtime: runtime }
    }

    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub fn set(&self, trouble: &Trouble) {
        assert_eq!(trouble.loss_percent, 0, "a proxy has no packets to lose; loss needs namespaces");
        self.trouble.send_replace(trouble.clone());
    }

    pub fn started(&self, node: usize, pid: u32) {
        self.pids.lock()[node - 1] = Some(pid);
    }
}

/// Connections from clients, or (with `pids`) from other nodes, for the node `to`.
async fn listen(
    found_at: SocketAddr,
    listens_at: SocketAddr,
    to: Place,
    pids: Option<Pids>,
    trouble: watch::Receiver<Trouble>,
) {
    let listener = TcpListener::bind(found_at).await.unwrap_or_else(|e| panic!("{found_at}: {e}"));
    tokio::spawn(async move {
        loop {
            let Ok((accepted, dialer)) = listener.accept().await else { continue };
            let (pids, mut trouble) = (pids.clone(), trouble.clone());
            tokio::spawn(async move {
                // A node that is down refuses, as it would without a proxy; many ask again and again.
                let early = if trouble.borrow().cut.is_empty() { Some(dial(listens_at).await) } else { None };
                if matches!(early, Some(None)) {
                    return;
                }
                let from = match pids {
                    None => Place::Clients,
                    // It reads files of the kernel's, and what is on its way shall not wait for them.
                    Some(pids) => match tokio::task::spawn_blocking(move || owner(dialer, &pids)).await {
                        Ok(Some(node)) => Place::Node(node),
                        Ok(None) | Err(_) => return, // it ended meanwhile
                    },
                };
                // A handshake needs both ways.
                let open = trouble.wait_for(|trouble| trouble.talk(from, to)).await.is_ok();
                let dialed = match early.flatten() {
                    Some(dialed) => Some(dialed),
                    None => dial(listens_at).await,
                };
                let Some(dialed) = dialed.filter(|_| open) else { return };
                let _ = (accepted.set_nodelay(true), dialed.set_nodelay(true));
                let (from_dialer, to_dialer) = accepted.into_split();
                let (from_node, to_node) = dialed.into_split();
                tokio::join!(
                    carry(from_dialer, to_node, (from, to), trouble.clone()),
                    carry(from_node, to_dialer, (to, from), trouble)
                );
            });
        }
    });
}

async fn dial(address: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect(address).await.ok()
}

/// One direction of a connection. What was sent before a cut and not read yet is held back too, as is its end.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: (Place, Place),
    mut trouble: watch::Receiver<Trouble>,
) {
    let (sent, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let delays = trouble.clone();
    let read = async move {
        loop {
            let mut chunk = vec![0; 16 * 1024];
            let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
            chunk.truncate(read);
            let among_nodes = !matches!(way, (Place::Clients, _) | (_, Place::Clients));
            let delay_ms = if among_nodes { delays.borrow().delay_ms } else { 0 };
            let due = Instant::now() + Duration::from_millis(delay_ms);
            if sent.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        loop {
            let next = under_way.recv().await;
            if let Some((due, _)) = &next {
                tokio::time::sleep_until(*due).await;
            }
            if trouble.wait_for(|trouble| !trouble.cut.contains(&way)).await.is_err() {
                return;
            }
            match next {
                Some((_, chunk)) => {
                    if to.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
                None => return drop(to.shutdown().await),
            }
        }
    };
    tokio::join!(read, write);
}

/// Which node's process has the socket at `address`, found as `ss -p` finds it.
fn owner(address: SocketAddr, pids: &Pids) -> Option<usize> {
    let SocketAddr::V4(address) = address else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()))
            .then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))
    })??;
    let pids = pids.lock().clone();
    pids.into_iter()
        .position(|pid| {
            let files = pid.and_then(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
            let mut links =
                files.into_iter().flatten().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            links.any(|link| link.as_os_str() == inode.as_str())
        })
        .map(|index| index + 1)
}
