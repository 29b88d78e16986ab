//! Each side as its documentation uses it on a hot path, with everything made beforehand and nothing to send. Each decides
//! about one agent, and says yes.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use failsafe::CircuitBreaker;
use futures_util::FutureExt;
use governor::{Quota, RateLimiter};
use launchdarkly_server_sdk as launchdarkly;
use open_feature::OpenFeature;
use open_feature_flagd::{FlagdOptions, FlagdProvider, ResolverType};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tagout::Guard;
use unleash_api_client::client::{ClientBuilder, FeatureKey};
use unleash_api_client::http::{Request, Response, Transport};

use crate::measured::Role;

const FLAG: &str = "calls";

pub struct Side {
    pub role: Role,
    pub name: &'static str,
    pub decides: &'static str,
    /// Asks so many times; gives how often the answer was yes.
    pub ask: Box<dyn Fn(u32) -> u32 + Send + Sync>,
}

impl Side {
    /// The loop is made for each `check` anew, so that it can be inlined as in a program.
    fn new(
        role: Role,
        name: &'static str,
        decides: &'static str,
        check: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let ask = move |times: u32| -> u32 { (0..times).map(|_| u32::from(black_box(check()))).sum() };
        Self { role, name, decides, ask: Box::new(ask) }
    }
}

pub async fn all(guard: &Guard, class: &str, dir: &Path) -> anyhow::Result<Vec<Side>> {
    Ok(vec![
        Side::new(Role::Floor, "nothing", "nothing: the timer and the loop", || true),
        clock(),
        check(guard),
        essential(guard, class)?,
        breaker_asked(),
        breaker_called(),
        governor()?,
        unleash(guard.agent().as_str())?,
        launchdarkly(guard.agent().as_str()).await?,
        flagd(dir).await?,
        cedar(guard.agent().as_str())?,
    ])
}

fn clock() -> Side {
    Side::new(
        Role::Clock,
        "clock read",
        "nothing: clock_gettime(CLOCK_BOOTTIME), as the SDK reads it",
        || {
            let now = clock_gettime(ClockId::Boottime);
            black_box(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) > 0
        },
    )
}

fn check(guard: &Guard) -> Side {
    let guard = guard.clone();
    let decides = "that a signed lease for this agent has not ended, and nobody stopped it";
    Side::new(Role::Check, "Guard::check", decides, move || black_box(&guard).check().is_ok())
}

fn essential(guard: &Guard, class: &str) -> anyhow::Result<Side> {
    let guard = guard.essential(class)?;
    let decides = "the same for a class of essential calls";
    Ok(Side::new(Role::EssentialCheck, "EssentialGuard::check", decides, move || {
        black_box(&guard).check().is_ok()
    }))
}

fn breaker_asked() -> Side {
    let breaker = failsafe::Config::new().build();
    let decides = "that this process has not seen too many failures; reads no clock while closed";
    Side::new(Role::Peer, "failsafe, is_call_permitted", decides, move || {
        black_box(&breaker).is_call_permitted()
    })
}

fn breaker_called() -> Side {
    let breaker = failsafe::Config::new().build();
    let decides = "the same, and counts an empty call as a success";
    let call = || Ok::<_, ()>(black_box(()));
    Side::new(Role::Peer, "failsafe, call", decides, move || black_box(&breaker).call(call).is_ok())
}

fn governor() -> anyhow::Result<Side> {
    // One call a nanosecond: never used up.
    let limiter = RateLimiter::direct(Quota::per_second(NonZeroU32::new(1_000_000_000).context("not zero")?));
    let decides = "that this process is within its rate, and counts the call; reads the processor's counter";
    Ok(Side::new(Role::Peer, "governor", decides, move || black_box(&limiter).check().is_ok()))
}

#[derive(Clone, Copy, Debug)]
struct Calls;

impl FeatureKey for Calls {
    fn name(self) -> &'static str {
        FLAG
    }
}

struct NoNetwork;

#[async_trait::async_trait]
impl Transport for NoNetwork {
    async fn execute(&self, _request: Request) -> anyhow::Result<Response> {
        bail!("the flags are given, not fetched")
    }
}

fn unleash(agent: &str) -> anyhow::Result<Side> {
    let client = ClientBuilder::default().disable_metric_submission().into_client_with_transport::<Calls>(
        "http://unused",
        "bench",
        "bench",
        None,
        Arc::new(NoNetwork),
    )?;
    let flag = json!({ "name": FLAG, "enabled": true, "strategies": [{ "name": "default" }] });
    let features = serde_json::from_value(json!({ "version": 2, "features": [flag] }))?;
    client.memoize(features).map_err(|e| anyhow!("Unleash: {e}"))?;
    let context = unleash_api_client::context::Context { user_id: Some(agent.into()), ..Default::default() };
    let decides = "that a flag is on, by one strategy, and counts the call, under a lock";
    Ok(Side::new(Role::Peer, "unleash-api-client", decides, move || {
        black_box(&client).is_enabled(Calls, Some(&context), false)
    }))
}

async fn launchdarkly(agent: &str) -> anyhow::Result<Side> {
    let flags = launchdarkly::TestData::new();
    flags.update(launchdarkly::FlagBuilder::new(FLAG).variation_for_all(true));
    let config = launchdarkly::ConfigBuilder::new("unused")
        .data_source(&flags)
        .event_processor(&launchdarkly::NullEventProcessorBuilder::new())
        .build()?;
    let client = launchdarkly::Client::build(config)?;
    client.start_with_default_executor();
    if client.wait_for_initialization(Duration::from_secs(10)).await != Some(true) {
        bail!("LaunchDarkly's client did not begin");
    }
    let context =
        launchdarkly::ContextBuilder::new(agent).build().map_err(|e| anyhow!("LaunchDarkly: {e}"))?;
    let decides = "what a flag is for all, and makes an event, which is dropped at once";
    Ok(Side::new(Role::Peer, "launchdarkly-server-sdk", decides, move || {
        black_box(&client).bool_variation(&context, FLAG, false)
    }))
}

async fn flagd(dir: &Path) -> anyhow::Result<Side> {
    // It reads the file again whenever anything changes in its folder.
    let folder = dir.join("flagd");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("flags.json");
    let flag =
        json!({ "state": "ENABLED", "defaultVariant": "on", "variants": { "on": true, "off": false } });
    std::fs::write(&file, json!({ "flags": { FLAG: flag } }).to_string())?;
    let options = FlagdOptions {
        resolver_type: ResolverType::File,
        source_configuration: Some(file.display().to_string()),
        cache_settings: None, // as flagd's specification says for this mode
        ..FlagdOptions::default()
    };
    let mut api = OpenFeature::singleton_mut().await;
    api.set_provider(FlagdProvider::new(options).await?).await;
    let client = api.create_client();
    let decides = "what a flag's default is, without targeting, cache or hooks";
    Ok(Side::new(Role::Peer, "open-feature, flagd in-process", decides, move || {
        // It waits for nothing: an answer that is not there at once counts as a no.
        black_box(&client)
            .get_bool_value(FLAG, None, None)
            .now_or_never()
            .is_some_and(|flag| flag.unwrap_or(false))
    }))
}

fn cedar(agent: &str) -> anyhow::Result<Side> {
    use cedar_policy::{Authorizer, Context, Decision, Entities, PolicySet, Request};

    let agent = format!("Agent::\"{agent}\"");
    let policies: PolicySet =
        format!("permit(principal == {agent}, action == Action::\"call\", resource == Model::\"any\");")
            .parse()?;
    let (action, model) = (r#"Action::"call""#.parse()?, r#"Model::"any""#.parse()?);
    let request = Request::new(agent.parse()?, action, model, Context::empty(), None)?;
    let (authorizer, entities) = (Authorizer::new(), Entities::empty());
    let decides = "that one policy permits a request made beforehand";
    Ok(Side::new(Role::Peer, "cedar-policy", decides, move || {
        black_box(&authorizer).is_authorized(&request, &policies, &entities).decision() == Decision::Allow
    }))
}
