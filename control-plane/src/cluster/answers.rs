//! What the peers ask of this node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tagout_proto::envelope::Envelope;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::log::tile::TileId;
use tagout_proto::scope::Scope;
use tracing::Instrument;

use super::{Cluster, NotCommitted};
use crate::outcomes::News;
use crate::peers::{Handler, Kind, decode, encode};
use crate::raft::ProposeError;
use crate::replica::Answer;
use crate::reserve::{DiskRefused, Need};
use crate::way::{WAY, way};

/// The answer to a proposal that was handed on.
#[derive(Serialize, Deserialize)]
pub(super) enum HandedOn {
    /// What the state machine answered, and how far Raft's log was applied then.
    Answered(Answer, u64),
    /// The leader's disk has no room for it.
    Disk(DiskRefused),
    /// Nothing is known of it: try again.
    Again,
    Failed(String),
}

impl Handler for Cluster {
    fn handle(
        self: Arc<Self>,
        from: u64,
        kind: Kind,
        request: Vec<u8>,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        Box::pin(async move {
            self.outcomes.heard(from);
            match kind {
                Kind::Append | Kind::Vote | Kind::PreVote | Kind::TransferLeader | Kind::Snapshot => {
                    self.consensus.answer(kind, &request).await
                }
                Kind::ReadIndex => {
                    let index = self.consensus.read_index().await.map_err(io::Error::other)?;
                    Ok(encode(&index))
                }
                Kind::Propose => {
                    let (need, kind, envelope): (Need, EntryKind, Envelope) = decode(&request)?;
                    let way = way(&envelope.digest());
                    tracing::debug!(target: WAY, parent: &way, from, ?kind, "handed on");
                    Ok(encode(&match self.propose_here(need, kind, &envelope).instrument(way).await {
                        Ok(answer) => {
                            HandedOn::Answered(answer, self.consensus.status().applied.unwrap_or_default())
                        }
                        // Whose log differs hands the leadership over: its successor takes it.
                        Err(
                            NotCommitted::Consensus(
                                ProposeError::NotLeader { .. } | ProposeError::Unknown { .. },
                            )
                            | NotCommitted::Differs(_),
                        ) => HandedOn::Again,
                        Err(NotCommitted::Consensus(error)) => HandedOn::Failed(error.to_string()),
                        Err(NotCommitted::Disk(refused)) => HandedOn::Disk(refused),
                    }))
                }
                Kind::Status => Ok(encode(&self.state())),
                Kind::Accounts => {
                    let news: Vec<News> = decode(&request)?;
                    news.into_iter().for_each(|news| self.outcomes.learn(from, news));
                    Ok(Vec::new())
                }
                Kind::Sharing => Ok(encode(&self.sharing())),
                Kind::Instances => {
                    let (scope, within_ms): (Scope, u64) = decode(&request)?;
                    Ok(encode(&self.instances.below(&scope, Duration::from_millis(within_ms))))
                }
                Kind::Notifications => self.notifications.answer(&self.audit, &request).await,
                Kind::Entries => {
                    let (from, max): (u64, u64) = decode(&request)?;
                    let entries = crate::blocking(move || self.audit.entries(from, max)).await?;
                    Ok(encode(&entries))
                }
                Kind::Tile => {
                    let id: String = decode(&request)?;
                    let id = TileId::parse(&id).ok_or_else(|| io::Error::other("that is no tile"))?;
                    let tile = crate::blocking(move || self.audit.tile(id)).await?;
                    Ok(encode(&tile))
                }
                Kind::Root => {
                    let size: u64 = decode(&request)?;
                    let root = crate::blocking(move || self.audit.root_at(size)).await?;
                    Ok(encode(&root))
                }
            }
        })
    }
}
