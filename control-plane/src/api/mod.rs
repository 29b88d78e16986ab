//! The node's HTTP API. Every error is an RFC 9457 problem whose detail says what to do.

mod commands;
mod events;
mod form;
mod guards;
mod log;
mod meters;
mod ops;
mod problem;
mod read;
mod security_log;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, get, post};
use tagout_proto::limits::{COMMAND_MAX_BYTES, SIGNATURE_MAX_BYTES, SIGNATURES_MAX};

pub use self::ops::Metrics;
pub use self::problem::Code;
pub use self::security_log::SecurityLog;
use crate::service::Service;

/// A command, its signatures and what multipart puts around them.
const COMMAND_BODY_MAX_BYTES: usize = COMMAND_MAX_BYTES + SIGNATURES_MAX * SIGNATURE_MAX_BYTES + 16 * 1024;
/// A lease request for the most agents, with some stops that the service does not know.
const LEASE_BODY_MAX_BYTES: usize = 2 * 1024 * 1024;
const CONFIRMATION_BODY_MAX_BYTES: usize = 4 * 1024;

/// The description of this API (OpenAPI 3.1). It is written by hand, and tests/openapi.rs holds it to what a node answers.
const OPENAPI: &str = include_str!("../../openapi.json");

#[derive(Clone)]
pub struct Api {
    pub service: Service,
    pub security: SecurityLog,
    pub metrics: Metrics,
}

pub fn router(api: Api) -> Router {
    let each = routes().into_iter();
    each.fold(Router::new(), |router, route| router.route(route.path, route.handler))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(api)
}

/// Method and path of every route, the path as axum writes it.
pub fn listed_routes() -> impl Iterator<Item = (Method, &'static str)> {
    routes().into_iter().map(|route| (route.method, route.path))
}

struct Route {
    method: Method,
    path: &'static str,
    handler: MethodRouter<Api>,
}

fn routes() -> Vec<Route> {
    vec![
        takes("/v1/commands", COMMAND_BODY_MAX_BYTES, commands::command),
        takes("/agent/shutdown", COMMAND_BODY_MAX_BYTES, commands::shutdown),
        takes("/v1/leases", LEASE_BODY_MAX_BYTES, guards::lease),
        takes("/v1/confirmations", CONFIRMATION_BODY_MAX_BYTES, guards::confirm),
        shows("/v1/events", events::events),
        shows("/v1/agents", read::agents),
        shows("/v1/locks", read::locks),
        shows("/v1/locks/{id}", read::lock),
        shows("/v1/locks/{id}/reach", read::reach),
        shows("/v1/status", read::status),
        shows("/v1/authority", read::authority),
        takes("/v1/authority/impact", COMMAND_MAX_BYTES, read::authority_impact),
        shows("/log/checkpoint", log::checkpoint),
        shows("/log/tile/{*path}", log::tile),
        shows("/healthz", ops::healthz),
        shows("/readyz", ops::readyz),
        shows("/metrics", ops::metrics),
        shows("/openapi.json", ops::openapi),
    ]
}

fn shows<H: Handler<T, Api>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route { method: Method::GET, path, handler: get(handler) }
}

fn takes<H: Handler<T, Api>, T: 'static>(path: &'static str, body_max_bytes: usize, handler: H) -> Route {
    Route { method: Method::POST, path, handler: post(handler).layer(DefaultBodyLimit::max(body_max_bytes)) }
}
