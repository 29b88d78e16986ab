//! What people read: agents, locks, the reach of a stop, the authority.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection, StringRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use tagout_proto::command::{Action, Command};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{GrantSummary, Impact, LockRecord, Refusal};
use tagout_proto::limits::{COMMAND_MAX_BYTES, LAPSE_GRACE_DEFAULT_MS, TTL_DEFAULT_MS};
use tagout_proto::scope::Scope;
use tagout_proto::wire::{
    Agent, Agents, AuthorityImpact, EnrolmentRecord, Enrolments, Instance, Locks, Reach, Status, StopReach,
    TrustChain,
};
use tokio::task::JoinHandle;

use super::access::Watcher;
use super::problem::{Code, Problem};
use super::{Api, Reader};
use crate::clock;
use crate::service::Service;

/// An instance counts as there while calls under its last lease may still go on.
pub(super) const SEEN_WITHIN: Duration = Duration::from_millis(LAPSE_GRACE_DEFAULT_MS + TTL_DEFAULT_MS);
/// How long the answer to a command waits for what other nodes know of instances.
const REACH_PATIENCE: Duration = Duration::from_millis(50);
/// How long a question for news may wait.
const LONG_POLL: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
pub struct ScopeFilter {
    scope: Option<String>,
}

pub(super) type ScopeQuery = Result<Query<ScopeFilter>, QueryRejection>;

pub(super) fn scope_of(query: ScopeQuery) -> Result<Scope, Problem> {
    let Query(filter) = query.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    let scope = filter.scope.as_deref().unwrap_or("*");
    Scope::parse(scope).map_err(|e| Problem::new(Code::BadScope, e.to_string()))
}

/// `GET /v1/agents?scope=…`.
pub async fn agents(
    State(api): State<Api>,
    reader: Reader,
    query: ScopeQuery,
) -> Result<Json<Agents>, Problem> {
    let scopes = reader.sight().narrow(&scope_of(query)?)?;
    Ok(Json(Agents { agents: agents_on(&api.service, &scopes).await.0 }))
}

/// `GET /v1/enrolments?scope=…`.
pub async fn enrolments(
    State(api): State<Api>,
    reader: Reader,
    query: ScopeQuery,
) -> Result<Json<Enrolments>, Problem> {
    let scopes = reader.sight().narrow(&scope_of(query)?)?;
    let ledger = api.service.replica.ledger();
    let authority = ledger.authority().ok_or(Refusal::NoGenesis)?;
    let all = ledger.enrolments(clock::wall_ms()).into_iter();
    let enrolments = all
        .filter(|(_, enrolment)| touches(&scopes, &enrolment.scope))
        .map(|(id, enrolment)| EnrolmentRecord { id, enrolment: enrolment.clone() })
        .collect();
    Ok(Json(Enrolments { required: authority.enrolment, enrolments }))
}

/// `GET /v1/locks?scope=…`.
pub async fn locks(
    State(api): State<Api>,
    reader: Reader,
    query: ScopeQuery,
) -> Result<Json<Locks>, Problem> {
    let asked = scope_of(query)?;
    let scopes = reader.sight().narrow(&asked)?;
    let mut locks = api.service.replica.ledger().locks_touching(&asked);
    locks.retain(|record| touches(&scopes, &record.lock.scope));
    Ok(Json(Locks { locks }))
}

/// Whether what is on `scope` lies on one of `scopes`, above or below it.
pub(super) fn touches(scopes: &[Scope], scope: &Scope) -> bool {
    scopes.iter().any(|own| own.covers(scope) || scope.covers(own))
}

/// `GET /v1/locks/{id}`.
pub async fn lock(State(api): State<Api>, reader: Reader, id: LockPath) -> Result<Json<LockRecord>, Problem> {
    let id = lock_id(id)?;
    let record = api.service.replica.ledger().lock(&id).ok_or_else(|| {
        Problem::new(Code::NoSuchLock, "no such lock is in force; its history is in the log")
    })?;
    reader.sight().touching(&record.lock.scope)?;
    Ok(Json(record))
}

#[derive(Deserialize)]
pub struct After {
    #[serde(default)]
    after: u64,
}

/// `GET /v1/locks/{id}/reach?after=VERSION`.
pub async fn reach(
    State(api): State<Api>,
    reader: Reader,
    id: LockPath,
    after: Result<Query<After>, QueryRejection>,
) -> Result<Json<StopReach>, Problem> {
    let id = lock_id(id)?;
    let Query(After { after }) = after.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    let stop = api.service.replica.ledger().stop_record(&id);
    stop.map_or(Ok(()), |stop| reader.sight().touching(&stop.scope))?;
    let account = api.service.outcomes.account(&id).ok_or_else(|| {
        let detail =
            "this stop is not being accounted for (any more); its outcome is in the log: tagout log show";
        Problem::new(Code::NoSuchStop, detail)
    })?;
    // As it is after the wait: the caller asks again.
    let _ = tokio::time::timeout(LONG_POLL, account.changed_since(after)).await;
    let mut reach = account.reach();
    reach.instances.retain(|instance| reader.sight().covers(&instance.agent));
    Ok(Json(reach))
}

/// `GET /v1/status`.
pub async fn status(State(api): State<Api>, watcher: Watcher) -> Result<Json<Status>, Problem> {
    let time_ms = clock::wall_ms();
    let sight = match &watcher {
        Watcher::Reader(reader) => Some(reader.sight()),
        Watcher::Agent(sight) => Some(sight),
        Watcher::Anybody => None,
    };
    let concerns = |grant: &GrantSummary| sight.is_some_and(|sight| sight.touches(&grant.scope));
    let ledger = api.service.replica.ledger();
    let authority = ledger.authority().ok_or(Refusal::NoGenesis)?;
    let locks = match sight.map(|sight| sight.narrow(&Scope::fleet())).transpose()? {
        Some(scopes) if !scopes.iter().any(Scope::is_fleet) => {
            let touching = scopes.iter().flat_map(|scope| ledger.locks_touching(scope));
            touching.map(|record| record.lock.id).collect::<BTreeSet<_>>().len()
        }
        _ => ledger.lock_count(),
    };
    Ok(Json(Status {
        deployment: authority.deployment.to_string(),
        node: api.service.node.to_string(),
        epoch: ledger.epoch(),
        log_size: ledger.size(),
        log_root: ledger.frontier().root(),
        authority_version: authority.version,
        rule_version: ledger.rule_version(),
        limits: authority.limits,
        time_ms,
        locks: locks as u64,
        grants: ledger.grants(time_ms).into_iter().filter(concerns).collect(),
    }))
}

/// `GET /v1/authority`.
pub async fn authority(State(api): State<Api>, _: Watcher) -> Result<Json<TrustChain>, Problem> {
    let entries = api.service.replica.ledger().trust_entries().to_vec();
    let audit = api.service.audit.clone();
    let chain = crate::blocking(move || {
        // An entry may be applied and a moment away from the log's memory: the caller asks again.
        let document = |index: &u64| audit.entry(*index).map(|entry| entry.envelope);
        let documents = entries.iter().map(document).collect::<Result<_, _>>()?;
        Ok(TrustChain { documents, entries })
    });
    chain.await.map(Json).map_err(|e| Problem::internal(&e))
}

/// `POST /v1/authority/impact`, with the document of a next authority, a suspend or a revoke as the body: nothing changes,
/// and signatures are not looked at.
pub async fn authority_impact(
    State(api): State<Api>,
    reader: Reader,
    document: Result<String, StringRejection>,
) -> Result<Json<AuthorityImpact>, Problem> {
    let document = document.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            Code::TooLarge,
            format!("an authority has at most {COMMAND_MAX_BYTES} bytes: shorten it"),
        ),
        _ => Problem::new(Code::BadRequest, rejection.body_text()),
    })?;
    reader.sight().fleet()?;
    let action = Command::parse(document.as_bytes()).map_err(Refusal::from)?.action;
    let ledger = api.service.replica.ledger();
    let version = match &action {
        Action::Authority(next) => next.version,
        _ => ledger.authority().ok_or(Refusal::NoGenesis)?.version,
    };
    let Impact { voids, disables } = ledger.impact(&action, clock::wall_ms());
    Ok(Json(AuthorityImpact { version, voids, disables }))
}

type LockPath = Result<Path<String>, PathRejection>;

fn lock_id(path: LockPath) -> Result<Digest, Problem> {
    path.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| {
        let detail = "a lock id is a SHA-256 as 64 lowercase hex digits; /v1/locks lists those in force";
        Problem::new(Code::BadLockId, detail)
    })
}

/// Agents at or below `scopes`, none of which lies below another, as every node knows them; and how many nodes did not say.
pub(super) async fn agents_on(service: &Service, scopes: &[Scope]) -> (Vec<Agent>, u64) {
    let (mut agents, mut unheard) = (Vec::new(), 0);
    for scope in scopes {
        let (seen, silent) = service.cluster.instances_below(scope, SEEN_WITHIN).await;
        unheard = silent.max(unheard);
        agents.extend(agents_below(service, scope, seen));
    }
    agents.sort_by(|a, b| a.scope.cmp(&b.scope));
    (agents, unheard)
}

/// Agents at or below `scope`: seen by a lease, or with a grant of their own.
fn agents_below(service: &Service, scope: &Scope, seen: Vec<(Scope, Instance)>) -> Vec<Agent> {
    let now_ms = clock::wall_ms();
    let mut instances: BTreeMap<Scope, Vec<Instance>> = BTreeMap::new();
    for (agent, instance) in seen {
        instances.entry(agent).or_default().push(instance);
    }
    let ledger = service.replica.ledger();
    let grants = ledger.grants(now_ms);
    for grant in grants.iter().filter(|g| scope.covers(&g.scope) && !g.scope.is_fleet()) {
        // A grant for a group is no agent once agents below it are known.
        let group = instances.keys().any(|agent| grant.scope.covers(agent) && *agent != grant.scope);
        if !group {
            instances.entry(grant.scope.clone()).or_default();
        }
    }
    instances
        .into_iter()
        .map(|(scope, instances)| Agent {
            verdict: ledger.verdict(&scope, now_ms),
            locks: ledger.locks_on(&scope),
            terms: ledger.terms(&scope, now_ms),
            consent_until_ms: grants.iter().filter(|g| g.scope.covers(&scope)).map(|g| g.expires_at_ms).max(),
            instances,
            scope,
        })
        .collect()
}

/// Who is on or below a scope that is being stopped, on every node. It is asked for while the stop is being committed.
pub fn find_instances(service: &Service, scope: Scope) -> JoinHandle<Vec<(Scope, Instance)>> {
    let cluster = service.cluster.clone();
    tokio::spawn(async move { cluster.instances_below(&scope, SEEN_WITHIN).await.0 })
}

/// What is known once the stop took effect: no answer waits long for a node that is gone.
pub async fn reach_of(service: &Service, scope: &Scope, found: JoinHandle<Vec<(Scope, Instance)>>) -> Reach {
    let found = tokio::time::timeout(REACH_PATIENCE, found).await;
    let instances = match found {
        Ok(Ok(instances)) => instances,
        Ok(Err(_)) | Err(_) => service.instances.below(scope, SEEN_WITHIN),
    };
    let agents = {
        let mut agents: std::collections::BTreeSet<Scope> =
            instances.iter().map(|(agent, _)| agent.clone()).collect();
        let grants = service.replica.ledger().grants(clock::wall_ms());
        let own = grants.into_iter().map(|g| g.scope).filter(|s| scope.covers(s) && !s.is_fleet());
        let own: Vec<_> = own.filter(|s| !agents.iter().any(|agent| s.covers(agent))).collect();
        agents.extend(own);
        agents.len() as u64
    };
    Reach { agents, instances: instances.len() as u64 }
}
