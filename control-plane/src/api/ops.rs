//! Health, readiness, metrics, and the description of the API.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::access::MetricsReader;
use super::problem::{Code, Problem};
use super::{Api, OPENAPI};

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The node can issue leases: it reaches a quorum, and the genesis is in its log.
pub async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    let not_ready = |detail: String| Problem::new(Code::NotReady, detail);
    let barrier = tokio::time::timeout(Duration::from_secs(2), api.service.cluster.read_barrier()).await;
    if let Err(why) = api.service.cluster.may_lease() {
        return Err(not_ready(why));
    }
    match barrier {
        Err(_) => Err(not_ready("no quorum answered within 2 s".into())),
        Ok(Err(error)) => Err(not_ready(error.to_string())),
        Ok(Ok(())) if api.service.replica.ledger().authority().is_none() => {
            Err(not_ready("no genesis yet".into()))
        }
        Ok(Ok(())) => Ok("ready\n"),
    }
}

/// Prometheus text (exposition format 0.0.4).
pub async fn metrics(State(api): State<Api>, _: MetricsReader) -> Response {
    let service = &api.service;
    let status = service.cluster.status();
    let gauge = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
    {
        let ledger = service.replica.ledger();
        gauge("tagout_log_entries", ledger.size() as f64);
        gauge("tagout_locks_in_force", ledger.lock_count() as f64);
    }
    gauge("tagout_log_checkpointed_entries", service.audit.checkpointed_size() as f64);
    service.reserve.report();
    service.admission.report();
    gauge("tagout_stops_pending", service.pending.count() as f64);
    gauge("tagout_log_missing_entries", service.audit.missing() as f64);
    gauge("tagout_guards_listening", service.hub.subscribers() as f64);
    gauge("tagout_instances", service.instances.count() as f64);
    gauge("tagout_raft_term", status.term as f64);
    gauge("tagout_raft_leader", f64::from(u8::from(status.is_leader)));
    gauge("tagout_raft_applied_index", status.applied.unwrap_or(0) as f64);
    gauge("tagout_raft_leader_known", f64::from(u8::from(status.leader.is_some())));
    gauge("tagout_raft_voters", status.voters.len() as f64);
    gauge("tagout_raft_last_log_index", status.last_log.unwrap_or(0) as f64);
    gauge("tagout_raft_committed_index", status.committed.unwrap_or(0) as f64);
    service.cluster.notifications.report(service.audit.checkpointed_size());
    super::meters::endings(service, &api.access);
    super::meters::leases(service);
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let drills = super::meters::drills(&service.replica.ledger());
    (headers, api.metrics.0.render() + &drills).into_response()
}

/// What this API takes and answers, as OpenAPI 3.1.
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Makes the process's recorder; once per process.
    pub fn install() -> Result<Self, metrics_exporter_prometheus::BuildError> {
        let seconds =
            [0.000_02, 0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
        let powers = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(
                metrics_exporter_prometheus::Matcher::Suffix("_seconds".into()),
                &seconds,
            )?
            .set_buckets_for_metric(
                metrics_exporter_prometheus::Matcher::Suffix("_batch_size".into()),
                &powers,
            )?
            .set_buckets_for_metric(
                metrics_exporter_prometheus::Matcher::Suffix("_batch_entries".into()),
                &powers,
            )?
            .install_recorder()?;
        super::meters::describe();
        Ok(Self(handle))
    }

    /// Keeps histograms small.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}
