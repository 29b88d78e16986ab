//! `/v1/notifications`: who is told of what happens, and how far that is. What changes something is for this machine alone.

use std::net::IpAddr;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use serde::Deserialize;
use tagout_proto::wire::{NotificationTest, Notifications, NotificationsReplayed, NotificationsResumed};

use super::Api;
use super::problem::{Code, Problem};
use crate::notify::NotDone;
use crate::tls::Peer;

/// A request that comes from the node's own machine.
pub struct FromHere;

impl<S: Sync> FromRequestParts<S> for FromHere {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let address = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
        if address.is_some_and(is_here) {
            return Ok(Self);
        }
        let detail = "this is done on a node's own machine only, by the loopback address that it listens on: \
                      tagout --node https://127.0.0.1:7470 notifications …";
        Err(Problem::new(Code::NotFromHere, detail))
    }
}

fn is_here(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

type ReceiverPath = Result<Path<String>, PathRejection>;

fn name(path: ReceiverPath) -> Result<String, Problem> {
    path.map(|Path(name)| name).map_err(|_| NotDone::NoReceiver.into())
}

#[derive(Deserialize)]
pub struct Which {
    id: Option<String>,
}

/// `GET /v1/notifications`.
pub async fn list(State(api): State<Api>) -> Json<Notifications> {
    let cluster = &api.service.cluster;
    Json(cluster.notifications.shown(cluster.audit.checkpointed_size()))
}

/// `POST /v1/notifications/{name}/replay?id=ID`.
pub async fn replay(
    _: FromHere,
    State(api): State<Api>,
    receiver: ReceiverPath,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<NotificationsReplayed>, Problem> {
    let receiver = name(receiver)?;
    let Query(Which { id }) = which.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    let cluster = &api.service.cluster;
    let replayed = cluster.notifications.replay(cluster, &receiver, id).await?;
    tracing::info!(receiver, replayed, "notifications are replayed");
    Ok(Json(NotificationsReplayed { receiver, replayed }))
}

/// `POST /v1/notifications/{name}/resume`.
pub async fn resume(
    _: FromHere,
    State(api): State<Api>,
    receiver: ReceiverPath,
) -> Result<Json<NotificationsResumed>, Problem> {
    let receiver = name(receiver)?;
    let cluster = &api.service.cluster;
    cluster.notifications.resume(cluster, &receiver).await?;
    tracing::info!(receiver, "notifications go on");
    Ok(Json(NotificationsResumed { receiver }))
}

/// `POST /v1/notifications/{name}/test`.
pub async fn test(
    _: FromHere,
    State(api): State<Api>,
    receiver: ReceiverPath,
) -> Result<Json<NotificationTest>, Problem> {
    let receiver = name(receiver)?;
    Ok(Json(api.service.cluster.notifications.test(&receiver).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_here() {
        let here = |text: &str| is_here(text.parse().unwrap());
        assert!(here("127.0.0.1") && here("127.8.8.8") && here("::1") && here("::ffff:127.0.0.1"));
        assert!(!here("10.0.0.1") && !here("::ffff:10.0.0.1") && !here("0.0.0.0") && !here("fe80::1"));
    }
}
