//! `/v1/notifications`: who is told of what happens, and how far that is. What changes something is for operators.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use tagout_proto::wire::{NotificationTest, Notifications, NotificationsReplayed, NotificationsResumed};

use super::Api;
use super::access::{Operator, Reader};
use super::problem::{Code, Problem};
use crate::notify::NotDone;

type ReceiverPath = Result<Path<String>, PathRejection>;

fn name(path: ReceiverPath) -> Result<String, Problem> {
    path.map(|Path(name)| name).map_err(|_| NotDone::NoReceiver.into())
}

#[derive(Deserialize)]
pub struct Which {
    id: Option<String>,
}

/// `GET /v1/notifications`.
pub async fn list(State(api): State<Api>, reader: Reader) -> Result<Json<Notifications>, Problem> {
    reader.sight().fleet()?;
    let cluster = &api.service.cluster;
    Ok(Json(cluster.notifications.shown(cluster.audit.checkpointed_size())))
}

/// `POST /v1/notifications/{name}/replay?id=ID`.
pub async fn replay(
    State(api): State<Api>,
    Operator(reader): Operator,
    receiver: ReceiverPath,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<NotificationsReplayed>, Problem> {
    reader.sight().fleet()?;
    let receiver = name(receiver)?;
    let Query(Which { id }) = which.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    let cluster = &api.service.cluster;
    let replayed = cluster.notifications.replay(cluster, &receiver, id).await?;
    tracing::info!(receiver, replayed, by = reader.name, "notifications are replayed");
    Ok(Json(NotificationsReplayed { receiver, replayed }))
}

/// `POST /v1/notifications/{name}/resume`.
pub async fn resume(
    State(api): State<Api>,
    Operator(reader): Operator,
    receiver: ReceiverPath,
) -> Result<Json<NotificationsResumed>, Problem> {
    reader.sight().fleet()?;
    let receiver = name(receiver)?;
    let cluster = &api.service.cluster;
    cluster.notifications.resume(cluster, &receiver).await?;
    tracing::info!(receiver, by = reader.name, "notifications go on");
    Ok(Json(NotificationsResumed { receiver }))
}

/// `POST /v1/notifications/{name}/test`.
pub async fn test(
    State(api): State<Api>,
    Operator(reader): Operator,
    receiver: ReceiverPath,
) -> Result<Json<NotificationTest>, Problem> {
    reader.sight().fleet()?;
    let receiver = name(receiver)?;
    Ok(Json(api.service.cluster.notifications.test(&receiver).await?))
}
