//! The node's HTTP API. Every error is an RFC 9457 problem whose detail says what to do.

mod access;
mod cluster;
mod commands;
mod credential;
mod drills;
mod events;
mod form;
mod guards;
mod log;
mod meters;
mod notifications;
mod openc2;
mod ops;
mod problem;
mod proposals;
mod read;
mod security_log;
mod trips;
mod webhooks;

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, Request};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use tagout_proto::limits::{COMMAND_MAX_BYTES, SIGNATURE_MAX_BYTES, SIGNATURES_MAX, STOP_MAX_BYTES};

pub use self::access::{Operator, Reader};
pub use self::ops::Metrics;
pub use self::problem::Code;
use self::problem::Problem;
pub use self::security_log::SecurityLog;
use crate::access::Access;
use crate::admission::Admission;
use crate::fair::Source;
use crate::service::Service;
use crate::tls::Peer;
use crate::webhooks::Webhooks;

/// A command, its signatures and what multipart puts around them.
const COMMAND_BODY_MAX_BYTES: usize = COMMAND_MAX_BYTES + SIGNATURES_MAX * SIGNATURE_MAX_BYTES + 16 * 1024;
/// A lease request for the most agents, with some stops that the service does not know.
const LEASE_BODY_MAX_BYTES: usize = 2 * 1024 * 1024;
const CONFIRMATION_BODY_MAX_BYTES: usize = 4 * 1024;
/// Of a request that says everything in its address.
const NO_BODY_MAX_BYTES: usize = 1024;
/// What a security platform tells of one alert or incident.
const WEBHOOK_BODY_MAX_BYTES: usize = 256 * 1024;
const OPENC2_BODY_MAX_BYTES: usize = 64 * 1024;

/// The description of this API (OpenAPI 3.1). It is written by hand, and tests/openapi.rs holds it to what a node answers.
const OPENAPI: &str = include_str!("../../openapi.json");

#[derive(Clone)]
pub struct Api {
    pub service: Service,
    pub security: SecurityLog,
    pub metrics: Metrics,
    pub webhooks: Arc<Webhooks>,
    pub access: Arc<Access>,
}

pub fn router(api: Api) -> Router {
    let each = routes().into_iter();
    each.fold(Router::new(), |router, route| router.route(route.path, route.handler))
        .layer(Extension(api.service.admission.clone()))
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
        takes("/v1/proposals", COMMAND_BODY_MAX_BYTES, proposals::propose),
        shows("/v1/proposals", proposals::list),
        shows("/v1/proposals/{id}", proposals::show),
        takes("/v1/drills", COMMAND_BODY_MAX_BYTES, drills::append),
        shows("/v1/drills", drills::list),
        takes("/v1/leases", LEASE_BODY_MAX_BYTES, guards::lease),
        takes("/v1/confirmations", CONFIRMATION_BODY_MAX_BYTES, guards::confirm),
        takes("/v1/trips", STOP_MAX_BYTES, trips::trip),
        takes("/v1/webhooks/{name}", WEBHOOK_BODY_MAX_BYTES, webhooks::webhook),
        takes("/.well-known/openc2", OPENC2_BODY_MAX_BYTES, openc2::openc2),
        shows("/v1/events", events::events),
        shows("/v1/agents", read::agents),
        shows("/v1/enrolments", read::enrolments),
        shows("/v1/locks", read::locks),
        shows("/v1/locks/{id}", read::lock),
        shows("/v1/locks/{id}/reach", read::reach),
        shows("/v1/status", read::status),
        shows("/v1/cluster", cluster::cluster),
        shows("/v1/tokens", access::tokens),
        shows("/v1/notifications", notifications::list),
        takes("/v1/notifications/{name}/replay", NO_BODY_MAX_BYTES, notifications::replay),
        takes("/v1/notifications/{name}/resume", NO_BODY_MAX_BYTES, notifications::resume),
        takes("/v1/notifications/{name}/test", NO_BODY_MAX_BYTES, notifications::test),
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
    let bounded = from_fn(move |admission: Extension<Arc<Admission>>, request: Request, next: Next| {
        with_room(admission.0, body_max_bytes, request, next)
    });
    let handler = post(handler).layer(DefaultBodyLimit::max(body_max_bytes)).layer(bounded);
    Route { method: Method::POST, path, handler }
}

/// Answers a request once there is memory for its body: for as much as it announces, or may have.
async fn with_room(
    admission: Arc<Admission>,
    body_max_bytes: usize,
    request: Request,
    next: Next,
) -> Response {
    let from = request.extensions().get::<Peer>().map_or(Source::OWN, |peer| peer.address.ip().into());
    let announced = request.body().size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    match admission.read(from, announced.unwrap_or(body_max_bytes).min(body_max_bytes)) {
        Ok(_room) => next.run(request).await,
        Err(busy) => Problem::from(busy).into_response(),
    }
}
