//! Raft's messages between nodes: openraft's calls on one side, its answers on the other, over the peers' lanes.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::machine::StateMachine;
use super::types::{Snapshot, SnapshotMeta, Types, Vote, decode, encode};
use crate::peers::{CallError, Kind, Member, Peers};

/// A piece of a snapshot on its way. The answer to one asks for the next.
const PIECE_BYTES: usize = 1 << 20;
/// The largest snapshot that is taken from a leader: some four million locks.
const SNAPSHOT_MAX_BYTES: usize = 1 << 30;
/// How long one piece of a snapshot may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// Installing the last one includes the disk.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// openraft's own bound for an append is three quarters of a heartbeat. A follower whose disk is slower than that is not
/// gone: asking it again at once would only make it slower. Heartbeats find out who is gone.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Network(pub(super) Arc<Peers>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, member: &Member) -> Link {
        // Raft's membership may be ahead of the authority that this node has applied.
        self.0.know(target, member);
        Link { target, peers: self.0.clone() }
    }
}

/// The way to one node.
pub(super) struct Link {
    target: u64,
    peers: Arc<Peers>,
}

impl Link {
    async fn call<A: DeserializeOwned>(
        &self,
        kind: Kind,
        request: &impl Serialize,
        within: Duration,
    ) -> Result<A, RPCError<Types>> {
        let failed = |e: &io::Error| RPCError::Unreachable(Unreachable::new(e));
        let request = encode(request).map_err(|e| failed(&e))?;
        let answer = self.peers.call(self.target, kind, request, within).await;
        let answer = answer.map_err(|e: CallError| RPCError::Unreachable(Unreachable::new(&e)))?;
        decode(&answer).map_err(|e| failed(&e))
    }
}

#[derive(Serialize, Deserialize)]
struct Piece {
    vote: Vote,
    meta: SnapshotMeta,
    /// Where it belongs, and how long the whole is.
    at: u64,
    length: u64,
    bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum Taken {
    GoOn,
    Installed(SnapshotResponse<Types>),
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(Kind::Append, &request, option.hard_ttl().max(APPEND_TIMEOUT)).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Kind::Vote, &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Kind::PreVote, &request, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(Kind::TransferLeader, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let length = snapshot.snapshot.len() as u64;
        let sending = async {
            let mut at = 0;
            loop {
                let end = (at + PIECE_BYTES).min(snapshot.snapshot.len());
                let bytes = snapshot.snapshot[at..end].to_vec();
                let piece = Piece { vote, meta: snapshot.meta.clone(), at: at as u64, length, bytes };
                let last = end == snapshot.snapshot.len();
                let within = if last { INSTALL_TIMEOUT } else { PIECE_TIMEOUT };
                match self.call(Kind::Snapshot, &piece, within).await? {
                    Taken::Installed(response) => return Ok(response),
                    Taken::GoOn if last => {
                        let lost = "the snapshot arrived with holes; it is sent again";
                        return Err(RPCError::Unreachable(Unreachable::from_string(lost)));
                    }
                    Taken::GoOn => at = end,
                }
            }
        };
        tokio::select! {
            sent = sending => sent.map_err(StreamingError::from),
            closed = cancel => Err(closed.into()),
        }
    }
}

/// A snapshot that is arriving: from one leader at a time, in order.
#[derive(Default)]
pub(super) struct Arriving(Mutex<Option<(SnapshotMeta, Vec<u8>)>>);

impl Arriving {
    /// Takes a piece in; gives the whole once it is there.
    fn take(&self, piece: Piece) -> io::Result<Option<Snapshot>> {
        let (at, length) = (piece.at as usize, piece.length as usize);
        if length > SNAPSHOT_MAX_BYTES || at.saturating_add(piece.bytes.len()) > length {
            return Err(io::Error::other(format!("a snapshot of {length} bytes is not taken")));
        }
        let mut arriving = self.0.lock();
        if at == 0 {
            *arriving = Some((piece.meta.clone(), Vec::new()));
        }
        let whole = match arriving.as_mut() {
            Some((meta, bytes)) if *meta == piece.meta && bytes.len() == at => {
                bytes.extend(piece.bytes);
                bytes.len() == length
            }
            _ => {
                *arriving = None;
                return Err(io::Error::other("this piece of a snapshot follows no other one: begin again"));
            }
        };
        let whole = if whole { arriving.take() } else { None };
        Ok(whole.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Answers what another node's [`Link`] asks.
pub(super) async fn answer(
    raft: &openraft::Raft<Types, StateMachine>,
    arriving: &Arriving,
    kind: Kind,
    request: &[u8],
) -> io::Result<Vec<u8>> {
    fn stopped(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        io::Error::other(error)
    }
    match kind {
        Kind::Append => encode(&raft.append_entries(decode(request)?).await.map_err(stopped)?),
        Kind::Vote => encode(&raft.vote(decode(request)?).await.map_err(stopped)?),
        Kind::PreVote => encode(&raft.pre_vote(decode(request)?).await.map_err(stopped)?),
        Kind::TransferLeader => {
            let answer: TransferLeaderResponse<Types> =
                raft.handle_transfer_leader(decode(request)?).await.map_err(stopped)?;
            encode(&answer)
        }
        Kind::Snapshot => {
            let piece: Piece = decode(request)?;
            let vote = piece.vote;
            encode(&match arriving.take(piece)? {
                None => Taken::GoOn,
                Some(snapshot) => {
                    Taken::Installed(raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?)
                }
            })
        }
        Kind::ReadIndex
        | Kind::Propose
        | Kind::Status
        | Kind::Accounts
        | Kind::Instances
        | Kind::Sharing
        | Kind::Notifications
        | Kind::Entries
        | Kind::Tile
        | Kind::Root => Err(io::Error::other("this is no message of Raft")),
    }
}
