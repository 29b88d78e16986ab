//! How the nodes of a deployment talk to one another.
//!
//! One port of its own, so that nothing that strangers do at the API can keep nodes apart (S10). TLS with certificates of
//! the deployment's CA on both sides carries it; who a peer *is* says its node key, which the authority lists (hello.rs):
//! whoever stole the CA's key is still no peer.
//!
//! Everything is a call, a request and its answer, many at once on one connection (frame.rs). Calls to one peer travel on
//! three lanes, each with its own connection, so that a snapshot is never in front of a heartbeat.

mod connection;
mod frame;
mod hello;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tagout_proto::authority::Authority;
use tokio::sync::oneshot;

use self::connection::Connection;
pub use self::frame::FRAME_MAX_BYTES;
pub use self::hello::NEWEST as PROTOCOL_NEWEST;
pub use self::server::serve;

/// A member of the cluster, as Raft's log and the authority name it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's name in the authority.
    pub name: String,
    /// Its Ed25519 node key.
    pub key: [u8; 32],
    /// `host:port` of its peer listener; empty for a node that takes no peers.
    pub address: String,
}

/// What is asked of a peer: the first byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    Snapshot = 5,
    ReadIndex = 16,
    Propose = 17,
    Status = 18,
    Accounts = 19,
    Instances = 20,
    Sharing = 21,
    Notifications = 22,
    Entries = 32,
    Tile = 33,
    Root = 34,
}

impl Kind {
    const ALL: [Kind; 15] = [
        Self::Append,
        Self::Vote,
        Self::PreVote,
        Self::TransferLeader,
        Self::Snapshot,
        Self::ReadIndex,
        Self::Propose,
        Self::Status,
        Self::Accounts,
        Self::Instances,
        Self::Sharing,
        Self::Notifications,
        Self::Entries,
        Self::Tile,
        Self::Root,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Calls of one lane wait for one another's bytes, those of different lanes do not.
    fn lane(self) -> Lane {
        match self {
            Self::Append | Self::Vote | Self::PreVote | Self::TransferLeader => Lane::Raft,
            Self::ReadIndex
            | Self::Propose
            | Self::Status
            | Self::Accounts
            | Self::Instances
            | Self::Sharing => Lane::Service,
            Self::Snapshot | Self::Entries | Self::Tile | Self::Root | Self::Notifications => Lane::Bulk,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Raft,
    Service,
    Bulk,
}

/// What answers the calls of peers.
pub trait Handler: Send + Sync + 'static {
    /// `from` has proven that it holds the key of this node. An error is told to the peer in words.
    fn handle(
        self: Arc<Self>,
        from: u64,
        kind: Kind,
        request: Vec<u8>,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>>;
}

/// Why a call got no answer. It may have been carried out all the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    #[error("no address of node {0} is known")]
    Unknown(u64),
    #[error("node {id} cannot be reached: {why}")]
    Unreachable { id: u64, why: String },
    #[error("node {id} did not answer within {} ms", within.as_millis())]
    Timeout { id: u64, within: Duration },
    #[error("node {id} answered: {said}")]
    Refused { id: u64, said: String },
}

/// What this node says of itself to its peers, and proves.
#[derive(Clone)]
pub struct Me {
    pub id: u64,
    /// The newest version of the protocol that it speaks.
    pub newest: u16,
    pub deployment: String,
    pub key: SigningKey,
}

/// The way to the other nodes.
pub struct Peers {
    me: Me,
    tls: Option<Arc<rustls::ClientConfig>>,
    members: RwLock<BTreeMap<u64, Member>>,
    connections: Mutex<BTreeMap<(u64, Lane), Arc<Connection>>>,
}

impl Peers {
    pub fn new(me: Me, tls: Arc<rustls::ClientConfig>) -> Arc<Self> {
        Arc::new(Self { me, tls: Some(tls), members: RwLock::default(), connections: Mutex::default() })
    }

    /// For a node that runs alone: it reaches nobody, and says so.
    pub fn nobody() -> Arc<Self> {
        let me = Me {
            id: 0,
            newest: PROTOCOL_NEWEST,
            deployment: String::new(),
            key: SigningKey::from_bytes(&[0; 32]),
        };
        Arc::new(Self { me, tls: None, members: RwLock::default(), connections: Mutex::default() })
    }

    /// Who belongs to the cluster, and where: from the authority, and from Raft's own membership, which may be ahead of it.
    pub fn know(&self, id: u64, member: &Member) {
        if self.members.read().get(&id) != Some(member) {
            self.members.write().insert(id, member.clone());
        }
    }

    pub fn know_authority(&self, authority: &Authority) {
        for node in &authority.nodes {
            self.know(node.id, &Member::of(node));
        }
    }

    /// Forgets those that `keep` does not name; their connections end with the next call that fails.
    pub fn forget_others(&self, keep: impl Fn(u64) -> bool) {
        self.members.write().retain(|id, _| keep(*id));
        self.connections.lock().retain(|(id, _), _| keep(*id));
    }

    fn member(&self, id: u64) -> Option<Member> {
        self.members.read().get(&id).cloned()
    }

    pub fn name(&self, id: u64) -> String {
        self.member(id).map_or_else(|| format!("node {id}"), |member| member.name)
    }

    /// All but this node that can have an answer.
    pub fn others(&self) -> Vec<u64> {
        let members = self.members.read();
        members
            .iter()
            .filter(|(id, m)| **id != self.me.id && !m.address.is_empty())
            .map(|(id, _)| *id)
            .collect()
    }

    /// One call, answered within `within` or given up. Giving up does not take it back.
    pub async fn call(
        self: &Arc<Self>,
        id: u64,
        kind: Kind,
        request: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let connection = self.connection(id, kind.lane())?;
        let (answer, answered) = oneshot::channel();
        connection.send(kind, request, answer)?;
        match tokio::time::timeout(within, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Unreachable { id, why: "the connection ended".into() }),
            Err(_) => Err(CallError::Timeout { id, within }),
        }
    }

    /// A call whose request and answer are plain data.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        self: &Arc<Self>,
        id: u64,
        kind: Kind,
        request: &Q,
        within: Duration,
    ) -> Result<A, CallError> {
        let request = encode(request);
        let answer = self.call(id, kind, request, within).await?;
        decode(&answer).map_err(|e| CallError::Refused { id, said: format!("what cannot be read: {e}") })
    }

    fn connection(self: &Arc<Self>, id: u64, lane: Lane) -> Result<Arc<Connection>, CallError> {
        if self.tls.is_none() || self.member(id).is_none_or(|member| member.address.is_empty()) {
            return Err(CallError::Unknown(id));
        }
        let mut connections = self.connections.lock();
        let connection = connections.entry((id, lane));
        Ok(connection.or_insert_with(|| Connection::start(self, id)).clone())
    }
}

/// For the log: its key says nothing to a reader.
impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

impl Member {
    pub fn of(node: &tagout_proto::authority::Node) -> Self {
        let address = node.address.clone().unwrap_or_default();
        Self { name: node.key.name.clone(), key: node.key.key, address }
    }
}

pub fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("messages between nodes are plain data")
}

/// The whole of `bytes`: anything left over is an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "there are bytes behind the message")),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
