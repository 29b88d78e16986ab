//! The node's HTTP API. Every error is an RFC 9457 problem whose detail says what to do.

mod commands;
mod events;
mod form;
mod guards;
mod log;
mod ops;
mod problem;
mod read;
mod security_log;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tagout_proto::limits::{COMMAND_MAX_BYTES, SIGNATURE_MAX_BYTES, SIGNATURES_MAX};

pub use self::ops::Metrics;
pub use self::security_log::SecurityLog;
use crate::service::Service;

/// A command, its signatures and what multipart puts around them.
const COMMAND_BODY_MAX_BYTES: usize = COMMAND_MAX_BYTES + SIGNATURES_MAX * SIGNATURE_MAX_BYTES + 16 * 1024;
/// A lease request for the most agents, with some stops that the service does not know.
const LEASE_BODY_MAX_BYTES: usize = 2 * 1024 * 1024;
const CONFIRMATION_BODY_MAX_BYTES: usize = 4 * 1024;

#[derive(Clone)]
pub struct Api {
    pub service: Service,
    pub security: SecurityLog,
    pub metrics: Metrics,
}

pub fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/commands", post(commands::command).layer(DefaultBodyLimit::max(COMMAND_BODY_MAX_BYTES)))
        .route(
            "/agent/shutdown",
            post(commands::shutdown).layer(DefaultBodyLimit::max(COMMAND_BODY_MAX_BYTES)),
        )
        .route("/v1/leases", post(guards::lease).layer(DefaultBodyLimit::max(LEASE_BODY_MAX_BYTES)))
        .route(
            "/v1/confirmations",
            post(guards::confirm).layer(DefaultBodyLimit::max(CONFIRMATION_BODY_MAX_BYTES)),
        )
        .route("/v1/events", get(events::events))
        .route("/v1/agents", get(read::agents))
        .route("/v1/locks", get(read::locks))
        .route("/v1/locks/{id}", get(read::lock))
        .route("/v1/locks/{id}/reach", get(read::reach))
        .route("/v1/status", get(read::status))
        .route("/v1/authority", get(read::authority))
        .route(
            "/v1/authority/impact",
            post(read::authority_impact).layer(DefaultBodyLimit::max(COMMAND_MAX_BYTES)),
        )
        .route("/log/checkpoint", get(log::checkpoint))
        .route("/log/tile/{*path}", get(log::tile))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(api)
}
