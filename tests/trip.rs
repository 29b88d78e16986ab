//! Trips, end to end: an agent's own process stops it, in all its instances, and people bring it back.

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tagout::{Client, Guard, Reason};
use tagout_proto::digest::Digest;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::wait::{DEADLINE, wait_until};

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
}

impl World {
    /// With consent for `demo`, where leases take no token.
    fn start() -> Self {
        let world = Self { deployment: Deployment::start(Choice::default()), runtime: runtime() };
        world.deployment.run_by_both(&["grant", "demo", "--for", "1h", "--reason", "r"]);
        world
    }

    fn token(&self, scope: &str) -> String {
        let enroll = ["agent", "enroll", scope, "--reason", "test", "--json"];
        self.deployment.run(&enroll).exits(0).json()["token"].as_str().unwrap().into()
    }

    fn builder(&self, instance: &str) -> tagout::Builder {
        let deployment = &self.deployment;
        Client::builder()
            .node(deployment.url(""))
            .ca_pem(deployment.ca_pem())
            .genesis_file(deployment.dir().join("genesis.json"))
            .pinned(deployment.name.to_string())
            .instance(instance)
    }

    /// The guard, once calls may begin.
    fn open(&self, builder: tagout::Builder, agent: &str) -> Guard {
        let guard = builder.build().unwrap().guard(agent).unwrap();
        let _permit = self
            .runtime
            .block_on(async { tokio::time::timeout(DEADLINE, guard.wait_enabled()).await })
            .unwrap();
        guard
    }

    /// What `tagout status` says of the locks of `agent`.
    fn locks(&self, agent: &str) -> Vec<Value> {
        let status = self.deployment.run(&["status", agent, "--json"]).exits(0).json();
        status["lock_records"].as_array().unwrap_or_else(|| panic!("{status}")).clone()
    }
}

fn stopped_by(guard: &Guard) -> Option<Digest> {
    match guard.check().map_err(|denied| denied.reason) {
        Err(Reason::Stopped(lock)) => Some(lock.id),
        _ => None,
    }
}

#[test]
fn s2_s7_a_trip_stops_all_instances_of_the_agent_until_people_bring_it_back() {
    let world = World::start();
    let token = world.token("demo/a");
    let [first, second] =
        ["host-1", "host-2"].map(|name| world.open(world.builder(name).token(&token), "demo/a"));
    let anonymous = world.open(world.builder("host-3"), "demo/b");

    let lock = world.runtime.block_on(first.trip("the same tool call 50 times")).unwrap();
    assert_eq!(stopped_by(&first), Some(lock), "it holds when it returns");
    wait_until("the other instance to be stopped", || stopped_by(&second) == Some(lock));
    let shown = world.locks("demo/a");
    let by = json!(["trip:host-1"]);
    assert_eq!((shown.len(), &shown[0]["id"], &shown[0]["tag"]["by"]), (1, &json!(lock), &by), "{shown:?}");
    let told = world.deployment.run(&["status", "demo/a"]).exits(0).stdout;
    assert!(told.contains("by trip:host-1") && told.contains("the same tool call 50 times"), "{told}");
    assert!(anonymous.check().is_ok(), "another agent goes on");
    wait_until("the account of it", || {
        let path = format!("/v1/locks/{lock}/reach");
        let http = world.deployment.http();
        let reach: Value = world.runtime.block_on(world.deployment.get(&http, &path));
        let instances = reach["instances"].as_array().unwrap();
        instances.len() == 2 && instances.iter().all(|one| one["state"]["state"] == "confirmed")
    });

    world.deployment.run_by_both(&["resume", "demo/a", "--reason", "reviewed"]);
    wait_until("both to go on", || first.check().is_ok() && second.check().is_ok());
    assert_eq!(world.locks("demo/a"), [] as [Value; 0]);
}

/// Anybody could stop everybody otherwise: leases of this deployment take no token.
#[test]
fn s7_a_trip_takes_the_token_of_its_own_scope() {
    let world = World::start();
    let token = world.token("demo/a");
    let without = world.open(world.builder("i-2"), "demo/b");
    let bystander = world.open(world.builder("i-3"), "demo/c");
    let refused = |request: RequestBuilder, status: u16, code: &str, says: &str| {
        let (found, problem) = world.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        });
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    };
    let trip = json!({"tagout": 1, "deployment": world.deployment.name.to_string(), "trip": "demo/b",
        "nonce": Digest([5; 32]), "issued_at": "2026-11-22T15:00:00Z", "instance": "i", "reason": "r"});
    let http = world.deployment.http();
    let post = || http.post(world.deployment.url("/v1/trips")).body(trip.to_string());
    refused(post(), 401, "not-enrolled", "make one with `tagout agent enroll demo/b`");
    refused(post().bearer_auth("tagout_12"), 401, "not-enrolled", "a token is tagout_");
    refused(post().bearer_auth(&token), 403, "enrolled-elsewhere", "enrolled for demo/a, not for demo/b");
    // Nor does a lease carry one past the token.
    let known = json!([{"id": Digest::of(trip.to_string().as_bytes()), "agent": "demo/b",
        "document": {"document": trip.to_string(), "signatures": []}}]);
    let lease =
        json!({"nonce": Digest([1; 32]), "instance": "i", "agents": [{"scope": "demo/b"}], "known": known});
    let answer: Value = world.runtime.block_on(async {
        let request = http.post(world.deployment.url("/v1/leases")).json(&lease);
        request.send().await.unwrap().json().await.unwrap()
    });
    assert_eq!(answer["answers"][0]["answer"], "held", "{answer}");
    assert!(answer["answers"][0]["why"].as_str().unwrap().contains("POST /v1/trips"), "{answer}");

    // A process without one stops itself and nobody else.
    let lock = world.runtime.block_on(without.trip("loop")).unwrap();
    assert_eq!(stopped_by(&without), Some(lock));
    assert!(bystander.check().is_ok());
    assert_eq!(world.locks("demo/b"), [] as [Value; 0], "no log has any of them");
}
