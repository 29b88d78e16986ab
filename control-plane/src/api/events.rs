//! `GET /v1/events?scope=a,b`: stops as they happen, as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::future::{self, BoxFuture};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tagout_proto::scope::Scope;
use tagout_proto::wire::Renew;

use super::Api;
use super::access::Watcher;
use super::guards::check_instance;
use super::problem::{Code, Problem};
use crate::push::{self, SCOPES_MAX, SUBSCRIBERS_MAX};

/// A comment goes out after so much silence, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub struct Filter {
    scope: String,
    /// The process that listens, by the name that it asks for leases under.
    instance: Option<String>,
}

pub async fn events(
    State(api): State<Api>,
    watcher: Watcher,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Query(filter) = filter.map_err(|_| {
        Problem::new(Code::BadRequest, "name what to listen to: ?scope=a/b,c (or scope=* for all)")
    })?;
    let scopes = filter.scope.split(',').map(Scope::parse).collect::<Result<Vec<_>, _>>();
    let scopes = scopes.map_err(|e| Problem::new(Code::BadScope, e.to_string()))?;
    if scopes.len() > SCOPES_MAX {
        let detail = format!("at most {SCOPES_MAX} scopes per connection; listen to a common parent");
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let (scopes, ends) = heard_by(&api, watcher, scopes)?;
    let subscription = api.service.hub.subscribe(scopes.clone()).ok_or_else(|| {
        let detail = format!("{SUBSCRIBERS_MAX} guards listen already; leases go on without push");
        Problem::new(Code::TooManyListeners, detail)
    })?;
    if let Some(instance) = &filter.instance {
        check_instance(instance)?;
    }
    let listening = filter.instance.map(|instance| api.service.instances.listen(instance));
    // Subscribed before both of these are read: a stop in between is in the queue as well, which does no harm.
    api.service.pending.touching(&scopes).iter().for_each(|stop| subscription.offer(&stop.event()));
    let hello = Renew { log_size: api.service.replica.ledger().size(), deny: false, within_ms: 0 };
    let stream = futures_util::stream::unfold(
        (subscription, listening, Some(hello)),
        |(subscription, listening, hello)| async move {
            let event = match hello {
                Some(hello) => named("hello", &hello),
                None => match subscription.next().await {
                    push::Event::Stop(stop) => Event::default().event("stop").data(&*stop),
                    push::Event::Renew(renew) => named("renew", &renew),
                },
            };
            Some((Ok(event), (subscription, listening, None)))
        },
    );
    Ok(Sse::new(stream.take_until(ends)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// What of `scopes` whoever asks may hear, and when they have to ask anew. Guards of several agents ask for all of them in one
/// request: one that is not enrolled here must not cost the others the push.
fn heard_by(
    api: &Api,
    watcher: Watcher,
    scopes: Vec<Scope>,
) -> Result<(Vec<Scope>, BoxFuture<'static, ()>), Problem> {
    match watcher {
        Watcher::Anybody => Ok((scopes, Box::pin(future::pending()))),
        Watcher::Agent(sight) => {
            let narrowed: Vec<_> = scopes.iter().map(|scope| sight.narrow(scope)).collect();
            let heard: Vec<_> = narrowed.iter().flatten().flatten().cloned().collect();
            match narrowed.into_iter().find_map(Result::err) {
                Some(problem) if heard.is_empty() => Err(problem),
                _ => Ok((heard, Box::pin(future::pending()))),
            }
        }
        Watcher::Reader(reader) => {
            scopes.iter().try_for_each(|scope| reader.sight().covering(scope))?;
            Ok((scopes, Box::pin(reader.ends(api.clone()))))
        }
    }
}

fn named(name: &str, renew: &Renew) -> Event {
    Event::default().event(name).data(serde_json::to_string(renew).expect("an event is plain data"))
}
