//! What people and tools read of the nodes. Guards and commands need none of it: any node takes what they send.

use axum::Json;
use axum::extract::State;
use tagout_proto::wire::Cluster;

use super::{Api, Reader};

/// `GET /v1/cluster`.
pub async fn cluster(State(api): State<Api>, _: Reader) -> Json<Cluster> {
    Json(api.service.cluster.view())
}
