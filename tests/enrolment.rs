//! Enrolment, end to end: real nodes, the real command and the real SDK. A stopped agent does not come back by another name.

use reqwest::header;
use serde_json::{Value, json};
use tagout::{Client, Guard, Reason};
use tagout_proto::token::Token;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
}

impl World {
    /// With consent for `demo`, where leases are for enrolled agents only.
    fn start() -> Self {
        let deployment = Deployment::start(Choice { enrolment: true, ..Choice::default() });
        let world = Self { deployment, runtime: runtime() };
        world.deployment.run_by_both(&["grant", "demo", "--for", "1h", "--reason", "r"]);
        world
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.deployment.run(&[arguments, &["--json"]].concat()).exits(0).stdout)
            .unwrap()
    }

    /// The token of a new enrolment, and its id.
    fn enroll(&self, scope: &str, more: &[&str]) -> (String, String) {
        let done = self.json(&[&["agent", "enroll", scope, "--reason", "test"], more].concat());
        (done["token"].as_str().unwrap().into(), done["digest"].as_str().unwrap().into())
    }

    fn client(&self, token: &str) -> Client {
        let deployment = &self.deployment;
        let builder = Client::builder()
            .node(deployment.url(""))
            .ca_pem(deployment.ca_pem())
            .genesis_file(deployment.dir().join("genesis.json"))
            .pinned(deployment.name.to_string());
        builder.token(token).build().unwrap()
    }

    /// The guard, once the service has answered for it.
    fn guard(&self, client: &Client, agent: &str) -> Guard {
        let guard = client.guard(agent).unwrap();
        self.runtime.block_on(guard.ready(DEADLINE)).unwrap();
        guard
    }

    /// Status and body of what is posted with this header.
    fn post(&self, path: &str, authorization: Option<&str>, body: &Value) -> (u16, Value) {
        let request = self.deployment.http().post(self.deployment.url(path)).json(body);
        let request =
            authorization.into_iter().fold(request, |r, value| r.header(header::AUTHORIZATION, value));
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let challenge = answer.headers().get(header::WWW_AUTHENTICATE).cloned();
            assert_eq!(challenge.is_some_and(|c| c == "Bearer realm=\"tagout\""), status == 401);
            let text = answer.text().await.unwrap();
            (status, serde_json::from_str(&text).unwrap_or(Value::Null))
        })
    }

    fn lease(&self, token: &str, agents: &[&str]) -> (u16, Value) {
        let agents: Vec<_> = agents.iter().map(|agent| json!({"scope": agent})).collect();
        let request = json!({"nonce": "01".repeat(32), "instance": "i", "agents": agents});
        self.post("/v1/leases", Some(&format!("Bearer {token}")), &request)
    }
}

fn why(guard: &Guard) -> String {
    match guard.check().unwrap_err().reason {
        Reason::NotEnrolled { why } => why.to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn s4_leases_and_confirmations_are_for_enrolled_agents_only() {
    let world = World::start();
    let (token, id) = world.enroll("demo/a", &[]);
    // Nobody is there that it could stop.
    let stopped = world.deployment.run(&["stop", "demo/a/1", "--reason", "r", "--json"]).exits(5);
    let lock = serde_json::from_str::<Value>(&stopped.stdout).unwrap()["digest"].clone();
    let confirmation = |agent: &str| json!({"lock": lock, "agent": agent, "instance": "i", "closed_us": 1, "cut_us": 1, "calls_cut": 0, "by": "push"});
    let lease = json!({"nonce": "01".repeat(32), "instance": "i", "agents": [{"scope": "demo/b"}]});
    let unknown = Token::of_random([9; 32]);
    let unknown = format!("Bearer {}", unknown.reveal());
    let bearer = format!("Bearer {token}");
    for (authorization, status, code, says) in [
        (None, 401, "not-enrolled", "no token was sent: make one with `tagout agent enroll demo/b`"),
        (Some("Basic YTpi"), 401, "not-enrolled", "it is of another scheme"),
        (Some("Bearer tagout_12"), 401, "not-enrolled", "a token is tagout_ and 64 lowercase hex digits"),
        (Some(unknown.as_str()), 401, "not-enrolled", "the token is unknown in this deployment"),
        (
            Some(bearer.as_str()),
            403,
            "enrolled-elsewhere",
            "the token is enrolled for demo/a, not for demo/b",
        ),
    ] {
        for (path, body) in [("/v1/leases", &lease), ("/v1/confirmations", &confirmation("demo/b"))] {
            let (found, problem) = world.post(path, authorization, body);
            assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains(says), "{path}: {problem}");
        }
    }

    // The agent itself, and everything below it; of several agents each for itself.
    assert_eq!(world.lease(&token, &["demo/a", "demo/a/1/2"]).0, 200);
    assert_eq!(world.lease(&token, &["demo/ab"]).0, 403, "not what only begins alike");
    assert_eq!(world.lease(&token, &["demo"]).0, 403, "nor what lies above");
    let (status, answer) = world.lease(&token, &["demo/b", "demo/a"]);
    assert_eq!((status, &answer["unenrolled"][0]["agent"]), (200, &json!("demo/b")), "{answer}");
    assert_eq!(
        (&answer["views"][0]["grants"], answer["unenrolled"].as_array().unwrap().len()),
        (&json!([]), 1)
    );
    assert_ne!(answer["views"][1]["grants"], json!([]));
    let (status, problem) = world.post("/v1/confirmations", Some(&bearer), &confirmation("demo/a/1"));
    assert!(status == 204 || problem["code"] == "no-such-stop", "{status} {problem}");

    // What people see of it.
    let list = world.json(&["agent", "list"]);
    assert_eq!((&list["required"], &list["enrolments"][0]["id"]), (&json!(true), &json!(id)));
    assert!(!list.to_string().contains(&token["tagout_".len()..]), "the token is nowhere");
    let shown = world.deployment.run(&["agent", "list", "demo/a/1"]).exits(0);
    assert!(shown.stdout.contains("demo/a") && shown.stdout.contains("until it is revoked"), "{shown:?}");
    assert!(world.deployment.run(&["agent", "list", "other"]).exits(0).stdout.starts_with("0 enrolments"));

    // One with an end, and its end.
    let (short, _) = world.enroll("demo/c", &["--for", "3s"]);
    let ended = wait_for("the enrolment to end", || {
        let (status, problem) = world.lease(&short, &["demo/c"]);
        (status != 200).then_some(problem)
    });
    assert!(ended["detail"].as_str().unwrap().contains("the token's enrolment ended at "), "{ended}");

    // Revoked, for ever.
    let gone = world.deployment.run(&["agent", "revoke", &id[..12], "--reason", "the host is lost"]).exits(0);
    assert!(gone.stdout.contains("their tokens get no lease any more"), "{gone:?}");
    let (status, problem) = world.lease(&token, &["demo/a"]);
    assert_eq!((status, &problem["code"]), (401, &json!("not-enrolled")));
    assert!(problem["detail"].as_str().unwrap().contains("was revoked at entry "), "{problem}");
    assert!(
        world
            .deployment
            .run(&["agent", "revoke", &id[..12], "--reason", "again"])
            .exits(1)
            .stderr
            .contains("no enrolment")
    );
}

#[test]
fn s4_a_stopped_agent_cannot_return_under_another_name() {
    let world = World::start();
    let (token, id) = world.enroll("demo/a", &[]);
    let client = world.client(&token);
    let guard = world.guard(&client, "demo/a");
    assert!(guard.check().is_ok());

    // Another's name, by the same client: denied with a reason, and its own guard goes on.
    let other = world.guard(&client, "demo/b");
    assert_eq!(
        why(&other),
        "the token is enrolled for demo/a, not for demo/b: a process guards only what it was enrolled for"
    );
    assert!(guard.check().is_ok());
    world.deployment.run(&["stop", "demo/a", "--reason", "policy"]).exits(0);
    wait_until("the stop", || matches!(guard.check().map_err(|d| d.reason), Err(Reason::Stopped(_))));

    // Neither by a new process, under another name or without a token, nor as a child of its own.
    for agent in ["demo/b", "demo", "demo/a2"] {
        assert!(
            why(&world.guard(&world.client(&token), agent))
                .starts_with("the token is enrolled for demo/a, not")
        );
    }
    let anonymous = world.deployment.sdk(&world.deployment.url(""));
    assert!(
        why(&world.guard(&anonymous, "demo/b"))
            .starts_with("this deployment gives leases to enrolled agents only")
    );
    let child = world.guard(&world.client(&token), "demo/a/again");
    assert!(matches!(child.check().unwrap_err().reason, Reason::Stopped(_)), "its parent is stopped");

    // Taken back and revoked, it is denied though nothing is stopped any more.
    world.deployment.run_by_both(&["resume", "demo/a", "--reason", "reviewed"]);
    wait_until("the start", || guard.check().is_ok());
    world.deployment.run(&["agent", "revoke", &id, "--reason", "the host is lost"]).exits(0);
    wait_until("the revoke", || guard.check().is_err());
    assert!(why(&guard).contains("was revoked at entry"));
    let (token, _) = world.enroll("demo/a", &[]);
    assert!(world.guard(&world.client(&token), "demo/a").check().is_ok(), "enrolled anew");
}

/// Sub-scopes at run time: a credential of the parent is good for children that nobody knew before, and so is its stop.
#[test]
fn stopping_a_parent_stops_its_children_also_those_that_are_started_later() {
    let world = World::start();
    let (token, _) = world.enroll("demo/team", &[]);
    let client = world.client(&token);
    let before = world.guard(&client, "demo/team/before");
    assert!(before.check().is_ok());
    world.deployment.run(&["stop", "demo/team", "--reason", "policy"]).exits(0);
    wait_until("the stop", || before.check().is_err());
    for later in [client.clone(), world.client(&token)] {
        let later = world.guard(&later, "demo/team/later");
        assert!(matches!(later.check().unwrap_err().reason, Reason::Stopped(_)));
    }
}

#[test]
fn a_token_goes_into_a_file_of_its_own_or_nothing_is_enrolled() {
    let world = World::start();
    let file = world.deployment.folder().join("token");
    let path = file.display().to_string();
    let enroll = ["agent", "enroll", "demo/a", "--reason", "r", "--out", &path];
    let stranger = world.deployment.key("stranger").display().to_string();
    let refused = world.deployment.run(&[&enroll[..], &["--key", &stranger]].concat()).exits(3);
    assert!(refused.stderr.contains("belongs to no principal"), "{refused:?}");
    assert!(!file.exists(), "what is not enrolled leaves no token");
    let soar = world.deployment.key("soar").display().to_string();
    let refused = world.deployment.run(&[&enroll[..], &["--key", &soar]].concat()).exits(3);
    assert!(refused.stderr.contains("soar may not enroll demo/a"), "S7: {refused:?}");

    let done = world.json(&enroll);
    assert_eq!((&done["token"], &done["token_file"]), (&Value::Null, &json!(path)));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(world.guard(&world.client(token.trim()), "demo/a").check().is_ok());
    assert!(world.deployment.run(&enroll).exits(1).stderr.contains("left as it is"));
    assert_eq!(world.json(&["agent", "list"])["enrolments"].as_array().unwrap().len(), 1);
    world.deployment.run(&["doctor", "demo/a", "--token-file", &path]).exits(0);
    let without = world.deployment.run(&["doctor", "demo/a"]).exits(6);
    assert!(without.stdout.contains("demo/a cannot run on this host"), "{without:?}");
    assert!(
        without.stdout.contains("no lease for demo/a: this deployment gives leases to enrolled agents only")
    );

    // It survives the node.
    let mut world = world;
    world.deployment.kill_node();
    world.deployment.start_node();
    assert_eq!(world.lease(token.trim(), &["demo/a"]).0, 200);
}
