//! The audit log over HTTP, as c2sp.org/tlog-tiles has it, below `/log/`.

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tagout_proto::log::tile::TileId;

use super::Api;
use super::access::LogReader;
use super::problem::{Code, Problem};

/// How long a reader may wait for the checkpoint to cover an entry that it has just seen acknowledged.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(10);
/// Further ahead than the log can grow meanwhile: nobody has seen that entry.
const AHEAD_MAX: u64 = 100_000;

#[derive(Deserialize)]
pub struct Wanted {
    /// Answer once the checkpoint covers so many entries.
    #[serde(default)]
    size: u64,
}

pub async fn checkpoint(
    State(api): State<Api>,
    _: LogReader,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Wanted { size }) = wanted.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    let not_yet = || {
        let detail = format!("the checkpoint does not cover {size} entries yet; try again");
        Problem::new(Code::NoCheckpoint, detail)
    };
    if size > api.service.replica.ledger().size() + AHEAD_MAX {
        return Err(not_yet());
    }
    let covered = tokio::time::timeout(CHECKPOINT_WAIT, api.service.audit.wait_for(size)).await;
    covered.map_err(|_| not_yet())?;
    let note = api.service.audit.checkpoint();
    if note.is_empty() {
        return Err(Problem::new(Code::NoCheckpoint, "the log is empty; try again"));
    }
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, note.to_string()).into_response())
}

pub async fn tile(
    State(api): State<Api>,
    _: LogReader,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = path.ok().and_then(|Path(path)| TileId::parse(&path)).ok_or_else(|| {
        Problem::new(
            Code::BadTile,
            "a tile is /log/tile/<level or entries>/<N>[.p/<W>], as in c2sp.org/tlog-tiles",
        )
    })?;
    let audit = api.service.audit.clone();
    let tile = crate::blocking(move || audit.tile(id)).await.map_err(|e| Problem::internal(&e))?;
    let tile = tile.ok_or_else(|| {
        Problem::new(Code::NoSuchTile, "the log has not grown to this tile; see /log/checkpoint")
    })?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, tile).into_response())
}
